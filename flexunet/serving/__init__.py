"""Client, tiles, pushed versions, TensorFlow's C API, development server; `deploy/` has the manifests."""
