"""ExampleGen for records that are already shuffled and sharded: their files are copied as they are.

The stock executor reads, reshuffles and writes each split, for which it buffers all of it: above what importing TFX
takes, 80 MB of records peaked at 354 MB and 320 MB at 1,736 MB. A copy holds nothing, keeps the sizes of files that
ingest has cut for reading in parallel, and is a graph of a few tasks, each file one element for the engine's workers.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict
from uuid import uuid4

import apache_beam as beam
from google.protobuf import wrappers_pb2
from tfx.components.example_gen import component, driver, utils
from tfx.components.example_gen.import_example_gen import executor
from tfx.dsl.components.base import executor_spec
from tfx.dsl.io import fileio
from tfx.proto import example_gen_pb2, range_config_pb2
from tfx.types import Artifact, artifact_utils, standard_component_specs
from tfx.utils import io_utils, proto_utils

from flexunet.core.features import RECORDS_SPANS, SPLITS
from flexunet.dataset.manifest import versions

Artifacts = dict[str, list[Artifact]]


class Settings(TypedDict):
    """What is ours of the node's parameters."""

    spans: int | None
    code: str


class Driver(driver.FileBasedDriver):
    """Adds the spans before the newest, each in its newest version, as more patterns of the same splits."""

    def resolve_exec_properties(self, exec_properties: dict[str, Any], *arguments: object) -> dict[str, Any]:
        resolved = super().resolve_exec_properties(exec_properties, *arguments)
        input_config = _input_config(resolved)
        base = Path(resolved[standard_component_specs.INPUT_BASE_KEY])
        fingerprints = [resolved[utils.FINGERPRINT_PROPERTY_NAME]]
        for version in _versions_before(base, resolved[utils.SPAN_PROPERTY_NAME], _settings(resolved)["spans"]):
            for name in SPLITS:
                pattern = f"{version.relative_to(base)}/{name}/*.tfrecord.gz"
                input_config.splits.add(name=name, pattern=pattern)
                fingerprints.append(io_utils.generate_fingerprint(name, f"{base}/{pattern}"))
        resolved[standard_component_specs.INPUT_CONFIG_KEY] = proto_utils.proto_to_json(input_config)
        resolved[utils.FINGERPRINT_PROPERTY_NAME] = "\n".join(fingerprints)
        return resolved


class Executor(executor.Executor):
    """Copies each split's TFRecord files into the artifact."""

    def Do(self, input_dict: Artifacts, output_dict: Artifacts, exec_properties: dict[str, Any]) -> None:
        self._log_startup(input_dict, output_dict, exec_properties)
        artifacts = output_dict[standard_component_specs.EXAMPLES_KEY]
        examples = artifact_utils.get_single_instance(artifacts)
        examples.split_names = artifact_utils.encode_split_names(list(SPLITS))
        # The stock node leaves it a custom property, which StatisticsGen does not read.
        examples.span = exec_properties[utils.SPAN_PROPERTY_NAME]
        base = exec_properties[standard_component_specs.INPUT_BASE_KEY]
        patterns: dict[str, list[str]] = {name: [] for name in SPLITS}
        for split in _input_config(exec_properties).splits:
            patterns[split.name].append(f"{base}/{split.pattern}")
        examples.set_string_custom_property(RECORDS_SPANS, _spans(patterns[SPLITS[0]], base))
        copies = [
            copied
            for name in SPLITS
            for copied in _copies(patterns[name], artifact_utils.get_split_uri(artifacts, name))
        ]
        with self._make_beam_pipeline() as pipeline:
            _ = (
                pipeline
                | "Files" >> beam.Create(copies)
                | "OneToAWorker" >> beam.Reshuffle()
                | "Copy" >> beam.MapTuple(_copy)
            )
        _require_all([target for _, target in copies])


class RecordGen(component.FileBasedExampleGen):
    """Imports `span-N/version-M/{train,eval,test}`: the newest `spans` spans, or all, each in its newest version.

    One node for all of them: TFX allows one span per ExampleGen, and joining several nodes would need a number of
    nodes fixed at compile time. The artifact's span is the newest. `code` is the fingerprint that keys the cache.
    """

    DRIVER_CLASS = Driver
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(self, data_directory: str, spans: int | None, code: str, newest: int | None = None) -> None:
        splits = [
            example_gen_pb2.Input.Split(name=name, pattern=f"span-{{SPAN}}/version-{{VERSION}}/{name}/*.tfrecord.gz")
            for name in SPLITS
        ]
        settings: Settings = {"spans": spans, "code": code}
        packed = example_gen_pb2.CustomConfig()
        packed.custom_config.Pack(wrappers_pb2.StringValue(value=json.dumps(settings)))
        span = range_config_pb2.StaticRange(start_span_number=newest, end_span_number=newest)
        super().__init__(
            data_directory,
            example_gen_pb2.Input(splits=splits),
            custom_config=packed,
            range_config=range_config_pb2.RangeConfig(static_range=span) if newest is not None else None,
        )


def _spans(patterns: Sequence[str], base: str) -> str:
    """`span-N/version-M` of each pattern of a split."""
    return " ".join("/".join(pattern.removeprefix(f"{base}/").split("/")[:2]) for pattern in patterns)


def _copies(patterns: Sequence[str], folder: str) -> list[tuple[str, str]]:
    """Each file of a split and where it goes, in the order of the patterns."""
    files = [str(file) for pattern in patterns for file in sorted(fileio.glob(pattern))]
    names = [f"{folder}/data_tfrecord-{number:05d}-of-{len(files):05d}.gz" for number in range(len(files))]
    return list(zip(files, names, strict=True))


def _copy(source: str, target: str) -> None:
    """Copies by one rename: runners try again, and some run two attempts side by side."""
    attempt = f"{target}.{uuid4().hex}.incomplete"
    fileio.makedirs(target.rpartition("/")[0])
    fileio.copy(source, attempt)
    fileio.rename(attempt, target, overwrite=True)


def _require_all(targets: Sequence[str]) -> None:
    missing = [target for target in targets if not fileio.exists(target)]
    if missing:
        raise FileNotFoundError(
            f"{missing[0]} and {len(missing) - 1} others of {len(targets)} files were not copied, though the pipeline "
            "ended well: expected workers that mount the folder of the runs"
        )


def _versions_before(data: Path, span: int, spans: int | None) -> list[Path]:
    """Versions of the spans before `span`, as many as make `spans` with it; None for all."""
    found = versions(data)
    earlier = [found[number] for number in sorted(found, reverse=True) if number < span]
    return earlier if spans is None else earlier[: spans - 1]


def _input_config(exec_properties: dict[str, Any]) -> example_gen_pb2.Input:
    input_config = example_gen_pb2.Input()
    proto_utils.json_to_proto(exec_properties[standard_component_specs.INPUT_CONFIG_KEY], input_config)
    return input_config


def _settings(exec_properties: dict[str, Any]) -> Settings:
    packed, settings = example_gen_pb2.CustomConfig(), wrappers_pb2.StringValue()
    proto_utils.json_to_proto(exec_properties[standard_component_specs.CUSTOM_CONFIG_KEY], packed)
    packed.custom_config.Unpack(settings)
    return json.loads(settings.value)
