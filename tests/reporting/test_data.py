"""dataset.html: self-contained, escaped, bounded, the same bytes for the same data, warnings and problems in sight."""

import base64
import re
import time
from collections.abc import Callable, Sequence
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from html_page import Page
from PIL import Image

from flexunet.core.config.data import SegmentationClass
from flexunet.core.config.whole import Config
from flexunet.core.features import SPLITS
from flexunet.dataset.assignment import Row
from flexunet.dataset.examine import examine
from flexunet.dataset.ingest import ingest
from flexunet.dataset.layouts.detect import find_layout
from flexunet.reporting.data import render_picture

MakeConfig = Callable[..., Config]
SPLIT_CYCLE = ("train", "train", "train", "train", "eval", "test")
COUNT = 24


def write_picture(target: Path, entry: dict[str, Any], rows: list[Row], config: Config) -> None:
    target.write_bytes(render_picture(entry, [row.shown(config) for row in rows], config))


class Picture(Page):
    """The page of a data set."""

    def __init__(self, path: Path) -> None:
        super().__init__(path.read_text(encoding="utf-8"))

    def thumbnails(self) -> list[Image.Image]:
        uris = [image["src"] or "" for image in self.all("img")]
        return [Image.open(BytesIO(base64.b64decode(uri.partition("base64,")[2]))) for uri in uris]


def rows_of(source: Path, config: Config, group_of: Callable[[int], str] | None = None) -> list[Row]:
    """Every pair below `source`, each its own group unless told otherwise, assigned to the splits in turn."""
    facts = [examine(pair, config) for pair in find_layout(source).pairs]
    groups = [group_of(i) if group_of else f.pair.id for i, f in enumerate(facts)]
    return [
        Row(f, group, SPLIT_CYCLE[i % len(SPLIT_CYCLE)]) for i, (f, group) in enumerate(zip(facts, groups, strict=True))
    ]


def entry_of(rows: Sequence[Row], config: Config, **changes: Any) -> dict[str, Any]:
    """What `dataset.json` says of `rows`."""
    names = [c.name for c in config.classes]

    def summary(split: str) -> dict[str, Any]:
        members = [r for r in rows if r.split == split]
        return {
            "images": len(members),
            "groups": len({r.group for r in members}),
            "images_with": {n: sum(bool(r.facts.pixels[i]) for r in members) for i, n in enumerate(names)},
            "pixels": {n: sum(int(r.facts.pixels[i]) for r in members) for i, n in enumerate(names)},
            "regions": None,
            "regions_lost": None,
            "pixels_at_model_size": None,
        }

    return {
        "span": 1,
        "version": 2,
        "fingerprint": "f" * 64,
        "layout": "images in images; masks in masks",
        "files": {"read": 2 * len(rows), "left_out": []},
        "notes": [],
        "read": {"turned": 0, "converted": {}, "levels": [0, 255], "words": []},
        "warnings": [],
        "splits_policy": "regroup",
        "median_size": [32, 32],
        "model_size": {"height": 32, "width": 32, "fit": "stretch"},
        "images": len(rows),
        "groups": len({r.group for r in rows}),
        "splits": {split: summary(split) for split in SPLITS},
        "leaking_groups": 0,
        "duplicates": {"copies": 0, "different_masks": []},
        "skipped": [],
        "left_out": [],
        **changes,
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, write_colorful_pairs: Callable[..., None]) -> Path:
    directory = tmp_path_factory.mktemp("pairs")
    write_colorful_pairs(directory, COUNT)
    return directory


def test_page_stands_alone_and_names_every_class(source: Path, tmp_path: Path, make_config: MakeConfig) -> None:
    config = make_config()
    rows = rows_of(source, config)
    write_picture(tmp_path / "dataset.html", entry_of(rows, config), rows, config)
    page = Picture(tmp_path / "dataset.html")
    references = [v for _, attributes in page.tags for k, v in attributes.items() if k in {"src", "href", "srcset"}]
    assert references
    assert all((reference or "").startswith(("data:image/", "#")) for reference in references)
    assert not page.all("script") and not page.all("link")
    assert not re.search(r"url\(|@import", (tmp_path / "dataset.html").read_text())
    for name in ("background", "inclusion", "patches", "scratches"):
        assert page.text.count(name) >= 4
    assert "24 images" in page.text
    assert "Before you trust a score" not in page.text
    assert [path.name for path in tmp_path.iterdir()] == ["dataset.html"]


def test_page_can_be_read_without_seeing_it(source: Path, tmp_path: Path, make_config: MakeConfig) -> None:
    config = make_config()
    rows = rows_of(source, config, group_of=lambda i: f"group {i // 3}")
    write_picture(tmp_path / "p.html", entry_of(rows, config), rows, config)
    page = Picture(tmp_path / "p.html")
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(image.get("alt") for image in page.all("img"))
    assert all(header.get("scope") in {"col", "row"} for header in page.all("th"))
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.all("svg"))
    assert len(page.all("table")) == len(page.all("caption"))
    assert page.all("html")[0]["lang"] == "en"


def test_names_are_shown_as_they_are_and_never_run(
    tmp_path: Path, make_config: MakeConfig, write_colorful_pairs: Callable[..., None]
) -> None:
    write_colorful_pairs(tmp_path / "source", 12)
    for folder in ("images", "masks"):
        (tmp_path / "source" / folder / "000.png").rename(tmp_path / "source" / folder / '<img src=x onerror="y">.png')
        (tmp_path / "source" / folder / "001.png").rename(tmp_path / "source" / folder / "[x] & {{ 7 * 7 }}.png")
    config = make_config()
    # A configuration read from a file would refuse the name.
    evil = SegmentationClass.model_construct(name="<script>x</script>", color=(255, 0, 0))
    config = config.model_copy(update={"classes": (*config.classes[:3], evil)})
    rows = rows_of(tmp_path / "source", config, group_of=lambda i: str(i // 4))
    problem = "/data/<script>z</script>/[/x].png\udcff: cannot be read; expected a whole image file: replace it"
    write_picture(tmp_path / "p.html", entry_of(rows, config, skipped=[problem]), rows, config)
    page = Picture(tmp_path / "p.html")
    assert not page.all("script")
    assert not any("onerror" in attributes for _, attributes in page.tags)
    for words in ("<script>x</script>", '<img src=x onerror="y">', "[x] & {{ 7 * 7 }}", "<script>z</script>/[/x].png"):
        assert words in page.text


def test_same_data_same_bytes_in_any_order(source: Path, tmp_path: Path, make_config: MakeConfig) -> None:
    config = make_config()
    rows = rows_of(source, config, group_of=lambda i: str(i // 2))
    for name, ordered in (("a.html", rows), ("b.html", rows[::-1])):
        write_picture(tmp_path / name, entry_of(rows, config), ordered, config)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_what_spoils_scores_is_said_first(source: Path, tmp_path: Path, make_config: MakeConfig) -> None:
    config = make_config()
    rows = [
        row
        for row in rows_of(source, config, lambda i: f"group {i // 12}")
        if row.split != "eval" or row.facts.pixels[3]
    ]
    entry = entry_of(
        rows,
        config,
        leaking_groups=2,
        splits_policy="keep",
        duplicates={"copies": 1, "different_masks": [{"images": ["first", "second"], "agreement": 0.875}]},
    )
    entry["splits"]["eval"]["images_with"]["scratches"] = 0
    write_picture(tmp_path / "p.html", entry, rows, config)
    text = Picture(tmp_path / "p.html").text
    before = text[: text.index("Splits and classes")]
    assert "Leak: groups of near-duplicates in more than one split: 2, such as that of group 0" in before
    assert "splits_policy is keep" in before
    assert "No image of eval shows scratches" in before
    assert "Label noise: exact copies with different masks: 1" in before
    assert "12 images in train and eval and test: leaking" in text
    assert "first and second" in text and "87.5 %" in text
    assert "and 6 more" in text


def test_problems_are_listed_up_to_a_bound(source: Path, tmp_path: Path, make_config: MakeConfig) -> None:
    config = make_config()
    rows = rows_of(source, config)
    skipped = [f"/data/{i:04}.png: image without a mask" for i in range(1000)]
    entry = entry_of(rows, config, skipped=skipped, left_out=["b7: links groups"])
    write_picture(tmp_path / "p.html", entry, rows, config)
    page = Picture(tmp_path / "p.html")
    assert "see problems (1,001)" in page.text
    assert "/data/0000.png" in page.text and "/data/0199.png" in page.text
    assert "and 801 more in dataset.json" in page.text
    write_picture(tmp_path / "p.html", entry_of(rows, config, left_out=["b7: links groups"]), rows, config)
    assert "b7: links groups" in Picture(tmp_path / "p.html").text


def test_examples_go_from_the_largest_share_to_the_smallest(tmp_path: Path, make_config: MakeConfig) -> None:
    config = make_config()
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for index in range(1, 31):
        mask = np.zeros((32, 32, 3), np.uint8)
        mask[:index] = (255, 0, 0)
        for folder in ("images", "masks"):
            Image.fromarray(mask).save(tmp_path / folder / f"{index:02}.png")
    rows = rows_of(tmp_path, config)
    write_picture(tmp_path / "p.html", entry_of(rows, config), rows, config)
    alts = [image["alt"] or "" for image in Picture(tmp_path / "p.html").all("img")]
    shown = [int(alt.split()[1]) for alt in alts if alt.endswith("with scratches tinted")]
    assert shown == sorted(shown, reverse=True)
    assert (len(shown), shown[0], shown[-1]) == (8, 30, 1)
    same_group = [Row(row.facts, "one", row.split) for row in rows]
    write_picture(tmp_path / "p.html", entry_of(same_group, config), same_group, config)
    alts = [image["alt"] or "" for image in Picture(tmp_path / "p.html").all("img")]
    assert [alt for alt in alts if alt.endswith("with scratches tinted")] == ["Image 30 with scratches tinted"]


def page_of_one(directory: Path, config: Config, image: np.ndarray, mask: np.ndarray) -> Picture:
    """The page of a data set of one image, `a`."""
    for folder, pixels in (("images", image), ("masks", mask)):
        (directory / folder).mkdir()
        Image.fromarray(pixels).save(directory / folder / "a.png")
    rows = rows_of(directory, config)
    write_picture(directory / "p.html", entry_of(rows, config), rows, config)
    return Picture(directory / "p.html")


def test_overlay_has_the_colour_where_the_mask_is(tmp_path: Path, make_config: MakeConfig) -> None:
    """A scratch one pixel wide in an image eight times as large as its thumbnail still shows."""
    mask = np.zeros((1280, 640, 3), np.uint8)
    mask[:, 320] = (255, 0, 0)
    page = page_of_one(tmp_path, make_config(), np.full_like(mask, 90), mask)
    alts = [image["alt"] or "" for image in page.all("img")]
    overlay = np.asarray(page.thumbnails()[alts.index("Image a with scratches tinted")]).astype(int)
    plain = np.asarray(page.thumbnails()[alts.index("Image a with scratches tinted") - 1]).astype(int)
    assert overlay.shape == plain.shape == (160, 80, 3)
    assert np.abs(plain - 90).max() <= 2
    redness = (overlay[..., 0] - overlay[..., 1]).mean(axis=0)
    assert set(np.flatnonzero(redness > 100)) == {39, 41}
    assert np.abs(overlay[:, :30] - 90).max() <= 6


def test_an_outline_is_seen_on_every_grey(tmp_path: Path, make_config: MakeConfig) -> None:
    """A blue scratch on steel from black to white: its own blue is lost on grey 30 to 90, the rim is not."""
    greys = np.linspace(0, 255, 160).round().astype(np.uint8)
    mask = np.zeros((160, 80, 3), np.uint8)
    mask[:, 40] = (0, 0, 255)
    page = page_of_one(tmp_path, make_config(), np.tile(greys[:, None, None], (1, 80, 3)), mask)
    alts = [image["alt"] or "" for image in page.all("img")]
    drawn = np.asarray(page.thumbnails()[alts.index("Image a with inclusion tinted")]).astype(float)
    rim = luminance(drawn[:, 36:45]) + 0.05
    steel = luminance(greys[:, None].repeat(3, 1).astype(float))[:, None] + 0.05
    assert (np.maximum(rim / steel, steel / rim).max(axis=1) >= 3).all()


def luminance(rgb: np.ndarray) -> np.ndarray:
    """WCAG 2.2, of RGB 0 to 255."""
    parts = rgb / 255
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]


def test_images_of_all_kinds_are_drawn(tmp_path: Path, make_config: MakeConfig) -> None:
    config = make_config()
    generator = np.random.default_rng(3)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for index in range(12):
        height, width = int(generator.integers(9, 60)), int(generator.integers(9, 400))
        grey = generator.integers(0, 256, (height, width)).astype(np.uint8)
        kinds = {
            "16bit.png": Image.fromarray(grey.astype(np.uint16) * 257),
            "alpha.png": Image.fromarray(grey).convert("RGBA"),
            "grey.jpg": Image.fromarray(grey),
            "palette.png": Image.fromarray(grey).convert("P"),
        }
        name = list(kinds)[index % 4]
        kinds[name].save(tmp_path / "images" / f"{index}-{name}")
        class_ids = (np.arange(height * width) % 4).astype(np.uint8).reshape(height, width)
        Image.fromarray(class_ids).save(tmp_path / "masks" / f"{index}-{Path(name).stem}.png")
    rows = rows_of(tmp_path, config)
    write_picture(tmp_path / "p.html", entry_of(rows, config), rows, config)
    page = Picture(tmp_path / "p.html")
    assert "12 different sizes" in page.text
    # Strips may be twice as long.
    assert all(max(i.size) == (320 if max(i.size) >= 4 * min(i.size) - 2 else 160) for i in page.thumbnails())


@pytest.mark.parametrize("class_count", [2, 12, 60])
def test_page_stays_small_and_quick(tmp_path: Path, make_config: MakeConfig, class_count: int) -> None:
    """540 rows of noise, which JPEG compresses least, in groups of 18."""
    classes = [{"name": f"class {i:02}", "color": [i, 4 * i, 255 - i]} for i in range(class_count)]
    config = make_config(classes=classes)
    generator = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for index in range(30):
        noise = generator.integers(0, 256, (160, 160, 3)).astype(np.uint8)
        class_ids = generator.integers(0, class_count, (160, 160)).astype(np.uint8)
        Image.fromarray(noise).save(tmp_path / "images" / f"{index}.png")
        Image.fromarray(class_ids).save(tmp_path / "masks" / f"{index}.png")
    rows = [
        Row(row.facts, row.group, split) for row in rows_of(tmp_path, config) for split in SPLIT_CYCLE for _ in "xyz"
    ]
    started = time.monotonic()
    write_picture(tmp_path / "p.html", entry_of(rows, config), rows, config)
    assert time.monotonic() - started < 10
    assert (tmp_path / "p.html").stat().st_size < 3_000_000
    page = Picture(tmp_path / "p.html")
    assert all(max(image.size) <= 160 for image in page.thumbnails())
    assert len(page.thumbnails()) <= 2 * 32 + 18
    assert all(c["name"] in page.text for c in classes)


def test_takes_what_ingest_finds(source: Path, tmp_path: Path, make_config: MakeConfig) -> None:
    config = make_config()
    entry = ingest(source, tmp_path / "out", config, check_only=True).manifest
    write_picture(tmp_path / "p.html", entry, rows_of(source, config), config)
    assert "24 images" in Picture(tmp_path / "p.html").text


def test_turned_photographs_stand_upright(tmp_path: Path, make_config: MakeConfig) -> None:
    """A camera that was held upright writes lying pixels and a note; the mask is drawn on the upright image."""
    config = make_config()
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    lying = np.zeros((300, 600, 3), np.uint8)
    lying[:, :300] = 200
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(lying).save(tmp_path / "images" / "a.jpg", exif=exif)
    mask = np.zeros((600, 300, 3), np.uint8)
    mask[:300] = (0, 255, 0)
    Image.fromarray(mask).save(tmp_path / "masks" / "a.png")
    rows = rows_of(tmp_path, config)
    write_picture(tmp_path / "p.html", entry_of(rows, config), rows, config)
    page = Picture(tmp_path / "p.html")
    alts = [image["alt"] or "" for image in page.all("img")]
    overlay = np.asarray(page.thumbnails()[alts.index("Image a with patches tinted")]).astype(int)
    assert overlay.shape == (160, 80, 3)
    assert overlay[40, 40, 1] - overlay[40, 40, 0] > 30
    assert overlay[:75, :, 1].min() > 180 and overlay[90:].max() < 40
