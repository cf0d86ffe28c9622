"""Which split each near-duplicate group goes to, and whether it may."""

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Literal, NamedTuple

from flexunet.core.config.whole import Config
from flexunet.core.errors import UserError
from flexunet.core.features import SPLIT_EVAL, SPLIT_TRAIN, SPLITS
from flexunet.core.sources import source_of
from flexunet.dataset.assignment import Row
from flexunet.dataset.examine import Facts
from flexunet.dataset.stratify import assign_splits

SplitPolicy = Literal["keep", "regroup"]


class Assigned(NamedTuple):
    """Rows with their splits; the images left out because they link groups that are in different splits already; and
    how many groups have images in more than one split, those of other spans counted.
    """

    rows: list[Row]
    left_out: list[Facts]
    crossing: int


# Group and split of images of other spans: they are not assigned again.
Placed = Sequence[tuple[str, str]]


def assign(
    facts: Sequence[Facts],
    labels: Sequence[int],
    others: Placed,
    config: Config,
    policy: SplitPolicy | None,
    previous: Mapping[str, str],
    source: Path,
) -> Assigned:
    """Assigns whole groups to splits, or measures the source's own.

    Args:
      facts: the checked pairs.
      labels: for each, and then for each of `others`, the index of the first image of its group.
      others: the images of the other spans.
      config: shares and seed.
      policy: what to do with splits that the source has; None keeps them unless they leak.
      previous: split by image id, of the version before.
      source: for messages.

    Raises:
      UserError: the source's own splits leak, or do not cover every image.
    """
    own, elsewhere = labels[: len(facts)], labels[len(facts) :]
    names = {label: group for label, (group, _) in zip(elsewhere, others, strict=True)}
    groups = [names.get(label, facts[label].pair.id) for label in own]
    placed = [(label, split) for label, (_, split) in zip(elsewhere, others, strict=True)]
    if any(f.pair.split for f in facts) and policy != "regroup":
        splits = _own_splits(facts, own, placed, config, policy, source)
        rows = [Row(*row) for row in zip(facts, groups, splits, strict=True)]
        return Assigned(rows, [], _crossing(list(zip(own, splits, strict=True)), placed))
    sourced = _sourced(facts, config)
    settled, left_out = _settled(facts, own, placed, previous, sourced)
    fresh = [i for i in range(len(facts)) if settled[i] is None and i not in left_out]
    shares = {name: getattr(config.dataset, name) for name in SPLITS}
    assigned = _assign_fresh(facts, own, fresh, shares, config, _taken(own, settled, sourced))
    kept = [(i, settled[i] or assigned[i]) for i in range(len(facts)) if i not in left_out]
    rows = [Row(facts[i], groups[i], split) for i, split in kept]
    linking = [facts[i] for i in sorted(left_out)]
    return Assigned(rows, linking, _crossing([(own[i], split) for i, split in kept], placed))


def _taken(labels: Sequence[int], settled: Sequence[str | None], sourced: Set[int]) -> Counter[str]:
    """Images in each split before the fresh ones come; what only trains takes no place of the others."""
    training = {labels[i] for i in sourced}
    return Counter(split for label, split in zip(labels, settled, strict=True) if split and label not in training)


def _crossing(own: Sequence[tuple[int, str]], placed: Sequence[tuple[int, str]]) -> int:
    splits_of: dict[int, set[str]] = {}
    for label, split in own:
        splits_of.setdefault(label, set()).add(split)
    for label, split in placed:
        if label in splits_of:
            splits_of[label].add(split)
    return sum(len(splits) > 1 for splits in splits_of.values())


def _sourced(facts: Sequence[Facts], config: Config) -> set[int]:
    """Which images are from `dataset.sources`."""
    return {i for i, f in enumerate(facts) if source_of(f.pair.id, config.dataset.sources)}


def _settled(
    facts: Sequence[Facts],
    labels: Sequence[int],
    placed: Sequence[tuple[int, str]],
    previous: Mapping[str, str],
    sourced: Set[int],
) -> tuple[list[str | None], set[int]]:
    """The split that each image's group already has, and the new images of groups that have several.

    Groups with an image at `sourced` are settled: in `train`. Such an image of a group that is held out is left out.
    """
    before = [None if i in sourced else previous.get(f.pair.id) for i, f in enumerate(facts)]
    training = {labels[i] for i in sourced}
    splits_of: dict[int, set[str]] = {}
    for label, split in [*zip(labels, before, strict=True), *placed]:
        splits_of.setdefault(label, set()).update([split] if split else [])
    settled: list[str | None] = []
    left_out: set[int] = set()
    for index, (label, split) in enumerate(zip(labels, before, strict=True)):
        of_group = splits_of[label]
        if (split is None and len(of_group) > 1) or (index in sourced and of_group - {SPLIT_TRAIN}):
            left_out.add(index)
        elif label in training and not of_group:
            split = SPLIT_TRAIN
        settled.append(split or (next(iter(of_group)) if len(of_group) == 1 else None))
    return settled, left_out


def _assign_fresh(
    facts: Sequence[Facts],
    labels: Sequence[int],
    indices: Sequence[int],
    shares: Mapping[str, float],
    config: Config,
    settled: Mapping[str, int] | None = None,
) -> dict[int, str]:
    """Splits of the images at `indices`, whole groups at a time, stratified by the defects present."""
    chosen = assign_splits(
        [labels[i] for i in indices],
        [facts[i].pair.id for i in indices],
        [facts[i].defects for i in indices],
        shares,
        config.dataset.seed,
        settled,
    )
    return dict(zip(indices, chosen, strict=True))


def _own_splits(
    facts: Sequence[Facts],
    labels: Sequence[int],
    placed: Sequence[tuple[int, str]],
    config: Config,
    policy: SplitPolicy | None,
    source: Path,
) -> list[str]:
    own = [f.pair.split for f in facts]
    if None in own:
        stray = facts[own.index(None)].pair.image
        raise UserError(f"{stray}: in no split, expected all images below train, valid or test: use --splits regroup")
    if policy is None:
        _refuse_leaks(facts, labels, placed, source)
    splits = [split or "" for split in own]
    sourced = _sourced(facts, config)
    _require_training(facts, splits, sourced)
    if SPLIT_EVAL in splits:
        return splits
    # Sources with only train and test: `eval`, which steers training, is taken from `train`, by group.
    elsewhere = {label for label, _ in placed} | {labels[i] for i in sourced}
    train = [i for i, split in enumerate(splits) if split == SPLIT_TRAIN and labels[i] not in elsewhere]
    total = config.dataset.train + config.dataset.eval
    shares = {SPLIT_TRAIN: config.dataset.train / total, SPLIT_EVAL: config.dataset.eval / total}
    carved = _assign_fresh(facts, labels, train, shares, config)
    return [carved.get(i, split) for i, split in enumerate(splits)]


def _require_training(facts: Sequence[Facts], splits: Sequence[str], sourced: Set[int]) -> None:
    held_out = [i for i in sorted(sourced) if splits[i] != SPLIT_TRAIN]
    if held_out:
        first = held_out[0]
        raise UserError(
            f"{facts[first].pair.image}: is in {splits[first]}, and so are {len(held_out)} images that only train by "
            "dataset.sources; expected none outside train: move them, or use --splits regroup"
        )


def _refuse_leaks(
    facts: Sequence[Facts], labels: Sequence[int], placed: Sequence[tuple[int, str]], source: Path
) -> None:
    """`train` decides the weights and `eval` chooses among them: neither may hold what a later split measures."""
    order = [SPLITS.index(f.pair.split or SPLIT_TRAIN) for f in facts]
    earliest: dict[int, int] = {}
    for label, position in [*zip(labels, order, strict=True), *((at, SPLITS.index(split)) for at, split in placed)]:
        earliest[label] = min(position, earliest.get(label, position))
    leaking = [f for f, label, at in zip(facts, labels, order, strict=True) if at > earliest[label]]
    if leaking:
        held_out = sum(f.pair.split != SPLIT_TRAIN for f in facts)
        raise UserError(
            f"{source}: its splits leak: {len(leaking)} of {held_out} held-out images, such as {leaking[0].pair.id}, "
            "are near-duplicates (rotated, mirrored or re-encoded) of training or eval images; expected none. Use "
            "--splits regroup to split by group, or --splits keep to keep them, which is recorded in dataset.json"
        )
