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
from flexunet.core.problems import Problem

# More would not be read; the total number is always given.
LISTED: Final = 20
_BUCKETS: Final = 64


class Found(TypedDict):
    """What was found: counts by split, the number of problems, and the fields of the first of them."""

    splits: dict[str, dict[str, int]]
    problems: int
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
    problems = (checked | beam.FlatMap(lambda c: [c.problem] if c.problem else []), _repeated_ids(checked, list(uris)))
    number_and_first = combiners.SingleInputTupleCombineFn(
        combiners.CountCombineFn(), combiners.TopCombineFn(LISTED, reverse=True)
    )
    summary = problems | "Problems" >> beam.Flatten() | beam.CombineGlobally(number_and_first)
    return (
        pipeline
        | beam.Create([list(uris)])
        | "Join" >> beam.Map(_as_json, beam.pvalue.AsSingleton(counts), beam.pvalue.AsSingleton(summary))
    )


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


def _as_json(splits: Sequence[str], counts: dict[str, Counter[str]], summary: tuple[int, list[Problem]]) -> str:
    number, first = summary
    return json.dumps({"splits": {s: counts.get(s, {}) for s in splits}, "problems": number, "first": first})
