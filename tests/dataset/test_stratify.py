"""Whole groups to splits: shares, strata, seeds."""

from collections import Counter

import numpy as np
import pytest

from flexunet.dataset.stratify import assign_splits

FRACTIONS = {"train": 0.8, "eval": 0.1, "test": 0.1}


def surfaces(groups: int, seed: int = 0) -> tuple[list[int], list[str], list[tuple[int, ...]]]:
    """Labels, keys and classes of groups of 1 to 4 images, with strata of unequal size."""
    generator = np.random.default_rng(seed)
    labels, strata = [], []
    for _ in range(groups):
        start, classes = len(labels), generator.choice([0, 1, 2, 3, 12], p=[0.1, 0.4, 0.3, 0.15, 0.05])
        for _ in range(int(generator.integers(1, 5))):
            labels.append(start)
            strata.append({0: (), 12: (1, 2)}.get(int(classes), (int(classes),)))
    return labels, [f"image-{position:05d}" for position in range(len(labels))], strata


def test_splits_keep_groups_whole_and_fractions_near():
    labels, keys, strata = surfaces(600)
    splits = assign_splits(labels, keys, strata, FRACTIONS, seed=137)
    assert len(set(zip(labels, splits, strict=True))) == 600
    for name, share in FRACTIONS.items():
        assert splits.count(name) / len(splits) == pytest.approx(share, abs=0.005)
        for stratum in set(strata):
            inside = [split for split, other in zip(splits, strata, strict=True) if other == stratum]
            assert inside.count(name) == pytest.approx(share * len(inside), abs=8)


def test_splits_depend_on_seed_and_not_on_order():
    labels, keys, strata = surfaces(120)
    splits = assign_splits(labels, keys, strata, FRACTIONS, seed=1)
    assert splits == assign_splits(labels, keys, strata, dict(reversed(FRACTIONS.items())), seed=1)
    assert splits != assign_splits(labels, keys, strata, FRACTIONS, seed=2)
    order = np.random.default_rng(0).permutation(len(labels)).tolist()
    shuffled = assign_splits(
        [1000 - labels[i] for i in order], [keys[i] for i in order], [strata[i] for i in order], FRACTIONS, seed=1
    )
    assert shuffled == [splits[i] for i in order]


def test_strata_of_one_group_each_still_add_up():
    labels = np.repeat(np.arange(100), 4)
    strata = [frozenset({int(label)}) for label in labels]
    counts = Counter(assign_splits(labels, [f"{i:04d}" for i in range(400)], strata, FRACTIONS, seed=0))
    assert counts == {"train": 320, "eval": 40, "test": 40}


def test_a_group_larger_than_a_split_goes_where_there_is_room():
    labels = [0] * 60 + list(range(60, 160))
    splits = assign_splits(labels, [f"{i:04d}" for i in range(160)], [(1,)] * 160, FRACTIONS, seed=0)
    assert Counter(splits) == {"train": 128, "eval": 16, "test": 16} and splits[0] == "train"


@pytest.mark.parametrize("sizes", [(1, 1, 1), (50, 1, 1), (5, 4, 3, 2)])
def test_no_split_is_empty_with_three_groups(sizes: tuple[int, ...]):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    splits = assign_splits(labels, [str(i) for i in range(len(labels))], [(1,)] * len(labels), FRACTIONS, seed=3)
    assert set(splits) == set(FRACTIONS) and len(set(zip(labels.tolist(), splits, strict=True))) == len(sizes)


def test_a_split_of_no_share_gets_nothing_and_few_groups_are_no_error():
    shares = {"train": 0.5, "eval": 0.5, "test": 0.0}
    assert set(assign_splits(range(40), [str(i) for i in range(40)], [()] * 40, shares, seed=0)) == {"train", "eval"}
    assert assign_splits([0], ["a"], [(1,)], FRACTIONS, seed=0) == ["train"]
    assert assign_splits([], [], [], FRACTIONS, seed=0) == []


@pytest.mark.parametrize(
    ("keys", "fractions", "words"),
    [
        (["a", "b"], {"train": 0.8, "test": 0.1}, "sum to 1"),
        (["a", "b"], {"train": 1.1, "test": -0.1}, "at least 0"),
        (["a", "a"], FRACTIONS, "'a' stands in two groups"),
        (["a"], FRACTIONS, "got 2 groups, 1 keys"),
    ],
)
def test_wrong_splits_are_refused(keys: list[str], fractions: dict[str, float], words: str):
    with pytest.raises(ValueError, match=words):
        assign_splits([0, 1], keys, [(1,), (2,)], fractions, seed=0)
