"""What moved between the newest span of data and those before: the node that reports it.

`flexunet ingest` compares the newest span alone with all before it and writes that into `dataset.json`. Of records made
elsewhere TFDV's comparators compare the statistics of a run with those of the newest earlier span. Drift is reported
and never stops a run: the gate decides on scores.
"""

import json
import logging
from pathlib import Path
from typing import Final

import ml_metadata as mlmd
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.components.common import resolver
from tfx.types import Artifact, artifact, standard_artifacts
from tfx.utils import io_utils

from flexunet.core.features import SPLIT_TRAIN
from flexunet.core.files import write_json
from flexunet.core.results.data import Drift, DriftFinding

# Before tensorflow_data_validation: tfx stands in for a module that tfx-bsl 1.21 dropped and TFDV 1.16 imports.
import tensorflow_data_validation as tfdv  # isort: skip

DRIFT_FILE: Final = "drift.json"

logger = logging.getLogger("flexunet.drift")


class DataDrift(artifact.Artifact):
    """A folder with `drift.json`."""

    TYPE_NAME = "DataDrift"


class PreviousSpanStatistics(resolver.ResolverStrategy):
    """Inputs: `current` (of this run), `statistics` (all). Resolves the newest of an earlier span, or none."""

    def resolve_artifacts(
        self, store: mlmd.MetadataStore, input_dict: dict[str, list[Artifact]]
    ) -> dict[str, list[Artifact]]:
        del store
        result: dict[str, list[Artifact]] = {key: [] for key in input_dict}
        if not input_dict["current"]:
            return result
        span = input_dict["current"][0].span
        earlier = [s for s in input_dict["statistics"] if s.span < span]
        newest = max(earlier, key=lambda s: (s.span, s.id), default=None)
        return {**result, "statistics": [newest] if newest else []}


def drift_findings(current: str, previous: str, schema: schema_pb2.Schema) -> list[DriftFinding]:
    """Drift of each feature with a comparator in the schema: how far its distribution over `train` moved.

    The distance is the comparator's own (Jensen-Shannon divergence, 0 to 1). Both directories are those of
    ExampleStatistics artifacts.
    """
    anomalies = tfdv.validate_statistics(_load(current), schema, previous_statistics=_load(previous))
    return [_finding(info) for info in anomalies.drift_skew_info if info.drift_measurements]


def _load(directory: str) -> statistics_pb2.DatasetFeatureStatisticsList:
    return tfdv.load_stats_binary(f"{directory}/Split-{SPLIT_TRAIN}/FeatureStats.pb")


def _finding(info: anomalies_pb2.DriftSkewInfo) -> DriftFinding:
    measured = info.drift_measurements[0]
    return {
        "feature": ".".join(info.path.step),
        "distance": measured.value,
        "threshold": measured.threshold,
        "moved": measured.value > measured.threshold,
        "now": None,
        "before": None,
    }


@component
def DriftReporter(
    statistics: InputArtifact[standard_artifacts.ExampleStatistics],
    schema: InputArtifact[standard_artifacts.Schema],
    drift: OutputArtifact[DataDrift],
    code: Parameter[str],
    measured: Parameter[str] = "null",
    previous: InputArtifact[standard_artifacts.ExampleStatistics] = None,
) -> None:
    """Writes what moved since the spans before, and says it.

    `measured` is what `dataset.json` holds of it as JSON, "null" for records without one, whose statistics are compared
    with those of the span before, if there is one; `code` is the fingerprint that keys the cache.
    """
    del code
    report: Drift | None = json.loads(measured)
    if report is None:
        findings: list[DriftFinding] = []
        if previous is not None:
            comparators = io_utils.SchemaReader().read(io_utils.get_only_uri_in_dir(schema.uri))
            findings = drift_findings(statistics.uri, previous.uri, comparators)
        spans = [previous.span] if previous else []
        report = {"compared_with_spans": spans, "measure": "Jensen-Shannon", "features": findings}
    directory = Path(drift.uri)
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / DRIFT_FILE, report)
    for finding in report["features"]:
        if finding["moved"]:
            logger.warning(
                "the data moved: %s differs from the spans before by %.3f, more than %.3f",
                finding["feature"],
                finding["distance"],
                finding["threshold"],
            )
