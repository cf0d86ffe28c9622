"""From folders to records: the layout of the contract, honest splits, repeatable bytes, all or nothing."""

import json
import multiprocessing
import os
import shutil
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import layout_sources
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from steel import CLASSES, COLORS, NAMES

from flexunet.core import features
from flexunet.core.config.load import config_from, load_config
from flexunet.core.config.whole import Config
from flexunet.core.errors import UserError
from flexunet.core.problems import DataError, tally
from flexunet.dataset import ingest as ingest_module
from flexunet.dataset import parallel
from flexunet.dataset.ingest import Ingested, ingest
from flexunet.dataset.manifest import read_manifest
from flexunet.dataset.synthetic import generate_surface, write_surfaces

CASES = Path(__file__).resolve().parents[2].parent / "shared/cases"
NEU_SEG_DEV = Path(__file__).resolve().parents[2].parent / "shared/data/neu_seg_dev"
COUNT, SIZE = 30, 48


def config_with(**sections: Any) -> Config:
    return config_from({"classes": CLASSES, **sections}, "test")


CONFIG = config_with()


@pytest.fixture(scope="module")
def surfaces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 surfaces of 48x48, no two near-duplicates: only read."""
    directory = tmp_path_factory.mktemp("surfaces")
    write_surfaces(directory, COUNT, SIZE, COLORS, seed=5)
    return directory


@pytest.fixture(scope="module")
def records(surfaces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The surfaces ingested: only read."""
    out = tmp_path_factory.mktemp("records") / "out"
    ingest(surfaces, out, CONFIG)
    return out


@pytest.fixture
def own(surfaces: Path, tmp_path: Path) -> Path:
    """A copy of the surfaces to change."""
    return shutil.copytree(surfaces, tmp_path / "own")


def snapshot(directory: Path) -> dict[str, tuple[bytes, int] | None]:
    """Path -> bytes and time of change of every file but the lock, None for folders."""
    return {
        path.relative_to(directory).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns) if path.is_file() else None
        for path in directory.rglob("*")
        if path.name != ".lock"
    }


def contents(directory: Path) -> dict[str, bytes]:
    return {name: file[0] for name, file in snapshot(directory).items() if file is not None}


def read_split(version: Path, split: str) -> list[dict[str, bytes | int]]:
    """Each record as {key: value}, in the order of the files."""
    rows = []
    for file in sorted((version / split).glob("*.tfrecord.gz")):
        for raw in tf.data.TFRecordDataset(str(file), "GZIP").as_numpy_iterator():
            example = tf.train.Example.FromString(raw)
            lists = {
                key: f.bytes_list.value or f.int64_list.value or f.float_list.value
                for key, f in example.features.feature.items()
            }
            assert all(len(values) == 1 for values in lists.values())
            rows.append({key: values[0] for key, values in lists.items()})
    return rows


def all_records(version: Path) -> dict[str, tuple[str, dict[str, Any]]]:
    """Image id -> its split and its record."""
    return {row["image/id"].decode(): (split, row) for split in features.SPLITS for row in read_split(version, split)}


def splits_of_groups(version: Path) -> dict[bytes, set[str]]:
    found: dict[bytes, set[str]] = {}
    for split, row in all_records(version).values():
        found.setdefault(row["image/group"], set()).add(split)
    return found


def decoded(encoded: bytes) -> np.ndarray:
    with Image.open(BytesIO(encoded)) as image:
        return np.asarray(image)


def place(source: Path, pair_id: str, seed_index: int, turns: int = 0) -> None:
    """Writes surface `seed_index`, turned, as split/images/x.png and split/masks/x.png of pair_id = split/x."""
    image, class_ids = generate_surface(5, seed_index, SIZE)
    split, _, stem = pair_id.rpartition("/")
    for role, pixels in (("images", image), ("masks", np.array(COLORS, np.uint8)[class_ids])):
        folder = source / split / role
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.rot90(pixels, turns).copy()).save(folder / f"{stem}.png")


def write_leaky(source: Path) -> Path:
    """20 training, 4 validation and 4 test images; 3 of the latter 8 are rotated training images."""
    for index in range(1, 21):
        place(source, f"train/{index:02}", index)
    for index in range(21, 25):
        place(source, f"valid/{index:02}", index)
    place(source, "valid/21", 1, turns=1)
    place(source, "test/25", 25)
    place(source, "test/26", 2, turns=2)
    place(source, "test/27", 3, turns=3)
    place(source, "test/28", 28)
    return source


@pytest.fixture(scope="module")
def leaky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_leaky(tmp_path_factory.mktemp("leaky"))


# What is written.


def test_the_layout_of_the_contract(records: Path):
    files = {p.relative_to(records).as_posix() for p in records.rglob("*") if p.is_file()}
    shards = {f"span-1/version-1/{split}/records-00000.tfrecord.gz" for split in ("train", "eval", "test")}
    beside = {"span-1/version-1/images.csv", "span-1/version-1/thumbnails.npy"}
    assert files == {".lock", "dataset.json", "dataset.html", *beside, *shards}
    assert [len(read_split(records / "span-1/version-1", split)) for split in ("train", "eval", "test")] == [24, 3, 3]


def test_records_hold_what_features_names(surfaces: Path, records: Path):
    found = all_records(records / "span-1/version-1")
    assert sorted(found) == [f"steel-{index:05d}" for index in range(1, COUNT + 1)]
    for image_id, (_, row) in found.items():
        image, class_ids = generate_surface(5, int(image_id.removeprefix("steel-")), SIZE)
        mask = row.pop("mask/encoded")
        measured = {key: row.pop(key) for key in list(row) if key.startswith(("mask/share/", "image/brightness"))}
        shares = np.bincount(class_ids.ravel(), minlength=4) / class_ids.size
        assert measured.pop("image/brightness") == pytest.approx(image.mean(), abs=1)
        assert measured == pytest.approx({f"mask/share/{n}": s for n, s in zip(NAMES, shares, strict=True)}, abs=1e-6)
        assert row == {
            "image/encoded": (surfaces / "images" / f"{image_id}.png").read_bytes(),
            "image/id": image_id.encode(),
            "image/group": image_id.encode(),
            "image/filename": f"{image_id}.png".encode(),
            "image/format": b"png",
            "image/height": SIZE,
            "image/width": SIZE,
        }
        np.testing.assert_array_equal(decoded(row["image/encoded"]), image)
        np.testing.assert_array_equal(decoded(mask), np.array(COLORS, np.uint8)[class_ids])


def test_masks_of_ids_are_recolored(own: Path, tmp_path: Path, records: Path):
    for path in (own / "masks").glob("*.png"):
        Image.fromarray(generate_surface(5, int(path.stem.removeprefix("steel-")), SIZE)[1]).save(path)
    (own / "masks").rename(own / "annotations")
    found = all_records(ingest(own, tmp_path / "out", CONFIG).version)
    for image_id, (split, row) in all_records(records / "span-1/version-1").items():
        assert found[image_id][0] == split
        np.testing.assert_array_equal(decoded(found[image_id][1]["mask/encoded"]), decoded(row["mask/encoded"]))


@pytest.mark.parametrize(
    ("renamed", "group_key"),
    [
        ({"image": "jpeg", "mask": "label", "id": "name", "group": "family"}, "family"),
        ({"image": "jpeg", "mask": "label", "id": "name", "group": ""}, None),
    ],
)
def test_renamed_keys(surfaces: Path, tmp_path: Path, renamed: dict[str, str | None], group_key: str | None):
    done = ingest(surfaces, tmp_path / "out", config_with(records=renamed))
    row = read_split(done.version, "test")[0]
    kept = {"image/filename", "image/format", "image/height", "image/width", "image/brightness"}
    kept |= {f"mask/share/{name}" for name in NAMES}
    assert set(row) == kept | {"jpeg", "label", "name"} | ({group_key} if group_key else set())
    assert row["jpeg"] == (surfaces / "images" / row["image/filename"].decode()).read_bytes()
    assert row["name"] + b".png" == row["image/filename"]


def test_the_manifest_describes_the_records(records: Path):
    manifest = read_manifest(records)
    assert manifest["classes"] == [{"name": n, "color": list(c)} for n, c in zip(NAMES, COLORS, strict=True)]
    assert (manifest["images"], manifest["groups"], manifest["median_size"]) == (30, 30, [48, 48])
    assert (manifest["leaking_groups"], manifest["skipped"], manifest["splits_policy"]) == (0, [], "regroup")
    for split in ("train", "eval", "test"):
        masks = [decoded(row["mask/encoded"]) for row in read_split(records / "span-1/version-1", split)]
        pixels = {n: [int((m == c).all(-1).sum()) for m in masks] for n, c in zip(NAMES, COLORS, strict=True)}
        assert manifest["splits"][split] == {
            "images": len(masks),
            "groups": len(masks),
            "images_with": {name: sum(count > 0 for count in counts) for name, counts in pixels.items()},
            "pixels": {name: sum(counts) for name, counts in pixels.items()},
            # The model sees 256x256: nothing is shrunk.
            "regions": None,
            "regions_lost": None,
            "pixels_at_model_size": None,
        }
    assert [(s["span"], s["version"], s["images"]) for s in manifest["spans"]] == [(1, 1, 30)]


def test_the_order_depends_on_the_seed_and_not_on_names(surfaces: Path, records: Path, tmp_path: Path):
    ids = [row["image/id"] for row in read_split(records / "span-1/version-1", "train")]
    assert ids != sorted(ids)
    reseeded = ingest(surfaces, tmp_path / "out", config_with(dataset={"seed": 138}))
    other = [row["image/id"] for row in read_split(reseeded.version, "train")]
    common = set(ids) & set(other)
    assert [i for i in ids if i in common] != [i for i in other if i in common]


# Again.


def test_the_same_input_gives_the_same_bytes_wherever_it_lies(own: Path, tmp_path: Path, records: Path):
    for path in own.rglob("*.png"):
        os.utime(path, (1, 1))
    ingest(own, tmp_path / "again", CONFIG)
    assert contents(tmp_path / "again") == contents(records)


def test_unchanged_content_is_left_alone(own: Path, tmp_path: Path):
    out = tmp_path / "out"
    first = ingest(own, out, CONFIG)
    before = snapshot(out)
    again = ingest(own, out, CONFIG)
    assert (first.unchanged, again.unchanged) == (False, True)
    assert again.version == first.version == out / "span-1/version-1"
    assert again.manifest == first.manifest
    assert snapshot(out) == before


def add_an_image(source: Path) -> None:
    place(source, "steel-00031", 31)


def change_a_mask(source: Path) -> None:
    path = source / "masks/steel-00001.png"
    pixels = decoded(path.read_bytes()).copy()
    pixels[0, 0] = COLORS[3] if tuple(pixels[0, 0]) != COLORS[3] else COLORS[0]
    Image.fromarray(pixels).save(path)


def rename_an_image(source: Path) -> None:
    for role in ("images", "masks"):
        (source / role / "steel-00001.png").rename(source / role / "aluminium.png")


@pytest.mark.parametrize("change", [add_an_image, change_a_mask, rename_an_image])
def test_changed_content_makes_a_new_version(own: Path, tmp_path: Path, change: Callable[[Path], None]):
    out = tmp_path / "out"
    first = ingest(own, out, CONFIG)
    before = snapshot(first.version)
    change(own)
    second = ingest(own, out, CONFIG)
    assert (second.version, second.unchanged) == (out / "span-1/version-2", False)
    assert snapshot(first.version) == before
    assert contents(second.version) != contents(first.version)
    assert [(s["span"], s["version"]) for s in read_manifest(out)["spans"]] == [(1, 2)]


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(layout_sources.coco(layout_sources.as_polygons), id="COCO"),
        pytest.param(layout_sources.labelme("{}.png", "{}.json"), id="labelme"),
    ],
)
def test_annotations_give_the_files_that_masks_give(write: Any, records: Path, tmp_path: Path):
    write(tmp_path / "source", {f"steel-{i:05d}": generate_surface(5, i, SIZE) for i in range(1, COUNT + 1)})
    ingest(tmp_path / "source", tmp_path / "out", CONFIG)
    assert contents(tmp_path / "out/span-1") == contents(records / "span-1")


def test_the_next_span_is_numbered_by_itself(own: Path, tmp_path: Path):
    out = tmp_path / "out"
    first = ingest(own, out, CONFIG, span="next")
    assert first.version == out / "span-1/version-1"
    with pytest.raises(UserError, match="all 30 images are in span 1 already, expected new ones for --span next"):
        ingest(own, out, CONFIG, span="next")
    add_an_image(own)
    assert ingest(own, out, CONFIG, span="next").version == out / "span-2/version-1"


@pytest.mark.parametrize("span", ["next", 2])
def test_an_ingest_that_others_overtook_is_told_to_start_again(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, span: Any
):
    """It would write over a span, or put near-duplicates of that one's images into other splits."""
    out, summarized = tmp_path / "out", ingest_module._summarized

    def after_somebody_else(*given: Any):
        monkeypatch.undo()
        ingest(own, out, CONFIG)
        return summarized(*given)

    monkeypatch.setattr(ingest_module, "_summarized", after_somebody_else)
    with pytest.raises(UserError, match=r"another ingest wrote, or somebody removed, records meanwhile"):
        ingest(own, out, CONFIG, span=span)
    assert [s["version"] for s in read_manifest(out)["spans"]] == [1]


def test_a_second_span_stands_beside_the_first(own: Path, tmp_path: Path):
    out = tmp_path / "out"
    first = ingest(own, out, CONFIG)
    before = snapshot(first.version)
    add_an_image(own)
    second = ingest(own, out, CONFIG, span=2)
    assert second.version == out / "span-2/version-1"
    assert snapshot(first.version) == before
    manifest = read_manifest(out)
    assert [(s["span"], s["version"], s["images"]) for s in manifest["spans"]] == [(1, 1, 30), (2, 1, 31)]


def test_a_version_that_never_reached_the_manifest_is_not_taken_for_the_old_one(own: Path, tmp_path: Path):
    out = tmp_path / "out"
    ingest(own, out, CONFIG)
    add_an_image(own)
    (out / ".dataset.json.incomplete").mkdir()
    with pytest.raises(OSError):
        ingest(own, out, CONFIG)
    (out / ".dataset.json.incomplete").rmdir()
    for role in ("images", "masks"):
        (own / role / "steel-00031.png").unlink()
    # The newest version is what a pipeline reads.
    newest = max((out / "span-1").glob("version-*"), key=lambda path: int(path.name.removeprefix("version-")))
    done = ingest(own, out, CONFIG)
    assert done.unchanged is False or done.version == newest
    assert len(all_records(done.version)) == 30


# What is refused.


def spoil(source: Path) -> None:
    """Six mistakes: a broken image, a strange colour, a size, an orphan on each side, two files of one stem."""
    (source / "images/steel-00001.png").write_bytes(b"")
    Image.new("RGB", (SIZE, SIZE), (9, 9, 9)).save(source / "masks/steel-00002.png")
    Image.new("RGB", (SIZE, SIZE - 1)).save(source / "masks/steel-00003.png")
    (source / "masks/steel-00004.png").unlink()
    (source / "images/steel-00005.png").unlink()
    Image.new("L", (SIZE, SIZE), 90).save(source / "images/steel-00006.jpg")


SPOILT = [
    ("images/steel-00001.png", "no bytes"),
    ("images/steel-00004.png", "image without a mask"),
    ("images/steel-00006.jpg", "2 images for steel-00006"),
    ("masks/steel-00002.png", "2304 pixels of 1 colours outside the palette"),
    ("masks/steel-00003.png", "is 48x47"),
    ("masks/steel-00005.png", "mask without"),
]


@pytest.mark.parametrize("check_only", [False, True])
def test_every_problem_is_listed_and_nothing_is_written(own: Path, tmp_path: Path, check_only: bool):
    spoil(own)
    with pytest.raises(DataError) as caught:
        ingest(own, tmp_path / "out", CONFIG, check_only=check_only)
    found = sorted((p.where.relative_to(own).as_posix(), p.what) for p in caught.value.problems)
    assert [file for file, _ in found] == [file for file, _ in SPOILT]
    assert all(what.startswith(start) for (_, what), (_, start) in zip(found, SPOILT, strict=True))
    assert len(str(caught.value).splitlines()) == len(SPOILT)
    assert not (tmp_path / "out").exists()


def test_an_error_leaves_earlier_records_as_they_were(own: Path, tmp_path: Path):
    out = tmp_path / "out"
    ingest(own, out, CONFIG)
    before = snapshot(out)
    spoil(own)
    with pytest.raises(DataError):
        ingest(own, out, CONFIG)
    assert snapshot(out) == before


def test_skip_bad_leaves_out_and_lists(own: Path, tmp_path: Path):
    spoil(own)
    done = ingest(own, tmp_path / "out", CONFIG, skip_bad=True)
    left_out = {f"steel-{index:05d}" for index in range(1, 7)}
    assert sorted(all_records(done.version)) == [f"steel-{index:05d}" for index in range(7, COUNT + 1)]
    assert done.manifest["images"] == COUNT - len(left_out)
    skipped = read_manifest(tmp_path / "out")["skipped"]
    assert len(skipped) == len(SPOILT)
    assert all(any(f"{file}: " in line for line in skipped) for file, _ in SPOILT)


def test_many_skipped_problems_have_a_tally(own: Path, tmp_path: Path):
    spoil(own)
    for number in range(1200):
        (own / f"images/extra-{number}.png").write_bytes(b"")
    tally = "1,201 expected a mask with the same path and stem; 1 expected"
    done = ingest(own, tmp_path / "out", CONFIG, skip_bad=True)
    [note] = [note for note in done.manifest["notes"] if "skipped" in note]
    assert note.startswith(f"1,206 problems were skipped: {tally}")
    assert note in (tmp_path / "out/dataset.html").read_text()


def test_a_tally_names_the_commonest_kinds():
    kinds = Counter({f"kind {number}": number for number in range(1, 10)})
    assert tally(kinds).startswith("9 expected kind 9; 8 expected kind 8; ")
    assert tally(kinds).endswith("4 expected kind 4; 6 of 3 other kinds")


def test_skip_bad_with_nothing_left_is_refused(own: Path, tmp_path: Path):
    for path in (own / "images").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError) as caught:
        ingest(own, tmp_path / "out", CONFIG, skip_bad=True)
    assert len(caught.value.problems) == COUNT
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("source", ["nowhere", "empty"])
@pytest.mark.parametrize("skip_bad", [False, True])
def test_no_images(tmp_path: Path, source: str, skip_bad: bool):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=str(tmp_path / source)):
        ingest(tmp_path / source, tmp_path / "out", CONFIG, skip_bad=skip_bad)
    assert not (tmp_path / "out").exists()


def test_check_only_writes_nothing(surfaces: Path, records: Path, tmp_path: Path):
    before = snapshot(surfaces)
    done = ingest(surfaces, tmp_path / "out", CONFIG, check_only=True)
    assert done.version is None
    assert list(tmp_path.iterdir()) == []
    assert snapshot(surfaces) == before
    manifest = read_manifest(records)
    assert done.manifest["splits"] == manifest["splits"]


def test_a_class_never_seen_in_train_is_refused(own: Path, tmp_path: Path):
    for path in (own / "masks").glob("*.png"):
        pixels = decoded(path.read_bytes()).copy()
        pixels[(pixels == COLORS[3]).all(-1)] = COLORS[0]
        Image.fromarray(pixels).save(path)
    with pytest.raises(DataError) as caught:
        ingest(own, tmp_path / "out", CONFIG)
    (problem,) = caught.value.problems
    assert problem.where == own
    assert problem.what == "no training image shows scratches"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("images", [1, 2])
def test_fewer_images_than_splits_are_refused(tmp_path: Path, images: int):
    for index in range(1, images + 1):
        place(tmp_path / "few", str(index), index)
    with pytest.raises(DataError, match="no image falls into"):
        ingest(tmp_path / "few", tmp_path / "out", CONFIG)


class Interrupted(Exception):
    pass


def interrupting_after(records: int) -> Callable[[str, int], Callable[[], None]]:
    """A progress that fails in the middle of writing."""

    def progress(what: str, steps: int) -> Callable[[], None]:
        done = iter(range(steps))

        def step() -> None:
            if what == "writing records" and next(done) == records:
                raise Interrupted

        return step

    return progress


@pytest.mark.parametrize("written", [0, 10, COUNT - 1])
def test_interrupted_writing_leaves_nothing(own: Path, tmp_path: Path, records: Path, written: int):
    out = tmp_path / "out"
    with pytest.raises(Interrupted):
        ingest(own, out, CONFIG, progress=interrupting_after(written))
    assert contents(out) == {}
    assert [p.name for p in out.rglob("*") if "version" in p.name] == []
    ingest(own, out, CONFIG)
    assert contents(out) == contents(records)
    add_an_image(own)
    before = snapshot(out)
    with pytest.raises(Interrupted):
        ingest(own, out, CONFIG, progress=interrupting_after(written))
    assert snapshot(out) == before


def killing_workers_before(stage: str) -> Callable[[str, int], Callable[[], None]]:
    """A progress that kills all other processes, as the system does when memory runs out."""

    def progress(what: str, steps: int) -> Callable[[], None]:
        if what == stage:
            for process in multiprocessing.active_children():
                process.kill()
                process.join()
        return lambda: None

    return progress


def test_a_killed_process_is_one_line_and_leaves_nothing(
    own: Path, tmp_path: Path, records: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(parallel, "_WORTH_BYTES", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    out = tmp_path / "out"
    with pytest.raises(UserError, match="was killed while it read images"):
        ingest(own, out, CONFIG, progress=killing_workers_before("writing records"))
    assert contents(out) == {}
    ingest(own, out, CONFIG)
    assert contents(out) == contents(records)


def test_progress_counts_every_image_twice(surfaces: Path, tmp_path: Path):
    announced, steps = {}, []

    def progress(what: str, count: int) -> Callable[[], None]:
        announced[what] = count
        return lambda: steps.append(what)

    ingest(surfaces, tmp_path / "out", CONFIG, progress=progress)
    assert announced == {"checking images and masks": COUNT, "writing records": COUNT}
    assert {what: steps.count(what) for what in announced} == announced


# Splits.


def test_rotated_copies_share_a_group_and_a_split(own: Path, tmp_path: Path):
    for index in range(1, 11):
        for turns in (1, 2, 3):
            place(own, f"z{index:05d}-{turns}", index, turns)
    done = ingest(own, tmp_path / "out", CONFIG)
    found = all_records(done.version)
    for index in range(1, 11):
        members = [found[f"steel-{index:05d}"], *(found[f"z{index:05d}-{turns}"] for turns in (1, 2, 3))]
        assert {row["image/group"] for _, row in members} == {f"steel-{index:05d}".encode()}
        assert len({split for split, _ in members}) == 1
    assert all(len(splits) == 1 for splits in splits_of_groups(done.version).values())
    assert (done.manifest["images"], done.manifest["groups"], done.manifest["leaking_groups"]) == (60, 30, 0)


def test_sources_with_honest_splits_are_kept(tmp_path: Path):
    source = tmp_path / "source"
    for index in range(1, 25):
        place(source, f"{'train' if index < 19 else 'valid' if index < 22 else 'test'}/{index:02}", index)
    done = ingest(source, tmp_path / "out", CONFIG)
    expected = {f"train/{i:02}": "train" for i in range(1, 19)}
    expected |= {f"valid/{i:02}": "eval" for i in range(19, 22)} | {f"test/{i:02}": "test" for i in range(22, 25)}
    assert {image_id: split for image_id, (split, _) in all_records(done.version).items()} == expected
    assert (done.manifest["splits_policy"], done.manifest["leaking_groups"]) == ("keep", 0)


@pytest.mark.parametrize("check_only", [False, True])
def test_leaking_splits_are_refused(leaky: Path, tmp_path: Path, check_only: bool):
    with pytest.raises(UserError) as caught:
        ingest(leaky, tmp_path / "out", CONFIG, check_only=check_only)
    message = str(caught.value)
    assert "3 of 8 held-out images" in message
    assert "--splits regroup" in message
    assert "--splits keep" in message
    assert len(message.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_keep_keeps_leaking_splits_and_says_so(leaky: Path, tmp_path: Path):
    done = ingest(leaky, tmp_path / "out", CONFIG, splits="keep")
    ours = {"train": "train", "valid": "eval", "test": "test"}
    assert all(split == ours[image_id.split("/")[0]] for image_id, (split, _) in all_records(done.version).items())
    manifest = read_manifest(tmp_path / "out")
    assert (manifest["leaking_groups"], manifest["splits_policy"]) == (3, "keep")
    crossing = {group for group, splits in splits_of_groups(done.version).items() if len(splits) > 1}
    assert crossing == {b"train/01", b"test/26", b"test/27"}


def test_regroup_removes_the_leak(leaky: Path, tmp_path: Path):
    done = ingest(leaky, tmp_path / "out", CONFIG, splits="regroup")
    assert done.manifest["notes"] == [
        "the source's own splits (train 20, eval 4, test 4 images) are not used: --splits regroup assigns them anew"
    ]
    assert all(len(splits) == 1 for splits in splits_of_groups(done.version).values())
    assert (done.manifest["leaking_groups"], done.manifest["splits_policy"]) == (0, "regroup")
    assert (done.manifest["images"], done.manifest["groups"]) == (28, 25)


def test_another_policy_is_another_version(leaky: Path, tmp_path: Path):
    ingest(leaky, tmp_path / "out", CONFIG, splits="keep")
    assert ingest(leaky, tmp_path / "out", CONFIG, splits="regroup").version.name == "version-2"


def test_images_outside_of_a_sources_splits_are_refused(tmp_path: Path):
    source = shutil.copytree(write_leaky(tmp_path / "source"), tmp_path / "stray")
    place(source, "29", 29)
    with pytest.raises(UserError, match=r"stray/images/29\.png: in no split.*--splits regroup"):
        ingest(source, tmp_path / "out", CONFIG, splits="keep")
    assert ingest(source, tmp_path / "out", CONFIG, splits="regroup").manifest["images"] == 29


def carved_source(source: Path) -> Path:
    """10 training images with one rotated copy each, and 3 test images: no eval."""
    for index in range(1, 11):
        place(source, f"train/{index:02}", index)
        place(source, f"train/{index:02}-turned", index, turns=1)
    for index in range(11, 14):
        place(source, f"test/{index:02}", index)
    return source


@pytest.mark.parametrize("splits", [None, "keep"])
def test_eval_is_carved_from_train_by_group(tmp_path: Path, splits: Any):
    done = ingest(carved_source(tmp_path / "source"), tmp_path / "out", CONFIG, splits=splits)
    found = {image_id: split for image_id, (split, _) in all_records(done.version).items()}
    assert {i for i, split in found.items() if split == "test"} == {"test/11", "test/12", "test/13"}
    carved = {i.removesuffix("-turned") for i, split in found.items() if split == "eval"}
    assert len(carved) == 1
    assert all(found[f"train/{i:02}"] == found[f"train/{i:02}-turned"] for i in range(1, 11))
    assert done.manifest["leaking_groups"] == 0


def test_a_group_across_eval_and_test_leaks_too(tmp_path: Path):
    """Eval picks the weights that test measures."""
    source = tmp_path / "source"
    for index in range(1, 20):
        place(source, f"train/{index:02}", index)
    for index in range(20, 23):
        place(source, f"valid/{index:02}", index)
        place(source, f"test/{index:02}", index, turns=1)
    with pytest.raises(UserError, match="leak"):
        ingest(source, tmp_path / "out", CONFIG)
    kept = ingest(source, tmp_path / "out", CONFIG, splits="keep")
    assert kept.manifest["leaking_groups"] == 3


# What fails in practice: shared/cases, where they are.


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not part of the repository")
class TestCases:
    def test_capital_split_folders_are_splits(self, tmp_path: Path):
        case = CASES / "12-capital-split-folders"
        done = ingest(case / "src", tmp_path / "out", load_config(case / "c.toml"), check_only=True)
        assert {split: facts["images"] for split, facts in done.manifest["splits"].items()} == {
            "train": 30,
            "eval": 5,
            "test": 5,
        }
        assert done.manifest["splits_policy"] == "keep"

    def test_checkpoints_of_notebooks_do_not_train(self, tmp_path: Path):
        case = CASES / "14-ipynb-checkpoints"
        done = ingest(case / "src", tmp_path / "out", load_config(case / "c.toml"), check_only=True)
        assert done.manifest["images"] == 40
        assert {entry["why"]: entry["files"] for entry in done.manifest["files"]["left_out"]} == {
            "in hidden folders": 2,
            "hidden": 4,
            "with the suffix .ini": 2,
            "with the suffix .db": 2,
        }


# Real data, where it is.


@pytest.mark.skipif(not NEU_SEG_DEV.is_dir(), reason="NEU-Seg may not be in the repository")
class TestNeuSeg:
    def test_its_published_splits_are_refused(self, tmp_path: Path):
        with pytest.raises(UserError, match="114 of 118 held-out images"):
            ingest(NEU_SEG_DEV, tmp_path / "out", load_config("neu-seg"))
        assert not (tmp_path / "out").exists()

    def test_regrouped_no_group_crosses_splits(self, tmp_path: Path):
        done: Ingested = ingest(NEU_SEG_DEV, tmp_path / "out", load_config("neu-seg"), splits="regroup")
        splits = splits_of_groups(done.version)
        assert len(splits) == done.manifest["groups"] == 150
        assert all(len(found) == 1 for found in splits.values())
        assert json.loads((tmp_path / "out/dataset.json").read_text())["images"] == 596
        assert {split: facts["images"] for split, facts in done.manifest["splits"].items()} == pytest.approx(
            {"train": 477, "eval": 60, "test": 60}, abs=4
        )
