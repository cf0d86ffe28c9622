"""What training runs on: GPUs, precision, XLA, determinism."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Literal

import keras
import tensorflow as tf

from pipeline.config import TrainConfig

# From this compute capability on (Ampere) GPUs multiply bfloat16 at full speed, which needs no loss scaling.
_BFLOAT16_CAPABILITY: Final = (8, 0)

logger = logging.getLogger("flexunet.train")


def make_strategy(devices: Sequence[str]) -> tf.distribute.Strategy:
    """MirroredStrategy over several devices of this machine, the default one otherwise.

    Several machines are not supported: `fit` under MultiWorkerMirroredStrategy raises in Keras 3 (keras issue 20585).
    """
    return tf.distribute.MirroredStrategy(list(devices)) if len(devices) > 1 else tf.distribute.get_strategy()


def gpu_names() -> list[str]:
    """The GPUs that TensorFlow sees; initializes it."""
    return [device.name for device in tf.config.list_logical_devices("GPU")]


def dtype_policy(config: TrainConfig) -> str:
    """float32, mixed_float16 or mixed_bfloat16."""
    if config.precision != "auto":
        return config.precision
    gpus = tf.config.list_physical_devices("GPU")
    capabilities = [tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)) for gpu in gpus]
    return policy_for(capabilities)


def policy_for(capabilities: Sequence[tuple[int, int]]) -> str:
    """What `auto` means on GPUs of these compute capabilities; on CPUs mixed precision is slower, not faster."""
    if not capabilities:
        return "float32"
    return "mixed_bfloat16" if min(capabilities) >= _BFLOAT16_CAPABILITY else "mixed_float16"


def on_gpu_unless_set(setting: Literal["auto", "on", "off"]) -> bool:
    """`auto` is on where there is a GPU: XLA halves the speed of training on CPUs."""
    return setting == "on" or (setting == "auto" and bool(tf.config.list_physical_devices("GPU")))


@contextmanager
def precision(policy: str) -> Iterator[None]:
    """Layers made inside compute in `policy`; Keras keeps it in a global, which is put back."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def make_reproducible(config: TrainConfig) -> None:
    """Seeds everything; deterministic kernels on CPUs, and on GPUs if asked: there they cost speed, or do not exist."""
    keras.utils.set_random_seed(config.seed)
    gpu = bool(tf.config.list_physical_devices("GPU"))
    if config.deterministic == "on" or (config.deterministic == "auto" and not gpu):
        tf.config.experimental.enable_op_determinism()
