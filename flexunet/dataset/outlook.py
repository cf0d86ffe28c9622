"""What will fail after a training, known before it: classes that vanish at the model's size, and bounds of the gate
that cannot be measured.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from flexunet.core.config.whole import Config
from flexunet.core.features import SPLIT_TEST, SPLITS
from flexunet.core.problems import DataError, Problem
from flexunet.dataset.assignment import Row
from flexunet.dataset.examine import Facts, with_losses
from flexunet.dataset.losses import REFUSED_SHARE, Losses, added, loss_words, sizes_that_keep


def with_all_losses(rows: Sequence[Row], config: Config) -> list[Row]:
    """Where something is lost, regions of images that are not shrunk are counted as well: a share is one of all."""
    if not any(_loses(row.facts) for row in rows):
        return [*rows]
    return [replace(row, facts=with_losses(row.facts, config)) for row in rows]


def _loses(facts: Facts) -> bool:
    return facts.losses is not None and bool(facts.losses.lost.any())


def split_losses(rows: Sequence[Row], config: Config) -> dict[str, Losses]:
    """Of each split; none where no image is shrunk."""
    if any(row.facts.losses is None for row in rows):
        return {}
    parts = {split: [r.facts.losses for r in rows if r.split == split and r.facts.losses] for split in SPLITS}
    return {split: added(part, len(config.classes)) for split, part in parts.items()}


def lost(rows: Sequence[Row], config: Config, source: Path, accepted: bool) -> list[str]:
    """What to warn of.

    Raises:
      DataError: half of a class's regions vanish, and nobody accepted it.
    """
    losing = [row.facts for row in rows if _loses(row.facts)]
    if not losing:
        return []
    repair = sizes_that_keep([(f.height, f.width) for f in losing], config)
    warned, refused = loss_words(split_losses(rows, config), [c.name for c in config.classes], repair)
    if refused and not accepted:
        expected = f"less than {REFUSED_SHARE:.0%} at {config.image.height}x{config.image.width}"
        repair = "change the size, or go on with --accept-losses"
        raise DataError([Problem(source, words, expected, repair) for words in refused])
    return [*refused, *warned]


def unmeasured(rows: Sequence[Row], config: Config) -> Iterator[str]:
    """What the images of `test` cannot tell, a sentence each: the gate refuses every model."""
    test = [row.facts for row in rows if row.split == SPLIT_TEST]
    pixels = np.sum([f.pixels for f in test], axis=0)
    required = [c.name for c in config.classes[1:] if c.name not in config.gate.allow_unmeasured]
    missing = [c.name for c, count in zip(config.classes, pixels, strict=True) if not count and c.name in required]
    if missing:
        yield (
            f"no image of {SPLIT_TEST} shows {', '.join(missing)}: the gate will refuse every model, as not measured; "
            "add such images, or name it in gate.allow_unmeasured"
        )
    if config.gate.max_false_alarms is not None and all(f.defects for f in test):
        yield (
            f"every image of {SPLIT_TEST} shows a defect and gate.max_false_alarms is set: the gate will refuse every "
            "model, as false alarms are not measured; add images without a defect, or leave the bound out"
        )
