"""The text of a model card. A package, so that a fingerprint of code covers it too."""
