"""Which model a candidate is compared with.

TFX's own latest-blessed resolver gives the candidate itself on the second run, so that Evaluator and Pusher run again
and the same model is pushed twice. This one gives the newest model that was really pushed, never the candidate, never
one that was rolled back, and never one with other classes.
"""

import logging

import ml_metadata as mlmd
from tfx.dsl.components.common import resolver
from tfx.dsl.io import fileio
from tfx.types import Artifact

from flexunet.history.pushes import (
    PUSHED,
    PUSHED_COMPARABLE,
    PUSHED_MODEL_ID,
    RESTORED_MILLISECONDS,
    ROLLED_BACK,
    last_pushed,
)

logger = logging.getLogger("flexunet.baseline")


class LatestPushedModel(resolver.ResolverStrategy):
    """Inputs: `model` (all models), `pushed_model` (all pushes), `candidate`. Resolves `model` to none or one.

    A push that was rolled back does not count, and one that a rollback restored is as new as that.

    `comparable` is a hash of what two models must share to be measured on the same records.
    """

    def __init__(self, comparable: str) -> None:
        self._comparable = comparable

    def resolve_artifacts(
        self, store: mlmd.MetadataStore, input_dict: dict[str, list[Artifact]]
    ) -> dict[str, list[Artifact]]:
        del store
        candidates = {artifact.id for artifact in input_dict["candidate"]}
        models = {artifact.id: artifact for artifact in input_dict["model"] if artifact.id not in candidates}
        pushes = sorted(input_dict["pushed_model"], key=_last_pushed, reverse=True)
        pushed_ids = [self._pushed_model_id(push) for push in pushes]
        baseline = next((models[model_id] for model_id in pushed_ids if is_there(models.get(model_id))), None)
        result: dict[str, list[Artifact]] = {key: [] for key in input_dict}
        return {**result, "model": [baseline] if baseline else []}

    def _pushed_model_id(self, push: Artifact) -> int | None:
        if (
            push.get_int_custom_property(PUSHED) != 1
            or push.get_int_custom_property(ROLLED_BACK) == 1
            or push.get_string_custom_property(PUSHED_COMPARABLE) != self._comparable
        ):
            return None
        return push.get_int_custom_property(PUSHED_MODEL_ID)


def _last_pushed(push: Artifact) -> tuple[int, int]:
    created = push.mlmd_artifact.create_time_since_epoch
    return last_pushed(push.id, created, push.get_int_custom_property(RESTORED_MILLISECONDS))


def is_there(model: Artifact | None) -> bool:
    """A model whose folder somebody deleted or moved cannot be measured: the gate falls back, and says so."""
    if model is None:
        return False
    if not fileio.exists(model.uri):
        logger.warning("the pushed model %s is gone; the candidate is compared with an earlier one, or none", model.uri)
        return False
    return True
