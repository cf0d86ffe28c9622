"""After the push: what a served model is asked, and whether its images are still those that it was trained on."""
