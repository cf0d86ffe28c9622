"""A search: trials that are our own trainings, a budget in seconds, on after a stop."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest
from keras_tuner import errors

from flexunet.core.config.section import part_of
from flexunet.core.config.train import TrainerConfig
from flexunet.core.config.tune import TunerConfig
from flexunet.core.features import TRAINING_HISTORY
from trainer_module import search
from trainer_module.checkpoint import Checkpoint
from trainer_module.clock import Clock
from trainer_module.search import Search, open_search
from trainer_module.trainer import Job, Trained, train

SPACE = {"train": {"learning_rate": {"low": 1e-9, "high": 0.01, "log": True}}, "model": {"base_filters": [4, 8]}}
Opened = Callable[..., Search]


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory, write_tiles: Any) -> Path:
    folder = tmp_path_factory.mktemp("tiles")
    write_tiles(folder / "train.gz", 16)
    write_tiles(folder / "eval.gz", 4, seed=1)
    return folder


@pytest.fixture
def opened(tiles: Path, tmp_path: Path, make_config: Any) -> Opened:
    def opened(space: dict[str, Any] = SPACE, **tune: Any) -> Search:
        model, train = {"normalization": "batch"}, {"epochs": 3}
        config = make_config(model=model, train=train, tune={"space": space, **tune})
        job = Job([str(tiles / "train.gz")], [str(tiles / "eval.gz")], tmp_path, tmp_path, "code")
        return open_search(job, part_of(config, TunerConfig), tmp_path / "tuning")

    return opened


def test_trials_train_by_themselves_and_a_larger_budget_goes_on(opened: Opened, tmp_path: Path) -> None:
    # Whatever the first takes, a second would not fit.
    first = opened(seconds=1e-3)
    first.search()
    [trial] = first.document()["trials"]
    # The settings as they are come first.
    assert trial["values"] == {"train.learning_rate": 0.01, "model.base_filters": 8}
    assert (trial["epochs"], trial["problem"]) == (3, None) and 0 < trial["foreground_dice"] < 1

    second = opened(seconds=2.5 * trial["seconds"])
    second.search()
    [again, *more] = second.document()["trials"]
    assert again == trial and more
    assert len({json.dumps(row["values"]) for row in (again, *more)}) == 1 + len(more)
    dice = {row["trial"]: row["foreground_dice"] for row in (again, *more)}
    assert second.document()["best"] == max(dice, key=lambda number: dice[number] or 0.0)
    best = second.get_best_hyperparameters()[0].values
    assert best == second.document()["trials"][second.document()["best"] - 1]["values"]

    # Another space is another search; what nobody could go on with is gone, and half a file is no end.
    [folder] = (tmp_path / "tuning").iterdir()
    assert not list(folder.glob("logs/*")) and not list(folder.glob("checkpoints/*"))
    shutil.copytree(folder, tmp_path / "tuning" / "other")
    (folder / "oracle.json").write_text("{")
    assert opened().oracle.trials == {}
    assert [path.name for path in (tmp_path / "tuning").iterdir()] == [folder.name]


def test_a_trial_that_fails_is_told_and_not_taken(opened: Opened) -> None:
    """Each value is good alone; together they drop more than everything."""
    space = {"model": {"dropout": [0.0, 0.6], "num_layers": [2, 3]}}
    tried = opened(space, seconds=1e-3)
    trial = tried.oracle.create_trial("tuner0")
    trial.hyperparameters.values = {"model.dropout": 0.6, "model.num_layers": 3}
    with pytest.raises(errors.FailedTrialError, match=r"model.dropout is 0.6, which makes 1.2"):
        tried.run_trial(trial)


def test_a_search_of_which_nothing_came_to_its_end_says_why(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(*_: object) -> None:
        raise ValueError("training diverged: 3 weights are not finite")

    monkeypatch.setattr(search, "train", diverge)
    with pytest.raises(ValueError, match="came to its end: 1 failed, the last with ValueError: training diverged"):
        opened(seconds=1e-9).search()
    # With time left three more, at each try.
    for failed in (4, 7):
        with pytest.raises(ValueError, match=f"came to its end: {failed} failed, the last with ValueError: training"):
            opened(seconds=3600).search()


def test_a_search_ends_with_its_best_trial_whatever_fails_after_it(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    own = {"train.learning_rate": 0.01, "model.base_filters": 8}

    def diverge_elsewhere(job: Job, config: TrainerConfig) -> Trained:
        if config.train.learning_rate == own["train.learning_rate"]:
            return train(job, config)
        raise ValueError("training diverged: 3 weights are not finite")

    monkeypatch.setattr(search, "train", diverge_elsewhere)
    for trials in (4, 7):
        tried = opened(seconds=3600)
        tried.search()
        document = tried.document()
        assert (len(document["trials"]), document["best"]) == (trials, 1)
        assert tried.get_best_hyperparameters()[0].values == own
        assert f"{trials - 1} of {trials} trials failed, the last with ValueError: training diverged" in caplog.text
    assert "the search ended before its seconds" in caplog.text


def test_a_trial_is_scored_by_the_epoch_that_its_own_monitor_kept(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of two epochs has the better Dice, the second the better loss."""

    def trained(job: Job, config: TrainerConfig) -> Trained:
        job.log_directory.mkdir(parents=True, exist_ok=True)
        rows = "epoch,val_loss,val_foreground_dice\n1,0.5,0.9\n2,0.4,0.6\n"
        (job.log_directory / TRAINING_HISTORY).write_text(rows)
        return Trained(keras.Sequential(), 2, 1.0, Checkpoint(job.checkpoints, config.train.monitor, [], Clock()))

    monkeypatch.setattr(search, "train", trained)
    tried = opened({"train": {"monitor": ["foreground_dice", "loss"]}}, seconds=3600)
    tried.search()
    rows = tried.document()["trials"]
    assert {row["values"]["train.monitor"]: row["foreground_dice"] for row in rows} == {
        "foreground_dice": 0.9,
        "loss": 0.6,
    }


def test_a_trial_that_ends_its_process_at_each_try_is_given_up(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the kernel does with a model that is too large; a person's Ctrl-C counts for nothing."""
    left: list[tuple[Path, bytes]] = []

    def interrupt(job: Job, _: TrainerConfig) -> None:
        [mark] = job.checkpoints.parent.glob("begun-*")
        left.append((mark, mark.read_bytes()))
        raise KeyboardInterrupt

    monkeypatch.setattr(search, "train", interrupt)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            opened(seconds=1e-9).search()
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            opened(seconds=1e-9).search()
        # What a kill in that moment leaves.
        left[-1][0].write_bytes(left[-1][1])
    with pytest.raises(ValueError, match="1 failed, the last with ValueError: its process was killed 2 times"):
        opened(seconds=1e-9).search()
    assert not left[-1][0].exists()


def test_a_process_that_is_asked_to_end_has_not_run_out_of_memory(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on a machine that is preempted; what then ends it, as on Kubeflow, leaves no time for more."""
    left: list[list[Path]] = []

    def end(*_: object) -> None:
        left.append([*tmp_path.rglob("begun-*")])
        raise KeyboardInterrupt

    monkeypatch.setattr(search, "train", lambda *_: signal.raise_signal(signal.SIGTERM))
    before = signal.signal(signal.SIGTERM, end)
    try:
        with pytest.raises(KeyboardInterrupt):
            opened(seconds=1e-9).search()
        assert left == [[]] and signal.getsignal(signal.SIGTERM) is end
    finally:
        signal.signal(signal.SIGTERM, before)


def test_values_that_exclude_each_other_cost_no_training_and_do_not_go_on_for_ever(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_MOST_REFUSED", 5)
    tried = opened({"model": {"dropout": {"low": 0.6, "high": 0.9}, "num_layers": [3, 4]}}, seconds=3600)
    with pytest.raises(ValueError, match=r"5 failed, the last with ValueError: model\.dropout is 0"):
        tried.search()
    rows = tried.document()["trials"]
    assert [(row["epochs"], row["seconds"]) for row in rows] == [(0, 0.0)] * 5
    assert all("expected less than" in (row["problem"] or "") for row in rows)


def test_values_are_of_the_keys_own_kind(make_config: Any) -> None:
    space = {
        "model": {"base_filters": {"low": 4, "high": 64, "log": True}, "dropout": {"low": 0, "high": 0.4}},
        "augment": {"zoom": [0, 0.2], "symmetries": [True, False]},
        "train": {"loss": ["focal", "cross_entropy"], "ema_decay": {"low": 0.5, "high": 0.9}},
    }
    config = part_of(make_config(tune={"space": space}), TunerConfig)
    made = search.make_space(config)
    kinds = {hp.name: type(hp).__name__ for hp in made.space}
    assert kinds == {
        "model.base_filters": "Int",
        "model.dropout": "Float",
        "augment.zoom": "Choice",
        "augment.symmetries": "Choice",
        "train.loss": "Choice",
        "train.ema_decay": "Float",
    }
    for seed in range(20):
        values = {hp.name: hp.random_sample(seed) for hp in made.space}
        tuned = config.tuned(values)
        assert tuned.model.base_filters == values["model.base_filters"] and 4 <= tuned.model.base_filters <= 64
    # `ema_decay` is unset: that is no value among those that are tried.
    assert search.own_values(config) is None
