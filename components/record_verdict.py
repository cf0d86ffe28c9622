"""Whether what was counted is what `dataset.json` and ExampleValidator say, and how it is told."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Final, TypedDict

from tensorflow_metadata.proto.v0 import anomalies_pb2
from tfx.components.example_validator.executor import DEFAULT_FILE_NAME
from tfx.types import Artifact, artifact_utils
from tfx.utils import io_utils

from components.record_check import images_key, pixels_key
from flexunet.core.config.data import TransformConfig
from flexunet.core.problems import Problem, tally
from flexunet.core.results.data import SplitFacts
from flexunet.core.results.dataset import SpanEntry

FORMAT: Final = 1
_NEW_COLUMN: Final = anomalies_pb2.AnomalyInfo.SCHEMA_NEW_COLUMN


class Expected(TypedDict):
    """What `dataset.json` says of a split of all spans together; `pixels` by class."""

    images: int
    pixels: dict[str, int]


def expected_counts(spans: Sequence[SpanEntry] | None) -> str:
    """What `dataset.json` says of the spans that are read, as far as records can be held to it; "null" where it says
    nothing.

    Only the numbers that are compared: a new field in the manifest must not run the node again.
    """
    if spans is None:
        return json.dumps(None)
    images: Counter[str] = Counter()
    pixels: dict[str, Counter[str]] = defaultdict(Counter)
    for split, facts in (item for span in spans for item in span["splits"].items()):
        images[split] += facts["images"]
        pixels[split].update(facts["pixels"])
    total: dict[str, Expected] = {split: {"images": images[split], "pixels": pixels[split]} for split in images}
    return json.dumps(total, sort_keys=True)


def empty_splits(splits: dict[str, Counter[str]]) -> Iterator[Problem]:
    """A problem for each split without a record."""
    for split, counts in splits.items():
        if not counts["images"] + counts["bad"]:
            yield Problem(f"split {split}", "no records", "at least one", "add images and ingest again")


def differences(
    splits: dict[str, Counter[str]], expected: dict[str, Expected] | None, config: TransformConfig
) -> Iterator[Problem]:
    """Where counts are not those of the manifest; splits with bad records are left out, as theirs cannot be."""
    for split, wanted in (expected or {}).items():
        counts = splits.get(split, Counter())
        if counts["bad"] or not counts["images"]:
            continue
        names = [c.name for c in config.classes]
        names += [name for name in wanted["pixels"] if name not in names]
        pairs = [("images", counts["images"], wanted["images"])]
        pairs += [(f"pixels of {name}", counts[pixels_key(name)], wanted["pixels"].get(name, 0)) for name in names]
        moved = [(what, got, right) for what, got, right in pairs if got != right]
        if moved:
            got_words = ", ".join(f"{got:,} {what}" for what, got, _ in moved)
            right_words = ", ".join(f"{right:,} {what}" for what, _, right in moved)
            yield Problem(f"split {split}", got_words, f"{right_words} as in dataset.json", "ingest again")


def anomaly_problems(anomalies: Artifact) -> Iterator[Problem]:
    """What ExampleValidator calls an error, but for features that the schema lacks: they are read by nobody."""
    for split in artifact_utils.decode_split_names(anomalies.split_names):
        path = f"{artifact_utils.get_split_uri([anomalies], split)}/{DEFAULT_FILE_NAME}"
        found = anomalies_pb2.Anomalies.FromString(io_utils.read_bytes_file(path))
        named = [(f"feature {key}", info) for key, info in sorted(found.anomaly_info.items())]
        if found.HasField("dataset_anomaly_info"):
            named.append(("all features", found.dataset_anomaly_info))
        for where, info in named:
            if info.severity == info.ERROR and {reason.type for reason in info.reason} != {_NEW_COLUMN}:
                what = f"ExampleValidator found: {' '.join((info.description or info.short_description).split())}"
                yield Problem(f"{where} ({split})", what, "no anomaly", "correct the records, or the keys in [records]")


def message(kinds: Counter[str], first: Sequence[Problem]) -> str:
    """The first problems, each on a line; the last line has the most important, as runners show only that one.

    Args:
      kinds: how many problems there are of each kind.
      first: those that are listed.
    """
    number = kinds.total()
    title = f"{number} problem{'s' if number > 1 else ''} in the records"
    lines = [str(problem) for problem in first]
    if number > len(lines):
        lines.append(f"and {number - len(lines)} more; of all, {tally(kinds)}")
    return "\n".join([title, *lines, f"{title}{', the first' if number > 1 else ''}: {lines[0]}"])


def validation(splits: dict[str, Counter[str]], config: TransformConfig, compared: bool) -> str:
    """`validation.json`."""
    names = [c.name for c in config.classes]
    summary = {
        "format": FORMAT,
        "classes": names,
        "agrees_with_manifest": True if compared else None,
        "splits": {split: _split_summary(counts, names) for split, counts in splits.items()},
    }
    return json.dumps(summary, indent=2) + "\n"


def _split_summary(counts: Counter[str], names: Sequence[str]) -> SplitFacts:
    pixels = {name: counts[pixels_key(name)] for name in names}
    labelled = sum(pixels.values())
    return {
        "images": counts["images"],
        "images_with": {name: counts[images_key(name)] for name in names},
        "pixels": pixels,
        "shares": {name: number / labelled if labelled else None for name, number in pixels.items()},
        "ignored_pixels": counts["ignored"],
    }
