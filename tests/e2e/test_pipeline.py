"""The whole pipeline on this machine: run, run again, refuse, improve. One story, told in order."""

import io
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest
import tf_keras
from original import original_layers
from PIL import Image
from steel import CLASSES

from flexunet.cli import main
from flexunet.core.config.data import RecordsConfig
from flexunet.core.config.load import load_config
from flexunet.core.config.whole import Config
from flexunet.core.errors import NodeFailed
from flexunet.core.operating_point import above
from flexunet.dataset.ingest import ingest
from flexunet.history.store import read_history
from flexunet.serving.client import connect
from flexunet.serving.exported import exported_operating_point
from flexunet.serving.versions import versions
from flexunet.serving.wire import as_strings
from pipeline import local
from trainer_module.export import exported_weights

AFTER_GATE = {"Evaluator", "ServingValidator", "Pusher", "Reporter"}
AFTER_TRAINER = AFTER_GATE | {"Trainer"}
# A resolver has no cache: it looks anew each time.
RESOLVERS = {"BaselineResolver", "PreviousSpanResolver"}
KINDS = ("right", "alarm", "missed", "wrong")
CONTRACT = set(
    """format run_id blessed pushed_version split examples groups gate foreground_dice foreground_dice_interval
    foreground_dice_model_size baseline mean_iou mean_iou_with_background pixel_accuracy seed_dice cross_entropy
    calibration_error classes defects slices parameters train_seconds verdict problems next_step
    operating_point""".split()  # noqa: SIM905
)


# What a user may call a class, and what keys of TFMA, file names, HTML and TOML have meanings for.
NAMES = ["background", 'Einschluß / "A:1"', "Fläche 100 % <b>'🔧', x=1", "scratches"]


@pytest.fixture(scope="module")
def make_config(make_config: Callable[..., Config]) -> Callable[..., Config]:
    classes = [{**segmentation_class, "name": name} for segmentation_class, name in zip(CLASSES, NAMES, strict=True)]
    return lambda **sections: make_config(**{"classes": classes, **sections})


@dataclass
class Story:
    """A root folder and what happened in it."""

    data: Path
    root: Path
    ran: set[str] = field(default_factory=set)
    metrics: dict[str, Any] = field(default_factory=dict)

    def run(self, config: Config, from_model: Path | None = None) -> dict[str, Any]:
        results: list[local.NodeResult] = []
        self.metrics = local.run(config, self.data, self.root, on_node=results.append, from_model=from_model)
        self.ran = {result.node for result in results if not result.cached} - RESOLVERS
        return self.metrics

    @property
    def versions(self) -> list[str]:
        return [str(number) for number in versions(self.root / "serving_model")]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, make_config: Any, write_colorful_pairs: Any) -> Story:
    folder = tmp_path_factory.mktemp("story")
    write_colorful_pairs(folder / "source", 60)
    ingest(folder / "source", folder / "data", make_config())
    return Story(folder / "data", folder / "root")


class NetworkWatch:
    """Notes every look-up of a host and every connection by Python code, while it is on."""

    def __init__(self) -> None:
        self.on, self.seen = False, []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and event in {"socket.connect", "socket.getaddrinfo", "urllib.Request"}:
            target = str(arguments)
            if not any(local_name in target for local_name in ("127.0.0.1", "localhost", "::1", "/")):
                self.seen.append((event, target))


@pytest.fixture(scope="module")
def network() -> Iterator[NetworkWatch]:
    watch = NetworkWatch()
    sys.addaudithook(watch)
    yield watch
    watch.on = False


def test_the_first_run_pushes_a_model_without_network_or_prism(
    story: Story, make_config: Callable[..., Config], network: NetworkWatch
) -> None:
    network.on = True
    metrics = story.run(make_config())
    network.on = False
    assert network.seen == []
    assert "apache_beam.runners.portability.prism_runner" not in sys.modules or not list(
        Path.home().glob(".apache_beam/cache/prism/**/*.zip")
    )
    assert metrics["blessed"] and metrics["pushed_version"] == 1
    assert metrics["foreground_dice"] >= 0.5
    assert metrics["baseline"] is None
    assert story.versions == ["1"]


def test_the_report_has_the_contracts_fields(story: Story) -> None:
    saved = json.loads((story.root / "report" / "metrics.json").read_text())
    assert saved == story.metrics
    assert set(saved) == CONTRACT
    assert saved["groups"] == 6 and saved["foreground_dice_interval"][0] <= saved["foreground_dice"]
    assert [row["images"] for row in saved["slices"] if row["slice"].startswith("defects=")] == [6]
    details = json.loads((story.root / "report" / "details.json").read_text())
    training = story.root / "report" / "training"
    assert len((training / "history.csv").read_text().splitlines()) == 1 + 4
    assert {path.name for path in (training / "previews").iterdir()} == {
        *(f"epoch-000{epoch}.png" for epoch in (1, 2, 3, 4)),
        *("images.png", "truth.png"),
    }
    assert set(details) == {
        *("warnings", "intervals", "defects_found", "reliability", "images"),
        *("confusion", "baseline", "detection", "curves"),
    }
    assert np.sum(details["confusion"]) == 6 * 32 * 32
    assert "6 groups of test images" in details["warnings"][0]
    assert (saved["split"], saved["examples"]) == ("test", 6)
    assert list(saved["classes"]) == NAMES
    assert set(saved["classes"][NAMES[2]]) == {"dice", "iou", "precision", "recall", "pixels"}
    dice = [saved["classes"][name]["dice"] for name in NAMES[1:]]
    assert saved["foreground_dice"] == pytest.approx(np.mean(dice))
    assert {"check", "slice", "value", "bound", "passed", "words"} == set(saved["gate"][0])


def shown_cases(page: Any) -> list[str]:
    """The images of the gallery, after a look at the whole page in a window as wide as a desk's and a phone's."""
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    return page.locator(".case h3").all_text_contents()


def test_the_report_opens_in_a_browser(story: Story, open_page: Callable[..., Any]) -> None:
    page = open_page(story.root / "report" / "index.html")
    assert page.locator("h1").text_content() == "Accepted: version 1"
    assert all(name in page.locator("body").text_content() for name in NAMES[1:])
    listed = json.loads((story.root / "report" / "details.json").read_text())["images"]
    assert set(shown_cases(page)) == {image["id"] for images in listed.values() for image in images}
    assert page.locator("#lineage ~ dl").text_content().count("num_files:") == 3
    # Predicted again by the exported model, an image has the Dice that was measured.
    gallery = json.loads((story.root / "report" / "gallery" / "gallery.json").read_text())
    seen, alarms, missed, wrong = (sum(case["pixels"][kind] for case in gallery) for kind in KINDS)
    counts = np.array(json.loads((story.root / "report" / "details.json").read_text())["confusion"])
    assert len(gallery) == 6
    assert seen == np.trace(counts[1:, 1:]) and missed == counts[1:, 0].sum() and alarms == counts[0, 1:].sum()
    assert wrong == counts[1:, 1:].sum() - seen


def test_an_unchanged_second_run_is_all_cached_and_pushes_nothing(story: Story, make_config: Any) -> None:
    first = story.metrics
    second = story.run(make_config())
    assert story.ran == set()
    assert story.versions == ["1"]
    assert {**second, "run_id": None} == {**first, "run_id": None}


def test_a_stricter_gate_re_runs_only_the_gate_and_refuses(story: Story, make_config: Any) -> None:
    metrics = story.run(make_config(gate={"min_foreground_dice": 1.0}))
    assert story.ran == AFTER_GATE
    assert not metrics["blessed"] and metrics["pushed_version"] is None
    assert metrics["verdict"] == "refused_by_gate" and "[gate]" in metrics["next_step"]
    assert metrics["problems"] == [metrics["gate"][0]["words"]]
    assert [check["passed"] for check in metrics["gate"]] == [False, True]
    assert story.versions == ["1"]


def test_a_refused_model_has_a_report_too(story: Story, open_page: Callable[..., Any]) -> None:
    page = open_page(story.root / "report" / "index.html")
    assert page.locator("h1").text_content() == "Refused by the gate"
    assert "its lower end must be at least 1.0000" in page.locator(".verdict").text_content()
    assert len(shown_cases(page)) == 6


def test_the_same_gate_again_accepts_the_same_model_and_pushes_nothing_new(story: Story, make_config: Any) -> None:
    metrics = story.run(make_config())
    assert story.ran == set()
    assert metrics["blessed"] and metrics["pushed_version"] == 1
    assert story.versions == ["1"]
    # The page comes from the cache as well, and says what is so now.
    assert "<h1>Accepted: version 1</h1>" in (story.root / "report" / "index.html").read_text()


def test_a_looser_gate_measures_again_but_pushes_nothing_new(story: Story, make_config: Any) -> None:
    metrics = story.run(make_config(gate={"min_foreground_dice": 0.4, "min_class_dice": {NAMES[2]: 0.01}}))
    assert story.ran == AFTER_GATE
    [words] = [check["words"] for check in metrics["gate"] if check["passed"] and NAMES[2] in check["words"]]
    assert words.startswith(f"Dice of {NAMES[2]} is ") and words.endswith(", at least 0.0100 is required")
    assert metrics["baseline"] is None
    assert metrics["pushed_version"] == 1
    assert story.versions == ["1"]


def test_more_epochs_train_anew_and_are_compared_with_the_pushed_model(story: Story, make_config: Any) -> None:
    before = story.metrics["foreground_dice"]
    metrics = story.run(make_config(train={"epochs": 8}))
    assert story.ran == AFTER_TRAINER
    assert metrics["baseline"]["foreground_dice"] == pytest.approx(before)
    assert metrics["baseline"]["difference"] == pytest.approx(metrics["foreground_dice"] - before)
    checks = [check["check"] for check in metrics["gate"]]
    assert checks == ["foreground_dice", "foreground_dice against baseline", "measured"]
    assert metrics["pushed_version"] == 2
    assert story.versions == ["1", "2"]


def test_the_second_model_again_is_all_cached(story: Story, make_config: Any) -> None:
    before = story.metrics
    metrics = story.run(make_config(train={"epochs": 8}))
    assert story.ran == set()
    assert {**metrics, "run_id": None} == {**before, "run_id": None}


def test_a_model_worse_than_the_baseline_is_refused(story: Story, make_config: Any) -> None:
    metrics = story.run(make_config(train={"epochs": 1}, gate={"min_foreground_dice": 0.0001}))
    assert story.ran == AFTER_TRAINER
    verdicts = {check["check"]: check["passed"] for check in metrics["gate"]}
    assert not verdicts["foreground_dice against baseline"]
    assert not metrics["blessed"]
    assert story.versions == ["1", "2"]


def arguments(story: Story, config: Path, *more: str) -> list[str]:
    return ["run", "--config", str(config), "--data", str(story.data), "--root", str(story.root), *more]


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory, make_config: Any) -> Path:
    """The second model's configuration as a user would write it."""
    lines = []
    for segmentation_class in make_config().classes:
        name = json.dumps(segmentation_class.name, ensure_ascii=False)
        lines += ["[[classes]]", f"name = {name}", f"color = {list(segmentation_class.color)}"]
    lines += ["[image]", "height = 32", "width = 32"]
    lines += ["[model]", "num_layers = 2", "base_filters = 8", "base_kernel = 3", "dropout = 0.0"]
    lines += ["[train]", "epochs = 8", "batch_size = 4", "learning_rate = 0.01", 'schedule = "constant"']
    lines += ["[gate]", "min_foreground_dice = 0.5"]
    path = tmp_path_factory.mktemp("config") / "mine.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def exit_code(command: list[str]) -> int:
    with pytest.raises(SystemExit) as ended:
        main.main(command)
    return int(ended.value.code or 0)


def test_the_command_prints_nodes_scores_and_verdict(
    story: Story, config_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(arguments(story, config_file)) == 0
    printed = capfd.readouterr()
    assert "Trainer           cached" in printed.out
    assert "foreground Dice" in printed.out and "accepted; the model is version 2" in printed.out
    assert printed.err == ""


def test_a_refused_model_exits_with_2_also_from_the_cache(
    story: Story, config_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert exit_code(arguments(story, config_file, "--set", "gate.min_foreground_dice=1.0")) == 2
        printed = capfd.readouterr()
        assert "error: the gate refused the model" in printed.err
        assert "worst images: " in printed.out


def assert_alike(found: Any, expected: Any) -> None:
    """But for rounding: Beam puts other images into a batch the next time, and a pixel may change its class."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert_alike(found[name], value)
    elif isinstance(expected, list):
        for one, other in zip(found, expected, strict=True):
            assert_alike(one, other)
    elif isinstance(expected, str):
        assert re.sub(r"[\d.]+", "0", found) == re.sub(r"[\d.]+", "0", expected)
    else:
        assert found == (expected if expected is None else pytest.approx(expected, rel=1e-3, abs=1e-3))


def test_evaluate_measures_as_the_pipeline_does(
    story: Story, config_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    in_pipeline = story.run(load_config(config_file))
    model = str(story.root / "serving_model")
    command = ["evaluate", model, str(story.data), "--config", str(config_file), "--out", str(tmp_path)]
    assert exit_code([*command, "--baseline", f"{model}/1"]) == 0
    assert "passed: foreground Dice is" in capfd.readouterr().out
    saved = json.loads((tmp_path / "metrics.json").read_text())
    assert set(saved) == CONTRACT
    apart = {"run_id": None, "pushed_version": None, "baseline": None}
    assert_alike({**saved, **apart}, {**in_pipeline, **apart})
    assert_alike({**saved["baseline"], "model": ""}, {**in_pipeline["baseline"], "model": ""})
    assert exit_code([*command, "--set", "gate.min_foreground_dice=1.0"]) == 2
    printed = capfd.readouterr()
    assert "error: the gate refused the model: foreground Dice is" in printed.err and "next: look at" in printed.out
    assert json.loads((tmp_path / "metrics.json").read_text())["verdict"] == "refused_by_gate"


def test_evaluate_refuses_a_model_of_other_classes(
    story: Story, tmp_path: Path, capfd: pytest.CaptureFixture[str], config_file: Path
) -> None:
    text = config_file.read_text().replace('"scratches"', '"rust"')
    (tmp_path / "other.toml").write_text(text)
    data = shutil.copytree(story.data, tmp_path / "data")
    (data / "dataset.json").write_text((data / "dataset.json").read_text().replace('"scratches"', '"rust"'))
    command = ["evaluate", str(story.root / "serving_model"), str(data), "--config", str(tmp_path / "other.toml")]
    assert exit_code(command) == 1
    assert "its classes are not those of the config" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("saved_model.pb", b"\x0a\xff\xff", "not a whole SavedModel"),
        ("assets.extra/config.json", b"[]", "not of this version"),
        ("assets.extra/training.json", b"[1]", "not what this project wrote"),
    ],
    ids=["graph", "config", "training"],
)
def test_evaluate_names_the_damaged_file_of_a_model(
    story: Story,
    config_file: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    name: str,
    content: bytes,
    words: str,
) -> None:
    model = shutil.copytree(story.root / "serving_model" / "1", tmp_path / "model")
    (model / name).write_bytes(content)
    assert exit_code(["evaluate", str(model), str(story.data), "--config", str(config_file)]) == 1
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith(f"error: {model / name}: ") and words in line


def test_a_deleted_version_is_pushed_again(story: Story, make_config: Any) -> None:
    shutil.rmtree(story.root / "serving_model" / "2")
    metrics = story.run(make_config(train={"epochs": 8}))
    assert story.ran == {"Pusher", "Reporter"}
    # A server may still hold the deleted version 2, so that its number is not given again.
    assert metrics["pushed_version"] == 3
    assert story.versions == ["1", "3"]


def test_a_version_says_where_it_comes_from(story: Story) -> None:
    path = story.root / "serving_model" / "3" / "assets.extra" / "provenance.json"
    provenance = json.loads(path.read_text())
    assert provenance["version"] == 3 and provenance["run"] == story.metrics["run_id"]
    assert provenance["scores"]["foreground_dice"] == story.metrics["foreground_dice"]
    assert provenance["gate"] == story.metrics["gate"]
    assert Path(provenance["baseline"]).is_dir() and Path(provenance["model_uri"]).is_dir()
    assert "num_files:" in provenance["data"]["fingerprint"]
    card = (path.parent / "model_card.md").read_text()
    assert f"**{story.metrics['foreground_dice']:.4f}**" in card and provenance["sha256"] in card
    assert f"| test: {story.metrics['examples']} images |" in card
    assert "<h2>Intended use</h2>" in (path.parent / "model_card.html").read_text()


def test_what_the_serving_validator_measured_is_in_the_report(story: Story) -> None:
    found = json.loads((story.root / "report" / "serving.json").read_text())
    assert found["blessed"] and found["problems"] == [] and found["rolled_back"] is None
    assert found["latency_seconds"]["p50"] > 0


def test_a_model_that_serves_too_slowly_exits_with_4_and_is_checked_again(
    story: Story, config_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert exit_code(arguments(story, config_file, "--set", "serving.max_latency_seconds=1e-9")) == 4
        printed = capfd.readouterr()
        assert "error: the serving validator refused the model, nothing was pushed: one image takes" in printed.err
    # Time and memory depend on what else the machine does.
    assert "ServingValidator  done" in printed.out and "Evaluator         cached" in printed.out
    saved = json.loads((story.root / "report" / "metrics.json").read_text())
    assert saved["pushed_version"] is None and saved["verdict"] == "refused_by_serving"
    assert saved["problems"][0].startswith("one image takes") and f"next: {saved['next_step']}" in printed.out
    assert "<h1>Refused by the serving validator</h1>" in (story.root / "report" / "index.html").read_text()
    assert story.versions == ["1", "3"]


def test_a_rollback_serves_the_first_model_again_and_no_run_brings_the_second_back(
    story: Story, config_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # As while a run trains.
    with filelock.FileLock(story.root / ".lock"):
        assert exit_code(["rollback", "--root", str(story.root)]) == 0
    assert "version 1 is served again as version 4; version 3 is rolled back" in capfd.readouterr().out
    assert exit_code(arguments(story, config_file)) == 0
    printed = capfd.readouterr().out
    assert "accepted, but this very model was rolled back as version 3: not pushed again" in printed
    assert json.loads((story.root / "report" / "metrics.json").read_text())["pushed_version"] is None
    assert story.versions == ["1", "3", "4"]


def test_after_a_rollback_the_baseline_is_the_model_that_is_served(story: Story, make_config: Any) -> None:
    first = json.loads((story.root / "serving_model" / "1" / "assets.extra" / "provenance.json").read_text())
    target = {"operating_point": {"target": "found >= 0.9"}}
    metrics = story.run(make_config(train={"epochs": 7}, gate={"max_regression": 1.0}, **target))
    assert story.ran == AFTER_TRAINER | {"Transform"}
    assert metrics["baseline"]["model"] == first["model_uri"]
    assert metrics["pushed_version"] == 5


def test_a_target_is_chosen_served_measured_and_shown(story: Story, open_page: Callable[..., Any]) -> None:
    """The run before had one."""
    export, point = story.root / "serving_model" / "5", story.metrics["operating_point"]
    assert point == exported_operating_point(export) and point["target"] == "found >= 0.9"
    details = json.loads((story.root / "report" / "details.json").read_text())
    low, high = details["intervals"]["defects_found"]
    assert low <= story.metrics["defects"]["found_share"] <= high and high >= 0.9
    with connect(str(export)) as model:
        for path in sorted((story.data.parent / "source" / "images").iterdir())[:8]:
            answer = model.run("serving_default", {"image_bytes": as_strings([path.read_bytes()])})
            assert [name.decode() for name in answer["class_names"][0]] == NAMES
            pixels = np.asarray(Image.open(path))[np.newaxis]
            expected = above(model.run("probabilities", {"pixels": pixels})["probabilities"], answer["thresholds"][0])
            found = np.asarray(Image.open(io.BytesIO(answer["mask_png"][0])))
            assert np.mean(found != expected[0]) < 0.002
            assert answer["smallest_regions_not_applied"][0, 1:].tolist() == [*point["smallest_regions"].values()]
    page = open_page(story.root / "report" / "index.html")
    assert 'Chosen on eval for "found >= 0.9"' in " ".join(page.locator(".note").all_inner_texts())


def test_what_was_rolled_back_comes_back_on_request(story: Story, make_config: Any) -> None:
    assert exit_code(["rollback", "--root", str(story.root), "--to", "3"]) == 0
    assert story.run(make_config(train={"epochs": 8}))["pushed_version"] == 6
    assert story.versions == ["1", "3", "4", "5", "6"]


def test_a_failing_node_exits_with_3_and_names_the_log(
    story: Story, config_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(arguments(story, config_file, "--set", "train.learning_rate=1e30")) == 3
    printed = capfd.readouterr()
    assert "error: Trainer failed: ValueError" in printed.err and "training diverged" in printed.err
    log = Path(printed.err.rpartition("full log: ")[2].strip())
    assert "Traceback" in log.read_text()
    assert "Traceback" not in printed.out + printed.err


@pytest.mark.slow
def test_records_made_elsewhere_run_with_a_warning(
    story: Story, config_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whole runs on such records; what is special about them, MaskValidator's own test shows."""
    shutil.copytree(story.data / "span-1", tmp_path / "data" / "span-1")
    command = ["run", "--config", str(config_file), "--data", str(tmp_path / "data"), "--root", str(tmp_path / "root")]
    assert exit_code([*command, "--set", "train.epochs=1", "--set", "records.group=''"]) in (0, 2)
    assert "warning:" in capfd.readouterr().out
    assert (tmp_path / "root" / "report" / "metrics.json").is_file()


def test_a_batch_larger_than_the_data_is_the_users_mistake(
    story: Story, config_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(arguments(story, config_file, "--set", "train.batch_size=1000")) == 1
    assert "train.batch_size is 1000, expected at most the 48 training images" in capfd.readouterr().err


def test_a_second_run_on_the_same_root_is_refused(
    story: Story, config_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with filelock.FileLock(story.root / ".lock"):
        assert exit_code(arguments(story, config_file)) == 1
    assert "another run is using this folder" in capfd.readouterr().err


def test_a_failed_run_leaves_the_root_usable(story: Story, make_config: Any) -> None:
    assert story.run(make_config(train={"epochs": 8}))["pushed_version"] == 6
    assert story.ran == set()


def test_an_unknown_color_in_the_records_stops_the_run_before_transform(
    story: Story, tmp_path: Path, make_config: Any
) -> None:
    config = make_config(classes=[{"name": "background", "color": [0, 0, 0]}, {"name": "one", "color": [1, 1, 1]}])
    words = (
        r"MaskValidator failed.* 60 problems in the records, the first: 000 \(\w+\): .*outside the palette.*RGB \d+ \d+"
    )
    with pytest.raises(NodeFailed, match=words):
        local.run(config, story.data, tmp_path)
    assert not (tmp_path / "Transform").exists()


def test_records_that_are_not_those_of_the_manifest_stop_the_run(
    story: Story, tmp_path: Path, make_config: Any
) -> None:
    data = shutil.copytree(story.data, tmp_path / "data")
    version = next(data.glob("span-1/version-*"))
    shutil.copytree(version / "eval", version / "test", dirs_exist_ok=True)
    with pytest.raises(NodeFailed, match=r"MaskValidator failed.*\(eval, test\): the same id in several splits"):
        local.run(make_config(), data, tmp_path / "root")


def test_predict_writes_masks_overlays_and_areas(story: Story, tmp_path: Path) -> None:
    images = story.data.parent / "source" / "images"
    out = tmp_path / "predictions"
    assert exit_code(["predict", str(story.root / "serving_model" / "6"), str(images), "--out", str(out)]) == 0
    assert len(list(out.glob("*_mask.png"))) == len(list(out.glob("*_overlay.png"))) == 60
    predicted = np.asarray(Image.open(out / "003_mask.png"))
    truth = np.asarray(Image.open(story.data.parent / "source" / "masks" / "003.png"))
    assert (predicted == truth).all(-1).mean() > 0.8
    rows = (out / "areas.csv").read_text().splitlines()
    assert rows[0] == "image,class,pixels,share,regions,boxes"
    assert len(rows) == 1 + 4 * 60


def test_predict_names_every_broken_file_and_exits_with_1(
    story: Story, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = story.data.parent / "source" / "images"
    good, broken = source / "000.png", tmp_path / "broken.png"
    broken.write_bytes(good.read_bytes()[:100])
    out = tmp_path / "out"
    assert exit_code(["predict", str(story.root / "serving_model"), str(good), str(broken), "--out", str(out)]) == 1
    assert "broken.png: no prediction" in capfd.readouterr().err
    assert (out / "000_mask.png").is_file() and not (out / "broken_mask.png").exists()


def test_a_person_pushes_a_refused_model_with_a_reason_that_stays_on_record(
    story: Story, config_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = story.versions
    command = arguments(story, config_file, "--set", "gate.min_foreground_dice=1.0", "--set", "train.epochs=1")
    # No node but the Reporter reads these: see test_two_runs_are_compared.
    command += ["--set", "dataset.seed=5", "--set", "beam.worker_command='/boot'"]
    command += ["--set", "kubeflow.mount_path='/mill'"]
    assert exit_code(command) == 2
    assert story.versions == before
    new = 1 + max(int(version) for version in before)
    for _ in range(2):
        assert exit_code([*command, "--accept-refused", "the line stands still"]) == 0
        assert f"REFUSED by the gate and pushed all the same; the model is version {new}" in capfd.readouterr().out
    assert set(story.versions) - set(before) == {str(new)}
    metrics = json.loads((story.root / "report" / "metrics.json").read_text())
    assert not metrics["blessed"] and metrics["pushed_version"] == new
    assert metrics["gate"][-1]["check"] == "accepted"
    assert metrics["gate"][-1]["words"].endswith("for this reason: the line stands still")
    provenance = story.root / "serving_model" / str(new) / "assets.extra" / "provenance.json"
    assert json.loads(provenance.read_text())["accepted_refused"] == "the line stands still"
    assert exit_code(command) == 2
    # What is served already is pushed again for another reason, which its provenance must tell.
    assert exit_code([*command, "--accept-refused", "the line stands still, still"]) == 0
    assert str(new + 1) in story.versions
    again = story.root / "serving_model" / str(new + 1) / "assets.extra" / "provenance.json"
    assert json.loads(again.read_text())["accepted_refused"] == "the line stands still, still"


def printed_json(command: list[str], capfd: pytest.CaptureFixture[str]) -> Any:
    assert exit_code([*command, "--json"]) == 0
    return json.loads(capfd.readouterr().out)


def test_runs_lists_every_run_with_its_verdict(story: Story, capfd: pytest.CaptureFixture[str]) -> None:
    rows = printed_json(["runs", "--root", str(story.root)], capfd)
    assert [row["run_id"] for row in rows] == sorted((row["run_id"] for row in rows), reverse=True)
    assert {row["verdict"] for row in rows} == {
        *("accepted", "refused_by_gate", "refused_by_serving"),
        *("accepted_though_refused", "failed"),
    }
    reasons = {row["verdict"]: " ".join(row["problems"]) for row in rows}
    assert "is required" in reasons["refused_by_gate"] or "must be at least" in reasons["refused_by_gate"]
    assert "one image takes" in reasons["refused_by_serving"] and reasons["failed"] == "Trainer failed"
    assert "the line stands still" in reasons["accepted_though_refused"] and reasons["accepted"] == ""
    assert {row["verdict"] for row in rows if row["next_step"] is None} == {"accepted"}
    first, pushed_anyway = rows[-1], rows[0]
    assert first["foreground_dice_interval"][0] <= first["foreground_dice"] <= first["foreground_dice_interval"][1]
    assert (first["examples"], first["pushed_version"], first["served_as"], first["freed"]) == (6, 1, None, False)
    assert pushed_anyway["pushed_version"] == pushed_anyway["served_as"] == int(story.versions[-1])
    assert exit_code(["runs", "--root", str(story.root)]) == 0
    printed = capfd.readouterr().out
    assert f"{story.versions[-1]}, served" in printed and "failed: Trainer" in printed


def test_lineage_tells_what_made_a_version_and_what_a_rollback_restored(
    story: Story, make_config: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    serving = story.root / "serving_model"
    found = printed_json(["lineage", str(serving / "6")], capfd)
    assert "ML Metadata in" in found["source"] and found["intact"]
    assert found["data"]["directory"] == str(story.data) and found["data"]["span"] == 1
    expected = make_config(train={"epochs": 8}).model_dump(mode="json", exclude={"dataset", "tune", "beam", "kubeflow"})
    # Of it nodes read which images train and how often, and nothing of how ingest understands masks.
    expected["dataset"] = {"sources": {}, "equal_groups": False}
    expected["records"] = {key: expected["records"][key] for key in RecordsConfig.model_fields}
    assert found["config"] == expected
    assert {"RecordGen", "Transform", "Trainer", "Evaluator", "ServingValidator", "Pusher"} <= {*found["code"]}
    assert all(len(code) == 64 for code in found["code"].values())
    assert found["baseline"]["version"] == 1
    # The first model, served again as version 4, was made without a baseline.
    restored = printed_json(["lineage", str(serving / "4")], capfd)
    assert restored["baseline"] is None and restored["config"]["train"]["epochs"] == 4
    newest = printed_json(["lineage", str(serving)], capfd)
    assert newest["accepted_refused"] == "the line stands still, still"
    assert exit_code(["lineage", str(serving / "6")]) == 0
    assert "train.epochs = 8" in capfd.readouterr().out


def test_lineage_falls_back_on_the_version_itself_and_says_so(
    story: Story, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    version = shutil.copytree(story.root / "serving_model" / "6", tmp_path / "serving_model" / "6")
    found = printed_json(["lineage", str(version)], capfd)
    assert f"there is no {tmp_path / 'metadata.db'}" in found["source"]
    assert found["config"]["train"]["epochs"] == 8 and "num_files:" in found["data"]["fingerprint"]
    (version / "saved_model.pb").write_bytes(b"other")
    assert not printed_json(["lineage", str(version)], capfd)["intact"]
    (version / "assets.extra" / "provenance.json").unlink()
    assert exit_code(["lineage", str(version)]) == 1
    assert "provenance.json: missing, expected a version that a run pushed" in capfd.readouterr().err


def test_two_runs_are_compared(
    story: Story, open_page: Callable[..., Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first = printed_json(["runs", "--root", str(story.root)], capfd)[-1]
    command = ["report", "--root", str(story.root), "--no-open", "--against"]
    assert exit_code([*command, first["run_id"]]) == 0
    page = open_page(story.root / "report" / "against.html")
    assert len(shown_cases(page)) == 0
    differing = page.locator("#settings ~ .frame").inner_text()
    keys = ("train.epochs", "gate.min_foreground_dice", "dataset.seed", "beam.worker_command", "kubeflow.mount_path")
    assert [key for key in keys if key not in differing] == []
    assert "model." not in differing
    assert f"{first['foreground_dice']:.4f}" in page.locator("tr.total").text_content()
    assert not page.locator(".warnings").is_visible()
    shutil.copytree(story.root / "report", tmp_path / "report")
    assert exit_code([*command, str(tmp_path)]) == 0
    assert exit_code([*command, "no-such-run"]) == 1
    assert "no-such-run: no run of this id" in capfd.readouterr().err


def test_the_report_is_rebuilt_from_what_lies_beside_it(story: Story, capfd: pytest.CaptureFixture[str]) -> None:
    page = story.root / "report" / "index.html"
    before = page.read_text()
    page.unlink()
    assert exit_code(["report", "--root", str(story.root)]) == 0
    assert page.read_text() == before and str(page) in capfd.readouterr().out


def models_of(story: Story) -> set[Path]:
    """Those that the versions were made from."""
    paths = (story.root / "serving_model").glob("*/assets.extra/provenance.json")
    return {Path(json.loads(path.read_text())["model_uri"]) for path in paths}


def bytes_in(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def folders(root: Path) -> set[Path]:
    return {path for path in root.glob("*/*/*") if path.parts[-3] != "serving_model"}


def test_clean_says_first_what_it_would_free(story: Story, capfd: pytest.CaptureFixture[str]) -> None:
    before = folders(story.root)
    assert exit_code(["clean", "--root", str(story.root), "--keep", "1", "--dry-run"]) == 0
    assert "would be freed; nothing was removed" in capfd.readouterr().out
    assert folders(story.root) == before
    assert exit_code(["clean", "--root", str(story.root), "--keep", "1000"]) == 0
    assert capfd.readouterr().out.startswith("0.0 MB (0 bytes) freed")
    with filelock.FileLock(story.root / ".lock"):
        assert exit_code(["clean", "--root", str(story.root), "--keep", "1"]) == 1
    assert "another run is using this folder" in capfd.readouterr().err
    assert folders(story.root) == before


def test_clean_frees_old_runs_and_keeps_what_versions_and_the_newest_run_need(
    story: Story, make_config: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    for bound in (0.999, 0.998):
        story.run(make_config(train={"epochs": 1}, gate={"min_foreground_dice": bound}))
    rows = printed_json(["runs", "--root", str(story.root)], capfd)
    [failed] = [row["run_id"] for row in rows if row["verdict"] == "failed"]
    [execution] = [run.nodes["Trainer"].id for run in read_history(story.root).runs if run.run_id == failed]
    # A training that is killed leaves a folder that ML Metadata never hears of.
    orphan = story.root / "Trainer" / "model_run" / str(execution)
    orphan.mkdir()
    (orphan / "cache").write_bytes(bytes(1000))
    before = bytes_in(story.root)
    assert exit_code(["clean", "--root", str(story.root), "--keep", "1"]) == 0
    printed = capfd.readouterr().out
    freed = int(printed.rpartition("(")[2].partition(" bytes")[0].replace(",", ""))
    # The database grows by what it is told.
    assert 0 < freed == pytest.approx(before - bytes_in(story.root), abs=100_000)
    assert not orphan.exists()
    assert all(model.is_dir() for model in models_of(story))
    assert len(list((story.root / "Trainer" / "model").iterdir())) == len(models_of(story))
    again = printed_json(["runs", "--root", str(story.root)], capfd)
    assert [{**row, "freed": None} for row in again] == [{**row, "freed": None} for row in rows]
    assert not again[0]["freed"] and again[1]["freed"]
    assert exit_code(["report", "--root", str(story.root), "--against", again[1]["run_id"]]) == 1
    assert "`flexunet clean` freed it" in capfd.readouterr().err


def test_after_clean_nothing_half_there_comes_from_the_cache(story: Story, make_config: Any) -> None:
    gone = [artifact for artifact in read_history(story.root).artifacts.values() if not artifact.is_live]
    assert gone and not any(Path(artifact.uri).exists() for artifact in gone)
    story.run(make_config(train={"epochs": 1}, gate={"min_foreground_dice": 0.998}))
    assert story.ran == set()
    metrics = story.run(make_config(train={"epochs": 1}, gate={"min_foreground_dice": 0.999}))
    assert story.ran >= {"Evaluator", "Reporter"} and "Trainer" not in story.ran
    assert not metrics["blessed"] and (story.root / "report" / "index.html").is_file()


@pytest.mark.slow
def test_weights_of_the_original_go_through_the_gate_without_a_training(
    story: Story,
    make_config: Callable[..., Config],
    config_file: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    serving = story.root / "serving_model"
    pushed = [json.loads(path.read_text()) for path in serving.glob("*/assets.extra/provenance.json")]
    trained = max(pushed, key=lambda version: version.get("scores", {}).get("foreground_dice") or 0)
    model = original_layers(tf_keras, (32, 32), levels=2, filters=8, base_kernel=3)
    model.set_weights(exported_weights(str(serving / str(trained["version"]))))
    model.save(tmp_path / "best_model.h5")
    out, source = tmp_path / "imported", str(tmp_path / "best_model.h5")
    assert exit_code(["import", "model", source, "--config", str(config_file), str(out)]) == 0
    assert exit_code(["evaluate", str(out), str(story.data), "--config", str(config_file)]) == 0
    metrics = story.run(make_config(), out)
    assert story.ran == {"ModelImporter"} | AFTER_GATE
    assert metrics["foreground_dice"] == pytest.approx(trained["scores"]["foreground_dice"], abs=1e-4)
    assert metrics["pushed_version"] == int(story.versions[-1]) and metrics["train_seconds"] is None
    capfd.readouterr()
    # Again, by the command: all of it is cached.
    assert exit_code(arguments(story, config_file, "--from-model", str(out))) == 0
    assert re.search(r"ModelImporter +cached", capfd.readouterr().out)
    assert metrics["pushed_version"] == int(story.versions[-1])
    found = printed_json(["lineage", str(serving)], capfd)
    assert found["imported"]["directory"] == str(out) and found["imported"]["weights"]["file"] == "best_model.h5"
    assert found["config"]["model"]["base_filters"] == 8 and "ModelImporter" in found["code"]
    page = (story.root / "report/index.html").read_text()
    assert "the weights were imported from best_model.h5" in page
    command = arguments(story, config_file, "--from-model", str(out), "--set", "records.group='image/other'")
    assert exit_code(command) == 1
    assert "its records are not those of the config" in capfd.readouterr().err
