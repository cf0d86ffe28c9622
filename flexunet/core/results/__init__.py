"""The documents that the pipeline writes and people read: a type for each, and words about every field."""
