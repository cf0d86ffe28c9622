"""`run_fn`: model, augmentation, data, losses, metrics, callbacks, checkpoints, export."""
