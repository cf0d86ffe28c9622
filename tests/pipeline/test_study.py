"""`flexunet study`: folds by group, one pooled score, and the folds' models as one."""

import io
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from command_line import flexunet
from examples import record, write_examples
from html_page import Page
from label_errors import SPOILS
from PIL import Image
from rich.console import Console
from rich.table import Table
from sklearn.metrics import roc_auc_score
from steel import CLASSES, COLORS

from benchmarks import plans
from benchmarks import recipes as compared
from components.bootstrap import group_key, group_weights
from components.measurement import ImageResult, Sums, Totals
from flexunet.core import scores
from flexunet.core.config.data import TransformConfig
from flexunet.core.config.gate import GateSettings
from flexunet.core.config.operating import OperatingPointConfig
from flexunet.core.config.section import part_of
from flexunet.core.config.train import TrainerConfig
from flexunet.core.config.whole import Config
from flexunet.core.config.write import to_toml
from flexunet.core.errors import NodeFailed, UserError
from flexunet.core.results.study import RecipeScores
from flexunet.dataset.examine import read_class_ids
from flexunet.dataset.ingest import ingest
from flexunet.dataset.layouts.detect import find_layout
from flexunet.dataset.manifest import versions
from pipeline.cli.study import _print_cautions
from pipeline.study import crossvalidation, training
from pipeline.study import folds as folds_module
from pipeline.study.folds import Folds, FoldSize, make_folds
from pipeline.study.records import records_of
from pipeline.study.runner import Training, run_missing
from trainer_module.ensemble import ensemble_model
from trainer_module.model import build_model

SETTINGS = {
    "dataset": {"train": 0.6, "eval": 0.2, "test": 0.2},
    "image": {"height": 32, "width": 32},
    "model": {"num_layers": 2, "base_filters": 8, "base_kernel": 3, "dropout": 0.0, "normalization": "batch"},
    "train": {"epochs": 6, "batch_size": 4, "learning_rate": 0.01, "schedule": "constant", "preview_images": 0},
    "gate": {"min_foreground_dice": 0.3},
}
WRONG = dict(zip(("004", "008", "014", "030", "002"), (*SPOILS, *SPOILS), strict=False))


@pytest.fixture(scope="module")
def config(make_config: Any) -> Config:
    return make_config(**SETTINGS)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, write_colorful_pairs: Any, config: Config) -> Path:
    """Records of 40 images; every second is the mirrored one before it, and so of its group. WRONG masks are spoilt."""
    folder = tmp_path_factory.mktemp("study")
    write_colorful_pairs(folder / "source", 40)
    for kind in ("images", "masks"):
        for index in range(0, 40, 2):
            path = folder / "source" / kind / f"{index:03d}.png"
            pixels = tf.io.decode_png(path.read_bytes())
            target = folder / "source" / kind / f"{index + 1:03d}.png"
            target.write_bytes(tf.io.encode_png(tf.reverse(pixels, [1])).numpy())
    generator, palette = np.random.default_rng(0), np.array(COLORS, np.uint8)
    for name, spoil in WRONG.items():
        path = folder / "source" / "masks" / f"{name}.png"
        class_ids = (np.asarray(Image.open(path))[:, :, np.newaxis] == palette).all(axis=-1).argmax(axis=-1)
        Image.fromarray(palette[spoil(class_ids.astype(np.uint8), generator)]).save(path)
    ingest(folder / "source", folder / "records", config)
    return folder / "records"


def ids_and_groups(files: list[Path]) -> list[tuple[str, str]]:
    rows = [tf.train.Example.FromString(record).features.feature for record in records_of(files)]
    return [tuple(row[key].bytes_list.value[0].decode() for key in ("image/id", "image/group")) for row in rows]


def split_files(data: Path, *splits: str) -> list[Path]:
    [version] = versions(data).values()
    return [path for split in splits for path in sorted((version / split).glob("*.gz"))]


def test_each_group_is_held_out_once_and_test_never(data: Path, config: Config, tmp_path: Path) -> None:
    folds = make_folds(data, config, 3, tmp_path)
    held_out = [ids_and_groups(folds.records(fold)) for fold in range(3)]
    assert sorted(row for fold in held_out for row in fold) == sorted(
        ids_and_groups(split_files(data, "train", "eval"))
    )
    assert set(Counter(group for fold in held_out for group in {g for _, g in fold}).values()) == {1}
    assert [(size.images, size.groups) for size in folds.sizes] == [
        (len(fold), len({group for _, group in fold})) for fold in held_out
    ]
    assert max(len(fold) for fold in held_out) <= 14
    # The same again is found, and nothing is written.
    before = {path: path.stat().st_mtime_ns for path in folds.directory.iterdir()}
    assert make_folds(data, config, 3, tmp_path) == folds
    assert before == {path: path.stat().st_mtime_ns for path in folds.directory.iterdir()}


def test_what_steers_is_neither_learnt_nor_held_out(data: Path, config: Config, tmp_path: Path) -> None:
    folds = make_folds(data, config, 3, tmp_path)
    train, steering = folds.tiles(part_of(config, TransformConfig), held_out=1)
    assert len(train) == len(steering) == 2 and not set(train) & set(steering)

    def of(tiles: list[Path]) -> set[str]:
        return {group for _, group in ids_and_groups([folds.directory / path.name for path in tiles])}

    held_out = {group for _, group in ids_and_groups(folds.records(1))}
    assert of(train) and of(steering)
    assert not of(train) & of(steering) and not (of(train) | of(steering)) & held_out
    # As Transform writes them: a tile of each record, in its order.
    [example] = [tf.train.Example.FromString(next(records_of(train)))]
    pixels = tf.io.parse_tensor(example.features.feature["image"].bytes_list.value[0], tf.uint8)
    [record] = [tf.train.Example.FromString(next(records_of([folds.directory / train[0].name])))]
    encoded = record.features.feature["image/encoded"].bytes_list.value[0]
    np.testing.assert_array_equal(pixels[0], tf.io.decode_png(encoded))


def test_images_of_a_source_train_in_every_fold_and_are_never_held_out(
    data: Path, config: Config, tmp_path: Path
) -> None:
    """Of two groups one image is renamed as if it were from a source: the other one goes with it."""
    files, [version] = split_files(data, "train", "eval"), versions(data).values()
    chosen = {group: image_id for image_id, group in ids_and_groups(files)[:6]}
    renamed = dict([*chosen.items()][:2])
    for file in files:
        examples = [tf.train.Example.FromString(record) for record in records_of([file])]
        for values in (example.features.feature["image/id"].bytes_list.value for example in examples):
            values[0] = b"rendered/" * (values[0].decode() in renamed.values()) + values[0]
        target = tmp_path / "records" / "span-1" / "version-1" / file.relative_to(version)
        write_examples(target, [example.SerializeToString() for example in examples])
    sourced = config.model_copy(update={"dataset": config.dataset.model_copy(update={"sources": {"rendered": 0.25}})})
    folds = make_folds(tmp_path / "records", sourced, 3, tmp_path)
    halved = sourced.model_copy(update={"dataset": config.dataset.model_copy(update={"sources": {"rendered": 0.5}})})
    assert make_folds(tmp_path / "records", halved, 3, tmp_path) == folds
    held_out = [ids_and_groups(folds.records(fold)) for fold in range(3)]
    assert not {group for fold in held_out for _, group in fold} & {*renamed}
    assert sum(size.groups for size in folds.sizes) == len({group for fold in held_out for _, group in fold}) == 14
    for fold in range(3):
        train, _ = folds.tiles(part_of(sourced, TransformConfig), fold)
        rows = [tf.train.Example.FromString(record).features.feature for record in records_of(train)]
        sources = Counter(row["source"].bytes_list.value[0] for row in rows)
        assert sources[b"rendered"] == 2 and len(rows) == sources[b""] + 2


class Empty(Folds):
    """Folds without a record."""

    def tiles(self, config: TransformConfig, held_out: int) -> tuple[list[Path], list[Path]]:
        return [], []


def test_other_content_of_an_encoders_file_is_another_training(
    make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trainings run in another folder than the command: what they are given is the whole path. None is run here."""
    monkeypatch.chdir(tmp_path)
    train = {**SETTINGS["train"], "encoder_weights": "weights.h5"}
    begun = make_config(
        **{**SETTINGS, "model": {"encoder": "efficientnetv2-b0", "num_layers": 5, "base_kernel": 3}, "train": train}
    )
    folds, asked, specs = Empty(tmp_path / "folds", (FoldSize(images=0, groups=0),) * 3), [], []

    def note(trainings: Any, cores: Any) -> None:
        asked.append({one.directory: one.spec.config.train.encoder_weights for one in trainings})
        specs.append(trainings[0].spec.model_copy(update={"cores": [*os.sched_getaffinity(0)]}))
        raise KeyboardInterrupt

    monkeypatch.setattr(crossvalidation, "run_missing", note)
    for content in (b"some", b"some", b"other"):
        (tmp_path / "weights.h5").write_bytes(content)
        with pytest.raises(KeyboardInterrupt):
            crossvalidation.crossvalidate([crossvalidation.Arm("mine", begun)], folds, tmp_path / "out")
    first, again, other = asked
    assert first == again and len(first) == 3 and not first.keys() & other.keys()
    assert {*first.values(), *other.values()} == {str(tmp_path / "weights.h5")}
    # A fold whose turn comes after the file was replaced.
    (tmp_path / "spec.json").write_text(specs[0].model_dump_json())
    with pytest.raises(UserError, match=r"weights\.h5 is not what it was"):
        training.main(tmp_path / "spec.json")


def test_recipes_are_compared_on_the_same_records_however_ingest_read_their_masks(
    make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a plan that was given no config knows nothing of."""

    def begin(trainings: Any, cores: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(crossvalidation, "run_missing", begin)
    folds = Empty(tmp_path / "folds", (FoldSize(images=0, groups=0),) * 2)
    first = crossvalidation.Arm("first", make_config(**SETTINGS, records={"mask_colors": "nearest"}))
    with pytest.raises(KeyboardInterrupt):
        crossvalidation.crossvalidate([first, crossvalidation.Arm("plan", make_config(**SETTINGS))], folds, tmp_path)
    ignoring = make_config(**SETTINGS, records={"ignore_color": [9, 9, 9]})
    with pytest.raises(UserError, match="other: its records are not those of first"):
        crossvalidation.crossvalidate([first, crossvalidation.Arm("other", ignoring)], folds, tmp_path)


@pytest.mark.parametrize(
    ("settings", "cores", "same"),
    [({"max_seconds": 60.0}, 1, False), ({"max_seconds": 60.0}, None, True), ({}, 1, True)],
    ids=["seconds on fewer cores", "seconds on all cores, which is what none means", "epochs"],
)
def test_seconds_are_those_of_a_machine(
    settings: dict[str, Any],
    cores: int | None,
    same: bool,
    make_config: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = make_config(**{**SETTINGS, "train": {**SETTINGS["train"], **settings}})
    folds = Empty(tmp_path / "folds", (FoldSize(images=0, groups=0),) * 2)

    def directories(cores: int | None) -> list[Path]:
        asked: list[Path] = []

        def note(trainings: Any, cores: Any) -> None:
            asked.extend(one.directory for one in trainings)
            raise KeyboardInterrupt

        monkeypatch.setattr(crossvalidation, "run_missing", note)
        with pytest.raises(KeyboardInterrupt):
            crossvalidation.crossvalidate([crossvalidation.Arm("mine", config)], folds, tmp_path, cores)
        return asked

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert (directories(cores) == directories(2)) == same


# What stands for a training: it notes whether another is in its folder, reads its file late and is done after a while.
STAND_IN = """#!{python}
import json, pathlib, sys, time
folder = pathlib.Path(sys.argv[-1]).parent
(folder / "busy").touch(exist_ok=False)
time.sleep(0.2)
spec = json.loads(pathlib.Path(sys.argv[-1]).read_text())
(folder / spec["totals"]).write_text(spec["name"])
(folder / "busy").unlink()
"""


def instead_of_python(script: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "python").write_text(script.format(python=sys.executable))
    (folder / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))


def wanted(folder: Path, name: str, totals: str, config: Config) -> Training:
    parts = {"train": [], "steering": [], "measured": [], "code": ""}
    settings, trainer = part_of(config, GateSettings), part_of(config, TrainerConfig)
    spec = training.Spec(name=name, config=trainer, settings=settings, totals=totals, **parts)
    return Training(folder, spec)


def test_trainings_of_one_folder_follow_each_other(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recipes that differ in what changes answers alone share weights."""
    instead_of_python(STAND_IN, tmp_path, monkeypatch)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    rows = (("a", "first", "x"), ("a", "second", "y"), ("a", "same again", "x"), ("b", "third", "x"))
    run_missing([wanted(tmp_path / folder, name, totals, config) for folder, name, totals in rows], cores=1)
    found = {f"{path.parent.name}/{path.name}": path.read_text() for path in tmp_path.glob("?/[xy]")}
    assert found.keys() == {"a/x", "a/y", "b/x"} and found["a/y"] == "second" and found["b/x"] == "third"


def test_of_a_training_that_was_killed_the_signal_is_told_and_not_what_went_well(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the kernel does where memory runs out."""
    script = "#!{python}\nimport os\nprint('epoch 3/40  loss 0.1', flush=True)\nos.kill(os.getpid(), 9)\n"
    instead_of_python(script, tmp_path, monkeypatch)
    with pytest.raises(NodeFailed, match=r"^mine failed: signal 9 \(Killed\) .*; most often memory ran out\nfull log"):
        run_missing([wanted(tmp_path / "a", "mine", "x", config)])
    assert "epoch 3/40" in (tmp_path / "a" / "training.log").read_text()


def test_a_training_ends_with_the_study_however_that_was_killed(tmp_path: Path) -> None:
    """It waits for its file here, which nobody writes, and then for nothing."""
    os.mkfifo(tmp_path / "spec.json")
    command = [sys.executable, "-m", "pipeline.study.training", str(tmp_path / "spec.json")]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        try:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1)
            assert process.stdin
            process.stdin.close()
            assert process.wait(60) == training.LEFT_ALONE
        finally:
            process.kill()


def test_tiles_are_those_of_the_code_that_cuts_them(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    monkeypatch.setattr(folds_module, "_transform", lambda directory, config, target: made.append(target))
    for code in ("old", "old", "new"):
        monkeypatch.setattr(folds_module, "code_fingerprint", lambda modules, code=code: code)
        Folds(tmp_path, FOLDS.sizes).tiles(part_of(config, TransformConfig), 0)
    assert made[0] == made[1] != made[2]


def test_too_few_groups_are_named(data: Path, config: Config, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"16 groups in train and eval, expected at least 18 for 9 folds: lower --folds"
    ):
        make_folds(data, config, 9, tmp_path)


def test_folds_whose_training_no_defect_would_steer_are_refused_before_any_is_trained(
    config: Config, tmp_path: Path
) -> None:
    masks = [np.full((8, 8, 3), COLORS[1 if index == 5 else 0], np.uint8) for index in range(12)]
    examples = [record(mask, mask, str(index), str(index)) for index, mask in enumerate(masks)]
    write_examples(tmp_path / "records" / "span-1" / "version-1" / "train" / "a.tfrecord.gz", examples)
    with pytest.raises(UserError, match=r"[01] of 2 folds have an image with a defect to steer .* raise dataset\.eval"):
        make_folds(tmp_path / "records", config, 2, tmp_path)


def totals_of(counts: np.ndarray, settings: GateSettings, first: int) -> Totals:
    """Of images of one group each: counts `[N, C, C]`."""
    totals = Totals()
    for index, of_image in enumerate(counts, start=first):
        none = np.zeros(len(of_image))
        sums = Sums(
            of_image, of_image, np.zeros(3), np.zeros((15, 3)), none, none, np.zeros(2), none, np.zeros((2, 4, 0))
        )
        totals.add(ImageResult(str(index), group_key(str(index).encode()), sums, {}, 0, {}), settings)
    return totals


FOLDS = Folds(Path(), (FoldSize(images=8, groups=8), FoldSize(images=12, groups=12)))


def validated(name: str, counts: np.ndarray, config: Config, folder: Path) -> crossvalidation.Validated:
    """Of trainings in `folder` with these counts, `[20, C, C]`, eight of them in the first of two folds."""
    (folder / "training.json").write_text('{"parameters": 7000, "epochs": 3, "train_seconds": 1.5}')
    settings = part_of(config, GateSettings)
    parts = [totals_of(counts[:8], settings, 0), totals_of(counts[8:], settings, 8)]
    return crossvalidation.Validated(crossvalidation.Arm(name, config), [folder] * 2, settings, parts)


@pytest.fixture(scope="module")
def counts() -> tuple[np.ndarray, np.ndarray]:
    """Of twenty images by two recipes, the second of which errs more."""
    generator = np.random.default_rng(1)
    ours = generator.integers(1, 100, (20, 4, 4)) + 200.0 * np.eye(4)
    return ours, ours + generator.integers(0, 40, (20, 4, 4))


def test_the_pooled_score_and_the_paired_difference_are_those_of_all_groups(
    config: Config, counts: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    """Against NumPy: counts of all folds added up, and both recipes weighted by the same resamples."""
    ours, theirs = counts
    first = validated("first", theirs, config, tmp_path)
    found = crossvalidation.recipe_scores(validated("ours", ours, config, tmp_path), FOLDS, first)
    assert found["foreground_dice"] == pytest.approx(scores.foreground_dice(ours.sum(0)))
    assert found["folds"][1]["foreground_dice"] == pytest.approx(scores.foreground_dice(ours[8:].sum(0)))
    assert (found["parameters"], found["folds"][0]["epochs"], found["folds"][0]["train_seconds"]) == (7000, 3, 1.5)
    assert found["difference"] == pytest.approx(
        scores.foreground_dice(ours.sum(0)) - scores.foreground_dice(theirs.sum(0))
    )
    weights = np.stack([group_weights(137, group_key(str(i).encode()), 1000) for i in range(20)])
    resampled = [np.einsum("gr,gij->rij", weights, counts) for counts in (ours, theirs)]
    changes = scores.foreground_dice(resampled[0]) - scores.foreground_dice(resampled[1])
    assert found["difference_interval"] is not None
    low, high = found["difference_interval"]
    # The ends are percentiles, a little wider than 95 % for so few groups.
    assert np.quantile(changes, 0.001) <= low <= np.quantile(changes, 0.025)
    assert np.quantile(changes, 0.975) <= high <= np.quantile(changes, 0.999)


def test_what_pooled_numbers_leave_out_is_said(
    config: Config, counts: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    def said(counts: np.ndarray, config: Config) -> str:
        console = Console(width=300, record=True, file=io.StringIO())
        _print_cautions([validated("mine", counts, config, tmp_path)], console)
        return console.export_text()

    ours, _ = counts
    assert said(ours, config) == ""
    lacking = ours.copy()
    lacking[:, 3] = 0
    target = config.model_copy(update={"operating_point": OperatingPointConfig(target="found >= 0.9")})
    first, second = said(lacking, target).splitlines()
    assert first.startswith("warning: train and eval show no pixel of scratches: ")
    assert second.startswith("warning: mine: operating_point.target, 'found >= 0.9', is left out: ")


def test_the_tables_of_plans_and_recipes_say_who_is_better(
    config: Config, counts: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    def printed(table: Table) -> str:
        console = Console(width=200, record=True, file=io.StringIO())
        console.print(table)
        return " ".join(console.export_text().split())

    def recipes(**named: np.ndarray) -> list[RecipeScores]:
        results = [validated(name, of_recipe, config, tmp_path) for name, of_recipe in named.items()]
        return crossvalidation.document(results, FOLDS)["recipes"]

    better, worse = counts
    behind = recipes(plan=worse, preset=better)
    difference = scores.foreground_dice(better.sum(0)) - scores.foreground_dice(worse.sum(0))
    assert difference > plans.BOUND
    text = printed(plans.table("steel", behind))
    assert f"the best preset has {difference:+.3f} to the plan, at most +0.01: missed" in text
    assert f"preset │ {behind[1]['foreground_dice']:.3f} │ {difference:+.3f} │" in text and "3 3 │ 7,000" in text
    assert f"the best preset has {-difference:+.3f} to the plan, at most +0.01: ok" in printed(
        plans.table("steel", recipes(plan=better, preset=worse))
    )
    # With no pixel of a defect, in truth or answer, there is no Dice.
    nothing = np.zeros_like(better)
    nothing[:, 0, 0] = 100
    assert "+inf to the plan, at most +0.01: missed" in printed(
        plans.table("steel", recipes(plan=nothing, preset=better))
    )
    text = printed(compared.table(behind, "4 minutes"))
    assert "foreground Dice over 20 groups, 4 minutes" in text and f"{difference:+.3f} │ +" in text


def written(folder: Path, **configs: dict[str, Any]) -> list[str]:
    """A file for each config; the command over the first."""
    for name, settings in configs.items():
        (folder / f"{name}.toml").write_text(to_toml({"classes": CLASSES, **settings}))
    first = f"{next(iter(configs))}.toml"
    return ["study", "crossvalidate", "--config", first, "--out", "out", "--folds", "2", "--data"]


@pytest.fixture(scope="module")
def studied(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with `mine.toml` and the trainings of its two folds in `out`, and what the command printed."""
    folder = tmp_path_factory.mktemp("studied")
    done = flexunet(folder, *written(folder, mine=SETTINGS), str(data), "--cores", "1", "--json")
    assert done.exit_code == 0, done.output
    return folder, done.stdout


def test_folds_are_trained_pooled_and_not_trained_again(data: Path, studied: tuple[Path, str]) -> None:
    tmp_path, printed = studied
    command = [*written(tmp_path, mine=SETTINGS), str(data)]
    document = json.loads(printed)
    assert document == json.loads((tmp_path / "out" / "crossvalidation.json").read_text())
    [recipe] = document["recipes"]
    assert recipe["name"] == "mine" and recipe["difference"] is None
    assert (document["images"], document["groups"]) == (32, 16)
    assert sum(fold["images"] for fold in recipe["folds"]) == 32
    low, high = recipe["foreground_dice_interval"]
    assert 0.3 < low < recipe["foreground_dice"] < high

    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("fold*-*/*.*")}
    again = flexunet(tmp_path, *command, "--cores", "1")
    assert again.exit_code == 0
    assert "0 of 2 trainings to do" in again.stdout and "95 % interval" in again.stdout
    assert kept == {path: path.stat().st_mtime_ns for path in kept}


def masks_of(folder: Path, config: Config) -> dict[str, list[list[int]]]:
    """Class ids by image, as ingest reads them."""
    pairs = find_layout(folder).pairs
    return {pair.id: read_class_ids(pair, (32, 32), config).tolist() for pair in pairs}


def test_wrong_masks_are_found_shown_and_exported_to_be_corrected(
    data: Path, studied: tuple[Path, str], tmp_path: Path, config: Config
) -> None:
    folder, _ = studied
    command = ["study", "suspects", *written(folder, mine=SETTINGS)[2:], str(data), "--cores", "1", "--count", "5"]
    done = flexunet(folder, *command, "--export", str(tmp_path / "to-correct"), "--json")
    assert done.exit_code == 0, done.output
    assert "0 of 2 trainings to do" in done.stderr
    found = json.loads(done.stdout)
    assert found == json.loads((folder / "out" / "suspects.json").read_text())
    suspects = found["suspects"]
    assert (found["images"], found["unlabelled"], len(suspects)) == (32, 0, 32)
    # The others are in test, which stays out.
    assert len(WRONG.keys() & {row["id"] for row in suspects}) >= 3
    assert roc_auc_score([row["id"] in WRONG for row in suspects], [-row["quality"] for row in suspects]) >= 0.9
    first = [row["id"] for row in suspects[:5]]
    text = (folder / "out" / "suspects.html").read_text(encoding="utf-8")
    page = Page(text)
    assert "Masks to look at again: 5 of 32" in page.text and "<script" not in text
    assert [*re.findall(r"\d\. (\d{3})\n?", page.text)][:5] == first
    assert len(page.all("img")) == 20
    # What a labelling tool loads is the mask that the records have, to the pixel.
    exported, source = (masks_of(path, config) for path in (tmp_path / "to-correct", data.parent / "source"))
    assert exported == {name: source[name] for name in first}


@pytest.mark.slow
def test_an_ensemble_is_the_mean_of_the_folds_gated_and_served(data: Path, studied: tuple[Path, str]) -> None:
    """Nothing of the recipe is trained again, for the comparison, the ensemble and other symmetries."""
    folder, printed = studied
    [mine] = json.loads(printed)["recipes"]
    blind = {**SETTINGS, "train": {**SETTINGS["train"], "epochs": 1, "learning_rate": 1e-9}}
    command = [*written(folder, mine=SETTINGS, blind=blind), str(data)]
    done = flexunet(folder, *command, "--cores", "1", "--against", "blind.toml", "--ensemble", "--json")
    assert done.exit_code == 0, done.output + (folder / "out" / "study.log").read_text()[-2000:]
    document = json.loads(done.stdout)
    assert document["recipes"][0] == mine
    other = document["recipes"][1]
    assert other["name"] == "blind" and other["difference"] < -0.2 and other["difference_interval"][1] < 0
    metrics = document["ensemble"]["metrics"]
    assert (metrics["verdict"], metrics["split"], metrics["examples"]) == ("accepted", "test", 8)
    assert metrics["parameters"] == 2 * mine["parameters"]
    serving = json.loads((folder / "out" / "report" / "serving.json").read_text())
    assert serving["problems"] == [] and serving["blessed"]

    again = flexunet(folder, *command, "--cores", "1", "--set", "serving.symmetries=8", "--json")
    assert again.exit_code == 0
    turned = json.loads(again.stdout)["recipes"][0]
    assert [fold["train_seconds"] for fold in turned["folds"]] == [fold["train_seconds"] for fold in mine["folds"]]
    assert turned["foreground_dice"] != mine["foreground_dice"]


def test_an_ensemble_answers_the_mean_of_its_members(config: Config) -> None:
    trainer = part_of(config, TrainerConfig)
    members = [build_model(trainer), build_model(trainer)]
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.float32)
    answers = [member(pixels).numpy() for member in members]
    ensemble = ensemble_model([member.get_weights() for member in members], trainer)
    assert np.abs(answers[0] - answers[1]).max() > 0.01
    np.testing.assert_allclose(ensemble(pixels), np.mean(answers, axis=0), atol=1e-6)


@pytest.mark.slow
def test_a_training_that_fails_ends_the_study_with_its_reason(data: Path, tmp_path: Path) -> None:
    settings = {
        **SETTINGS,
        "model": {**SETTINGS["model"], "normalization": "none"},
        "train": {**SETTINGS["train"], "learning_rate": 1e30},
    }
    done = flexunet(tmp_path, *written(tmp_path, mine=settings), str(data))
    assert done.exit_code == 3
    assert "mine, fold 1 failed: ValueError: training diverged" in done.stderr and "training.log" in done.stderr
