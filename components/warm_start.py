"""Which model a warm start begins with."""

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2
from tfx.types import Artifact

from components.baseline import LatestPushedModel, is_there

_EXAMPLES = "examples"
_BASE_MODEL = "base_model"


class WarmStartModel(LatestPushedModel):
    """Inputs: `model` (all models), `pushed_model` (all pushes), `examples` (of this run). Resolves `model`.

    To the newest pushed model that was trained on *other* examples, those of another Transform; of one trained on
    these, to that with which it began; or to none. So an unchanged run begins with the same model as before and comes
    from the cache, instead of training on from itself.
    """

    def resolve_artifacts(
        self, store: mlmd.MetadataStore, input_dict: dict[str, list[Artifact]]
    ) -> dict[str, list[Artifact]]:
        result: dict[str, list[Artifact]] = {key: [] for key in input_dict}
        newest = super().resolve_artifacts(store, {**input_dict, "candidate": []})["model"]
        examples, models = {a.id for a in input_dict[_EXAMPLES]}, {m.id: m for m in input_dict["model"]}
        base = newest[0] if newest else None
        while base is not None and (examples & _inputs(store, base.id, _EXAMPLES) or not is_there(base)):
            base = next((models[i] for i in _inputs(store, base.id, _BASE_MODEL) if i in models), None)
        return {**result, "model": [base] if base else []}


def _inputs(store: mlmd.MetadataStore, artifact_id: int, key: str) -> set[int]:
    """Ids of what the execution that made an artifact read as `key`."""
    made = [e.execution_id for e in store.get_events_by_artifact_ids([artifact_id]) if _is(e, "OUTPUT")]
    read = [e for e in store.get_events_by_execution_ids(made) if _is(e, "INPUT")] if made else []
    return {event.artifact_id for event in read if event.path.steps[0].key == key}


def _is(event: metadata_store_pb2.Event, kind: str) -> bool:
    return event.type == metadata_store_pb2.Event.Type.Value(kind)
