"""What moved between the newest span alone and those before it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy.stats import ks_2samp
from steel import CLASSES, COLORS

from flexunet.core.config.load import config_from
from flexunet.core.results.data import Drift
from flexunet.dataset.drift import NEAR_DUPLICATES, distance
from flexunet.dataset.ingest import ingest
from flexunet.dataset.manifest import read_manifest
from flexunet.dataset.synthetic import generate_surface

COUNT, SIZE = 30, 48
CONFIG = config_from({"classes": CLASSES}, "test")


def exposed(mean: float) -> Any:
    """A camera whose images have this mean, the surfaces' own differences of brightness made a quarter."""

    def take(image: Image.Image) -> Image.Image:
        levels = np.asarray(image, np.float32)
        shift = mean - levels.mean() + (levels.mean() - 100) / 4
        return Image.fromarray(np.clip(levels + shift, 0, 255).astype(np.uint8))

    return take


def write(folder: Path, first: int, camera: Any = None, clean: int = 0) -> Path:
    """30 surfaces from number `first` on, as `camera` takes them; of `clean` of them the mask is empty."""
    for role in ("images", "masks"):
        (folder / role).mkdir(parents=True)
    for index in range(first, first + COUNT):
        image, ids = generate_surface(5, index, SIZE)
        (camera or exposed(114))(Image.fromarray(image)).save(folder / f"images/{index:03}.png")
        ids = ids * (index >= first + clean)
        Image.fromarray(np.array(COLORS, np.uint8)[ids]).save(folder / f"masks/{index:03}.png")
    return folder


def moved(drift: Drift) -> set[str]:
    return {feature["feature"] for feature in drift["features"] if feature["moved"]}


@pytest.fixture(scope="module")
def two_spans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two spans of one camera: only read."""
    folder = tmp_path_factory.mktemp("spans")
    for span in (1, 2):
        ingest(write(folder / f"src-{span}", 100 * span), folder / "out", CONFIG, span=span)
    return folder / "out"


def checked(out: Path, source: Path) -> tuple[Drift, list[str]]:
    manifest = ingest(source, out, CONFIG, span="next", check_only=True).manifest
    return manifest["drift"], manifest["warnings"]


def test_the_same_camera_did_not_move(two_spans: Path) -> None:
    first, second = sorted(read_manifest(two_spans)["spans"], key=lambda entry: entry["span"])
    assert first["drift"]["compared_with_spans"] == [] and second["drift"]["compared_with_spans"] == [1]
    assert moved(second["drift"]) == set() == {w for w in second["warnings"] if " moved: " in w}


def test_a_camera_that_became_brighter_moved(two_spans: Path, tmp_path: Path) -> None:
    """The documented example, from a mean of 114 to 154: it was said to have stayed when spans were read together."""
    drift, warnings = checked(two_spans, write(tmp_path / "src", 300, exposed(154)))
    assert drift["compared_with_spans"] == [1, 2] and "brightness" in moved(drift)
    finding = next(f for f in drift["features"] if f["feature"] == "brightness")
    assert finding["now"] - finding["before"] == pytest.approx(40, abs=8) and finding["distance"] > 0.9
    assert any(w.startswith("brightness moved: ") and "in span 1 and 2" in w for w in warnings)


@pytest.mark.parametrize(
    ("name", "camera", "clean"),
    [
        ("contrast", lambda image: exposed(114)(image).point(lambda level: 86 + level // 4), 0),
        ("sharpness", lambda image: exposed(114)(image).filter(ImageFilter.GaussianBlur(2)), 0),
        ("side", exposed(114), 0),
        ("without defect", exposed(114), 18),
    ],
)
def test_each_number_is_told(name: str, camera: Any, clean: int, two_spans: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "src", 300, camera, clean)
    if name == "side":
        for file in source.rglob("*.png"):
            Image.open(file).resize((96, 96), Image.Resampling.NEAREST).save(file)
    assert name in moved(checked(two_spans, source)[0])


def test_images_that_were_there_before_are_told(two_spans: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "src", 300)
    for index in range(100, 115):
        image, ids = generate_surface(5, index, SIZE)
        Image.fromarray(np.rot90(image).copy()).save(source / f"images/{index}.png")
        Image.fromarray(np.array(COLORS, np.uint8)[np.rot90(ids)]).save(source / f"masks/{index}.png")
    drift, warnings = checked(two_spans, source)
    assert NEAR_DUPLICATES in moved(drift)
    assert any(w.startswith("33% of the images are near-duplicates of images of span 1 and 2") for w in warnings)


def test_the_distance_is_that_of_scipy() -> None:
    generator = np.random.default_rng(1)
    for _ in range(20):
        one, other = (generator.integers(0, 9, n) / 3 for n in generator.integers(1, 40, 2))
        assert distance(one, other) == pytest.approx(ks_2samp(one, other).statistic)


def test_what_is_the_same_in_all_images_did_not_move(tmp_path: Path) -> None:
    """Its digits are cut where they are kept."""
    for span in (1, 2):
        source = write(tmp_path / f"src-{span}", 100 * span)
        for index in range(100 * span, 100 * span + COUNT):
            ids = np.zeros((SIZE, SIZE), np.uint8)
            ids[:7, 5:12], ids[20:31, :5], ids[40, :13] = 1, 2, 3
            Image.fromarray(np.array(COLORS, np.uint8)[ids]).save(source / f"masks/{index:03}.png")
        manifest = ingest(source, tmp_path / "out", CONFIG, span=span).manifest
    assert len(manifest["drift"]["features"]) == 9 and moved(manifest["drift"]) == set()
