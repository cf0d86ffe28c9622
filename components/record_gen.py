"""ExampleGen for records that are already shuffled and sharded: they are copied, never held in memory.

The stock executor reshuffles each split, which buffers all of it: above what importing TFX takes, 80 MB of records
peaked at 354 MB and 320 MB at 1,736 MB; this one at 65 MB for either.
"""

import json
from pathlib import Path
from typing import Any

import apache_beam as beam
from google.protobuf import wrappers_pb2
from tfx.components.example_gen import component, driver, utils
from tfx.components.example_gen.import_example_gen import executor
from tfx.dsl.components.base import executor_spec
from tfx.proto import example_gen_pb2, range_config_pb2
from tfx.types import artifact_utils, standard_component_specs
from tfx.utils import io_utils, proto_utils

from flexunet.core.features import SPLITS
from flexunet.dataset.manifest import versions


class Driver(driver.FileBasedDriver):
    """Adds the spans before the newest, each in its newest version, as more patterns of the same splits."""

    def resolve_exec_properties(self, exec_properties: dict[str, Any], *arguments: Any) -> dict[str, Any]:
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

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
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
        with self._make_beam_pipeline() as pipeline:
            for name in SPLITS:
                target = f"{artifact_utils.get_split_uri(artifacts, name)}/data_tfrecord"
                (
                    [
                        pipeline | f"Read[{name}, {number}]" >> beam.io.ReadFromTFRecord(pattern)
                        for number, pattern in enumerate(patterns[name])
                    ]
                    | f"Join[{name}]" >> beam.Flatten(pipeline=pipeline)
                    | f"Write[{name}]" >> beam.io.WriteToTFRecord(target, file_name_suffix=".gz")
                )


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
        settings = example_gen_pb2.CustomConfig()
        settings.custom_config.Pack(wrappers_pb2.StringValue(value=json.dumps({"spans": spans, "code": code})))
        span = range_config_pb2.StaticRange(start_span_number=newest, end_span_number=newest)
        super().__init__(
            data_directory,
            example_gen_pb2.Input(splits=splits),
            custom_config=settings,
            range_config=range_config_pb2.RangeConfig(static_range=span) if newest is not None else None,
        )


def _versions_before(data: Path, span: int, spans: int | None) -> list[Path]:
    """Of the spans before `span`, as many as make `spans` with it; None for all."""
    found = versions(data)
    earlier = [found[number] for number in sorted(found, reverse=True) if number < span]
    return earlier if spans is None else earlier[: spans - 1]


def _input_config(exec_properties: dict[str, Any]) -> example_gen_pb2.Input:
    input_config = example_gen_pb2.Input()
    proto_utils.json_to_proto(exec_properties[standard_component_specs.INPUT_CONFIG_KEY], input_config)
    return input_config


def _settings(exec_properties: dict[str, Any]) -> dict[str, Any]:
    packed, settings = example_gen_pb2.CustomConfig(), wrappers_pb2.StringValue()
    proto_utils.json_to_proto(exec_properties[standard_component_specs.CUSTOM_CONFIG_KEY], packed)
    packed.custom_config.Unpack(settings)
    return json.loads(settings.value)
