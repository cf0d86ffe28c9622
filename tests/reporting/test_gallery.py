"""Pictures of the gallery: exact masks, bounded bytes, each stored once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import encoded
from PIL import Image

from flexunet.core.config.gate import GateSettings
from flexunet.core.config.section import part_of
from flexunet.core.config.whole import Config
from flexunet.core.features import IGNORE_ID
from flexunet.core.palette import rgb_from_class_ids
from flexunet.core.root import ReportFolder
from flexunet.reporting import gallery
from flexunet.reporting.gallery import Predicted, write_gallery
from flexunet.reporting.mistakes import COLORS, FALSE_ALARM, MISSED


def one(truth: np.ndarray, predicted: np.ndarray) -> Predicted:
    photo = np.full((*truth.shape, 3), 120, np.uint8)
    return Predicted(["worst"], "a", 0.5, encoded(photo), truth, predicted)


def rows(folder: Path) -> list[dict[str, Any]]:
    return json.loads(ReportFolder(folder).gallery_index.read_text())


def test_masks_keep_every_pixel_and_their_background_is_clear(
    tmp_path: Path, make_config: Callable[..., Config]
) -> None:
    settings = part_of(make_config(), GateSettings)
    truth = np.random.default_rng(1).integers(0, 4, (20, 30)).astype(np.uint8)
    truth[0, :5] = IGNORE_ID
    predicted = np.zeros_like(truth)
    write_gallery(ReportFolder(tmp_path / "g"), [one(truth, predicted)], settings)
    [row] = rows(tmp_path / "g")
    assert (row["id"], row["which"], row["width"], row["height"]) == ("a", ["worst"], 30, 20)
    shown = np.asarray(Image.open(tmp_path / "g" / "gallery" / row["files"]["truth"]).convert("RGBA"))
    # Drawn 21 times as large, with patterns whose gaps are clear.
    large = truth.repeat(21, 0).repeat(21, 1)
    drawn = shown[..., 3] == 255
    assert (shown[drawn][:, :3] == rgb_from_class_ids(large, settings.classes)[drawn]).all()
    assert not drawn[large == 0].any() and drawn[large == 1].all() and drawn[large == IGNORE_ID].all()
    parts = drawn.reshape(20, 21, 30, 21).any(axis=(1, 3))
    assert (parts == (truth > 0)).all()
    mistakes = np.asarray(Image.open(tmp_path / "g" / "gallery" / row["files"]["errors"]).convert("RGBA"))
    missed = (truth > 0) & (truth != IGNORE_ID)
    marked = mistakes[..., 3] == 255
    assert (mistakes[marked][:, :3] == COLORS[MISSED]).all()
    assert (marked.reshape(20, 21, 30, 21).any(axis=(1, 3)) == missed).all()
    assert row["pixels"][MISSED] == missed.sum() and row["pixels"][FALSE_ALARM] == 0


def test_large_images_are_made_smaller_until_all_fit(
    tmp_path: Path, make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = part_of(make_config(), GateSettings)
    noise = np.random.default_rng(2).integers(0, 256, (700, 900, 3)).astype(np.uint8)
    truth = np.random.default_rng(3).integers(0, 4, (70, 90)).astype(np.uint8).repeat(10, 0).repeat(10, 1)
    image = Predicted(["best"], "b", 1.0, encoded(noise), truth, truth)
    write_gallery(ReportFolder(tmp_path / "large"), [image], settings)
    monkeypatch.setattr(gallery, "MOST_BYTES", 200_000)
    write_gallery(ReportFolder(tmp_path / "small"), [image] * 3, settings)
    for folder, most in (("large", 8_000_000), ("small", 200_000)):
        stored = [path for path in (tmp_path / folder / "gallery").iterdir() if path.suffix != ".json"]
        assert sum(path.stat().st_size for path in stored) <= most
        assert len(stored) == 7 * len(rows(tmp_path / folder))
    assert Image.open(tmp_path / "large" / "gallery" / rows(tmp_path / "large")[0]["files"]["image"]).size == (640, 498)
    # What is counted is counted at the image's own size.
    assert rows(tmp_path / "small")[0]["classes"] == rows(tmp_path / "large")[0]["classes"]
