"""What every runner does beside launching nodes: what of the cache still holds, and which report is shown."""

import shutil
from pathlib import Path
from typing import Final

from tfx.components.evaluator.constants import BLESSED_FILE_NAME
from tfx.orchestration import metadata
from tfx.proto.orchestration import pipeline_pb2
from tfx.utils import path_utils

from flexunet.core.files import read_json, replace_file, write_json
from flexunet.core.results.metrics import Metrics
from flexunet.core.results.serving import NOT_CHECKED, Serving, read_serving
from flexunet.core.results.verdict import decide, is_accepted
from flexunet.core.root import ReportFolder, Root
from flexunet.reporting.report import write_page
from flexunet.serving.versions import content_hash, newest_version, pushed_hash, rolled_back
from pipeline.launch import NodeResult, run_node

# Whichever of them is in the pipeline.
MODEL_MAKERS: Final = ("Trainer", "ModelImporter")


def run_in_turn(
    ir: pipeline_pb2.Pipeline,
    node: pipeline_pb2.PipelineNode,
    database: metadata.Metadata,
    before: dict[str, NodeResult],
    serving: Path,
    accepted_refused: str,
) -> NodeResult:
    """Runs a node after those `before`; what comes from the cache must still hold.

    The Pusher needs all of them in `before`, no other node needs any.

    Raises:
      NodeFailed: it raised.
    """
    name, caching = node.node_info.id, node.execution_options.caching_options
    if name == "Pusher" and _must_push(before, serving, accepted_refused):
        caching.enable_cache = False
    if name in ("ServingValidator", "InfraValidator") and _was_not_servable(serving.parent):
        caching.enable_cache = False
    return run_node(ir, node, database)


def _must_push(results: dict[str, NodeResult], serving: Path, accepted_refused: str) -> bool:
    """Whether an accepted model is not what is served, though it was pushed once: versions go on and get deleted.

    A model that was rolled back is not pushed again by a run: `flexunet rollback --to` brings it back.
    """
    if not _is_accepted(results, accepted_refused):
        return False
    wanted = _model_hash(results)
    return wanted not in rolled_back(serving) and _served_as(wanted, serving) is None


def _was_not_servable(root: Path) -> bool:
    """Whether the last run's model was refused by what was measured, which depends on what else the machine did."""
    last: Serving | None = read_json(Root(root).report.serving)
    return last is not None and not last["blessed"] and last["problems"] != [NOT_CHECKED]


def _is_accepted(results: dict[str, NodeResult], accepted_refused: str) -> bool:
    blessing = Path(results["Evaluator"].outputs["blessing"])
    server = results.get("InfraValidator")
    serving = read_serving(
        Path(results["ServingValidator"].outputs["blessing"]), Path(server.outputs["blessing"]) if server else None
    )
    return is_accepted(decide((blessing / BLESSED_FILE_NAME).exists(), serving["blessed"], bool(accepted_refused)))


def _model_hash(results: dict[str, NodeResult]) -> str:
    maker = next(results[name] for name in MODEL_MAKERS if name in results)
    return content_hash(Path(path_utils.serving_model_path(maker.outputs["model"])))


def _served_as(model: str, serving: Path) -> int | None:
    """The newest version's number, if it is that model. One look: others push and roll back meanwhile."""
    newest = newest_version(serving)
    return int(newest.name) if newest and pushed_hash(newest) == model else None


def publish_report(results: dict[str, NodeResult], root: Path, run_id: str) -> Metrics:
    """`root/report` shows the last run, also when the report itself came from the cache; returns its metrics."""
    source, target = ReportFolder(Path(results["Reporter"].outputs["report"])), Root(root).report
    metrics: Metrics = read_json(source.metrics)
    metrics["run_id"] = run_id
    serving, model = Root(root).serving, _model_hash(results)
    # A report from the cache tells the number of an earlier push; versions go on.
    metrics["pushed_version"] = _served_as(model, serving) if is_accepted(metrics["verdict"]) else None
    withdrawn = rolled_back(serving).get(model)
    target.path.mkdir(exist_ok=True)
    for made, shown in ((source.training, target.training), (source.gallery, target.gallery)):
        shutil.rmtree(shown, ignore_errors=True)
        shutil.copytree(made, shown)
    for path in (source.details, source.data, source.model, source.diagram, source.lineage):
        replace_file(target.path / path.name, path.read_bytes())
    target.tuning.unlink(missing_ok=True)
    if source.tuning.is_file():
        replace_file(target.tuning, source.tuning.read_bytes())
    write_json(target.serving, {**read_json(source.serving), "rolled_back": withdrawn})
    write_json(target.metrics, metrics)
    write_page(target)
    return metrics
