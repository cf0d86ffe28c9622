"""What moved between the newest span of data and the one before: TFDV's drift comparators, and the node that reports.

Drift is reported and never stops a run: the gate decides on scores.
"""

import json
import logging
from pathlib import Path
from typing import Any, Final

import ml_metadata as mlmd
from tensorflow_metadata.proto.v0 import anomalies_pb2
from tfx import v1 as tfx
from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.dsl.components.common import resolver
from tfx.types import Artifact, artifact, artifact_utils, component_spec, standard_artifacts
from tfx.utils import io_utils

from flexunet.core.features import SPLIT_TRAIN

# Before tensorflow_data_validation: tfx stands in for a module that tfx-bsl 1.21 dropped and TFDV 1.16 imports.
import tensorflow_data_validation as tfdv  # isort: skip

DRIFT_FILE: Final = "drift.json"

logger = logging.getLogger("flexunet.drift")


class Drift(artifact.Artifact):
    """A folder with `drift.json`."""

    TYPE_NAME = "DataDrift"


class PreviousSpanStatistics(resolver.ResolverStrategy):
    """Inputs: `current` (of this run), `statistics` (all). Resolves the newest of an earlier span, or none."""

    def resolve_artifacts(
        self, store: mlmd.MetadataStore, input_dict: dict[str, list[Artifact]]
    ) -> dict[str, list[Artifact]]:
        del store
        result: dict[str, list[Any]] = {key: [] for key in input_dict}
        if not input_dict["current"]:
            return result
        span = input_dict["current"][0].span
        earlier = [s for s in input_dict["statistics"] if s.span < span]
        newest = max(earlier, key=lambda s: (s.span, s.id), default=None)
        return {**result, "statistics": [newest] if newest else []}


def drift_findings(current: str, previous: str, schema: Any) -> list[dict[str, Any]]:
    """Drift of each feature with a comparator in the schema: how far its distribution over `train` moved.

    The distance is the comparator's own (Jensen-Shannon divergence, 0 to 1). Both directories are those of
    ExampleStatistics artifacts.
    """
    anomalies = tfdv.validate_statistics(_load(current), schema, previous_statistics=_load(previous))
    return [_finding(info) for info in anomalies.drift_skew_info if info.drift_measurements]


def _load(directory: str) -> Any:
    return tfdv.load_stats_binary(f"{directory}/Split-{SPLIT_TRAIN}/FeatureStats.pb")


def _finding(info: anomalies_pb2.DriftSkewInfo) -> dict[str, Any]:
    measured = info.drift_measurements[0]
    return {
        "feature": ".".join(info.path.step),
        "distance": measured.value,
        "threshold": measured.threshold,
        "moved": measured.value > measured.threshold,
    }


class Executor(base_executor.BaseExecutor):
    """Compares statistics with those of the span before and says what moved."""

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        self._log_startup(input_dict, output_dict, exec_properties)
        previous = input_dict.get("previous") or []
        findings: list[dict[str, Any]] = []
        if previous:
            schema_uri = io_utils.get_only_uri_in_dir(artifact_utils.get_single_uri(input_dict["schema"]))
            current = artifact_utils.get_single_uri(input_dict["statistics"])
            findings = drift_findings(current, previous[0].uri, io_utils.SchemaReader().read(schema_uri))
        report = {"compared_with_span": previous[0].span if previous else None, "features": findings}
        directory = Path(artifact_utils.get_single_uri(output_dict["drift"]))
        directory.mkdir(parents=True, exist_ok=True)
        (directory / DRIFT_FILE).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        for finding in findings:
            if finding["moved"]:
                logger.warning(
                    "the data moved: %s differs from the span before by %.3f, more than %.3f",
                    finding["feature"],
                    finding["distance"],
                    finding["threshold"],
                )


class DriftSpec(component_spec.ComponentSpec):
    """Inputs, outputs and parameters of the drift node."""

    PARAMETERS = {"code": component_spec.ExecutionParameter(type=str)}
    INPUTS = {
        "statistics": component_spec.ChannelParameter(type=standard_artifacts.ExampleStatistics),
        "previous": component_spec.ChannelParameter(type=standard_artifacts.ExampleStatistics, optional=True),
        "schema": component_spec.ChannelParameter(type=standard_artifacts.Schema),
    }
    OUTPUTS = {"drift": component_spec.ChannelParameter(type=Drift)}


class DriftReporter(base_component.BaseComponent):
    """`code` is the fingerprint that keys the cache."""

    SPEC_CLASS = DriftSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        statistics: tfx.types.BaseChannel,
        previous: tfx.types.BaseChannel,
        schema: tfx.types.BaseChannel,
        code: str,
    ) -> None:
        super().__init__(
            spec=DriftSpec(
                statistics=statistics,
                previous=previous,
                schema=schema,
                code=code,
                drift=tfx.dsl.Channel(type=Drift),
            )
        )
