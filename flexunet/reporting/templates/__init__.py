"""Jinja2 templates, styles and the script of the pages. A package, so that a fingerprint of code covers them too."""
