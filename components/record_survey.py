"""All records of a run, checked by Apache Beam: counts, the first problems, and ids that stand in several splits."""

import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, TypedDict

import apache_beam as beam
from apache_beam.transforms import combiners
from tfx.utils import io_utils

from components.record_check import check_record
from flexunet.core.config.data import TransformConfig
from flexunet.core.problems import LISTED, Problem, kinds_of

_BUCKETS: Final = 64


class Found(TypedDict):
    """What was found: counts by split, the number of problems by kind, and the fields of the first of them."""

    splits: dict[str, dict[str, int]]
    kinds: dict[str, int]
    first: list[list[str]]


def find_problems(pipeline: beam.Pipeline, uris: dict[str, str], config: TransformConfig) -> beam.pvalue.PValue:
    """One JSON text, `Found`."""
    checked = (
        tuple(
            pipeline
            | f"Read[{split}]" >> beam.io.ReadFromTFRecord(io_utils.all_files_pattern(uri))
            | f"Check[{split}]" >> beam.Map(check_record, split, config)
            for split, uri in uris.items()
        )
        | beam.Flatten()
    )
    counts = checked | beam.Map(lambda c: (c.split, c.counts)) | beam.CombinePerKey(_add_up) | combiners.ToDict()
    bad = checked | beam.FlatMap(lambda c: [c.problem] if c.problem else [])
    problems = (bad, _repeated_ids(checked, list(uris))) | "Problems" >> beam.Flatten()
    kinds = problems | "Kind" >> beam.Map(lambda p: kinds_of([p])) | "Kinds" >> beam.CombineGlobally(_add_up)
    first = problems | "First" >> beam.CombineGlobally(combiners.TopCombineFn(LISTED, reverse=True))
    found = [beam.pvalue.AsSingleton(part) for part in (counts, kinds, first)]
    return pipeline | beam.Create([list(uris)]) | "Join" >> beam.Map(_as_json, *found)


def _add_up(counts: Iterable[Any]) -> Any:
    total: Counter[str] = Counter()
    for part in counts:
        total.update(part)
    return total


def _repeated_ids(checked: beam.pvalue.PValue, splits: Sequence[str]) -> beam.pvalue.PValue:
    """Ids in more than one split."""
    bits = {split: 1 << index for index, split in enumerate(splits)}
    return (
        checked
        | "HasId" >> beam.Filter(lambda c: c.image_id is not None)
        | "Bucket" >> beam.Map(lambda c: (zlib.crc32(c.image_id.encode()) % _BUCKETS, (c.image_id, bits[c.split])))
        | "SplitsOfIds" >> beam.CombinePerKey(_SplitsOfIds())
        | "Repeated" >> beam.FlatMap(_repeated, splits)
    )


class _SplitsOfIds(beam.CombineFn):
    """Many ids in one dictionary: with each id as a key of its own, the local runner takes 1.9 KB for it."""

    def create_accumulator(self) -> dict[str, int]:
        return {}

    def add_input(self, mutable_accumulator: dict[str, int], element: tuple[str, int]) -> dict[str, int]:
        image_id, bit = element
        mutable_accumulator[image_id] = mutable_accumulator.get(image_id, 0) | bit
        return mutable_accumulator

    def merge_accumulators(self, accumulators: Iterable[dict[str, int]]) -> dict[str, int]:
        merged: dict[str, int] = {}
        for accumulator in accumulators:
            for image_id, bits in accumulator.items():
                merged[image_id] = merged.get(image_id, 0) | bits
        return merged

    def extract_output(self, accumulator: dict[str, int]) -> list[tuple[str, int]]:
        return [(image_id, bits) for image_id, bits in accumulator.items() if bits.bit_count() > 1]


def _repeated(bucket: Any, splits: Sequence[str]) -> Iterator[Problem]:
    for image_id, bits in bucket[1]:
        names = ", ".join(split for index, split in enumerate(splits) if bits >> index & 1)
        yield Problem(f"{image_id} ({names})", "the same id in several splits", "each id in one", "ingest again")


def _as_json(splits: Sequence[str], counts: dict[str, Counter[str]], kinds: Counter[str], first: list[Problem]) -> str:
    return json.dumps({"splits": {s: counts.get(s, {}) for s in splits}, "kinds": kinds, "first": first})
