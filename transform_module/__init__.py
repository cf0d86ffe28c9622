"""`preprocessing_fn`, and the one decoding and resizing in the graph."""
