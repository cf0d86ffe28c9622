"""Pusher that makes a version visible by one rename and records which model it holds.

The stock Pusher copies file by file into the final folder, which TF Serving polls every second.
"""

import datetime
import logging
from pathlib import Path
from typing import Any

from tfx import v1 as tfx
from tfx.components.pusher import executor
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import Artifact, artifact_utils, component_spec, standard_artifacts
from tfx.types.standard_component_specs import MODEL_KEY, PUSHED_MODEL_KEY

from components import gate
from components.mirror import mirror_version, newest_mirrored
from flexunet.core.config.gate import GateSettings
from flexunet.core.features import ACCEPTED_REFUSED
from flexunet.history.pushes import PUSHED_COMPARABLE, PUSHED_MODEL_ID, PUSHED_SHA256
from flexunet.serving.versions import (
    Keeping,
    content_hash,
    newest_version,
    push_version,
    pushed_hash,
    read_provenance,
    rolled_back,
)

# FileBasedExampleGen's driver leaves it: the number, bytes and times of the record files.
_FINGERPRINT = "input_fingerprint"
_SCORES = ("examples", "foreground_dice", "mean_iou", "classes")

logger = logging.getLogger("flexunet.pusher")


class Executor(executor.Executor):
    """Pushes a model that every blessing accepts to `directory/<version>`, unless it was rolled back.

    A person may overrule the gate with a reason, and no other check.
    """

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        self._log_startup(input_dict, output_dict, exec_properties)
        pushed = artifact_utils.get_single_instance(output_dict[PUSHED_MODEL_KEY])
        model, directory = Path(self.GetModelPath(input_dict)), Path(exec_properties["directory"])
        refused = not self.CheckBlessing({"model_blessing": input_dict["model_blessing"]})
        reason = exec_properties[ACCEPTED_REFUSED] if refused else ""
        if (refused and not reason) or not self._is_servable(input_dict) or _was_rolled_back(model, directory):
            self._MarkNotPushed(pushed)
            return
        provenance = {
            "run": self._context.pipeline_run_id if self._context else None,
            "pushed": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            **({ACCEPTED_REFUSED: reason} if reason else {}),
            **_origin(input_dict, GateSettings.model_validate_json(exec_properties["settings"])),
        }
        keeping = Keeping(exec_properties["keep_versions"], exec_properties["mirror"])
        # Asked first: a store that cannot be used must not leave a version that only this folder has.
        above, again = newest_mirrored(keeping.mirror), bool(reason) and _accepted_for(directory) != reason
        target = push_version(model, directory, provenance, keeping, above, again)
        if keeping.mirror:
            mirror_version(target, keeping.mirror, keeping.versions)
        self._MarkPushed(pushed, pushed_destination=str(target), pushed_version=target.name)
        pushed.set_int_custom_property(PUSHED_MODEL_ID, artifact_utils.get_single_instance(input_dict[MODEL_KEY]).id)
        pushed.set_string_custom_property(PUSHED_COMPARABLE, exec_properties["comparable"])
        pushed.set_string_custom_property(PUSHED_SHA256, pushed_hash(target))
        if reason:
            pushed.set_string_custom_property(ACCEPTED_REFUSED, reason)

    def _is_servable(self, input_dict: dict[str, Any]) -> bool:
        """By our serving validator and, where it is configured, by TFX's InfraValidator."""
        blessings = [input_dict["infra_blessing"], input_dict.get("server_blessing")]
        return all(self.CheckBlessing({"infra_blessing": blessing}) for blessing in blessings if blessing)


class AtomicPusherSpec(component_spec.ComponentSpec):
    """Inputs, output and parameters of the pusher."""

    PARAMETERS = {
        "directory": component_spec.ExecutionParameter(type=str),
        "comparable": component_spec.ExecutionParameter(type=str),
        "settings": component_spec.ExecutionParameter(type=str),
        "keep_versions": component_spec.ExecutionParameter(type=int),
        "mirror": component_spec.ExecutionParameter(type=str),
        ACCEPTED_REFUSED: component_spec.ExecutionParameter(type=str),
        "code": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "model_blessing": component_spec.ChannelParameter(type=standard_artifacts.ModelBlessing),
        "infra_blessing": component_spec.ChannelParameter(type=standard_artifacts.InfraBlessing),
        "server_blessing": component_spec.ChannelParameter(type=standard_artifacts.InfraBlessing, optional=True),
        "evaluation": component_spec.ChannelParameter(type=standard_artifacts.ModelEvaluation),
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "baseline_model": component_spec.ChannelParameter(type=standard_artifacts.Model, optional=True),
    }
    OUTPUTS = {"pushed_model": component_spec.ChannelParameter(type=standard_artifacts.PushedModel)}


class AtomicPusher(base_component.BaseComponent):
    """`settings` is GateSettings as JSON, `accepted_refused` a person's reason or "", `code` keys the cache.

    `evaluation`, `examples` and `baseline_model` only go into the version's provenance.
    """

    SPEC_CLASS = AtomicPusherSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(self, channels: dict[str, tfx.types.BaseChannel], **parameters: Any) -> None:
        pushed_model = tfx.dsl.Channel(type=standard_artifacts.PushedModel)
        super().__init__(spec=AtomicPusherSpec(**channels, **parameters, pushed_model=pushed_model))


def _accepted_for(directory: Path) -> str | None:
    """Why the newest version was pushed against the gate, if it was: a reason belongs into a version's provenance."""
    newest = newest_version(directory)
    return read_provenance(newest).get(ACCEPTED_REFUSED) if newest else None


def _was_rolled_back(model: Path, directory: Path) -> bool:
    version = rolled_back(directory).get(content_hash(model))
    if version is not None:
        logger.warning("the model was rolled back as version %s: not pushed again", version)
    return version is not None


def _origin(input_dict: dict[str, Any], settings: GateSettings) -> dict[str, Any]:
    """What a version is made from and why it was accepted."""
    scores = gate.metrics_json(gate.read_evaluation(artifact_utils.get_single_uri(input_dict["evaluation"])), settings)
    examples: Artifact = artifact_utils.get_single_instance(input_dict["examples"])
    baseline = input_dict.get("baseline_model") or []
    return {
        "model_uri": artifact_utils.get_single_uri(input_dict[MODEL_KEY]),
        "data": {"fingerprint": examples.get_string_custom_property(_FINGERPRINT), "span": examples.span},
        "scores": {name: scores[name] for name in _SCORES},
        "gate": scores["gate"],
        "baseline": baseline[0].uri if baseline else None,
    }
