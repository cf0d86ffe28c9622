"""Batches for training."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from examples import tile, write_examples

from trainer_module import data


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Twelve records; image i is filled with i, and so are its class ids modulo 4, but for a corner."""

    def drawn(index: int) -> bytes:
        image = np.full((1, 32, 32, 3), index, np.uint8)
        class_ids = np.full((1, 32, 32), index % 4, np.uint8)
        image[0, :4, :8], class_ids[0, :4, :8] = 200, 3
        return tile(image, class_ids)

    return [str(write_examples(tmp_path / "records.gz", map(drawn, range(12))))]


def order(dataset: tf.data.Dataset, batches: int) -> list[int]:
    return [int(image[16, 16, 0]) for images, _ in dataset.take(batches) for image in images.numpy()]


def test_counts_tiles(files: list[str], make_config: Any) -> None:
    assert data.count_tiles(files, make_config()) == 12


def test_an_epoch_holds_each_image_once_and_the_order_changes(files: list[str], make_config: Any) -> None:
    batches = data.training_batches(files, 12, make_config(), cache="")
    first_two = order(batches, 6)
    assert sorted(first_two) == sorted([*range(12), *range(12)])
    assert first_two[:12] != list(range(12))


def test_the_order_repeats_for_a_seed(files: list[str], make_config: Any) -> None:
    def once(seed: int) -> list[int]:
        config = make_config(train={"seed": seed}, augment={"symmetries": True})
        return order(data.training_batches(files, 12, config, cache=""), 6)

    assert once(1) == once(1)
    assert once(1) != once(2)
    # TensorFlow refuses a pair of zeros as seeds.
    assert once(0) == once(0)


def test_training_can_go_on_from_any_epoch(files: list[str], make_config: Any) -> None:
    config = make_config(augment={"symmetries": True, "noise": 20.0}, train={"batch_size": 5})

    def batches(first_epoch: int, count: int) -> list[np.ndarray]:
        dataset = data.training_batches(files, 12, config, None, first_epoch)
        return [images.numpy() for images, _ in dataset.take(count)]

    # Two batches of five an epoch: the other two tiles are left out, others each time.
    np.testing.assert_array_equal(batches(0, 8)[4:], batches(2, 4))


def test_what_fills_no_batch_is_left_out_and_differs_from_epoch_to_epoch(files: list[str], make_config: Any) -> None:
    found = order(data.training_batches(files, 12, make_config(train={"batch_size": 5}), cache=""), 8)
    epochs = [found[start : start + 10] for start in range(0, 40, 10)]
    assert all(len(set(epoch)) == 10 for epoch in epochs)
    assert set().union(*epochs) == set(range(12))


def test_evaluation_keeps_order_and_the_last_small_batch(files: list[str], make_config: Any) -> None:
    config = make_config(train={"batch_size": 5})
    batches = list(data.evaluation_batches(files, 12, config, cache=""))
    assert [len(images) for images, _ in batches] == [5, 5, 2]
    assert order(data.evaluation_batches(files, 12, config, cache=None), 3) == list(range(12))


def test_the_batches_are_the_same_wherever_they_are_kept(files: list[str], make_config: Any, tmp_path: Path) -> None:
    config = make_config()
    caches = ("", str(tmp_path / "tiles"), None)
    in_memory, on_disk, streamed = (order(data.training_batches(files, 12, config, cache), 6) for cache in caches)
    assert in_memory == on_disk == streamed
    assert list(tmp_path.glob("tiles-train*"))


@pytest.mark.parametrize("cache", ["", "disk"])
def test_the_cache_spares_the_records_from_the_second_epoch_on(
    files: list[str], make_config: Any, tmp_path: Path, cache: str
) -> None:
    batches = iter(data.training_batches(files, 12, make_config(), cache and str(tmp_path / cache)))
    first = [next(batches) for _ in range(3)]
    Path(files[0]).unlink()
    assert len([next(batches) for _ in range(30)]) == 30 and len(first) == 3


def test_tiles_are_kept_in_memory_then_on_disk_then_nowhere(make_config: Any) -> None:
    config = make_config(train={"cache_megabytes": 1, "disk_cache_megabytes": 2})
    fit = 2**20 // (32 * 32 * 4)
    places = [data.choose_cache(tiles, config, Path("/logs")) for tiles in (fit, fit + 1, 2 * fit, 2 * fit + 1)]
    assert places == ["", "/logs/tiles", "/logs/tiles", None]


def test_flips_move_image_and_class_ids_together(files: list[str], make_config: Any) -> None:
    config = make_config(augment={"horizontal_flip": True, "vertical_flip": True})
    batches = data.training_batches(files, 12, config, cache="")
    corners = set()
    for images, class_ids in batches.take(12):
        bright = images[..., 0] == 200
        np.testing.assert_array_equal(tf.boolean_mask(class_ids, bright), 3)
        corners |= {(bool(b[0, 0]), bool(b[0, -1]), bool(b[-1, 0]), bool(b[-1, -1])) for b in bright.numpy()}
    assert len(corners) == 4


def shown_in(batches: tf.data.Dataset, count: int) -> list[list[set[int]]]:
    """The classes that each tile of each batch shows."""
    return [[set(np.unique(ids)) for ids in class_ids.numpy()] for _, class_ids in batches.take(count)]


@pytest.fixture
def rare(tmp_path: Path) -> list[str]:
    """Forty tiles: one of class 1, one of class 2, none of class 3, one that nobody labelled."""

    def drawn(index: int) -> bytes:
        fill = {7: 1, 23: 2, 30: 255}.get(index, 0)
        return tile(np.full((1, 32, 32, 3), index, np.uint8), np.full((1, 32, 32), fill, np.uint8))

    return [str(write_examples(tmp_path / "rare.gz", map(drawn, range(40))))]


def test_a_share_of_each_batch_shows_a_defect_the_classes_in_turn(rare: list[str], make_config: Any) -> None:
    config = make_config(train={"batch_size": 4, "defect_share": 0.5})
    batches = shown_in(data.training_batches(rare, 40, config, cache=""), 25)
    for batch in batches:
        assert sum(1 in shown for shown in batch) >= 1 and sum(2 in shown for shown in batch) >= 1
    odd = make_config(train={"batch_size": 4, "defect_share": 0.25})
    turns = [shown[0] for shown in shown_in(data.training_batches(rare, 40, odd, cache=""), 4)]
    assert turns == [{1}, {2}, {1}, {2}]


def test_an_epoch_goes_on_with_the_class_whose_turn_it_is(tmp_path: Path, make_config: Any) -> None:
    """Two batches an epoch and three classes: turns that began anew would never come to the third."""
    drawn = (tile(np.zeros((1, 32, 32, 3), np.uint8), np.full((1, 32, 32), i % 4, np.uint8)) for i in range(8))
    files = [str(write_examples(tmp_path / "few.gz", drawn))]
    config = make_config(train={"batch_size": 4, "defect_share": 0.25})

    def turns(first_epoch: int, count: int) -> list[set[int]]:
        batches = data.training_batches(files, 8, config, "", first_epoch)
        return [shown[0] for shown in shown_in(batches, count)]

    assert turns(0, 6) == [{1}, {2}, {3}] * 2
    assert turns(1, 2) == [{3}, {1}]


def test_tiles_drawn_by_class_are_the_same_from_any_epoch_and_cache(
    rare: list[str], make_config: Any, tmp_path: Path
) -> None:
    config = make_config(train={"batch_size": 4, "defect_share": 0.5}, augment={"noise": 20.0})

    def batches(cache: str | None, first_epoch: int, count: int) -> list[np.ndarray]:
        dataset = data.training_batches(rare, 40, config, cache, first_epoch)
        return [images.numpy() for images, _ in dataset.take(count)]

    whole = batches(None, 0, 30)
    np.testing.assert_array_equal(whole[20:], batches(None, 2, 10))
    for cache in ("", str(tmp_path / "tiles")):
        np.testing.assert_array_equal(whole, batches(cache, 0, 30))


def test_an_epoch_begins_after_a_pass_however_rare_a_class_is(
    tmp_path: Path, make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One tile of 200 shows a class; a shuffle that waited for a hundred of it would read 20,000."""
    reads: list[int] = []
    parse = data._parse

    def counted(*arguments: Any) -> Any:
        with tf.control_dependencies([tf.numpy_function(lambda: np.int64(reads.append(1) or 0), [], tf.int64)]):
            return tf.nest.map_structure(tf.identity, parse(*arguments))

    monkeypatch.setattr(data, "_parse", counted)
    fills = (np.full((1, 32, 32), index == 7, np.uint8) for index in range(200))
    tiles = (tile(np.zeros((1, 32, 32, 3), np.uint8), fill, group=str(i)) for i, fill in enumerate(fills))
    files = [str(write_examples(tmp_path / "rare.gz", tiles))]
    config = make_config(dataset={"equal_groups": True}, train={"batch_size": 4, "defect_share": 0.25})
    [batch] = shown_in(data.training_batches(files, 200, config, cache=None), 1)
    assert batch[0] == {1} and 200 < len(reads) < 6000


def test_without_defects_all_tiles_come_equally_often(tmp_path: Path, make_config: Any) -> None:
    clean = (tile(np.full((1, 32, 32, 3), i, np.uint8), np.zeros((1, 32, 32), np.uint8)) for i in range(8))
    files = [str(write_examples(tmp_path / "clean.gz", clean))]
    config = make_config(train={"batch_size": 4, "defect_share": 0.5})
    assert sorted(order(data.training_batches(files, 8, config, cache=""), 2)) == list(range(8))


@pytest.mark.parametrize("sections", [{"train": {"defect_share": 0.25}}, {"dataset": {"sources": {"a": 0.5}}}])
def test_every_tile_comes_in_some_epoch_also_where_an_epoch_holds_a_part_of_a_stream(
    tmp_path: Path, make_config: Any, monkeypatch: pytest.MonkeyPatch, sections: dict[str, Any]
) -> None:
    """Of photos that are three times as many as images of `a`, or of the tiles beside those of a class."""
    monkeypatch.setattr(data, "_SHUFFLE_TILES", 8)

    def drawn(index: int) -> bytes:
        class_ids = np.full((1, 32, 32), index % 10 == 0, np.uint8)
        return tile(np.full((1, 32, 32, 3), index, np.uint8), class_ids, source="a" * (index >= 75))

    files = [str(write_examples(tmp_path / "many.gz", map(drawn, range(100))))]
    config = make_config(**{**sections, "train": {"batch_size": 4, **sections.get("train", {})}})
    assert {*order(data.training_batches(files, 100, config, cache=""), 25 * 20)} == {*range(100)}


@pytest.fixture
def repeated(tmp_path: Path) -> list[str]:
    """Twelve tiles, image i filled with i, of three groups: nine, two and one."""

    def drawn(index: int) -> bytes:
        group = "nine" if index < 9 else "two" if index < 11 else "one"
        class_ids = np.full((1, 32, 32), index % 2, np.uint8)
        return tile(np.full((1, 32, 32, 3), index, np.uint8), class_ids, group=group, source="a" * (index == 8))

    return [str(write_examples(tmp_path / "repeated.gz", map(drawn, range(12))))]


@pytest.mark.parametrize("defect_share", [0.0, 0.5])
def test_groups_come_equally_often_whatever_their_size(
    repeated: list[str], make_config: Any, defect_share: float, tmp_path: Path
) -> None:
    """An image comes as often as its group is small, also among those that show class 1, which is every second one."""
    config = make_config(dataset={"equal_groups": True}, train={"batch_size": 4, "defect_share": defect_share})

    def numbers(cache: str | None, first_epoch: int, epochs: int) -> list[int]:
        return order(data.training_batches(repeated, 12, config, cache, first_epoch), 3 * epochs)

    found = numbers("", 0, 60)
    counts = np.bincount(found, minlength=12)
    assert (counts > 0).all()
    step = 2 if defect_share else 1
    nine, two, one = counts[step - 1 : 9 : step], counts[9:11:step], counts[11:]
    expected = np.array([len(nine) / 9, len(two) / 2, 1])
    found_of_groups = np.array([nine.sum(), two.sum(), one.sum()])
    np.testing.assert_allclose(found_of_groups / found_of_groups.sum(), expected / expected.sum(), atol=0.07)
    assert nine.max() < 3 * nine.min()
    assert found[12 * 5 : 12 * 8] == numbers(None, 5, 3) == numbers(str(tmp_path / "tiles"), 5, 3)


def test_an_image_that_many_tiles_are_cut_from_outweighs_no_other_group(tmp_path: Path, make_config: Any) -> None:
    """Eight crops of one strip come together, so that it comes once where the other one comes eight times."""
    wide = tile(np.full((8, 32, 32, 3), 1, np.uint8), np.zeros((8, 32, 32), np.uint8), (32, 256), group="wide")
    small = tile(np.full((1, 32, 32, 3), 2, np.uint8), np.zeros((1, 32, 32), np.uint8), (32, 32), group="small")
    files = [str(write_examples(tmp_path / "strips.gz", [wide, small]))]
    config = make_config(
        image={"height": 32, "width": 32, "fit": "tile", "tile_overlap": 0},
        dataset={"equal_groups": True},
        augment={"crops": True},
        train={"batch_size": 3},
    )
    found = order(data.training_batches(files, 9, config, cache=""), 120)
    np.testing.assert_allclose(np.mean(np.array(found) == 2), 0.5, atol=0.08)


def test_groups_of_a_source_are_its_own(repeated: list[str], make_config: Any) -> None:
    """One tile of nine is of `a` here, and is a quarter of each batch."""
    config = make_config(dataset={"equal_groups": True, "sources": {"a": 0.25}}, train={"batch_size": 4})
    found = order(data.training_batches(repeated, 12, config, cache=""), 180)
    counts = np.bincount(found, minlength=12) / len(found)
    assert counts[8] == 0.25
    np.testing.assert_allclose([counts[:8].sum(), counts[9:11].sum(), counts[11]], 0.25, atol=0.06)


@pytest.fixture
def rendered(tmp_path: Path) -> list[str]:
    """Thirty tiles of no source, image i filled with i, every tenth of class 1; four of `a`, 100 and on; two of `b`."""

    def drawn(index: int) -> bytes:
        source, fill = ("", index) if index < 30 else ("a", 70 + index) if index < 34 else ("b", 170 + index)
        class_ids = np.full((1, 32, 32), index % 10 == 0, np.uint8)
        return tile(np.full((1, 32, 32, 3), fill, np.uint8), class_ids, source=source)

    return [str(write_examples(tmp_path / "rendered.gz", map(drawn, range(36))))]


@pytest.mark.parametrize("defect_share", [0.0, 0.25])
def test_each_batch_holds_the_shares_of_the_sources(
    rendered: list[str], make_config: Any, defect_share: float, tmp_path: Path
) -> None:
    sources = {"a": 0.25, "b": 0.1}
    config = make_config(dataset={"sources": sources}, train={"batch_size": 8, "defect_share": defect_share})

    def numbers(cache: str | None, first_epoch: int, batches: int) -> list[list[int]]:
        dataset = data.training_batches(rendered, 36, config, cache, first_epoch)
        return [[int(image[0, 0, 0]) for image in images.numpy()] for images, _ in dataset.take(batches)]

    whole = numbers(None, 0, 24)
    for batch in whole:
        assert sum(100 <= number < 104 for number in batch) == 2 and sum(number >= 200 for number in batch) == 1
        assert sum(number in (0, 10, 20) for number in batch) >= (2 if defect_share else 0)
    # All of each come, and as often as each other.
    counts = np.bincount(np.concatenate(whole).astype(int), minlength=206)
    assert (counts[100:104] == 12).all() and (counts[204:206] == 12).all()
    assert (counts[:30] > 0).sum() > 20
    assert numbers("", 2, 8) == numbers(str(tmp_path / "tiles"), 2, 8) == whole[8:16]


@pytest.mark.parametrize("defect_share", [0.0, 0.25])
def test_of_a_source_with_a_share_of_0_nothing_trains(
    rendered: list[str], make_config: Any, defect_share: float
) -> None:
    """Nor need it have an image; nothing of it makes an epoch longer, or is in the sample that measures statistics."""
    shares = {"dataset": {"sources": {"a": 0.0, "b": 0.25, "c": 0.0}}}
    config = make_config(**shares, train={"batch_size": 8, "defect_share": defect_share})
    assert data.count_tiles(rendered, config) == 32
    assert {*order(data.training_batches(rendered, 32, config, cache=""), 80)} == {*range(30), 204, 205}
    none = make_config(dataset={"sources": {"a": 0.0, "b": 0.0}}, train={"batch_size": 8, "defect_share": defect_share})
    assert data.count_tiles(rendered, none) == 30
    assert {*order(data.training_batches(rendered, 30, none, cache=""), 24)} == {*range(30)}
    sample = data.sample_batches(rendered, 30, none).as_numpy_iterator()
    assert {int(image[0, 0, 0]) for images in sample for image in images} <= {*range(30)}


def test_a_sample_is_mixed_as_batches_are_without_their_changes(rendered: list[str], make_config: Any) -> None:
    """Two of eight are from `a` and one from `b`, of which all have six in thirty-six."""
    sections = {"dataset": {"sources": {"a": 0.25, "b": 0.1}}, "augment": {"brighten": 100.0, "probability": 1.0}}
    config = make_config(**sections, train={"batch_size": 8, "defect_share": 0.25})

    def numbers(sample: tf.data.Dataset) -> list[list[int]]:
        return [images[:, 0, 0, 0].tolist() for images in sample.as_numpy_iterator()]

    sample = data.sample_batches(rendered, 36, config)
    found = numbers(sample)
    assert len(found) == 4
    for batch in found:
        assert sum(number in range(100, 104) for number in batch) == 2 and sum(n in (204, 205) for n in batch) == 1
        assert sum(number in range(30) for number in batch) == 5 and sum(n in (0, 10, 20) for n in batch) >= 2
    assert numbers(sample) == numbers(data.sample_batches(rendered, 36, config)) == found


def test_a_source_without_a_training_image_is_named(rendered: list[str], make_config: Any) -> None:
    config = make_config(dataset={"sources": {"a": 0.25, "c": 0.25}})
    with pytest.raises(ValueError, match=r"no training image is from 'c' of dataset\.sources, .* raise dataset\.spans"):
        data.training_batches(rendered, 36, config, cache="")
