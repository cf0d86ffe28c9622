"""What `auto` means, and that several devices train what one does."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from flexunet.core.config.section import part_of
from flexunet.core.config.train import TrainConfig, TrainerConfig
from trainer_module import devices


@pytest.mark.parametrize(
    ("capabilities", "policy"),
    [
        ([], "float32"),
        ([(7, 5)], "mixed_float16"),
        ([(8, 0)], "mixed_bfloat16"),
        ([(9, 0), (7, 0)], "mixed_float16"),
    ],
)
def test_precision_follows_the_weakest_gpu(capabilities: list[tuple[int, int]], policy: str) -> None:
    assert devices.policy_for(capabilities) == policy


def test_auto_is_plain_on_a_machine_without_gpu() -> None:
    assert not tf.config.list_physical_devices("GPU"), "this test describes a CPU"
    assert devices.dtype_policy(TrainConfig()) == "float32"
    assert devices.dtype_policy(TrainConfig(precision="mixed_bfloat16")) == "mixed_bfloat16"
    assert [devices.uses_xla(TrainConfig(jit_compile=setting)) for setting in ("auto", "on", "off")] == [0, 1, 0]
    assert [devices.is_deterministic(TrainConfig(deterministic=s)) for s in ("auto", "on", "off")] == [1, 1, 0]
    assert devices.make_strategy(devices.gpu_names()).num_replicas_in_sync == 1


def test_as_many_gpus_as_divide_the_batch_are_used(caplog: pytest.LogCaptureFixture) -> None:
    four = [f"GPU:{i}" for i in range(4)]
    assert devices.usable_gpus([], 8) == []
    assert devices.usable_gpus(four, 8) == four and not caplog.records
    assert devices.usable_gpus(four[:3], 8) == four[:2]
    assert devices.usable_gpus(four, 2) == four[:2]
    assert "2 of 4 GPUs are used: train.batch_size is 2" in caplog.text


def test_the_precision_is_put_back() -> None:
    with devices.precision("mixed_bfloat16"):
        assert keras.layers.Dense(1).compute_dtype == "bfloat16"
    assert keras.layers.Dense(1).compute_dtype == "float32"


# One process with two logical CPUs, in the place of GPUs: the same training on one of them, and on both.
SCRIPT = """
import csv, json, sys
from pathlib import Path
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
from flexunet.core.config.train import TrainerConfig
from trainer_module import devices
from trainer_module.trainer import Job, train

config, folder = TrainerConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2])

def fit(names):
    devices.gpu_names = lambda: names
    job = Job([str(folder / "train.gz")], [str(folder / "eval.gz")], folder / f"{len(names)}", folder / "checkpoints")
    trained = train(job, config)
    trained.checkpoint.discard()
    with (job.log_directory / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {key: [float(row[key]) for row in rows] for key in ("loss", "foreground_dice", "val_loss")}

print(json.dumps([fit([]), fit(["CPU:0", "CPU:1"])]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [{}, {"optimizer": "muon", "weight_decay": 0.01, "learning_rate": 0.01}])
def test_two_devices_train_what_one_does_at_the_same_global_batch(
    tmp_path: Path, make_config: Any, write_tiles: Any, run_forked: Callable[..., str], optimizer: dict[str, Any]
) -> None:
    """Batch statistics and the pooled Dice loss are those of the whole batch, not of each half."""
    write_tiles(tmp_path / "train.gz", 16)
    write_tiles(tmp_path / "eval.gz", 7, seed=1)
    config = make_config(
        model={"normalization": "batch"},
        train={
            "epochs": 3,
            "batch_size": 4,
            "loss": "cross_entropy_dice",
            "class_weights": {"scratches": 2.0},
            "ema_decay": 0.8,
            "preview_images": 0,
            **optimizer,
        },
    )
    printed = run_forked(SCRIPT, part_of(config, TrainerConfig).model_dump_json(), tmp_path)
    one, two = json.loads(printed.splitlines()[-1])
    # Weights are not compared: Adam makes steps of full length of gradients that are 0 but for rounding.
    np.testing.assert_allclose(one["loss"], two["loss"], rtol=2e-3)
    np.testing.assert_allclose(one["val_loss"], two["val_loss"], rtol=2e-2)
    assert one["loss"][-1] < one["loss"][0]
