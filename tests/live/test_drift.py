"""`flexunet live drift`: the model's answers to held-out images against what was watched; page, metrics, exit code."""

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import flexunet
from html_page import Page
from pictures import encoded

from flexunet.core.results.live import LiveDrift
from flexunet.live.compare import compare
from flexunet.live.drift import find_drift, metrics_text
from flexunet.live.observe import Seen
from flexunet.live.reference import reference_of
from flexunet.live.store import Kept, Store, write_lines

NAMES = ("inclusion", "patches", "scratches")


def drawn(generator: np.random.Generator) -> tuple[bytes, np.ndarray]:
    """Squares of the classes' colours on noise, and the shares of their pixels, `[3]`."""
    pixels = generator.integers(0, 40, (32, 32, 3)).astype(np.uint8)
    shares = np.zeros(3)
    for channel in range(3):
        if generator.random() < 0.5:
            pixels[10 * channel : 10 * channel + 8, :16] = 0
            pixels[10 * channel : 10 * channel + 8, :16, 2 - channel] = 255
            shares[channel] = 8 * 16 / 32**2
    return encoded(pixels), shares


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty of `eval`, thirty of `test`, as TFX lays them out, written by TensorFlow; `train` has what is no image."""
    from examples import serialized, write_examples

    folder, generator = tmp_path_factory.mktemp("records"), np.random.default_rng(0)
    for split in ("train", "eval", "test"):
        (folder / f"Split-{split}").mkdir()
        images = (b"?" if split == "train" else drawn(generator)[0] for _ in range(30))
        write_examples(
            folder / f"Split-{split}" / "data-0.gz", (serialized({"image/encoded": image}) for image in images)
        )
    return folder


def served(root: Path, records: Path, count: int, **changes: float) -> Iterator[Seen]:
    """Images drawn from the reference, with numbers changed by so much."""
    reference = reference_of(root / "serving_model" / "3", root / "live", lambda: records)
    for index in np.random.default_rng(1).integers(0, len(reference), count):
        found = replace(reference[index], time=time.time())
        yield replace(found, **{name: getattr(found, name) + by for name, by in changes.items()})


def watched(folder: Path, images: Iterator[Seen]) -> Path:
    store = Store(Kept(folder, days=30))
    for one in images:
        store.count("requests", one.time)
        store.add(b"", one)
    store.count("failed requests", time.time())
    store.flush()
    return folder


def test_the_reference_is_the_models_answers_to_what_it_never_learnt_from(root: Path, records: Path, tmp_path: Path):
    version = root / "serving_model" / "3"
    found = reference_of(version, tmp_path, lambda: records)
    generator = np.random.default_rng(0)
    expected = [drawn(generator)[1] for _ in range(60)]
    np.testing.assert_allclose([[seen.shares[name] for name in NAMES] for seen in found], expected, atol=0.01)
    assert all(seen.valid and seen.version == 3 and (seen.confidence or 0) > 0.9 for seen in found)
    # Asked once.
    assert reference_of(version, tmp_path, lambda: Path("nowhere")) == found


def test_images_as_before_are_no_drift_and_darker_ones_exit_with_5(root: Path, records: Path):
    watched(root / "live", served(root, records, 100))
    stayed = flexunet(root.parent, "live", "drift", "root", "--data", str(records), "--json")
    assert stayed.exit_code == 0, stayed.output
    found: LiveDrift = json.loads(stayed.stdout)
    assert (found["moved"], found["sampled"], found["reference_images"]) == (False, 100, 60)
    assert (found["requests"], found["images"], found["notes"]) == (100, 100, {"failed requests": 1})
    assert "Nothing moved" in Page((root / "live" / "drift.html").read_text(encoding="utf-8")).text

    watched(root / "live", served(root, records, 100, brightness=60.0))
    moved = flexunet(root.parent, "live", "drift", "root", "--data", "others")
    assert moved.exit_code == 5 and "so --data is not read" in " ".join(moved.stdout.split())
    assert "brightness moved" in moved.stderr and "Traceback" not in moved.stderr
    found = json.loads((root / "live" / "drift.json").read_text())
    assert [one["feature"] for one in found["findings"] if one["moved"]] == ["brightness"]
    page = Page((root / "live" / "drift.html").read_text(encoding="utf-8"))
    assert "no longer those" in page.text and len(page.all("tr")) == 1 + len(found["findings"])
    text = (root / "live" / "drift.prom").read_text()
    assert "flexunet_drift_moved 1\n" in text and 'feature_moved{feature="brightness",camera=""} 1' in text


def test_ten_images_are_too_few_and_other_versions_are_left_out(root: Path, records: Path):
    images = enumerate(served(root, records, 60, brightness=-60.0))
    watched(root / "live", (replace(seen, version=3 if index < 10 else 2) for index, seen in images))
    done = flexunet(root.parent, "live", "drift", "root", "--data", str(records), "--json")
    assert done.exit_code == 0
    found: LiveDrift = json.loads(done.stdout)
    assert (found["sampled"], found["other_versions"], found["findings"]) == (10, 50, [])
    assert "too few images" in done.stderr


def test_mistakes_are_one_line(root: Path, tmp_path: Path):
    assert "expected what `flexunet live watch --out` writes" in flexunet(tmp_path, "live", "drift", "root").stderr
    (root / "live").mkdir()
    done = flexunet(tmp_path, "live", "drift", "root")
    assert done.exit_code == 1 and "provenance.json: missing" in done.stderr
    done = flexunet(tmp_path, "live", "drift", "root", "--data", str(tmp_path))
    assert done.exit_code == 1 and "no records of eval and test" in done.stderr


def test_names_of_cameras_are_escaped_for_prometheus():
    finding = {"feature": "brightness", "camera": 'a"b\\c\nd', "moved": False}
    text = metrics_text({"moved": False, "sampled": 0, "findings": [finding]}, 5.0)  # type: ignore[typeddict-item]
    assert 'camera="a\\"b\\\\c\\nd"} 0\n' in text and "flexunet_drift_time_seconds 5\n" in text


def test_what_was_found_is_told_by_every_watch_whichever_is_named_first(root: Path, records: Path):
    """Each watch serves its own file: one that an all-clear does not reach stays an alarm."""
    folders = [root.parent / name for name in ("a", "b")]
    for order, brighter, code in ((folders, 60.0, 5), (folders[::-1], 0.0, 0)):
        for folder in folders:
            shutil.rmtree(folder / "hours", ignore_errors=True)
            watched(folder, served(root, records, 50, brightness=brighter))
        given = [argument for folder in order for argument in ("--watched", str(folder))]
        # Which records made the version nobody can tell here: it was asked once, for whichever folder.
        done = flexunet(root.parent, "live", "drift", "root", *given)
        assert done.exit_code == code, done.output
        for folder in folders:
            assert f"flexunet_drift_moved {int(code == 5)}\n" in (folder / "drift.prom").read_text()
            assert {path.name for path in folder.iterdir()} == {"hours", "drift.prom"}
        assert json.loads((root / "live" / "drift.json").read_text())["moved"] == (code == 5)
    assert len([*(root / "live").glob("reference-*.csv")]) == 1 and (root / "live" / "drift.html").is_file()


@pytest.mark.slow
def test_tensorflow_data_validation_reads_the_hours_and_agrees_with_what_moved(tmp_path: Path) -> None:
    from tfx import v1 as _tfx  # noqa: F401  before TFDV: see docs/contributing

    import tensorflow_data_validation as tfdv  # isort: skip
    from apache_beam.options.pipeline_options import PipelineOptions

    generator = np.random.default_rng(0)
    hours = [
        [
            Seen(0.0, 0.01, 3, True, "", "png", 32, 32, *generator.normal((level, 30, 0.5, 0.9), (10, 3, 0.05, 0.02)))
            for _ in range(400)
        ]
        for level in (110, 110, 150)
    ]
    statistics = []
    for number, lines in enumerate(hours):
        write_lines(tmp_path / f"{number}.csv", lines)
        statistics.append(
            tfdv.generate_statistics_from_csv(
                str(tmp_path / f"{number}.csv"), pipeline_options=PipelineOptions(["--runner=FnApiRunner"])
            )
        )
    schema = tfdv.infer_schema(statistics[0])
    for name in ("brightness", "contrast", "sharpness", "confidence"):
        tfdv.get_feature(schema, name).drift_comparator.jensen_shannon_divergence.threshold = 0.2
    for now, expected in ((1, set[str]()), (2, {"brightness"})):
        assert {one["feature"] for one in compare(hours[now], hours[0]) if one["moved"]} == expected
        found = tfdv.validate_statistics(statistics[now], schema, previous_statistics=statistics[0])
        assert {*found.anomaly_info} == expected


def test_replicas_are_taken_together(tmp_path: Path):
    seen = Seen(time.time(), 0.01, 3, True, "", "png", 32, 32, 100.0, 20.0, 0.5, 0.9, {"scratches": 0.1})
    folders = [
        watched(tmp_path / name, iter([replace(seen, brightness=100.0 + by)] * 20)) for by, name in enumerate("ab")
    ]
    # As one whose clock is ahead writes it, for ever among the last hours.
    watched(folders[0], iter([replace(seen, time=seen.time + 10**7)] * 500))
    found = find_drift(folders, 3, [seen] * 40, time.time(), 24)
    assert (found["sampled"], found["requests"]) == (40, 40)
    assert found["notes"] == {"failed requests": 3, "hours of the future, left out: a clock was wrong": 1}
    [brightness] = [one for one in found["findings"] if one["feature"] == "brightness"]
    assert brightness["now"] == pytest.approx([100.0, 100.5, 101.0]) and not brightness["moved"]
