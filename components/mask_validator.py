"""Checks the records that the pipeline really reads, before a minute of training is spent on them.

Records may come from elsewhere than `flexunet ingest`, or may be no longer those that `dataset.json` describes; and
ExampleValidator reports anomalies but never stops a run. This node does.
"""

import hashlib
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import apache_beam as beam
import numpy as np
import tensorflow as tf
from apache_beam.transforms import combiners
from google.protobuf.message import DecodeError
from PIL import Image, UnidentifiedImageError
from tensorflow_metadata.proto.v0 import anomalies_pb2
from tfx import v1 as tfx
from tfx.components.example_validator.executor import DEFAULT_FILE_NAME
from tfx.dsl.components.base import base_beam_component, base_beam_executor, executor_spec
from tfx.dsl.io import fileio
from tfx.types import Artifact, artifact, artifact_utils, component_spec, standard_artifacts
from tfx.utils import io_utils

from flexunet.core import palette
from flexunet.core.config.data import TransformConfig
from flexunet.core.features import IGNORE_ID
from flexunet.core.results.dataset import SpanEntry

VALIDATION_FILE: Final = "validation.json"
FORMAT: Final = 1
# More would not be read; the total number is always given.
LISTED: Final = 20
_FOUND_FILE: Final = "found.json"
_LONGEST_ID: Final = 80
_BUCKETS: Final = 64
_PNG_END: Final = b"IEND\xaeB`\x82"
# What Pillow raised on 30,000 corrupted files.
_READ_ERRORS: Final = (OSError, SyntaxError, ValueError)
_NEW_COLUMN: Final = anomalies_pb2.AnomalyInfo.SCHEMA_NEW_COLUMN


class MaskValidation(artifact.Artifact):
    """A folder with `validation.json`: images, pixels and pixel share of each class, per split."""

    TYPE_NAME = "MaskValidation"


class Problem(NamedTuple):
    """What is wrong, in one line; sorts by where it is."""

    where: str
    what: str
    expected: str
    repair: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; expected {self.expected}; {self.repair}"


class Checked(NamedTuple):
    """What one record adds to the counts of its split, and what is wrong with it."""

    split: str
    image_id: str | None
    counts: Counter[str]
    problem: Problem | None


class Executor(base_beam_executor.BaseBeamExecutor):
    """Reads every record once; only counts and the first problems are kept."""

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        self._log_startup(input_dict, output_dict, exec_properties)
        config = TransformConfig.model_validate_json(exec_properties["config"])
        expected = json.loads(exec_properties["expected"])
        examples = artifact_utils.get_single_instance(input_dict["examples"])
        target = artifact_utils.get_single_uri(output_dict["validation"])
        found = self._examine(examples, config, target)
        splits = {split: Counter(counts) for split, counts in found["splits"].items()}
        anomalies = artifact_utils.get_single_instance(input_dict["anomalies"])
        others = [*_empty(splits), *_differences(splits, expected, config), *_anomalies(anomalies)]
        if found["problems"] or others:
            raise ValueError(_message(found["problems"] + len(others), [*map(Problem._make, found["first"]), *others]))
        io_utils.write_string_file(f"{target}/{VALIDATION_FILE}", _validation(splits, config, expected is not None))

    def _examine(self, examples: Artifact, config: TransformConfig, target: str) -> dict[str, Any]:
        """Counts per split, the number of problems and the first of them; by a file, as workers may be elsewhere."""
        splits = artifact_utils.decode_split_names(examples.split_names)
        uris = {split: artifact_utils.get_split_uri([examples], split) for split in splits}
        fileio.makedirs(target)
        with self._make_beam_pipeline() as pipeline:
            _find(pipeline, uris, config) | beam.io.WriteToText(f"{target}/{_FOUND_FILE}", shard_name_template="")
        found = json.loads(io_utils.read_string_file(f"{target}/{_FOUND_FILE}"))
        fileio.remove(f"{target}/{_FOUND_FILE}")
        return found


class MaskValidatorSpec(component_spec.ComponentSpec):
    """Inputs, output and parameters of the mask validator."""

    PARAMETERS = {
        "config": component_spec.ExecutionParameter(type=str),
        "expected": component_spec.ExecutionParameter(type=str),
        "code": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "anomalies": component_spec.ChannelParameter(type=standard_artifacts.ExampleAnomalies),
    }
    OUTPUTS = {"validation": component_spec.ChannelParameter(type=MaskValidation)}


class MaskValidator(base_beam_component.BaseBeamComponent):
    """Raises where records cannot be trusted; what must not start before that takes it as upstream node.

    `config` is TransformConfig as JSON, `expected` comes from `expected_counts`, `code` is the fingerprint that keys
    the cache.
    """

    SPEC_CLASS = MaskValidatorSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(
        self,
        examples: tfx.types.BaseChannel,
        anomalies: tfx.types.BaseChannel,
        config: str,
        expected: str,
        code: str,
    ) -> None:
        spec = MaskValidatorSpec(
            examples=examples,
            anomalies=anomalies,
            config=config,
            expected=expected,
            code=code,
            validation=tfx.dsl.Channel(type=MaskValidation),
        )
        super().__init__(spec=spec)


def expected_counts(spans: Sequence[SpanEntry] | None) -> str:
    """What `dataset.json` says of the spans that are read, as far as records can be held to it; "null" where it says
    nothing.

    Only the numbers that are compared: a new field in the manifest must not run the node again.
    """
    if spans is None:
        return json.dumps(None)
    total: dict[str, Any] = {}
    for split, facts in (item for span in spans for item in span["splits"].items()):
        summed = total.setdefault(split, {"images": 0, "pixels": Counter()})
        summed["images"] += facts["images"]
        summed["pixels"].update(facts["pixels"])
    return json.dumps(total, sort_keys=True)


def check_record(record: bytes, split: str, config: TransformConfig) -> Checked:
    """All that can be said of one record alone."""
    image_id = None
    try:
        example = _parse(record)
        image_id = _one_line(_only_value(example, config.records.id))
        return Checked(split, image_id, _count(example, config), None)
    except _BadRecord as bad:
        where = f"{image_id or 'record without id'} ({split})"
        return Checked(split, image_id, Counter(bad=1), Problem(where, *bad.words))


class _BadRecord(Exception):
    """A record that cannot be used: what, what was expected, how to repair it."""

    def __init__(self, what: str, expected: str, repair: str) -> None:
        super().__init__(what)
        self.words = (what, expected, repair)


def _find(pipeline: beam.Pipeline, uris: dict[str, str], config: TransformConfig) -> beam.pvalue.PValue:
    """One JSON text: counts per split, number of problems, the first of them."""
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


def _parse(record: bytes) -> tf.train.Example:
    try:
        return tf.train.Example.FromString(record)
    except DecodeError:
        raise _BadRecord("not a tf.train.Example", "one in each record", "write the records anew") from None


def _only_value(example: tf.train.Example, key: str) -> bytes:
    feature = example.features.feature
    repair = "add it to the records, or give its key in [records]"
    if key not in feature:
        raise _BadRecord(f"no feature {key}, only {', '.join(sorted(feature)) or 'none'}", "one bytes value", repair)
    values = feature[key].bytes_list.value
    if len(values) != 1:
        kind = feature[key].WhichOneof("kind") or "no list"
        number = len(getattr(feature[key], kind).value) if kind != "no list" else 0
        raise _BadRecord(f"feature {key} holds {number} values ({kind})", "one bytes value", repair)
    return values[0]


def _one_line(image_id: bytes) -> str:
    """The id as text, short and printable whatever feature the config calls the id; different ids stay different."""
    text = image_id[:_LONGEST_ID].decode(errors="backslashreplace")
    if len(image_id) > _LONGEST_ID:
        text += f"...{hashlib.blake2b(image_id, digest_size=8).hexdigest()}"
    return text if text.isprintable() and text else repr(text)


def _count(example: tf.train.Example, config: TransformConfig) -> Counter[str]:
    """One image, and the pixels of each class; headers are checked before anything is decoded."""
    keys = config.records
    if keys.group:
        _only_value(example, keys.group)
    encoded_image, encoded_mask = (_only_value(example, key) for key in (keys.image, keys.mask))
    image, mask = _open(encoded_image, "image", config), _open(encoded_mask, "mask", config)
    if mask.format != "PNG":
        raise _BadRecord("the mask is a JPEG, which blurs class borders", "PNG", "export the masks as PNG")
    if mask.size != image.size:
        what = f"the mask is {_size(mask)} pixels, its image {_size(image)}"
        raise _BadRecord(what, "the same size", "export the mask at the image's size")
    _load(image, "image", encoded_image)
    _load(mask, "mask", encoded_mask)
    return _count_pixels(np.asarray(palette.as_rgb(mask)), config)


def _open(encoded: bytes, role: str, config: TransformConfig) -> Image.Image:
    """Reads the header only."""
    # Pillow only warns up to twice its own limit: ours is checked instead, and always.
    Image.MAX_IMAGE_PIXELS = None
    try:
        image = Image.open(io.BytesIO(encoded), formats=("PNG", "JPEG"))
    except UnidentifiedImageError:
        raise _BadRecord(f"the {role} is neither PNG nor JPEG", "an encoded image", "write the records anew") from None
    except _READ_ERRORS as error:
        raise _unreadable(role, error) from None
    if image.width * image.height > config.image.max_pixels:
        what, expected = f"the {role} has {_size(image)} pixels", f"at most {config.image.max_pixels:,}"
        raise _BadRecord(what, expected, "scale it down or raise image.max_pixels")
    return image


def _load(image: Image.Image, role: str, encoded: bytes) -> None:
    """Decodes: a broken test image would otherwise fail in Evaluator, after the training."""
    try:
        image.load()
    except _READ_ERRORS as error:
        raise _unreadable(role, error) from None
    # Pillow reads a PNG whose tail is missing, TensorFlow does not.
    if image.format == "PNG" and _PNG_END not in encoded:
        raise _unreadable(role, ValueError("its end is missing"))


def _unreadable(role: str, error: Exception) -> _BadRecord:
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return _BadRecord(f"the {role} cannot be decoded ({reason})", "a whole file", "write the records anew")


def _size(image: Image.Image) -> str:
    return f"{image.width}x{image.height}"


def _count_pixels(mask_rgb: np.ndarray, config: TransformConfig) -> Counter[str]:
    class_ids, known = palette.class_ids_from_rgb(mask_rgb, config.classes, config.records)
    if not known.all():
        raise _unknown_colors(mask_rgb[~known], config)
    pixels = np.bincount(class_ids.ravel(), minlength=IGNORE_ID + 1)
    counts = Counter(images=1, ignored=int(pixels[IGNORE_ID]))
    for class_id, segmentation_class in enumerate(config.classes):
        if pixels[class_id]:
            counts[_pixels(segmentation_class.name)] = int(pixels[class_id])
            counts[_images_with(segmentation_class.name)] = 1
    return counts


def _pixels(name: str) -> str:
    return f"pixels/{name}"


def _images_with(name: str) -> str:
    return f"images_with/{name}"


def _unknown_colors(pixels: np.ndarray, config: TransformConfig) -> _BadRecord:
    colors, counts = np.unique(pixels, axis=0, return_counts=True)
    commonest = " ".join(map(str, colors[counts.argmax()].tolist()))
    what = f"{len(pixels)} pixels of the mask are outside the palette, in {len(colors)} colours, most RGB {commonest}"
    return _BadRecord(what, f"only {_palette(config)}", "correct the mask or the colours in [[classes]]")


def _palette(config: TransformConfig) -> str:
    colors = [(c.name, c.color) for c in config.classes]
    if config.records.ignore_color is not None:
        colors.append(("unlabelled", config.records.ignore_color))
    return ", ".join(f"{name} {' '.join(map(str, color))}" for name, color in colors)


def _empty(splits: dict[str, Counter[str]]) -> Iterator[Problem]:
    for split, counts in splits.items():
        if not counts["images"] + counts["bad"]:
            yield Problem(f"split {split}", "no records", "at least one", "add images and ingest again")


def _differences(
    splits: dict[str, Counter[str]], expected: dict[str, Any] | None, config: TransformConfig
) -> Iterator[Problem]:
    """Where counts are not those of the manifest; splits with bad records are left out, as theirs cannot be."""
    for split, wanted in (expected or {}).items():
        counts = splits.get(split, Counter())
        if counts["bad"] or not counts["images"]:
            continue
        names = [c.name for c in config.classes]
        names += [name for name in wanted["pixels"] if name not in names]
        pairs = [("images", counts["images"], wanted["images"])]
        pairs += [(f"pixels of {name}", counts[_pixels(name)], wanted["pixels"].get(name, 0)) for name in names]
        moved = [(what, got, right) for what, got, right in pairs if got != right]
        if moved:
            got_words = ", ".join(f"{got:,} {what}" for what, got, _ in moved)
            right_words = ", ".join(f"{right:,} {what}" for what, _, right in moved)
            yield Problem(f"split {split}", got_words, f"{right_words} as in dataset.json", "ingest again")


def _anomalies(anomalies: Artifact) -> Iterator[Problem]:
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


def _message(number: int, first: Sequence[Problem]) -> str:
    """Every problem on a line; the last line has the most important, as runners show only that one."""
    title = f"{number} problem{'s' if number > 1 else ''} in the records"
    lines = [str(problem) for problem in first]
    if number > len(lines):
        lines.append(f"and {number - len(lines)} more")
    return "\n".join([title, *lines, f"{title}{', the first' if number > 1 else ''}: {lines[0]}"])


def _validation(splits: dict[str, Counter[str]], config: TransformConfig, compared: bool) -> str:
    names = [c.name for c in config.classes]
    summary = {
        "format": FORMAT,
        "classes": names,
        "agrees_with_manifest": True if compared else None,
        "splits": {split: _split_summary(counts, names) for split, counts in splits.items()},
    }
    return json.dumps(summary, indent=2) + "\n"


def _split_summary(counts: Counter[str], names: Sequence[str]) -> dict[str, Any]:
    pixels = {name: counts[_pixels(name)] for name in names}
    labelled = sum(pixels.values())
    return {
        "images": counts["images"],
        "images_with": {name: counts[_images_with(name)] for name in names},
        "pixels": pixels,
        "shares": {name: number / labelled if labelled else None for name, number in pixels.items()},
        "ignored_pixels": counts["ignored"],
    }
