"""Which split each group of images goes to: whole groups, stratified by the classes that they show."""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


def assign_splits(
    groups: Sequence[int] | NDArray[np.integer],
    keys: Sequence[str],
    strata: Sequence[Collection[int]],
    fractions: Mapping[str, float],
    seed: int,
    settled: Mapping[str, int] | None = None,
) -> list[str]:
    """Puts whole groups into splits, near the wanted fractions of images overall and for each set of classes.

    The order within a stratum is that of SHA-256(seed, key), a group's key being the smallest of its images', so the
    answer depends neither on the order of the images nor on Python's hash. What a stratum lacks is owed to
    the next, so that a hundred strata of one group each still come out near the fractions.

    Args:
        groups: N labels, as from `near_duplicate_groups`.
        keys: N strings that stay with an image, such as its stem or the SHA-256 of its file.
        strata: N collections of the defect classes present in the image; a group's stratum is their union.
        fractions: share of the images per split, for instance {"train": 0.8, "eval": 0.1, "test": 0.1}.
        seed: another seed, another assignment.
        settled: images that each split has already; the fractions are of all together.

    Returns:
        The split of each image. No split of positive fraction is empty if there are as many groups as such splits.
    """
    _check_assignment(groups, keys, strata, fractions)
    bundles = _bundles(groups, keys, strata, seed)
    chosen = _filled(bundles, fractions, settled or {})
    if not settled:
        _fill_empty_splits(bundles, chosen, fractions)
    splits = [""] * len(groups)
    for bundle in bundles:
        for member in bundle.members:
            splits[member] = chosen[bundle.rank]
    return splits


class _Bundle(NamedTuple):
    """A group on its way into a split."""

    stratum: tuple[int, ...]
    rank: str
    members: list[int]


def _bundles(
    groups: Sequence[int] | NDArray[np.integer], keys: Sequence[str], strata: Sequence[Collection[int]], seed: int
) -> list[_Bundle]:
    """One bundle per group, sorted by stratum, then by SHA-256 of seed and key."""
    members: defaultdict[int, list[int]] = defaultdict(list)
    for position, label in enumerate(groups):
        members[int(label)].append(position)
    bundles = []
    for group in members.values():
        stratum = tuple(sorted({int(value) for position in group for value in strata[position]}))
        key = min(keys[position] for position in group)
        bundles.append(_Bundle(stratum, hashlib.sha256(f"{seed}:{key}".encode()).hexdigest(), group))
    return sorted(bundles, key=lambda bundle: bundle[:2])


def _filled(bundles: list[_Bundle], fractions: Mapping[str, float], settled: Mapping[str, int]) -> dict[str, str]:
    """The split of each bundle, by rank: always the one that lacks most images of those handed out so far."""
    total = sum(len(bundle.members) for bundle in bundles)
    # A group larger than the smallest split goes first, while there is a split with room for it.
    limit = total * min(share for share in fractions.values() if share > 0)
    oversized = sorted((b for b in bundles if len(b.members) > limit), key=lambda b: (-len(b.members), b.rank))
    ordinary = [bundle for bundle in bundles if len(bundle.members) <= limit]
    chosen: dict[str, str] = {}
    whole = total + sum(settled.values())
    lacking = {name: share * whole - settled.get(name, 0) for name, share in fractions.items() if share > 0}
    _hand_out(oversized, lacking, chosen)
    _shift(lacking, fractions, -sum(len(bundle.members) for bundle in ordinary))
    for _, stratum in groupby(ordinary, key=lambda bundle: bundle.stratum):
        part = list(stratum)
        _shift(lacking, fractions, sum(len(bundle.members) for bundle in part))
        _hand_out(part, lacking, chosen)
    return chosen


def _shift(lacking: dict[str, float], fractions: Mapping[str, float], images: int) -> None:
    for name in lacking:
        lacking[name] += fractions[name] * images


def _hand_out(bundles: list[_Bundle], lacking: dict[str, float], chosen: dict[str, str]) -> None:
    for bundle in bundles:
        # Rounded, since sums of 0.1 differ in the last bit and must not decide a tie; then by the order of the names.
        name = max(sorted(lacking), key=lambda split: round(lacking[split], 6))
        chosen[bundle.rank] = name
        lacking[name] -= len(bundle.members)


def _fill_empty_splits(bundles: list[_Bundle], chosen: dict[str, str], fractions: Mapping[str, float]) -> None:
    """Moves the smallest group of the split that has most groups into each split that has none."""
    for empty in sorted(name for name, share in fractions.items() if share > 0):
        owned: defaultdict[str, list[_Bundle]] = defaultdict(list)
        for bundle in bundles:
            owned[chosen[bundle.rank]].append(bundle)
        donor = max(sorted(owned), key=lambda name: len(owned[name]), default=None)
        if empty not in owned and donor is not None and len(owned[donor]) > 1:
            moved = min(owned[donor], key=lambda bundle: (len(bundle.members), bundle.rank))
            chosen[moved.rank] = empty


def _check_assignment(
    groups: Sequence[int] | NDArray[np.integer],
    keys: Sequence[str],
    strata: Sequence[Collection[int]],
    fractions: Mapping[str, float],
) -> None:
    if not len(groups) == len(keys) == len(strata):
        raise ValueError(
            f"got {len(groups)} groups, {len(keys)} keys and {len(strata)} strata, expected one of each per image"
        )
    if min(fractions.values(), default=-1) < 0 or abs(sum(fractions.values()) - 1) > 1e-6:
        raise ValueError(f"fractions: got {dict(fractions)}, expected shares of at least 0 that sum to 1")
    owner: dict[str, int] = {}
    for label, key in zip(groups, keys, strict=True):
        if owner.setdefault(key, int(label)) != int(label):
            raise ValueError(f"keys: {key!r} stands in two groups, expected keys that tell images apart; use the path")
