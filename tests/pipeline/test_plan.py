"""`flexunet plan`: literal figures in, literal choices out; and once through real records and the real clock."""

import json
import math
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import flexunet
from steel import COLORS, NAMES

from flexunet.core.config.data import ImageConfig
from flexunet.core.config.load import config_from, load_config
from flexunet.core.config.whole import Config
from flexunet.core.errors import UserError
from flexunet.dataset.ingest import ingest
from flexunet.dataset.synthetic import generate_surface, write_surfaces
from pipeline.study import survey
from pipeline.study.plan import PRESET, Planner, Rate
from pipeline.study.survey import Light, Machine, Pair, ceiling, light_of
from trainer_module.cost import model_cost

EVEN = {"background": 10_000, "inclusion": 900, "patches": 1100, "scratches": 1000}


def planner(
    seconds: float = 3600,
    size: tuple[int, int] = (200, 200),
    images: int = 800,
    base: Config | None = None,
    spans: int = 1,
    **pixels: Any,
) -> Planner:
    split = {"images": images, "groups": images, "images_with": {}, "pixels": pixels or EVEN}
    span: Any = {
        "classes": [{"name": name, "color": [*color]} for name, color in zip(NAMES, COLORS, strict=True)],
        "ignore_color": None,
        "median_size": list(size),
        "splits": {"train": split, "test": {**split, "pixels": {**EVEN, "patches": 0}}},
    }
    return Planner([span] * spans, seconds, base)


def machine(memory: int = 2**33, gpus: int = 0) -> Machine:
    return Machine(cores=2, memory=memory, gpus=gpus)


def rate(config: Config, speed: float = 2e10) -> float:
    """Of a machine that trains so many multiply-accumulates in a second, whatever the width."""
    return speed / model_cost(config, 1).multiply_accumulates


def keeps_from(side: int) -> Any:
    """A best Dice that is good enough from so many pixels on."""

    def of(image: ImageConfig) -> np.ndarray:
        return np.array([1.0, 0.99, 0.96 if image.width >= side else 0.9, np.nan])

    return of


@pytest.mark.parametrize(
    ("size", "aspects_differ", "keeps", "expected"),
    [
        ((200, 200), False, 128, (128, 128, "stretch")),
        ((200, 200), False, 999, (208, 208, "stretch")),
        ((600, 1200), True, 256, (128, 256, "pad")),
        ((1000, 1000), False, 999, (512, 512, "stretch")),
        ((256, 1600), False, 0, (256, 256, "tile")),
    ],
)
def test_the_smallest_size_that_keeps_the_defects(
    size: tuple[int, int], aspects_differ: bool, keeps: int, expected: tuple[int, int, str]
) -> None:
    plan = planner(size=size)
    plan.image_and_depth(keeps_from(keeps), aspects_differ)
    assert tuple(plan.values["image"].values()) == expected
    assert all(f"image.{key}" in plan.reasons for key in ("height", "width", "fit"))


def planned(seconds: float, memory: int = 2**33, rate: Rate = rate, **facts: Any) -> dict[str, Any]:
    return made_by(planner(seconds, **facts), memory, rate).values


def made_by(plan: Planner, memory: int = 2**33, rate: Rate = rate) -> Planner:
    """Every choice made, in the order of `plan_for`."""
    plan.image_and_depth(keeps_from(128), aspects_differ=False)
    plan.recipe()
    plan.batch(memory)
    plan.smaller_images(rate)
    plan.batch(memory)
    plan.width_and_epochs(machine(memory), rate)
    light = Light(brightness=30.0, contrast=0.3, direction=0.0, directions=0.1)
    plan.augmentation(light)
    plan.answers(light)
    plan.gate()
    plan.config()
    return plan


def test_seconds_buy_width_after_they_have_bought_epochs() -> None:
    poor, rich = planned(60), planned(36_000)
    assert (poor["model"]["base_filters"], poor["image"]["width"]) == (8, 96)
    assert planned(10)["train"]["epochs"] == 10
    assert rich["model"]["base_filters"] == 32 and rich["train"]["epochs"] >= 20
    assert poor["train"]["max_seconds"] == 60
    # Many passes over few images are few steps all the same.
    assert planned(60, images=20)["model"]["base_filters"] == 8
    assert (poor["model"]["num_layers"], rich["model"]["num_layers"]) == (4, 5)


def test_each_width_is_timed_and_those_that_no_second_is_left_for_are_not() -> None:
    """A model of twice the filters is not four times as slow where memory is what holds it up."""
    timed = []

    def bound_by_memory(config: Config) -> float:
        timed.append(config.model.base_filters)
        return 8 * 100 / config.model.base_filters

    # 20 passes over 800 images are 26 a second; with 24 filters it is 33, with 32 it would be 25.
    assert planned(614, rate=bound_by_memory)["model"]["base_filters"] == 24
    assert timed == [8, 8, 12, 16, 24, 32]
    # Whatever is timed, few images are few.
    timed.clear()
    assert planned(614, rate=bound_by_memory, images=10)["model"]["base_filters"] == 8
    assert set(timed) == {8}


@pytest.mark.parametrize("gpus", [0, 2])
def test_what_was_timed_is_said(gpus: int) -> None:
    plan = planner(600)
    plan.image_and_depth(keeps_from(96), aspects_differ=False)
    plan.recipe()
    plan.batch(2**33)
    plan.width_and_epochs(machine(gpus=gpus), rate)
    where = "a machine of 2 GPUs" if gpus else "2 cores"
    assert plan.reasons["train.epochs"].endswith(f" a second, timed on {where}")


@pytest.mark.parametrize(
    ("seconds", "best", "expected"),
    [(600, 0.9, 192), (60, 0.9, 96), (60, 0.7, 192), (60, math.nan, 208)],
    ids=["enough", "too few", "too few, but no smaller image shows the defects", "no defect was seen"],
)
def test_seconds_that_are_too_few_for_a_size_make_images_smaller(seconds: float, best: float, expected: int) -> None:
    """800 images ten times: 0.4 GMAC an image at 192x192 with 8 filters, and 2e10 in a second."""

    def ceiling(image: ImageConfig) -> np.ndarray:
        return np.array([1.0, math.nan if math.isnan(best) else 0.96 if image.width >= 192 else best])

    plan = planner(seconds)
    plan.image_and_depth(ceiling, aspects_differ=False)
    plan.smaller_images(rate)
    assert plan.values["image"]["width"] == expected
    reason = plan.reasons["image.width"]
    assert reason.endswith("60 seconds are too few for 192x192") == (expected == 96)
    assert ("shows a defect" in reason) == math.isnan(best)


def test_what_the_seconds_are_too_few_for_is_said() -> None:
    plan = planner(10)
    plan.image_and_depth(keeps_from(96), aspects_differ=False)
    plan.recipe()
    plan.batch(2**33)
    plan.width_and_epochs(machine(), rate)
    assert plan.values["train"]["epochs"] == 10
    assert "10 seconds are about 3.0 of them, which is too few" in plan.reasons["train.epochs"]


def test_few_images_end_by_epochs_and_buy_no_width_with_seconds_that_they_do_not_use() -> None:
    values = planned(36_000, images=10)
    assert (values["train"]["epochs"], values["model"]["base_filters"]) == (400, 8)


def test_memory_and_few_images_bound_the_batch() -> None:
    assert planned(600)["train"]["batch_size"] == 8
    assert planned(600, images=40)["train"]["batch_size"] == 4
    # 8 filters at 128x128 keep 15 MB an image.
    assert planned(600, memory=2**28)["train"]["batch_size"] < 8


def test_one_image_is_a_batch_and_needs_no_smaller_one() -> None:
    values = planned(60, images=1)
    assert values["train"]["batch_size"] == 1 and values["image"]["width"] == 128


def test_narrow_strips_have_tiles_that_overlap_less() -> None:
    plan = planner(size=(44, 900))
    plan.image_and_depth(keeps_from(0), aspects_differ=False)
    assert plan.values["image"] == {"height": 48, "width": 48, "fit": "tile", "tile_overlap": 12}
    assert plan.config().image.tile_overlap == 12


def test_large_images_whose_defects_no_size_shows_become_tiles() -> None:
    plan = planner(size=(3000, 4000))
    plan.image_and_depth(
        lambda image: np.array([1.0, 0.99 if image.fit == "tile" else image.width / 2000]), aspects_differ=False
    )
    assert [plan.values["image"][key] for key in ("height", "width", "fit")] == [256, 256, "tile"]
    assert "at 384x512 a model that never errs would reach Dice 0.256" in plan.reasons["image.fit"]


def test_all_spans_that_a_run_reads_are_counted() -> None:
    plan = made_by(planner(600, images=400, spans=2))
    assert plan.reasons["train.epochs"].startswith("800 images at ")


@pytest.mark.parametrize(
    ("seen", "words"),
    [({0, 1, 2, 3}, "in its worst class here"), ({0, 2}, "; none of 5 images that were looked at shows scratches")],
)
def test_a_class_that_no_image_showed_that_was_looked_at_is_said(seen: set[int], words: str) -> None:
    """Inclusion has no pixel in train, so that nothing is missing of it."""
    plan = planner(**{**EVEN, "inclusion": 0})
    plan.note_unseen(5, seen)
    plan.image_and_depth(keeps_from(128), aspects_differ=False)
    assert plan.reasons["image.width"].endswith(words)


def test_what_is_not_planned_is_the_users_own(make_config: Any) -> None:
    given = make_config(
        image={"height": 32, "width": 32, "max_pixels": 1_000_000, "value_range": [0, 4095]},
        dataset={"sources": {"rendered": 0.05}},
        gate={"min_foreground_dice": 0.7},
        train={"epochs": 3, "seed": 5, "batch_size": 16, "clipvalue": 0.5},
        serving={"symmetries": 2, "test_images": 3},
    )
    plan = made_by(planner(base=given))
    made = config_from(plan.whole(), "the plan")
    assert plan.reading() == given
    assert made.dataset.sources == {"rendered": 0.05} and made.gate.min_foreground_dice == 0.7
    assert (made.image.max_pixels, made.image.value_range) == (1_000_000, (0, 4095))
    assert (made.serving.symmetries, made.serving.test_images) == (8, 3)
    assert made.train.epochs != 3 and made.image.width == 128
    assert (made.train.seed, made.train.clipvalue) == (5, None)
    # Of a smaller batch one image would be twice that share.
    assert made.train.batch_size == 14 and "dataset.sources" in plan.reasons["train.batch_size"]
    assert "gate.min_foreground_dice" not in plan.reasons


def test_a_preset_can_be_what_is_kept_also_where_images_cannot_be_turned() -> None:
    plan = made_by(planner(size=(200, 400), base=load_config(PRESET)))
    assert config_from(plan.whole(), "the plan").serving.symmetries == 4


def test_a_memory_that_is_too_small_for_any_model_is_said_and_bounds_the_width() -> None:
    values = planned(36_000, rate=lambda config: rate(config) if config.model.base_filters < 16 else 0.0)
    assert values["model"]["base_filters"] == 12
    with pytest.raises(UserError, match=r"too small to train the narrowest model on 96x96 pixels"):
        planned(600, rate=lambda _: 0.0)


def test_strips_are_counted_in_tiles() -> None:
    """Of 256 pixels, with overlaps of 32: one down, and seven along 1,600 pixels."""
    plan = planner(600, size=(256, 1600), images=100)
    plan.image_and_depth(keeps_from(0), aspects_differ=False)
    plan.recipe()
    plan.batch(2**33)
    plan.width_and_epochs(machine(), rate)
    assert plan.reasons["train.epochs"].startswith("700 tiles at ")
    assert plan.values["augment"]["crops"]


def test_what_no_rule_decides_is_the_presets() -> None:
    values, preset = planned(600), load_config(PRESET)
    for section in ("model", "train", "augment"):
        theirs = getattr(preset, section).model_dump(exclude_unset=True)
        assert values[section].keys() >= theirs.keys()
        changed = {key for key, value in theirs.items() if values[section][key] != value}
        assert changed <= {"base_filters", "num_layers", "epochs", "early_stopping_patience", "brighten", "contrast"}
    assert values["serving"] == {"symmetries": preset.serving.symmetries}


def test_a_rare_class_gets_a_weight_and_one_that_test_lacks_is_named() -> None:
    values = planned(600, background=10_000, inclusion=100, patches=2000, scratches=900)
    assert values["train"]["class_weights"] == {"inclusion": 3.0}
    assert values["gate"]["allow_unmeasured"] == ["patches"]
    assert "class_weights" not in planned(600)["train"]


def test_what_has_a_direction_is_mirrored_and_not_turned() -> None:
    plan, light = planner(), Light(brightness=100.0, contrast=0.1, direction=-1.0, directions=0.3)
    plan.image_and_depth(keeps_from(128), aspects_differ=False)
    plan.augmentation(light)
    plan.answers(light)
    assert plan.values["serving"] == {"symmetries": 4}
    assert plan.values["augment"] == {
        "horizontal_flip": True,
        "vertical_flip": True,
        "zoom": 0.3,
        "brighten": 40.0,
        "contrast": 0.05,
    }
    assert "from left to right" in plan.reasons["augment.horizontal_flip"]


def test_what_a_model_that_never_errs_would_reach() -> None:
    class_ids = np.zeros((64, 64), np.uint8)
    class_ids[8:40, 8:40] = 1
    class_ids[50, :] = 2
    pairs = [Pair(np.zeros((64, 64, 3), np.uint8), class_ids)]
    whole, half = (ceiling(pairs, ImageConfig(height=side, width=side), 3) for side in (64, 32))
    np.testing.assert_array_equal(whole, 1)
    # A square on even pixels survives halving, a line of one pixel does not.
    assert half[1] > 0.95 and half[2] < 0.8


def test_the_direction_of_a_texture_is_seen() -> None:
    """Generated steel is rolled from left to right or from top to bottom, either with half the chance."""
    rolled = [Pair(*generate_surface(1, index, 64)) for index in range(1, 31)]
    assert light_of(rolled).directions > abs(light_of(rolled).direction)
    lines = np.repeat(np.random.default_rng(0).integers(0, 255, (64, 1, 1)), 64, 1).repeat(3, 2).astype(np.uint8)
    assert light_of([Pair(lines, lines[..., 0])]).direction < -1


def test_a_plan_of_real_records_is_a_config_that_loads(
    tmp_path: Path, make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config()
    write_surfaces(tmp_path / "source", 24, 64, COLORS, seed=1)
    ingest(tmp_path / "source", tmp_path / "records", config)
    done = flexunet(tmp_path, "plan", "records", "--out", "mine.toml", "--seconds", "60", "--json")
    assert done.exit_code == 0, done.output
    made = load_config(tmp_path / "mine.toml")
    assert made.classes == config.classes and made.image.width <= 64 and made.train.max_seconds == 60
    assert tomllib.loads((tmp_path / "mine.toml").read_text()).keys() <= json.loads(done.stdout)["values"].keys()
    lines = (tmp_path / "mine.toml").read_text().splitlines()
    assert all(
        "  # " in line or " # " in line for line in lines if line.startswith(("height", "epochs", "base_filters"))
    )
    refused = flexunet(tmp_path, "plan", "records", "--out", "mine.toml")
    assert refused.exit_code == 1 and "is there already" in refused.stderr
    # Of large images few are looked at, and of the rest those that show what these do not.
    monkeypatch.setattr(survey, "_MOST_PIXELS", 1)
    (first, few), (enough, every) = (
        survey.read_pairs(tmp_path / "records", config, wanted) for wanted in ((), (1, 2, 3))
    )
    assert len(first) == 1 and len(enough) <= 4
    assert few < every == {0, 1, 2, 3}
    for pairs, seen in ((first, few), (enough, every)):
        assert seen == {int(class_id) for pair in pairs for class_id in np.unique(pair.class_ids)}
