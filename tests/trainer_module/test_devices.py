"""What `auto` means, and that several devices train what one does."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.config import TrainConfig, TrainerConfig, part_of
from trainer_module import devices

ROOT = Path(__file__).parents[2]


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
    assert [devices.on_gpu_unless_set(setting) for setting in ("auto", "on", "off")] == [False, True, False]
    assert devices.make_strategy(devices.gpu_names()).num_replicas_in_sync == 1


def test_the_precision_is_put_back() -> None:
    with devices.precision("mixed_bfloat16"):
        assert keras.layers.Dense(1).compute_dtype == "bfloat16"
    assert keras.layers.Dense(1).compute_dtype == "float32"


# One process with two logical CPUs: the same global batches through one of them, and through both.
SCRIPT = """
import json, sys
import numpy as np, tensorflow as tf, keras
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
from pipeline.config import TrainerConfig
from trainer_module import devices
from trainer_module.trainer import compiled_model

config = TrainerConfig.model_validate_json(sys.argv[1])
generator = np.random.default_rng(0)
images = generator.integers(0, 256, (16, 16, 16, 3)).astype(np.uint8)
class_ids = (images[..., 0] // 64).astype(np.uint8)
class_ids[:3] = 0  # the two halves of a batch must differ in what they hold

def fit(names):
    keras.utils.set_random_seed(3)
    strategy = devices.make_strategy(names)
    with strategy.scope():
        model = compiled_model(config)
    dataset = tf.data.Dataset.from_tensor_slices((images, class_ids)).batch(8).repeat()
    history = model.fit(dataset, steps_per_epoch=2, epochs=3, shuffle=False, verbose=0).history
    return [strategy.num_replicas_in_sync, history["loss"], history["foreground_dice"]]

print(json.dumps([fit(["CPU:0"]), fit(["CPU:0", "CPU:1"])]))
"""


def test_two_devices_train_what_one_does_at_the_same_global_batch(make_config: Any) -> None:
    """Batch statistics and the pooled Dice loss are those of the whole batch, not of each half."""
    config = make_config(
        image={"height": 16, "width": 16},
        model={"normalization": "batch"},
        train={"loss": "cross_entropy_dice", "learning_rate": 1e-2, "class_weights": {"scratches": 2.0}},
    )
    command = [sys.executable, "-c", SCRIPT, part_of(config, TrainerConfig).model_dump_json()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    one, two = json.loads(done.stdout.splitlines()[-1])
    assert (one[0], two[0]) == (1, 2)
    # Weights are not compared: Adam makes steps of full length of gradients that are 0 but for rounding.
    np.testing.assert_allclose(one[1], two[1], rtol=1e-3)
    np.testing.assert_allclose(one[2], two[2], rtol=2e-3)
    assert one[1][-1] < one[1][0]
