"""What an inspector asks: from which size on defects are found, and what finding more costs in false regions."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np

from components.bootstrap import COVERAGE, counted_interval, effective_groups
from components.measurement import Numbers, Totals, resamples_of
from flexunet.core import scores
from flexunet.core.config.gate import GateSettings
from flexunet.core.detection import Detections, a90, a90_95, fit, log_size
from flexunet.core.operating_point import PIXELS_OF_MEGAPIXEL, THRESHOLDS

if TYPE_CHECKING:
    from flexunet.core.results.metrics import CurvePoint, Detection

ALL: Final = "all defects"
# Where the band of a curve is drawn.
_BAND_POINTS: Final = 24


def all_detections_a90_95(totals: Totals) -> float:
    """Of all classes together, in pixels; NaN where nothing is proven, or the model gave no number."""
    steps = _steps(totals, None)
    if not steps or not np.isfinite(totals.known_sums.found).all():
        return float("nan")
    return a90_95(_observations(*_detections(totals, None), len(totals.groups)))


def detection_rows(totals: Totals, settings: GateSettings) -> "list[Detection]":
    """All defects together, then each class that the split shows; none of a model that gave no number."""
    if not np.isfinite(totals.known_sums.found).all():
        return []
    classes = [(ALL, None), *((c.name, i) for i, c in enumerate(settings.classes) if i)]
    return [_row(name, totals, class_id) for name, class_id in classes if _steps(totals, class_id)]


def curve_points(totals: Totals, settings: GateSettings) -> "list[CurvePoint]":
    """Class by class, by ascending threshold."""
    if not totals.known_sums.curves.shape[-1]:
        return []
    return [
        point
        for class_id, segmentation_class in enumerate(settings.classes[1:], start=1)
        for point in _curve(totals, class_id, segmentation_class.name)
    ]


def _curve(totals: Totals, class_id: int, name: str) -> "Iterator[CurvePoint]":
    sums, resampled, groups = totals.known_sums, resamples_of(totals), len(totals.groups)
    present, of_present = resampled.present[:, class_id], sums.present[class_id]
    area = resampled.pixels.truth.sum(axis=-1) / PIXELS_OF_MEGAPIXEL
    for position, threshold in enumerate(THRESHOLDS):
        found, false = sums.curves[:, class_id, position]
        shares = scores.share(resampled.curves[:, 0, class_id, position], present)
        densities = scores.share(resampled.curves[:, 1, class_id, position], area)
        yield {
            "name": name,
            "threshold": threshold,
            "found_share": scores.defined(scores.share(found, of_present)),
            "found_interval": _ends(shares, present, groups, is_share=True),
            "false_regions_per_megapixel": scores.defined(scores.share(false, sums.counts.sum() / PIXELS_OF_MEGAPIXEL)),
            "false_interval": _ends(densities, area, groups, is_share=False),
        }


def _row(name: str, totals: Totals, class_id: int | None) -> "Detection":
    detections, resampled = _detections(totals, class_id)
    observations, model = _observations(detections, resampled, len(totals.groups)), fit(detections)
    sizes = np.linspace(detections.log_sizes[0], detections.log_sizes[-1], _BAND_POINTS)
    ends = [scores.defined(model.intercept), scores.defined(model.slope)]
    return {
        "name": name,
        "sizes": [
            {"size": float(np.exp(at)), "present": float(present), "found": float(found)}
            for at, present, found in zip(*detections, strict=True)
        ],
        "observations": float(observations.present.sum()),
        "intercept": ends[0],
        "slope": ends[1],
        "a90": scores.defined(a90(detections)),
        "a90_95": scores.defined(a90_95(observations)),
        "band": _band(resampled, sizes) if None not in ends and len(totals.groups) > 1 else [],
    }


def _band(resampled: Detections, sizes: Numbers) -> list[list[float]]:
    """Pointwise; a resample that no curve fits is left out."""
    models = fit(resampled)
    curves = models.probability(sizes[:, np.newaxis])
    curves = curves[:, np.isfinite(models.slope)]
    if not curves.size:
        return []
    low, high = np.quantile(curves, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2], axis=1)
    return np.stack([np.exp(sizes), low, high], axis=1).tolist()


def _steps(totals: Totals, class_id: int | None) -> list[int]:
    return sorted({step for of_class, step in totals.sizes if class_id in (None, of_class)})


def _detections(totals: Totals, class_id: int | None) -> tuple[Detections, Detections]:
    """As they are, `[n]`, and in each resample, `[resamples, n]`."""
    steps = _steps(totals, class_id)
    counts = [
        sum(part for (of_class, at), part in totals.sizes.items() if at == step and class_id in (None, of_class))
        for step in steps
    ]
    present, found = np.moveaxis(np.stack(counts), [0, 1, 2], [2, 1, 0])
    log_sizes = np.array([log_size(step) for step in steps])
    return Detections(log_sizes, present[0], found[0]), Detections(log_sizes, present[1:], found[1:])


def _observations(detections: Detections, resampled: Detections, groups: int) -> Detections:
    """All defects of a group count together as one observation, those of a large group as more of it.

    Near-duplicates are looks at the same flaws, and flaws of one image are found or missed together: how much so nobody
    knows, and a bound must not be better than the data.
    """
    effective = min(float(effective_groups(resampled.present.sum(-1, keepdims=True), groups)[0]), groups)
    return detections.weighted(min(1.0, effective / float(detections.present.sum())))


def _ends(ratio: Numbers, size: Numbers, groups: int, is_share: bool) -> list[float] | None:
    return scores.defined_interval(*counted_interval(ratio, size, groups, is_share))
