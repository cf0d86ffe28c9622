"""TensorFlow's message of a record under a name of our own."""
