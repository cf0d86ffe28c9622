"""Groups keep their split when images are added; what would link two splits is left out and listed."""

import csv
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flexunet.core.config.load import config_from, load_config
from flexunet.core.config.whole import Config
from flexunet.core.errors import UserError
from flexunet.core.palette import rgb_from_class_ids
from flexunet.dataset.assignment import read_assignment
from flexunet.dataset.ingest import Ingested, ingest
from flexunet.dataset.manifest import read_manifest
from flexunet.dataset.synthetic import generate_surface

SIZE = 48
CONFIG: Config = load_config("demo", ["dataset.train=0.6", "dataset.eval=0.2", "dataset.test=0.2"])


def place(source: Path, name: str, index: int, turn: int = 0) -> None:
    image, class_ids = generate_surface(3, index, SIZE)
    for folder, pixels in (("images", image), ("masks", rgb_from_class_ids(class_ids, CONFIG.classes))):
        path = source / folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).rotate(90 * turn).save(path)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for index in range(40):
        place(tmp_path / "source", f"s{index:02d}", index)
    return tmp_path / "source"


def splits_of(done: Ingested) -> dict[str, str]:
    assert done.version is not None
    assignment = read_assignment(done.version)
    assert assignment is not None
    return dict(assignment.splits)


def test_the_assignment_lies_beside_the_splits(source: Path, tmp_path: Path) -> None:
    done = ingest(source, tmp_path / "out", CONFIG)
    assert done.version is not None
    rows = list(csv.DictReader((done.version / "images.csv").open()))
    assert [row["id"] for row in rows] == sorted(f"s{index:02d}" for index in range(40))
    assert {row["split"] for row in rows} == {"train", "eval", "test"}


def test_added_images_move_no_group(source: Path, tmp_path: Path) -> None:
    before = splits_of(ingest(source, tmp_path / "out", CONFIG))
    for index in range(40, 80):
        place(source, f"a{index:02d}", index)
    done = ingest(source, tmp_path / "out", CONFIG)
    after = splits_of(done)
    assert done.version == tmp_path / "out" / "span-1" / "version-2"
    assert {image_id: after[image_id] for image_id in before} == before
    assert len(after) == 80
    assert {after[f"a{index:02d}"] for index in range(40, 80)} == {"train", "eval", "test"}


@pytest.mark.parametrize("split", ["train", "eval", "test"])
def test_a_new_copy_joins_the_split_of_its_group(source: Path, tmp_path: Path, split: str) -> None:
    before = splits_of(ingest(source, tmp_path / "out", CONFIG))
    original = next(image_id for image_id, where in before.items() if where == split)
    place(source, "copy", int(original[1:]), turn=1)
    assert splits_of(ingest(source, tmp_path / "out", CONFIG))["copy"] == split


def noise(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (16, 16)).repeat(3, 0).repeat(3, 1)


def place_noise(source: Path, name: str, pixels: np.ndarray, mask: int = 0) -> None:
    place(source, name, mask)
    Image.fromarray(pixels.astype(np.uint8)).save(source / "images" / f"{name}.png")


@pytest.fixture
def unlike(tmp_path: Path) -> Path:
    for index in range(30):
        place_noise(tmp_path / "unlike", f"s{index:02d}", noise(index), index)
    return tmp_path / "unlike"


def with_threshold(correlation: float) -> Config:
    dataset = {**CONFIG.model_dump()["dataset"], "near_duplicate_correlation": correlation}
    return config_from({**CONFIG.model_dump(), "dataset": dataset}, "test")


def blend(splits: Mapping[str, str]) -> np.ndarray:
    """The mean of two unlike images, one of train and one of test: it correlates with each of them by 0.7."""
    train, held_out = (next(int(i[1:]) for i, split in splits.items() if split == name) for name in ("train", "test"))
    return (noise(train) + noise(held_out)) / 2


def test_an_image_that_links_two_splits_is_left_out_and_listed(unlike: Path, tmp_path: Path) -> None:
    config = with_threshold(0.6)
    before = splits_of(ingest(unlike, tmp_path / "out", config))
    place_noise(unlike, "link", blend(before))
    done = ingest(unlike, tmp_path / "out", config)
    assert splits_of(done) == before
    assert done.manifest["left_out"] == ["link: links near-duplicate groups that are in different splits already"]
    assert (done.manifest["groups"], done.manifest["leaking_groups"]) == (30, 0)
    assert read_manifest(tmp_path / "out")["left_out"] == done.manifest["left_out"]
    assert done.unchanged


def test_a_looser_bound_that_makes_old_splits_leak_is_refused(unlike: Path, tmp_path: Path) -> None:
    """What was assigned as unlike images may not become near-duplicates in different splits silently."""
    before = splits_of(ingest(unlike, tmp_path / "out", with_threshold(0.9)))
    place_noise(unlike, "link", blend(before))
    ingest(unlike, tmp_path / "out", with_threshold(0.9))
    with pytest.raises(UserError, match=r"1 groups.*assigned to different splits before.*near_duplicate_correlation"):
        ingest(unlike, tmp_path / "out", with_threshold(0.6))


@pytest.mark.parametrize("split", ["train", "eval", "test"])
def test_a_near_duplicate_in_another_span_joins_its_split_and_group(source: Path, tmp_path: Path, split: str) -> None:
    """The model before was trained on that span: what it saw may not come back as test images, nor the reverse."""
    before = splits_of(ingest(source, tmp_path / "out", CONFIG))
    original = next(image_id for image_id, where in before.items() if where == split)
    shutil.rmtree(source)
    for index in range(40, 70):
        place(source, f"s{index - 40:02d}", index)
    place(source, "copy", int(original[1:]), turn=1)
    done = ingest(source, tmp_path / "out", CONFIG, span=2)
    assert splits_of(done)["span-2/copy"] == split
    with (tmp_path / "out/span-2/version-1/images.csv").open() as file:
        [line] = [line for line in csv.DictReader(file) if line["id"] == "span-2/copy"]
    assert line["group"] == original
    assert (done.manifest["leaking_groups"], done.manifest["left_out"]) == (0, [])


def test_a_source_whose_test_images_were_trained_on_in_another_span_is_refused(source: Path, tmp_path: Path) -> None:
    before = splits_of(ingest(source, tmp_path / "out", CONFIG))
    trained = next(image_id for image_id, where in before.items() if where == "train")
    for index, split in enumerate(["train"] * 20 + ["valid"] * 5 + ["test"] * 5, start=40):
        place(tmp_path / "own" / split, f"n{index}", index)
    place(tmp_path / "own" / "test", "copy", int(trained[1:]), turn=2)
    with pytest.raises(UserError, match=r"splits leak: 1 of 11 held-out images, such as span-2/test/copy"):
        ingest(tmp_path / "own", tmp_path / "out", CONFIG, span=2)


def test_shares_are_of_all_images_also_when_they_come_by_threes(source: Path, tmp_path: Path) -> None:
    done = ingest(source, tmp_path / "out", CONFIG)
    for index in range(40, 70):
        place(source, f"s{index}", index)
        if index % 3 == 0:
            done = ingest(source, tmp_path / "out", CONFIG)
    images = {split: facts["images"] for split, facts in done.manifest["splits"].items()}
    assert sum(images.values()) == 70
    assert 40 <= images["train"] <= 44 and 13 <= images["eval"] <= 15 and 13 <= images["test"] <= 15


def test_renamed_images_keep_their_splits(source: Path, tmp_path: Path) -> None:
    before = splits_of(ingest(source, tmp_path / "out", CONFIG))
    for folder in ("images", "masks"):
        for path in sorted((source / folder).iterdir()):
            path.rename(path.with_name(f"r{path.name}"))
    after = splits_of(ingest(source, tmp_path / "out", CONFIG))
    assert after == {f"r{image_id}": split for image_id, split in before.items()}


def test_keep_means_nothing_for_a_source_without_splits(source: Path, tmp_path: Path) -> None:
    before = splits_of(ingest(source, tmp_path / "out", CONFIG, splits="keep"))
    place(source, "new", 41)
    done = ingest(source, tmp_path / "out", CONFIG, splits="keep")
    assert done.manifest["splits_policy"] == "regroup"
    assert {image_id: split for image_id, split in splits_of(done).items() if image_id != "new"} == before


def test_splits_stay_after_a_version_was_deleted(source: Path, tmp_path: Path) -> None:
    first = splits_of(ingest(source, tmp_path / "out", CONFIG))
    place(source, "new", 41)
    second = ingest(source, tmp_path / "out", CONFIG)
    assert second.version is not None
    shutil.rmtree(second.version)
    again = splits_of(ingest(source, tmp_path / "out", CONFIG))
    assert {image_id: again[image_id] for image_id in first} == first


def test_a_deleted_span_leaves_the_manifest_true(source: Path, tmp_path: Path) -> None:
    ingest(source, tmp_path / "out", CONFIG)
    shutil.rmtree(tmp_path / "out" / "span-1")
    ingest(source, tmp_path / "out", CONFIG, span=2)
    assert [entry["span"] for entry in read_manifest(tmp_path / "out")["spans"]] == [2]


def test_a_training_image_that_another_span_tests_with_is_refused(source: Path, tmp_path: Path) -> None:
    before = splits_of(ingest(source, tmp_path / "out", CONFIG))
    tested = next(image_id for image_id, where in before.items() if where == "test")
    for index, split in enumerate(["train"] * 20 + ["valid"] * 5 + ["test"] * 5, start=40):
        place(tmp_path / "own" / split, f"n{index}", index)
    place(tmp_path / "own" / "train", "copy", int(tested[1:]), turn=2)
    with pytest.raises(UserError, match=r"1 groups of near-duplicates.*another version or span.*--splits regroup"):
        ingest(tmp_path / "own", tmp_path / "out", CONFIG, span=2)
    kept = ingest(tmp_path / "own", tmp_path / "out", CONFIG, span=2, splits="keep")
    assert kept.manifest["leaking_groups"] == 1


def test_another_seed_deals_otherwise(source: Path, tmp_path: Path) -> None:
    other = load_config("demo", ["dataset.seed=1", "dataset.train=0.6", "dataset.eval=0.2", "dataset.test=0.2"])
    assert splits_of(ingest(source, tmp_path / "a", CONFIG)) != splits_of(ingest(source, tmp_path / "b", other))


RENDERED: Config = CONFIG.model_copy(
    update={"dataset": CONFIG.dataset.model_copy(update={"sources": {"rendered": 0.25, "nowhere": 0.1}})}
)


def test_images_of_a_source_and_their_copies_only_train_and_take_no_place_of_others(
    source: Path, tmp_path: Path
) -> None:
    alone = ingest(source, tmp_path / "alone", CONFIG)
    for index in range(100, 160):
        place(source, f"rendered/r{index}", index)
    # Of a rendered one, below another folder: a group of both.
    place(source, "copies/of100", 100, turn=1)
    done = ingest(source, tmp_path / "out", RENDERED)
    splits = splits_of(done)
    assert {split for name, split in splits.items() if "/" in name} == {"train"} and len(splits) == 101
    assert {name: split for name, split in splits.items() if "/" not in name} == splits_of(alone)
    assert [w for w in done.manifest["warnings"] if "sources" in w] == [
        "dataset.sources names 'nowhere', and no image lies below such a folder; a run needs spans that have some: "
        'dataset.spans = "all"'
    ]


def test_what_a_source_shares_with_held_out_images_is_left_out(source: Path, tmp_path: Path) -> None:
    before = splits_of(ingest(source, tmp_path / "out", CONFIG))
    for split in ("train", "eval", "test"):
        original = next(image_id for image_id, where in before.items() if where == split)
        place(source, f"rendered/of-{split}", int(original[1:]), turn=1)
    done = ingest(source, tmp_path / "out", RENDERED)
    assert splits_of(done) == {**before, "rendered/of-train": "train"}
    reason = "only trains, and is a near-duplicate of an image that is held out already"
    assert done.manifest["left_out"] == [f"rendered/of-{split}: {reason}" for split in ("eval", "test")]


def test_an_image_that_was_held_out_before_its_folder_became_a_source_trains(source: Path, tmp_path: Path) -> None:
    for index in range(100, 140):
        place(source, f"rendered/r{index}", index)
    before = splits_of(ingest(source, tmp_path / "out", CONFIG))
    assert {split for name, split in before.items() if "/" in name} == {"train", "eval", "test"}
    after = splits_of(ingest(source, tmp_path / "out", RENDERED))
    assert {split for name, split in after.items() if "/" in name} == {"train"}
    assert {name: split for name, split in after.items() if "/" not in name} == {
        name: split for name, split in before.items() if "/" not in name
    }


def test_splits_of_the_users_own_that_hold_out_a_source_are_refused(tmp_path: Path) -> None:
    for index in range(12):
        place(tmp_path / "source" / ("train", "valid", "test")[index % 3], f"s{index}", index)
    place(tmp_path / "source" / "test", "rendered/r", 40)
    place(tmp_path / "source" / "train", "rendered/s", 41)
    with pytest.raises(UserError, match=r"r\.png: is in test, and so are 1 images that only train by dataset\.sources"):
        ingest(tmp_path / "source", tmp_path / "out", RENDERED)
