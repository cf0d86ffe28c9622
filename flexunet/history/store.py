"""What ML Metadata remembers of the runs in a folder: read whole, and without TFX, which takes long to import."""

import datetime
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2

from flexunet.core.files import JsonObject
from flexunet.core.root import Root
from flexunet.history.database import open_store

Message: TypeAlias = metadata_store_pb2.Artifact | metadata_store_pb2.Execution

# TFX's names of the contexts that executions belong to.
_RUN: Final = "pipeline_run"
_NODE: Final = "node"
_EVENT = metadata_store_pb2.Event
_INPUTS: Final = (_EVENT.INPUT, _EVENT.DECLARED_INPUT, _EVENT.INTERNAL_INPUT)
_OUTPUTS: Final = (_EVENT.OUTPUT, _EVENT.DECLARED_OUTPUT, _EVENT.INTERNAL_OUTPUT)
_SUCCESSFUL: Final = ("COMPLETE", "CACHED")


@dataclass(frozen=True)
class Artifact:
    """`kind` is TFX's name of its type; `is_live`: a cache or a resolver may still give it.

    `created`: milliseconds since 1970.
    """

    id: int
    kind: str
    uri: str
    is_live: bool
    created: int
    properties: JsonObject


@dataclass(frozen=True)
class Execution:
    """One node of one run; what came from the cache has outputs that an earlier execution made."""

    id: int
    node: str
    state: str
    started: datetime.datetime
    ended: datetime.datetime
    properties: JsonObject
    inputs: dict[str, list[Artifact]] = field(default_factory=dict)
    outputs: dict[str, list[Artifact]] = field(default_factory=dict)

    @property
    def succeeded(self) -> bool:
        return self.state in _SUCCESSFUL

    def output(self, key: str) -> Artifact | None:
        """The artifact of an output that has one."""
        return next(iter(self.outputs.get(key, [])), None)

    def input(self, key: str) -> Artifact | None:
        """The artifact of an input that has one."""
        return next(iter(self.inputs.get(key, [])), None)


@dataclass(frozen=True)
class Run:
    """The executions of one run, by node."""

    run_id: str
    nodes: dict[str, Execution]

    def output(self, node: str, key: str) -> Artifact | None:
        """The artifact of an output of one of its nodes."""
        execution = self.nodes.get(node)
        return execution.output(key) if execution else None

    @property
    def report(self) -> Artifact | None:
        """The report, if the run came to its end."""
        reporter = self.nodes.get("Reporter")
        return reporter.output("report") if reporter and reporter.succeeded else None


@dataclass(frozen=True)
class History:
    """`runs` newest first; `maker`: by artifact id, the execution that made it; `run_of`: by execution id."""

    runs: list[Run]
    artifacts: dict[int, Artifact]
    maker: dict[int, Execution]
    run_of: dict[int, Run]

    def of_kind(self, kind: str) -> list[Artifact]:
        """Newest first."""
        return [a for a in sorted(self.artifacts.values(), key=lambda a: -a.id) if a.kind == kind]


def read_history(root: Path) -> History:
    """All runs in `root`; the server of a cluster may know others, too.

    Raises:
      UserError: no run was ever started there, or the server of its database cannot be reached.
    """
    store = open_store(root)
    nodes = _node_names(store)
    executions = {e.id: _execution(e, nodes[e.id]) for e in store.get_executions() if e.id in nodes}
    events = _events(store, executions)
    # Last: a run may go on, and what an event is about is there before it.
    artifacts = [*store.get_artifacts()]
    kinds = {kind.id: kind.name for kind in store.get_artifact_types()}
    artifacts = {a.id: _artifact(a, kinds[a.type_id]) for a in artifacts}
    maker: dict[int, Execution] = {}
    for event in sorted(events, key=lambda event: event.execution_id):
        execution, artifact = executions[event.execution_id], artifacts[event.artifact_id]
        key = event.path.steps[0].key
        if event.type in _INPUTS:
            execution.inputs.setdefault(key, []).append(artifact)
        elif event.type in _OUTPUTS:
            execution.outputs.setdefault(key, []).append(artifact)
        if event.type == _EVENT.OUTPUT:
            maker.setdefault(artifact.id, execution)
    runs = _runs(store, executions)
    if not Root(root).metadata.is_file():
        runs, artifacts = _of_folder(root, runs, artifacts)
    run_of = {execution.id: run for run in runs for execution in run.nodes.values()}
    return History(runs, artifacts, maker, run_of)


def _of_folder(root: Path, runs: list[Run], artifacts: dict[int, Artifact]) -> tuple[list[Run], dict[int, Artifact]]:
    """Runs of the folder, and the artifacts in it: URIs are paths as the nodes see them.

    Where the folder cannot be seen from here, a run belongs to each that it has outputs in, the cache's among them.
    """
    folder, prepared = f"{root.absolute()}/", Root(root).kubeflow

    def is_here(run: Run) -> bool:
        if prepared.is_dir():
            return (prepared / run.run_id).is_dir()
        outputs = [
            artifact for execution in run.nodes.values() for found in execution.outputs.values() for artifact in found
        ]
        return any(artifact.uri.startswith(folder) for artifact in outputs)

    here = {identity: artifact for identity, artifact in artifacts.items() if artifact.uri.startswith(folder)}
    return [run for run in runs if is_here(run)], here


def _node_names(store: mlmd.MetadataStore) -> dict[int, str]:
    """Node names by execution id."""
    return {execution.id: node for node, executions in executions_by_node(store) for execution in executions}


def executions_by_node(store: mlmd.MetadataStore) -> Iterator[tuple[str, Sequence[metadata_store_pb2.Execution]]]:
    """The name of each node, and all of its executions; its context is called `<pipeline>.<node>`."""
    for context in _contexts(store, _NODE):
        yield context.name.rpartition(".")[2], store.get_executions_by_context(context.id)


def _runs(store: mlmd.MetadataStore, executions: dict[int, Execution]) -> list[Run]:
    runs = []
    for context in sorted(_contexts(store, _RUN), key=lambda context: -context.id):
        found = [executions[e.id] for e in store.get_executions_by_context(context.id) if e.id in executions]
        nodes = {execution.node: execution for execution in sorted(found, key=lambda execution: execution.id)}
        runs.append(Run(context.name, nodes))
    return runs


def _contexts(store: mlmd.MetadataStore, kind: str) -> list[metadata_store_pb2.Context]:
    known = {context_type.name for context_type in store.get_context_types()}
    return store.get_contexts_by_type(kind) if kind in known else []


def _events(store: mlmd.MetadataStore, executions: Iterable[int]) -> list[metadata_store_pb2.Event]:
    ids = list(executions)
    return store.get_events_by_execution_ids(ids) if ids else []


def _artifact(artifact: metadata_store_pb2.Artifact, kind: str) -> Artifact:
    is_live = artifact.state == metadata_store_pb2.Artifact.LIVE
    created = artifact.create_time_since_epoch
    return Artifact(artifact.id, kind, artifact.uri, is_live, created, _properties(artifact))


def _execution(execution: metadata_store_pb2.Execution, node: str) -> Execution:
    state = metadata_store_pb2.Execution.State.Name(execution.last_known_state)
    times = (execution.create_time_since_epoch, execution.last_update_time_since_epoch)
    started, ended = (datetime.datetime.fromtimestamp(time / 1000).astimezone() for time in times)
    return Execution(execution.id, node, state, started, ended, _properties(execution))


def _properties(message: Message) -> JsonObject:
    """TFX's own and custom ones, as Python values."""
    values = {**message.properties, **message.custom_properties}
    return {
        name: getattr(value, str(value.WhichOneof("value")))
        for name, value in values.items()
        if value.WhichOneof("value")
    }
