"""Sums over images: exact, whatever the order, and bounded."""

import dataclasses
import itertools
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import encoded

from components import derived_scores, measurement
from components.measurement import ImageResult, Totals, measure_image
from components.totals_file import read_totals, write_totals
from flexunet.core.config.gate import GateSettings
from flexunet.core.config.section import part_of
from flexunet.core.errors import UserError


@pytest.fixture
def settings(make_config: Any) -> GateSettings:
    gate = {"resamples": 200, "slice_columns": ["line"], "min_slice_dice": {"line=A": 0.5}, "listed_images": 3}
    return part_of(make_config(gate=gate), GateSettings)


def outputs(index: int, size: int = 16) -> dict[str, Any]:
    """A row of the `evaluate` signature as TFMA hands it over: strings as arrays of one."""
    generator = np.random.default_rng(index)
    truth = np.where(generator.random((size, size)) < 0.2, generator.integers(0, 4), 0).astype(np.uint8)
    predicted = np.where(generator.random((size, size)) < 0.1, generator.integers(0, 4), truth).astype(np.uint8)
    counts = np.zeros((4, 4))
    np.add.at(counts, (truth.ravel(), predicted.ravel()), 1)
    return {
        "counts": counts,
        "model_size_counts": counts,
        "probability_sums": np.array([size * size, *generator.uniform(0, size * size, 2)]),
        "calibration": generator.uniform(0, size, (15, 3)),
        "truth_png": np.array([encoded(truth)], object),
        "predicted_png": np.array([encoded(predicted)], object),
        "image_id": np.array([f"image-{index}".encode()], object),
        "group": np.array([f"group-{index % 7}".encode()], object),
    }


def scored(index: int) -> dict[str, Any]:
    """As a model with an operating point answers."""
    generator = np.random.default_rng(index)
    levels = np.stack([generator.integers(1, 4, (16, 16)), generator.integers(0, 28, (16, 16))], -1)
    return {**outputs(index), "scored_png": np.array([encoded(levels.astype(np.uint8), mode="LA")], object)}


def measured(count: int, settings: GateSettings) -> list[ImageResult]:
    return [measure_image(outputs(i), {"line": "AB"[i % 2]}, settings) for i in range(count)]


def added(images: list[ImageResult], settings: GateSettings) -> Totals:
    totals = Totals()
    for image in images:
        totals.add(image, settings)
    return totals


def everything(totals: Totals, settings: GateSettings) -> str:
    """To the last bit; as JSON, since NaN is not itself."""
    return json.dumps([derived_scores.all_scores(totals, settings), derived_scores.details(totals, settings)])


@pytest.mark.parametrize("shards", [1, 2, 7, 40])
def test_merging_shards_in_any_order_changes_nothing(settings: GateSettings, shards: int) -> None:
    """To the last bit: sums of probabilities would otherwise depend on the order."""
    images = measured(40, settings)
    expected = everything(added(images, settings), settings)
    shuffled = [images[i] for i in np.random.default_rng(shards).permutation(40)]
    merged = Totals()
    for shard in (shuffled[i::shards] for i in range(shards)):
        merged.merge(pickle.loads(pickle.dumps(added(shard, settings))), settings)
        merged.merge(Totals(), settings)
    assert everything(merged, settings) == expected


def test_merging_leaves_what_it_merges_as_it_was(settings: GateSettings) -> None:
    images = measured(20, settings)
    first, second = added(images[:10], settings), added(images[10:], settings)
    before = everything(second, settings)
    first.merge(second, settings)
    merged = Totals()
    merged.merge(second, settings)
    for image in images[:5]:
        merged.add(image, settings)
        first.add(image, settings)
    assert everything(second, settings) == before


def test_resamples_weigh_whole_groups(settings: GateSettings) -> None:
    """Two images of one group: every resample holds both or neither, equally often."""
    twins = [measure_image({**outputs(i), "group": np.array([b"same"], object)}, {}, settings) for i in (1, 2)]
    both, one = added(twins, settings), added(twins[:1], settings)
    weights = measurement.group_weights(settings.gate.seed, twins[0].group, 200)
    np.testing.assert_array_equal(
        measurement.resamples_of(both).pixels.truth.sum(axis=-1), weights * both.known_sums.counts.sum()
    )
    assert len(both.groups) == 1 and both.images == 2
    np.testing.assert_array_equal(
        measurement.resamples_of(one).pixels.truth[:, 0], weights * twins[0].sums.counts[0].sum()
    )


def sized(pixels: int, index: int, settings: GateSettings) -> ImageResult:
    return measure_image(outputs(index), {}, settings)._replace(largest_defect=pixels, group=index)


def test_size_quartiles_hold_a_quarter_of_the_images_with_defects_each(settings: GateSettings) -> None:
    sizes = np.random.default_rng(0).permutation(np.geomspace(5, 20_000, 80).astype(int)).tolist()
    totals = added([sized(size, i, settings) for i, size in enumerate([*sizes, 0, 0])], settings)
    quartiles = totals.size_quartiles()
    assert list(quartiles) == ["smallest", "small", "large", "largest"]
    assert all(17 <= part.images <= 23 for part in quartiles.values())
    edges = [(part.smallest, part.largest) for part in quartiles.values()]
    assert edges[0][0] == 5 and edges[3][1] == max(sizes)
    assert all(left[1] < right[0] for left, right in itertools.pairwise(edges))


def test_images_of_one_size_are_one_slice(settings: GateSettings) -> None:
    totals = added([sized(50, i, settings) for i in range(8)], settings)
    assert [part.images for part in totals.size_quartiles().values()] == [8]


def test_a_column_with_a_value_for_each_image_stays_bounded(settings: GateSettings) -> None:
    """Whichever order they come in, the first hundred values are kept, with all their images."""
    names = [f"{i:03d}" for i in np.random.default_rng(0).permutation(150)] * 2
    images = [measure_image(outputs(i), {"line": name}, settings) for i, name in enumerate(names)]
    for shards in (1, 3):
        totals = Totals()
        for i in range(shards):
            totals.merge(added(images[i::shards], settings), settings)
        kept = {value: part.images for (column, value), part in totals.slices.items() if column == "line"}
        assert kept == {f"{i:03d}": 2 for i in range(100)}


def test_a_gated_value_is_kept_however_many_there_are(make_config: Any) -> None:
    gate = {"resamples": 200, "slice_columns": ["line"], "min_slice_dice": {"line=149": 0.5}}
    settings = part_of(make_config(gate=gate), GateSettings)
    names = [f"{i:03d}" for i in np.random.default_rng(0).permutation(150)]
    totals = added([measure_image(outputs(i), {"line": name}, settings) for i, name in enumerate(names)], settings)
    kept = [value for column, value in totals.slices if column == "line"]
    assert sorted(kept) == [*(f"{i:03d}" for i in range(99)), "149"]


def test_found_defects_are_counted_by_class_and_size(settings: GateSettings) -> None:
    images = measured(40, settings)
    rows = {row["name"]: row for row in derived_scores.details(added(images, settings), settings)["detection"]}
    assert list(rows) == ["all defects", "inclusion", "patches", "scratches"]
    present = sum(image.sums.present.sum() for image in images)
    assert sum(size["present"] for size in rows["all defects"]["sizes"]) == present
    assert sum(size["found"] for size in rows["patches"]["sizes"]) == sum(image.sums.found[2] for image in images)
    for low, high in [(low, high) for row in rows.values() for _, low, high in row["band"]]:
        assert 0 <= low <= high <= 1


def test_near_duplicates_prove_no_more_than_one_of_them(settings: GateSettings) -> None:
    """60 defects found of 60: in as many groups they are as many observations, in fours 15, and 29 are needed."""
    image = measure_image(outputs(0), {}, settings)._replace(sizes={(1, 24): np.ones(2)})
    rows = {}
    for copies in (1, 4):
        totals = added([image._replace(group=i // copies) for i in range(60)], settings)
        rows[copies] = derived_scores.details(totals, settings)["detection"][0]
        bound = derived_scores.all_scores(totals, settings)[derived_scores.A90_95]
        np.testing.assert_equal(bound, np.nan if rows[copies]["a90_95"] is None else rows[copies]["a90_95"])
    assert rows[1]["a90_95"] == pytest.approx(2**1.5) and rows[1]["observations"] == pytest.approx(60, rel=0.3)
    assert rows[4]["a90_95"] is None and rows[4]["observations"] <= 15


def test_curves_have_a_point_for_each_class_and_threshold_with_intervals(settings: GateSettings) -> None:
    images = [measure_image(scored(i), {"line": "A"}, settings) for i in range(20)]
    points = derived_scores.details(added(images, settings), settings)["curves"]
    assert [point["name"] for point in points[::27]] == ["inclusion", "patches", "scratches"] and len(points) == 81
    lowest, highest = points[27], points[53]
    assert lowest["threshold"] == 0.0015 and highest["threshold"] == 0.9985
    totals = [sum(image.sums.curves[0, 2, at] for image in images) for at in (0, 26)]
    present = sum(image.sums.present[2] for image in images)
    assert [lowest["found_share"], highest["found_share"]] == [total / present for total in totals]
    low, high = lowest["false_interval"] or (0.0, 0.0)
    assert low <= (lowest["false_regions_per_megapixel"] or 0.0) <= high and low < high


def test_images_are_shown_up_to_a_limit_the_worst_first_and_evenly(settings: GateSettings) -> None:
    images = measured(40, settings)
    totals = added(images, settings)
    ranked = sorted(image.dice for image in images if not np.isnan(image.dice))
    assert [image.dice for image in totals.spread(100)] == ranked
    shown = [image.dice for image in totals.spread(5)]
    assert len(shown) == 5 and (shown[0], shown[-1]) == (ranked[0], ranked[-1]) and shown == sorted(shown)
    assert totals.spread(0) == []


def test_a_false_alarm_is_among_the_worst_and_a_stray_pixel_is_not(settings: GateSettings) -> None:
    counts = np.diag([256.0, 0, 0, 0])
    counts[0, 1] = 1
    clean, alarm = np.zeros((2, 16, 16), np.uint8)
    alarm[0, 0] = 1
    row = {**outputs(0), "counts": counts, "truth_png": np.array([encoded(clean)], object)}
    stray = measure_image({**row, "predicted_png": np.array([encoded(clean)], object)}, {}, settings)
    alarmed = measure_image({**row, "predicted_png": np.array([encoded(alarm)], object)}, {}, settings)
    assert np.isnan(stray.dice) and alarmed.dice == 0.0
    assert added([stray], settings).worst == [] and len(added([alarmed], settings).worst) == 1


def test_no_image_at_all_is_an_error_that_says_so(settings: GateSettings) -> None:
    with pytest.raises(ValueError, match="no image reached the evaluation"):
        derived_scores.all_scores(Totals(), settings)


def test_totals_are_read_as_they_were_written_and_go_on_adding_up(settings: GateSettings, tmp_path: Path) -> None:
    images = [measure_image(scored(i), {"line": "AB"[i % 2]}, settings) for i in range(20)]
    before, rest = added(images[:15], settings), added(images[15:], settings)
    write_totals(tmp_path / "totals.npz", before)
    after = read_totals(tmp_path / "totals.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["totals.npz"]
    np.testing.assert_equal(dataclasses.asdict(after), dataclasses.asdict(before))
    assert everything(after, settings) == everything(before, settings)
    after.merge(rest, settings)
    assert everything(after, settings) == everything(added(images, settings), settings)
    with np.load(tmp_path / "totals.npz", allow_pickle=False) as file:
        assert all(array.dtype != object for array in file.values())


def test_what_is_no_file_of_totals_is_refused(settings: GateSettings, tmp_path: Path) -> None:
    path = tmp_path / "totals.npz"
    write_totals(path, added(measured(3, settings), settings))
    whole, arrays = path.read_bytes(), dict(np.load(path))
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"totals.npz: not what this project wrote .* remove it"):
        read_totals(path)
    for name, wrong, words in (
        ("counts", arrays["counts"][:, :3], r"counts is float64 \(\d+, 3, 4\), expected float64 \(\d+, 4, 4\)"),
        ("groups", arrays["groups"].astype(np.int64), r"groups is int64"),
        ("document", np.array("{}"), r"ValidationError"),
        ("found", np.array([{}]), r"found|pickle"),
    ):
        np.savez(path, allow_pickle=True, **{**arrays, name: wrong})
        with pytest.raises(UserError, match=words):
            read_totals(path)
    path.write_bytes(pickle.dumps(added(measured(3, settings), settings)))
    with pytest.raises(UserError, match="not what this project wrote"):
        read_totals(path)
