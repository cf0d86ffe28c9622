"""Checks the records that the pipeline really reads, before a minute of training is spent on them.

Records may come from elsewhere than `flexunet ingest`, or may be no longer those that `dataset.json` describes; and
ExampleValidator reports anomalies but never stops a run. This node does.
"""

import json
from collections import Counter
from typing import Final, TypedDict

import apache_beam as beam
from tfx import v1 as tfx
from tfx.dsl.components.base import base_beam_component, base_beam_executor, executor_spec
from tfx.dsl.io import fileio
from tfx.types import Artifact, artifact_utils, component_spec, standard_artifacts
from tfx.utils import io_utils

from components.mask_validation_artifact import VALIDATION_FILE, MaskValidation
from components.record_survey import Found, find_problems
from components.record_verdict import anomaly_problems, differences, empty_splits, message, validation
from flexunet.core.config.data import TransformConfig
from flexunet.core.problems import Problem, kinds_of

_FOUND_FILE: Final = "found.json"

Artifacts = dict[str, list[Artifact]]


class Parameters(TypedDict):
    """See `MaskValidator`."""

    config: str
    expected: str
    code: str


class Executor(base_beam_executor.BaseBeamExecutor):
    """Reads every record once; only counts and the first problems are kept."""

    def Do(self, input_dict: Artifacts, output_dict: Artifacts, exec_properties: Parameters) -> None:
        self._log_startup(input_dict, output_dict, exec_properties)
        config = TransformConfig.model_validate_json(exec_properties["config"])
        expected = json.loads(exec_properties["expected"])
        examples = artifact_utils.get_single_instance(input_dict["examples"])
        target = artifact_utils.get_single_uri(output_dict["validation"])
        found = self._examine(examples, config, target)
        splits = {split: Counter(counts) for split, counts in found["splits"].items()}
        anomalies = artifact_utils.get_single_instance(input_dict["anomalies"])
        others = [*empty_splits(splits), *differences(splits, expected, config), *anomaly_problems(anomalies)]
        kinds = Counter(found["kinds"]) + kinds_of(others)
        if kinds:
            raise ValueError(message(kinds, [*map(Problem._make, found["first"]), *others]))
        io_utils.write_string_file(f"{target}/{VALIDATION_FILE}", validation(splits, config, expected is not None))

    def _examine(self, examples: Artifact, config: TransformConfig, target: str) -> Found:
        """By a file, as workers may be elsewhere."""
        splits = artifact_utils.decode_split_names(examples.split_names)
        uris = {split: artifact_utils.get_split_uri([examples], split) for split in splits}
        fileio.makedirs(target)
        with self._make_beam_pipeline() as pipeline:
            find_problems(pipeline, uris, config) | beam.io.WriteToText(
                f"{target}/{_FOUND_FILE}", shard_name_template=""
            )
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

    `config` is TransformConfig as JSON, `expected` comes from
    `record_verdict.expected_counts`, `code` is the fingerprint that keys
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
