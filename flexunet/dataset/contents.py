"""What `dataset.json` says of a span's images: counts, how they were read, what was guessed, what to be warned of."""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from flexunet.core.config.whole import Config
from flexunet.core.features import SPLIT_EVAL, SPLIT_TRAIN, SPLITS
from flexunet.core.finder import LeftOut
from flexunet.core.results.dataset import Contents, FilesLeftOut, SpanEntry, SplitEntry
from flexunet.dataset.assignment import Row
from flexunet.dataset.layouts.interface import Layout
from flexunet.dataset.losses import Losses
from flexunet.dataset.manifest import FORMAT
from flexunet.dataset.outlook import split_losses
from flexunet.dataset.reading import reading_summary
from flexunet.dataset.splits import SplitPolicy

_WORST: Final = 5


def contents(
    rows: Sequence[Row],
    layout: Layout,
    policy: SplitPolicy | None,
    config: Config,
    earlier: SpanEntry | None,
    warnings: Sequence[str],
) -> Contents:
    """What `dataset.json` says of the images of a span.

    Args:
      rows: the images.
      layout: how the source is laid out.
      policy: what became of the splits that the source has.
      config: classes, colours, the model's size.
      earlier: the span before, if there is one.
      warnings: more of them.
    """
    reading = reading_summary([row.facts for row in rows], config, earlier)
    lost = split_losses(rows, config)
    return {
        **reading,
        "warnings": [*reading["warnings"], *warnings],
        "format": FORMAT,
        "classes": [{"name": c.name, "color": list(c.color)} for c in config.classes],
        "ignore_color": list(config.records.ignore_color) if config.records.ignore_color else None,
        "layout": layout.description,
        "files": {"read": layout.files_read, "left_out": [_left_out(entry) for entry in layout.left_out]},
        "notes": _notes(rows, layout, policy, config),
        "splits_policy": "keep" if layout.has_splits and policy != "regroup" else "regroup",
        "median_size": [int(np.median([getattr(r.facts, side) for r in rows])) for side in ("height", "width")],
        "images": len(rows),
        "groups": len({row.group for row in rows}),
        "model_size": {"height": config.image.height, "width": config.image.width, "fit": config.image.fit},
        "splits": {s: _split_summary([r for r in rows if r.split == s], config, lost.get(s)) for s in SPLITS},
        "metadata": sorted({column for row in rows for column in row.facts.metadata}),
    }


def _notes(rows: Sequence[Row], layout: Layout, policy: SplitPolicy | None, config: Config) -> list[str]:
    splits = _splits_words(rows, layout, policy)
    return [*layout.notes, *splits, *_overlaps(rows, config), *_empty(rows), *_snapped(rows, config)]


def _left_out(entry: LeftOut) -> FilesLeftOut:
    return {"why": entry.why, "files": entry.files, "example": entry.example}


def _splits_words(rows: Sequence[Row], layout: Layout, policy: SplitPolicy | None) -> list[str]:
    """What became of splits that the source has."""
    seen = Counter(pair.split for pair in layout.pairs)
    if not layout.has_splits:
        return []
    if policy != "regroup":
        taken = sum(row.split == SPLIT_EVAL for row in rows)
        words = f"the source has no eval split: {taken} of its {seen[SPLIT_TRAIN]} training images were taken for it"
        return [] if seen[SPLIT_EVAL] else [words]
    counts = ", ".join(f"{split} {seen[split]}" for split in SPLITS if seen[split])
    return [f"the source's own splits ({counts} images) are not used: --splits regroup assigns them anew"]


def _snapped(rows: Sequence[Row], config: Config) -> list[str]:
    """How many pixels were taken as which class by the nearest colour, and the images with most."""
    snapped = [(row.facts, row.facts.snapped) for row in rows if row.facts.snapped is not None]
    if not snapped:
        return []
    totals = np.sum([counts for _, counts in snapped], axis=0).tolist()
    by_class = ", ".join(f"{c.name} {n:,}" for c, n in zip(config.classes, totals, strict=True) if n)
    worst = sorted(snapped, key=lambda entry: (-int(entry[1].sum()), entry[0].pair.id))[:_WORST]
    named = ", ".join(f"{f.pair.id} ({counts.sum() / (f.height * f.width):.2%})" for f, counts in worst)
    how = "had no class's colour and count as the nearest's"
    if config.records.grey_threshold is not None:
        how = f"are neither black nor white and count by records.grey_threshold, {config.records.grey_threshold},"
    return [f"{sum(totals):,} pixels of {len(snapped)} masks {how} ({by_class}), most in {named}"]


def _overlaps(rows: Sequence[Row], config: Config) -> list[str]:
    overlapping = [row.facts for row in rows if row.facts.overlaps]
    if not overlapping:
        return []
    worst = max(overlapping, key=lambda facts: facts.overlaps)
    return [
        f"instances of different classes overlap in {sum(f.overlaps for f in overlapping):,} pixels of "
        f"{len(overlapping)} images, most in {worst.pair.id} ({worst.overlaps:,}); records.overlaps = "
        f'"{config.records.overlaps}" decides which is on top'
    ]


def _empty(rows: Sequence[Row]) -> list[str]:
    empty = [row.facts for row in rows if row.facts.empty]
    if not empty:
        return []
    worst = max(empty, key=lambda facts: facts.empty)
    return [
        f"{sum(f.empty for f in empty):,} annotated instances of {len(empty)} images cover no pixel and are lost, most "
        f"in {worst.pair.id} ({worst.empty:,}): slips of the hand, or coordinates that are shares of the image?"
    ]


def _split_summary(rows: Sequence[Row], config: Config, lost: Losses | None) -> SplitEntry:
    pixels = pixels_of(rows, config)
    names = [c.name for c in config.classes]
    return {
        "images": len(rows),
        "groups": len({row.group for row in rows}),
        "images_with": {name: sum(bool(r.facts.pixels[i]) for r in rows) for i, name in enumerate(names)},
        "pixels": {name: int(pixels[i]) for i, name in enumerate(names)},
        "regions": dict(zip(names[1:], lost.regions[1:].tolist(), strict=True)) if lost else None,
        "regions_lost": dict(zip(names[1:], lost.lost[1:].tolist(), strict=True)) if lost else None,
        "pixels_at_model_size": dict(zip(names, lost.pixels.tolist(), strict=True)) if lost else None,
    }


def pixels_of(rows: Sequence[Row], config: Config) -> NDArray[np.int64]:
    """Pixels of each class, int64 `[C]`."""
    return sum((row.facts.pixels for row in rows), np.zeros(len(config.classes), np.int64))
