"""Watched hours against a version's reference: the document, and what Prometheus reads of it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from flexunet.core.results.live import FORMAT, LiveDrift, Moved
from flexunet.live.compare import compare
from flexunet.live.observe import Seen
from flexunet.live.store import HOUR_SECONDS, hour_name, hours_since

_COUNTED: frozenset[str] = frozenset({"requests", "images"})


def find_drift(watched: Sequence[Path], version: int, reference: Sequence[Seen], now: float, hours: float) -> LiveDrift:
    """Compares the images of the last hours.

    Args:
      watched: folders that watches write to, one of each replica.
      version: that is served; images that a server says another version answered are left out.
      reference: what that version was tried on.
      now: end of the hours, in seconds since 1970.
      hours: how many.
    """
    names: set[str] = set()
    served: list[Seen] = []
    counts: Counter[str] = Counter()
    # The clocks of two machines differ by less.
    newest = hour_name(now + HOUR_SECONDS)
    for folder in watched:
        for name, lines, counted in hours_since(folder, now - hours * HOUR_SECONDS):
            if name > newest:
                counts["hours of the future, left out: a clock was wrong"] += 1
                continue
            names.add(name)
            served += lines
            counts.update(counted)
    ours = [seen for seen in served if seen.version in (0, version)]
    findings = compare(ours, reference)
    return {
        "format": FORMAT,
        "version": version,
        "hours": [min(names), max(names)] if names else [],
        "requests": counts["requests"],
        "images": counts["images"],
        "sampled": len(ours),
        "other_versions": len(served) - len(ours),
        "notes": {what: number for what, number in sorted(counts.items()) if number and what not in _COUNTED},
        "reference_images": len(reference),
        "moved": any(finding["moved"] for finding in findings),
        "findings": findings,
    }


def drift_words(found: LiveDrift) -> Iterator[str]:
    """What moved, a sentence for each number."""
    for finding in found["findings"]:
        if finding["moved"]:
            camera = f" of camera {finding['camera']}" if finding["camera"] else ""
            yield f"{finding['feature']}{camera} moved: {_values(finding)}"


def _values(finding: Moved) -> str:
    low, high = finding["interval"]
    if finding["measure"] == "ratio":
        share = f"{finding['now'][0]:.1%} of {finding['images']:,} images, {finding['before'][0]:.1%} before"
        return f"{share} ({finding['value']:.2f} times as many, 99 % interval {low:.2f} to {high:.2f})"
    now, before = (
        f"{half:.4g} ({least:.4g} to {most:.4g})" for least, half, most in (finding["now"], finding["before"])
    )
    return (
        f"{now} in {finding['images']:,} images, {before} before (distance {finding['value']:.2f}, at least {low:.2f})"
    )


def metrics_text(found: LiveDrift, now: float) -> str:
    """What Prometheus' node exporter reads from a file, of its text format; `now` is in seconds since 1970."""
    lines = [
        "# HELP flexunet_drift_moved Whether the served images are no longer those that the model was tried on.",
        "# TYPE flexunet_drift_moved gauge",
        f"flexunet_drift_moved {int(found['moved'])}",
        "# HELP flexunet_drift_images Served images that were compared.",
        "# TYPE flexunet_drift_images gauge",
        f"flexunet_drift_images {found['sampled']}",
        "# HELP flexunet_drift_time_seconds When they were, in seconds since 1970.",
        "# TYPE flexunet_drift_time_seconds gauge",
        f"flexunet_drift_time_seconds {now:.0f}",
        "# HELP flexunet_drift_feature_moved Whether a number of the images moved.",
        "# TYPE flexunet_drift_feature_moved gauge",
    ]
    for finding in found["findings"]:
        labels = ",".join(f'{key}="{_escaped(finding[key])}"' for key in ("feature", "camera"))
        lines.append(f"flexunet_drift_feature_moved{{{labels}}} {int(finding['moved'])}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
