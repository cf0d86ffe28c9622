"""From a user's folders to records: every check first, then near-duplicate groups, splits, and one rename."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, Literal

import numpy as np

from flexunet.core.config.whole import Config
from flexunet.core.disk import require_writable
from flexunet.core.errors import UserError
from flexunet.core.features import BACKGROUND_ID, SPLIT_TRAIN, SPLITS
from flexunet.core.files import read_json
from flexunet.core.lock import locked
from flexunet.core.problems import LISTED, DataError, Problem, kinds_of, tally
from flexunet.core.results.dataset import QUEUE_FILE, Manifest, QueueOrigin, SpanEntry, Summary
from flexunet.core.sources import source_of
from flexunet.dataset import groups as near_duplicates
from flexunet.dataset.assignment import Assignment, Row, read_assignment
from flexunet.dataset.commit import committed, newest_manifest, settle
from flexunet.dataset.contents import contents, pixels_of
from flexunet.dataset.drift import drift, drift_words
from flexunet.dataset.duplicates import duplicate_summary
from flexunet.dataset.examine import Facts, examine_each
from flexunet.dataset.layouts.class_lists import contradictions
from flexunet.dataset.layouts.detect import find_layout
from flexunet.dataset.layouts.interface import Layout
from flexunet.dataset.manifest import newest_version, version_path, versions
from flexunet.dataset.metadata import read_metadata
from flexunet.dataset.outlook import lost, unmeasured, with_all_losses
from flexunet.dataset.pairs import Pair
from flexunet.dataset.parallel import Workers, chunks_of
from flexunet.dataset.splits import Assigned, SplitPolicy, assign
from flexunet.reporting.data import render_picture

# Called with the number of steps ahead and what they are; gives a function to call after each.
Progress = Callable[[str, int], Callable[[], None]]


_LINKS: Final = "links near-duplicate groups that are in different splits already"
_HELD_OUT: Final = "only trains, and is a near-duplicate of an image that is held out already"


class AlreadyIngested(UserError):
    """All images of what should become the next span are in the newest one, whose number is `span`."""

    def __init__(self, words: str, span: int) -> None:
        super().__init__(words)
        self.span = span


@dataclass(frozen=True)
class Ingested:
    """What an ingest found and where it wrote it; `version` is None after a check, `manifest` is of this span."""

    layout: Layout
    version: Path | None
    manifest: Summary
    unchanged: bool


def ingest(
    source: Path,
    out: Path,
    config: Config,
    splits: SplitPolicy | None = None,
    skip_bad: bool = False,
    check_only: bool = False,
    span: int | Literal["next"] = 1,
    metadata: Path | None = None,
    layout_name: str | None = None,
    no_mask_is_background: bool = False,
    accept_losses: bool = False,
    progress: Progress = lambda what, steps: lambda: None,
) -> Ingested:
    """Checks every pair below `source`, assigns groups to splits and writes `out/span-N/version-M`.

    Of many images other processes do a part, which import a script that calls this: `if __name__ == "__main__":`.

    Args:
      source: the user's folder.
      out: the folder of the records.
      config: classes, records, image and dataset are read.
      splits: what becomes of splits that the source has.
      skip_bad: leaves bad pairs out, where otherwise one refuses all.
      check_only: writes nothing.
      span: its number; "next" for one more than the newest.
      metadata: a CSV of facts about the images.
      layout_name: of the source, as `find_layout` takes it.
      no_mask_is_background: whether images without a mask show no defect.
      accept_losses: goes on although half of a class's regions vanish at the model's size.
      progress: is told what goes on.

    Raises:
      DataError: lists every problem found; nothing was written.
      UserError: the source cannot be used as a whole, holds nothing new, others wrote to `out` meanwhile, or one of the
        other processes was killed.
      OSError: `out` cannot be written.
    """
    if not check_only:
        require_writable(out)
    layout = find_layout(source, out, layout_name, no_mask_is_background)
    with Workers() as workers:
        facts, problems = _examined(layout, metadata, skip_bad, config, workers, progress)
        _require_its_classes(layout, facts, config, source)
        found = _found(source, out, span, layout, facts, problems)
        rows, summary = _summarized(found, config, splits, accept_losses)
        if check_only:
            return Ingested(layout, None, summary, False)
        with locked(out):
            return _write(found, rows, summary, config, workers, progress)


def _require_its_classes(layout: Layout, facts: Sequence[Facts], config: Config, source: Path) -> None:
    """Raises DataError where a list beside the masks, or around them, says that the config's classes are others."""
    problems = [
        Problem(source / name, what, "the config's classes to be the list's", "correct [[classes]], or remove the list")
        for name, told in layout.told.items()
        for what in contradictions(told, config, _are_ids((source / name).parent, facts, config))
    ]
    if problems:
        raise DataError(problems)


def _are_ids(folder: Path, facts: Sequence[Facts], config: Config) -> set[bool]:
    """Whether the masks with defects below a folder were read as ids, and whether as colours."""
    shown = [f for f in facts if f.pair.annotation is None and f.defects and folder in f.pair.mask.parents]
    return {f.mask_is_ids or config.records.mask_values == "ids" for f in shown}


@dataclass(frozen=True)
class _Found:
    """A source on its way into a span: its images, and what of it cannot be used."""

    source: Path
    out: Path
    span: int
    # What was there, by span: the splits are chosen by it, and nobody else may have written meanwhile.
    seen: dict[int, Path]
    layout: Layout
    facts: list[Facts]
    problems: list[Problem]


def _found(
    source: Path,
    out: Path,
    span: int | Literal["next"],
    layout: Layout,
    facts: list[Facts],
    problems: list[Problem],
) -> _Found:
    seen = versions(out)
    number = _next_span(seen, facts, source) if span == "next" else span
    return _Found(source, out, number, seen, layout, _renamed(facts, number), problems)


def _examined(
    layout: Layout, metadata: Path | None, skip_bad: bool, config: Config, workers: Workers, progress: Progress
) -> tuple[list[Facts], list[Problem]]:
    """Facts of the images that can be used, with their columns of `metadata`, and the problems of the others.

    Raises:
      DataError: there are problems, and they are not to be skipped or leave no image.
    """
    columns, mistakes = read_metadata(metadata, layout.pairs) if metadata else ({}, [])
    facts, problems = _examine_all(layout.pairs, config, workers, progress)
    problems = [*layout.problems, *problems]
    if mistakes or (problems and not (skip_bad and facts)):
        raise DataError([*problems, *mistakes])
    return [replace(f, metadata=columns[f.pair.id]) for f in facts] if columns else facts, problems


def _summarized(
    found: _Found, config: Config, policy: SplitPolicy | None, accept_losses: bool
) -> tuple[Sequence[Row], Summary]:
    """The images with their splits, and what is said of them."""
    source, out, span = found.source, found.out, found.span
    others = {number: a for number, v in found.seen.items() if number != span and (a := read_assignment(v))}
    previous = _previous_splits(out, span, found.facts)
    rows, linking, crossing = _assign(found.facts, [*others.values()], config, policy, previous, source)
    _require_usable(rows, config, source)
    rows = with_all_losses(rows, config)
    moved = drift(rows, {number: a for number, a in others.items() if number < span}, config.classes)
    warnings = [
        *lost(rows, config, source, accept_losses),
        *unmeasured(rows, config),
        *_unknown_sources(rows, config),
        *drift_words(moved),
    ]
    told = contents(rows, found.layout, policy, config, _span_before(out, span), warnings)
    summary: Summary = {
        **told,
        "notes": [*told["notes"], *_skipped_words(found.problems)],
        "drift": moved,
        "leaking_groups": crossing,
        "duplicates": duplicate_summary(found.facts, config),
        "skipped": [str(problem) for problem in found.problems],
        "left_out": [f"{f.pair.id}: {_why_left_out(f, config)}" for f in linking],
    }
    picked: QueueOrigin | None = read_json(source / QUEUE_FILE)
    return rows, {**summary, "queue": picked} if picked else summary


def _skipped_words(problems: Sequence[Problem]) -> list[str]:
    """How many of which kind, where there are more than anybody reads."""
    return [f"{len(problems):,} problems were skipped: {tally(kinds_of(problems))}"] if len(problems) > LISTED else []


def _why_left_out(facts: Facts, config: Config) -> str:
    return _HELD_OUT if source_of(facts.pair.id, config.dataset.sources) else _LINKS


def _unknown_sources(rows: Sequence[Row], config: Config) -> list[str]:
    sources = config.dataset.sources
    found = {source_of(row.facts.pair.id, sources) for row in rows}
    return [
        f"dataset.sources names {name!r}, and no image lies below such a folder; a run needs spans that have some: "
        'dataset.spans = "all"'
        for name in sources
        if name not in found
    ]


def _span_before(out: Path, span: int) -> SpanEntry | None:
    """What `dataset.json` says of the newest span before this one."""
    earlier = [entry for entry in _spans(out) if entry["span"] < span]
    return max(earlier, key=lambda entry: entry["span"], default=None)


def _examine_all(
    pairs: Sequence[Pair], config: Config, workers: Workers, progress: Progress
) -> tuple[list[Facts], list[Problem]]:
    step = progress("checking images and masks", len(pairs))
    workers.start_for(pairs)
    results: list[Facts | Problem] = []
    for chunk in workers.map(partial(examine_each, config=config), chunks_of(pairs)):
        for result in chunk:
            results.append(result)
            step()
    return [r for r in results if isinstance(r, Facts)], [r for r in results if isinstance(r, Problem)]


def _next_span(seen: Mapping[int, Path], facts: Sequence[Facts], source: Path) -> int:
    """One more than the newest; the images of the newest would be trained on twice as much."""
    newest = max(seen.items(), default=None)
    if newest is None:
        return 1
    number, version = newest
    known = read_assignment(version)
    if known is not None and {f.pixel_digest for f in facts} <= set(known.digests):
        raise AlreadyIngested(
            f"{source}: all {len(facts)} images are in span {number} already, expected new ones for --span next; to "
            f"ingest that span anew: --span {number}",
            number,
        )
    return number + 1


def _renamed(facts: list[Facts], span: int) -> list[Facts]:
    """Every span may have a 0001.png."""
    return [replace(f, pair=replace(f.pair, id=f"span-{span}/{f.pair.id}")) for f in facts] if span > 1 else facts


def _placed(others: Sequence[Assignment]) -> list[tuple[str, str]]:
    return [image for assignment in others for image in assignment.placed()]


def _group(facts: Sequence[Facts], others: Sequence[Assignment], config: Config) -> list[int]:
    """Index of the first image of its group for each image, those of other spans last."""
    # Stacked, not taken as a list of lists of numbers, which takes ten times as long.
    thumbnails = np.concatenate([np.stack([f.thumbnail for f in facts]), *(a.thumbnails for a in others)])
    sizes = np.concatenate([[(f.width, f.height) for f in facts], *(a.sizes for a in others)])
    digests = [*(f.pixel_digest for f in facts), *(digest for a in others for digest in a.digests)]
    threshold = config.dataset.near_duplicate_correlation
    return near_duplicates.near_duplicate_groups(thumbnails, threshold, sizes, digests).tolist()


def _assign(
    facts: Sequence[Facts],
    others: Sequence[Assignment],
    config: Config,
    policy: SplitPolicy | None,
    previous: Mapping[str, str],
    source: Path,
) -> Assigned:
    """Assigns, and once more without the images that link groups of different splits."""
    placed = _placed(others)
    assigned = assign(facts, _group(facts, others, config), placed, config, policy, previous, source)
    if assigned.left_out and assigned.rows:
        rest = [row.facts for row in assigned.rows]
        again = assign(rest, _group(rest, others, config), placed, config, policy, previous, source)
        assigned = again._replace(left_out=[*assigned.left_out, *again.left_out])
    if assigned.crossing and not _keeps(policy, facts):
        raise UserError(
            f"{source}: {assigned.crossing} groups of near-duplicates hold images that were assigned to different "
            "splits before, in another version or span; expected none. If dataset.near_duplicate_correlation changed, "
            "set it back; if the source has splits of its own, use --splits regroup; or ingest into a new folder"
        )
    return assigned


def _keeps(policy: SplitPolicy | None, facts: Sequence[Facts]) -> bool:
    """Whether the source's own splits are to be kept although they leak."""
    return policy == "keep" and any(f.pair.split for f in facts)


def _require_usable(rows: Sequence[Row], config: Config, source: Path) -> None:
    problems = []
    for split in SPLITS:
        members = [row for row in rows if row.split == split]
        if not members:
            repair = "add images, or use --splits regroup" if rows and rows[0].facts.pair.split else "add images"
            problems.append(Problem(source, f"no image falls into {split}", "at least one in each split", repair))
            continue
        seen = pixels_of(members, config)
        missing = [c.name for class_id, c in enumerate(config.classes) if seen[class_id] == 0]
        if missing and split == SPLIT_TRAIN:
            what = f"no training image shows {', '.join(missing)}"
            repair = "add images or remove it from [[classes]]"
            if config.classes[BACKGROUND_ID].name in missing:
                repair += "; ids in masks count from 0, the background"
            problems.append(Problem(source, what, "every class in train", repair))
        elif not seen[1:].any():
            what = f"no image of {split} shows a defect"
            problems.append(Problem(source, what, "some in each split", "add images, or change [dataset] or --splits"))
    if problems:
        raise DataError(problems)


def _write(
    found: _Found, rows: Sequence[Row], summary: Summary, config: Config, workers: Workers, progress: Progress
) -> Ingested:
    out, span, layout = found.out, found.span, found.layout
    directory = out / f"span-{span}"
    settle(out)
    if versions(out) != found.seen:
        # Near-duplicates of what that one wrote might be in other splits than it put them.
        raise UserError(f"{out}: another ingest wrote, or somebody removed, records meanwhile: start this one again")
    fingerprint = _fingerprint(rows, config)
    # Old spans may be deleted to free the disk.
    known = [entry for entry in _spans(out) if version_path(out, entry).is_dir()]
    spans = {entry["span"]: entry for entry in known}
    newest = newest_version(directory)
    old = spans.get(span)
    same_records = bool(newest) and old is not None and (old["version"], old["fingerprint"]) == (newest, fingerprint)
    number = newest if same_records else newest + 1
    version = directory / f"version-{number}"
    entry: SpanEntry = {"span": span, "version": number, "fingerprint": fingerprint, **summary}
    spans[span] = entry
    if entry == old:
        return Ingested(layout, version, entry, True)
    # Checks must not wait for Beam.
    from flexunet.dataset.records import write_version

    directory.mkdir(parents=True, exist_ok=True)
    manifest: Manifest = {**spans[max(spans)], "spans": [spans[number] for number in sorted(spans)]}
    with committed(out, manifest, render_picture(entry, [row.shown(config) for row in rows], config)):
        # Others may have been skipped or left out with the same result.
        if not same_records:
            write_version(version, rows, config, workers, progress("writing records", len(rows)))
    return Ingested(layout, version, entry, same_records)


def _spans(out: Path) -> list[SpanEntry]:
    manifest = newest_manifest(out)
    return manifest["spans"] if manifest else []


def _previous_splits(out: Path, span: int, facts: Sequence[Facts]) -> dict[str, str]:
    """Split by image id in the newest version of this span: a group stays in its split when images are added.

    By what the image shows, since files get renamed; by id where the image was replaced. Nothing where that version
    kept the source's splits, which may leak.
    """
    directory = out / f"span-{span}"
    newest = newest_version(directory)
    kept = any((e["span"], e["version"], e["splits_policy"]) == (span, newest, "keep") for e in _spans(out))
    assignment = None if kept else read_assignment(directory / f"version-{newest}")
    if assignment is None:
        return {}
    by_pixels = dict(zip(assignment.digests, assignment.splits.values(), strict=True))
    present = {f.pixel_digest for f in facts}
    ids_of_gone = [i for i, digest in zip(assignment.splits, assignment.digests, strict=True) if digest not in present]
    replaced = {image_id: assignment.splits[image_id] for image_id in ids_of_gone}
    found = {f.pair.id: by_pixels.get(f.pixel_digest) or replaced.get(f.pair.id) for f in facts}
    return {image_id: split for image_id, split in found.items() if split}


def _fingerprint(rows: Sequence[Row], config: Config) -> str:
    """Fingerprint of everything that decides the records' bytes."""
    digest = hashlib.sha256(config.records.model_dump_json().encode() + str(config.dataset.seed).encode())
    digest.update(json.dumps(config.image.value_range).encode())
    digest.update(json.dumps([c.model_dump() for c in config.classes]).encode())
    for row in sorted(rows, key=lambda row: row.facts.pair.id):
        digest.update(
            "\0".join(
                [row.facts.pair.id, row.facts.digest, row.group, row.split, json.dumps(row.facts.metadata)]
            ).encode()
        )
    return digest.hexdigest()
