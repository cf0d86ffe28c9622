"""TF Serving's messages under names of our own."""
