"""Training across runs: on after a kill, and from the weights of the model that was pushed from other data."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import ENVIRONMENT, python
from waiting import epochs_in, wait_until

from flexunet.core.config.whole import Config
from flexunet.dataset.ingest import ingest
from flexunet.serving.versions import versions
from pipeline import local

RESOLVERS = {"BaselineResolver", "PreviousSpanResolver", "WarmStartResolver"}
# A process of its own, which can be killed.
SCRIPT = """
import sys
from pathlib import Path
from pipeline import local
from flexunet.core.config.whole import Config

local.run(Config.model_validate_json(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
"""


def ran(config: Config, data: Path, root: Path) -> tuple[set[str], dict[str, Any]]:
    results: list[local.NodeResult] = []
    metrics = local.run(config, data, root, on_node=results.append)
    return {result.node for result in results if not result.cached} - RESOLVERS, metrics


def started_run(config: Config, data: Path, root: Path) -> subprocess.Popen[bytes]:
    arguments = [config.model_dump_json(), str(data), str(root)]
    environment = {**ENVIRONMENT, "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments], env=environment)


def histories_of(root: Path) -> list[Path]:
    """Of all trainings, begun or ended, in their order."""
    return sorted(root.glob("Trainer/model_run/*/history.csv"), key=lambda path: int(path.parent.name))


def epochs_of(root: Path) -> int:
    """Of the newest training."""
    return epochs_in([Path(), *histories_of(root)][-1])


@pytest.mark.slow
def test_a_rollback_while_a_run_trains_is_respected_by_its_push(
    tmp_path: Path, make_config: Any, write_colorful_pairs: Any
) -> None:
    data, root = tmp_path / "data", tmp_path / "root"
    write_colorful_pairs(tmp_path / "source", 60)
    ingest(tmp_path / "source", data, make_config())
    for epochs in (4, 5):
        ran(make_config(train={"epochs": epochs}), data, root)
    serving = root / "serving_model"
    assert versions(serving) == [1, 2]

    started = started_run(make_config(train={"epochs": 20}), data, root)
    wait_until(lambda: len(histories_of(root)) == 3 and epochs_of(root) >= 1, lambda: started.poll() is not None)
    # In the middle of its training, and not to its end before the command has started: it holds what it holds.
    started.send_signal(signal.SIGSTOP)
    try:
        assert epochs_of(root) < 20
        printed = python("-m", "flexunet.cli.main", "rollback", "--root", root)
        assert "version 1 is served again as version 3; version 2 is rolled back" in printed
        assert versions(serving) == [1, 2, 3]
    finally:
        started.send_signal(signal.SIGCONT)
    assert started.wait() == 0

    metrics = json.loads((root / "report" / "metrics.json").read_text())
    assert metrics["pushed_version"] == 4 and versions(serving) == [1, 2, 3, 4]
    # The withdrawn model does not come back, from the cache neither.
    _, metrics = ran(make_config(train={"epochs": 5}), data, root)
    assert metrics["pushed_version"] is None and versions(serving) == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_killed_run_goes_on_with_its_training_and_a_warm_start_with_the_pushed_model(
    tmp_path: Path, make_config: Any, write_colorful_pairs: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="flexunet.train")
    config = make_config(train={"epochs": 12, "warm_start": True})
    source, data, root = tmp_path / "source", tmp_path / "data", tmp_path / "root"
    write_colorful_pairs(source, 60)
    ingest(source, data, config)

    started = started_run(config, data, root)
    wait_until(lambda: epochs_of(root) >= 3, lambda: started.poll() is not None)
    started.send_signal(signal.SIGKILL)
    started.wait()
    assert len(list((root / "checkpoints").glob("*.npz"))) == 1

    nodes, metrics = ran(config, data, root)
    assert "Trainer" in nodes and metrics["pushed_version"] == 1
    assert "training goes on with epoch" in caplog.text
    assert "training begins with the weights" not in caplog.text
    assert list((root / "checkpoints").iterdir()) == []
    # The whole training counts, not what was left of it.
    facts = json.loads((root / "serving_model" / "1" / "assets.extra" / "training.json").read_text())
    assert facts["epochs"] == 12

    # Unchanged, it does not begin with itself.
    assert ran(config, data, root)[0] == set()

    write_colorful_pairs(source, 70)
    ingest(source, data, config)
    nodes, _ = ran(config, data, root)
    assert "Trainer" in nodes
    assert "training begins with the weights of" in caplog.text
    assert ran(config, data, root)[0] == set()


@pytest.mark.slow
def test_a_run_on_crops_with_generated_images_in_each_batch(
    tmp_path: Path, make_config: Any, write_colorful_pairs: Any
) -> None:
    """Through all nodes: images in tiles that are cut anywhere, around defects too, and a folder that only trains."""
    config = make_config(
        image={"fit": "tile", "tile_overlap": 8},
        augment={"crops": True},
        dataset={"train": 0.6, "eval": 0.2, "test": 0.2, "sources": {"rendered": 0.25}},
        train={"epochs": 6, "batch_size": 8, "defect_share": 0.25},
    )
    write_colorful_pairs(tmp_path / "source" / "photos", 30, size=64)
    write_colorful_pairs(tmp_path / "source" / "rendered", 20, size=64, seed=9)
    done = ingest(tmp_path / "source", tmp_path / "data", config)
    held_out = [done.manifest["splits"][split]["images"] for split in ("eval", "test")]
    assert held_out == [6, 6] and done.manifest["splits"]["train"]["images"] == 38
    nodes, metrics = ran(config, tmp_path / "data", tmp_path / "root")
    assert {"MaskValidator", "Transform", "Trainer"} <= nodes
    assert metrics["verdict"] == "accepted" and metrics["examples"] == 6
