"""From images and masks to TFRecords: checks, near-duplicate groups, splits, writer, generated surfaces."""
