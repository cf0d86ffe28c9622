"""What training runs on: GPUs, precision, XLA, determinism."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import keras
import tensorflow as tf

from flexunet.core.config.train import TrainConfig

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


def usable_gpus(names: Sequence[str], batch_size: int) -> list[str]:
    """The most GPUs whose number divides the batch: replicas with unequal shares would weigh images unequally."""
    count = max((n for n in range(1, len(names) + 1) if batch_size % n == 0), default=0)
    if count < len(names):
        logger.warning(
            "%d of %d GPUs are used: train.batch_size is %d, expected a multiple of the GPUs; raise it to use all",
            count,
            len(names),
            batch_size,
        )
    return list(names[:count])


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


def is_deterministic(config: TrainConfig) -> bool:
    """`auto`: on CPUs only; on GPUs deterministic kernels cost speed, or do not exist."""
    return config.deterministic == "on" or (config.deterministic == "auto" and not _has_gpu())


def uses_xla(config: TrainConfig) -> bool:
    """`auto`: on GPUs, unless results must repeat; XLA halves the speed of training on CPUs."""
    return config.jit_compile == "on" or (config.jit_compile == "auto" and _has_gpu() and not is_deterministic(config))


def computing_mode(config: TrainConfig, strategy: tf.distribute.Strategy) -> str:
    """What `auto` came to on this machine: a training that goes on elsewhere must not go on in another way."""
    return f"{dtype_policy(config)} {uses_xla(config)} {is_deterministic(config)} {strategy.num_replicas_in_sync}"


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
    """Seeds everything, and turns deterministic kernels on if they are to be."""
    keras.utils.set_random_seed(config.seed)
    if is_deterministic(config):
        tf.config.experimental.enable_op_determinism()


def _has_gpu() -> bool:
    return bool(tf.config.list_physical_devices("GPU"))
