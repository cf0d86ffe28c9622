"""From a user's folders to records: every check first, then near-duplicate groups, splits, and one rename."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dataset import groups as near_duplicates
from dataset.examine import BadPair, Facts, examine
from dataset.manifest import FORMAT, MANIFEST, newest_version, read_manifest
from dataset.pairs import Layout, Pair, find_pairs
from dataset.problems import DataError, Problem
from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.features import SPLIT_EVAL, SPLIT_TRAIN, SPLITS
from pipeline.lock import locked

SplitPolicy = Literal["keep", "regroup"]
# Called with the number of steps ahead and what they are; gives a function to call after each.
Progress = Callable[[str, int], Callable[[], None]]


@dataclass(frozen=True)
class Ingested:
    """What an ingest found and where it wrote it; `version` is None after a check, `manifest` is of this span."""

    layout: Layout
    version: Path | None
    manifest: dict[str, Any]
    unchanged: bool


@dataclass(frozen=True)
class _Row:
    facts: Facts
    group: str
    split: str


def ingest(
    source: Path,
    out: Path,
    config: Config,
    splits: SplitPolicy | None = None,
    skip_bad: bool = False,
    check_only: bool = False,
    span: int = 1,
    progress: Progress = lambda what, steps: lambda: None,
) -> Ingested:
    """Checks every pair below `source`, deals groups to splits and writes `out/span-N/version-M`.

    Raises:
      DataError: lists every problem found; nothing was written.
    """
    layout = find_pairs(source)
    facts, problems = _examine_all(layout.pairs, config, progress)
    problems = [*layout.problems, *problems]
    if problems and not (skip_bad and facts):
        raise DataError(problems)
    labels = _group(facts, config)
    rows = _deal(facts, labels, config, splits, source)
    _require_usable(rows, config, source)
    summary = _summary(rows, layout, problems, splits, config)
    if check_only:
        return Ingested(layout, None, summary, False)
    with locked(out):
        return _write(out, span, rows, summary, config, layout, progress)


def _examine_all(pairs: Sequence[Pair], config: Config, progress: Progress) -> tuple[list[Facts], list[Problem]]:
    step = progress("checking images and masks", len(pairs))

    def attempt(pair: Pair) -> Facts | Problem:
        try:
            return examine(pair, config)
        except BadPair as bad:
            return bad.problem
        finally:
            step()

    # Pillow and NumPy release the GIL while they decode.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(attempt, pairs))
    return [r for r in results if isinstance(r, Facts)], [r for r in results if isinstance(r, Problem)]


def _group(facts: Sequence[Facts], config: Config) -> list[int]:
    thumbnails = np.stack([f.thumbnail for f in facts]).astype(np.float16)
    sizes = np.array([(f.width, f.height) for f in facts])
    threshold = config.dataset.near_duplicate_correlation
    digests = [f.pixel_digest for f in facts]
    return near_duplicates.near_duplicate_groups(thumbnails, threshold, sizes, digests).tolist()


def _deal(
    facts: Sequence[Facts], labels: Sequence[int], config: Config, policy: SplitPolicy | None, source: Path
) -> list[_Row]:
    own = [f.pair.split for f in facts]
    has_own = any(own)
    if has_own and policy != "regroup":
        if None in own:
            stray = next(f.pair.image for f in facts if f.pair.split is None)
            raise UserError(
                f"{stray}: in no split, expected all images below train, valid or test: use --splits regroup"
            )
        if policy is None:
            _refuse_leaks(facts, labels, source)
        dealt = [split or "" for split in own]
    else:
        shares = {name: getattr(config.dataset, name) for name in SPLITS}
        ids = [f.pair.id for f in facts]
        dealt = near_duplicates.assign_splits(labels, ids, [f.defects for f in facts], shares, config.dataset.seed)
    if has_own and policy != "regroup" and SPLIT_EVAL not in dealt:
        dealt = _carve_eval(facts, labels, dealt, config)
    return [_Row(f, facts[label].pair.id, split) for f, label, split in zip(facts, labels, dealt, strict=True)]


def _refuse_leaks(facts: Sequence[Facts], labels: Sequence[int], source: Path) -> None:
    """`train` decides the weights and `eval` chooses among them: neither may hold what a later split measures."""
    earliest: dict[int, int] = {}
    order = [SPLITS.index(f.pair.split or SPLIT_TRAIN) for f in facts]
    for label, position in zip(labels, order, strict=True):
        earliest[label] = min(position, earliest.get(label, position))
    leaking = [f for f, label, at in zip(facts, labels, order, strict=True) if at > earliest[label]]
    if leaking:
        held_out = sum(f.pair.split != SPLIT_TRAIN for f in facts)
        raise UserError(
            f"{source}: its splits leak: {len(leaking)} of {held_out} held-out images, such as {leaking[0].pair.id}, "
            "are near-duplicates (rotated, mirrored or re-encoded) of training or eval images; expected none. Use "
            "--splits regroup to split by group, or --splits keep to keep them, which is recorded in dataset.json"
        )


def _carve_eval(facts: Sequence[Facts], labels: Sequence[int], dealt: list[str], config: Config) -> list[str]:
    """Sources with only train and test: `eval`, which steers training, is taken from `train`, by group."""
    train = [i for i, split in enumerate(dealt) if split == SPLIT_TRAIN]
    total = config.dataset.train + config.dataset.eval
    shares = {SPLIT_TRAIN: config.dataset.train / total, SPLIT_EVAL: config.dataset.eval / total}
    chosen = near_duplicates.assign_splits(
        [labels[i] for i in train],
        [facts[i].pair.id for i in train],
        [facts[i].defects for i in train],
        shares,
        config.dataset.seed,
    )
    carved = list(dealt)
    for index, split in zip(train, chosen, strict=True):
        carved[index] = split
    return carved


def _require_usable(rows: Sequence[_Row], config: Config, source: Path) -> None:
    problems = []
    for split in SPLITS:
        members = [row for row in rows if row.split == split]
        if not members:
            problems.append(Problem(source, f"no image falls into {split}", "at least one in each split", "add images"))
            continue
        seen = _pixels(members, config)
        missing = [c.name for class_id, c in enumerate(config.classes) if seen[class_id] == 0]
        if missing and split == SPLIT_TRAIN:
            what = f"no training image shows {', '.join(missing)}"
            problems.append(Problem(source, what, "every class in train", "add images or remove it from [[classes]]"))
        elif not seen[1:].any():
            what = f"no image of {split} shows a defect"
            problems.append(Problem(source, what, "some in each split", "add images, or change [dataset] or --splits"))
    if problems:
        raise DataError(problems)


def _summary(
    rows: Sequence[_Row], layout: Layout, problems: Sequence[Problem], policy: SplitPolicy | None, config: Config
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "classes": [c.model_dump(mode="json") for c in config.classes],
        "ignore_color": list(config.records.ignore_color) if config.records.ignore_color else None,
        "layout": layout.description,
        "splits_policy": policy or ("keep" if layout.has_splits else "regroup"),
        "median_size": [int(np.median([getattr(r.facts, side) for r in rows])) for side in ("height", "width")],
        "images": len(rows),
        "groups": len({row.group for row in rows}),
        "splits": {split: _split_summary([r for r in rows if r.split == split], config) for split in SPLITS},
        "leaking_groups": _leaking_groups(rows),
        "skipped": [str(problem) for problem in problems],
    }


def _split_summary(rows: Sequence[_Row], config: Config) -> dict[str, Any]:
    pixels = _pixels(rows, config)
    names = [c.name for c in config.classes]
    return {
        "images": len(rows),
        "groups": len({row.group for row in rows}),
        "images_with": {name: sum(bool(r.facts.pixels[i]) for r in rows) for i, name in enumerate(names)},
        "pixels": {name: int(pixels[i]) for i, name in enumerate(names)},
    }


def _pixels(rows: Sequence[_Row], config: Config) -> NDArray[np.int64]:
    """Pixels of each class, int64 `[C]`."""
    return sum((row.facts.pixels for row in rows), np.zeros(len(config.classes), np.int64))


def _leaking_groups(rows: Sequence[_Row]) -> int:
    splits_of: dict[str, set[str]] = {}
    for row in rows:
        splits_of.setdefault(row.group, set()).add(row.split)
    return sum(len(splits) > 1 for splits in splits_of.values())


def _write(
    out: Path,
    span: int,
    rows: Sequence[_Row],
    summary: dict[str, Any],
    config: Config,
    layout: Layout,
    progress: Progress,
) -> Ingested:
    directory = out / f"span-{span}"
    previous = _previous_manifest(out)
    fingerprint = _fingerprint(rows, config)
    spans = {entry["span"]: entry for entry in previous.get("spans", [])}
    newest = newest_version(directory)
    entry = spans.get(span, {})
    if newest and entry.get("version") == newest and entry.get("fingerprint") == fingerprint:
        return Ingested(layout, directory / f"version-{newest}", entry, True)
    # Checks must not wait for TensorFlow.
    from dataset.records import write_version

    version = directory / f"version-{newest + 1}"
    directory.mkdir(parents=True, exist_ok=True)
    step = progress("writing records", len(rows))
    write_version(version, [(row.facts, row.group, row.split) for row in rows], config, step)
    entry = spans[span] = {"span": span, "version": newest + 1, "fingerprint": fingerprint, **summary}
    manifest = {**spans[max(spans)], "spans": [spans[number] for number in sorted(spans)]}
    _replace(out / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    return Ingested(layout, version, entry, False)


def _previous_manifest(out: Path) -> dict[str, Any]:
    return read_manifest(out) if (out / MANIFEST).is_file() else {}


def _fingerprint(rows: Sequence[_Row], config: Config) -> str:
    """Of everything that decides the records' bytes."""
    digest = hashlib.sha256(config.records.model_dump_json().encode() + str(config.dataset.seed).encode())
    digest.update(json.dumps([c.model_dump() for c in config.classes]).encode())
    for row in sorted(rows, key=lambda row: row.facts.pair.id):
        digest.update("\0".join([row.facts.pair.id, row.facts.digest, row.group, row.split]).encode())
    return digest.hexdigest()


def _replace(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.incomplete")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
