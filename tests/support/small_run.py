"""The configuration of a run of seconds, below its classes: `SETTINGS.format(mount=..., epochs=...)`."""

EPOCHS = 12
SETTINGS = """
[image]
height = 32
width = 32
[model]
num_layers = 2
base_filters = 8
base_kernel = 3
dropout = 0.0
[train]
epochs = {epochs}
batch_size = 4
learning_rate = 0.01
schedule = "constant"
[gate]
min_foreground_dice = 0.5
max_regression = 0.2
[kubeflow]
mount_path = "{mount}"
[kubeflow.defaults]
retry_wait_seconds = 1
[kubeflow.nodes.Trainer]
gpus = 0
retries = 3
"""
