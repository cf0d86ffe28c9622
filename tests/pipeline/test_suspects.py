"""Exports to relabel, and planted errors found on generated steel. What one command does is in test_study.py."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import flexunet
from label_errors import SPOILS, can_be_spoilt
from pictures import encoded
from PIL import Image
from sklearn.metrics import roc_auc_score
from steel import CLASSES, COLORS

from flexunet.core.config.whole import Config
from flexunet.core.config.write import to_toml
from flexunet.core.errors import UserError
from flexunet.core.features import IGNORE_ID
from flexunet.core.results.suspects import Suspect
from flexunet.dataset.synthetic import generate_surface
from pipeline.study.suspects import SuspectImage, export_suspects


def suspect(image_id: str, label: np.ndarray) -> SuspectImage:
    row: Suspect = {"id": image_id, "fold": 1, "quality": 0.1, "labelled": None, "predicted": None}
    pixels = np.zeros((*label.shape, 3), np.uint8)
    return SuspectImage({**row, "pixels": 0, "share": 0.0}, encoded(pixels, "JPEG"), encoded(label), encoded(label))


@pytest.mark.parametrize("kind", ["coco", "labelme"])
def test_what_annotations_cannot_tell_is_left_out_and_counted(kind: Any, make_config: Any, tmp_path: Path):
    label = np.zeros((8, 8), np.uint8)
    label[2:5, 2:5] = 3
    unlabelled = np.where(label == 3, IGNORE_ID, label).astype(np.uint8)
    images = [suspect("day 1/a", label), suspect("b", unlabelled), suspect("day 2/a", label)]
    assert export_suspects(images, tmp_path / "out", kind, make_config()) == 1
    written = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
    if kind == "labelme":
        assert written == ["day 1/a.jpeg", "day 1/a.json", "day 2/a.jpeg", "day 2/a.json"]
    else:
        assert written == ["annotations.json", "day 1/a.jpeg", "day 2/a.jpeg"]
        document = json.loads((tmp_path / "out" / "annotations.json").read_text())
        assert [image["file_name"] for image in document["images"]] == written[1:]
        assert [region["area"] for region in document["annotations"]] == [9, 9]


@pytest.mark.parametrize("image_id", ["../a", "/a"])
def test_nothing_is_written_outside_of_the_folder(image_id: str, make_config: Config, tmp_path: Path):
    with pytest.raises(UserError, match="expected a path below a folder"):
        export_suspects([suspect(image_id, np.zeros((4, 4), np.uint8))], tmp_path / "out", "coco", make_config())
    assert not (tmp_path / "out").exists()


def write_spoilt(folder: Path, count: int, size: int) -> dict[str, str]:
    """Surfaces, one mask in twenty spoilt; which, and how."""
    generator, palette = np.random.default_rng(5), np.array(COLORS, np.uint8)
    pairs = [generate_surface(11, index, size) for index in range(count)]
    fit = [index for index, (_, class_ids) in enumerate(pairs) if can_be_spoilt(class_ids)]
    chosen = generator.choice(fit, count // 20, replace=False).tolist()
    spoils = {index: SPOILS[place % len(SPOILS)] for place, index in enumerate(chosen)}
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for index, (image, class_ids) in enumerate(pairs):
        if index in spoils:
            class_ids = spoils[index](class_ids, generator)
        Image.fromarray(image).save(folder / "images" / f"{index:05d}.png")
        Image.fromarray(palette[class_ids]).save(folder / "masks" / f"{index:05d}.png")
    return {f"{index:05d}": spoil.__name__ for index, spoil in spoils.items()}


@pytest.mark.slow
def test_planted_errors_are_found_on_generated_steel(tmp_path: Path):
    """Two folds of a hundred seconds each; the area under the curve is printed for each kind of error."""
    wrong = write_spoilt(tmp_path / "source", 600, 64)
    settings = {
        "classes": CLASSES,
        "image": {"height": 64, "width": 64},
        "model": {"num_layers": 3, "base_filters": 16, "base_kernel": 3, "dropout": 0.0, "normalization": "batch"},
        "train": {"epochs": 60, "max_seconds": 100, "batch_size": 8, "learning_rate": 0.003, "preview_images": 0},
        "gate": {"min_foreground_dice": 0.3},
    }
    (tmp_path / "steel.toml").write_text(to_toml(settings))
    assert flexunet(tmp_path, "ingest", "source", "records", "--config", "steel.toml").exit_code == 0
    command = ["--config", "steel.toml", "--data", "records", "--out", "folds", "--folds", "2", "--json"]
    done = flexunet(tmp_path, "study", "suspects", *command)
    assert done.exit_code == 0, done.output
    suspects = json.loads(done.stdout)["suspects"]

    def area(kinds: set[str]) -> float:
        rows = [row for row in suspects if wrong.get(row["id"], "") in {"", *kinds}]
        return float(roc_auc_score([row["id"] in wrong for row in rows], [-row["quality"] for row in rows]))

    kinds = {*wrong.values()}
    print({kind: round(area({kind}), 3) for kind in sorted(kinds)}, round(area(kinds), 3))
    assert area(kinds) >= 0.9
