"""What Datumaro converts is read: the page's own commands, in an environment of their own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import layout_sources as sources
import numpy as np
import pytest
from PIL import Image
from processes import ROOT

from flexunet.core.config.load import config_from
from flexunet.dataset.examine import read_class_ids
from flexunet.dataset.layouts.detect import find_layout
from flexunet.dataset.synthetic import generate_surface

pytestmark = [pytest.mark.downloads, pytest.mark.slow, pytest.mark.timeout(1800)]


def camvid(root: Path, surfaces: sources.Surfaces) -> None:
    """As the page's example has it, a format that no reader here knows."""
    sources.images(root, surfaces, "train/{}.png")
    sources.color_masks(root, surfaces, "trainannot/{}.png")
    colors = [f"{r} {g} {b} {name}" for name, (r, g, b) in zip(sources.NAMES, sources.COLORS.tolist(), strict=True)]
    (root / "label_colors.txt").write_text("\n".join(colors) + "\n")
    (root / "train.txt").write_text("".join(f"/train/{stem}.png trainannot/{stem}.png\n" for stem in surfaces))


def test_the_pages_commands_give_a_source_with_the_same_masks(tmp_path: Path) -> None:
    surfaces = {f"a{index}": generate_surface(5, index, 48) for index in range(6)}
    camvid(tmp_path / "labelled", surfaces)
    page = (ROOT / "docs/how-to/own-data.md").read_text()
    [block] = [text for text in re.findall(r"```sh\n(.*?)```", page, re.S) if "datum convert" in text]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-euc", block], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    classes = [{"name": n, "color": c.tolist()} for n, c in zip(sources.NAMES, sources.COLORS, strict=True)]
    layout = find_layout(tmp_path / "converted")
    assert (layout.name, layout.problems, len(layout.pairs)) == ("coco", [], 6)
    for pair in layout.pairs:
        found = read_class_ids(pair, Image.open(pair.image).size, config_from({"classes": classes}, "test"))
        np.testing.assert_array_equal(found, surfaces[Path(pair.id).name][1])
