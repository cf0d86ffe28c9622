"""Pusher that makes a version visible by one rename and records which model it holds.

The stock Pusher copies file by file into the final folder, which TF Serving polls every second.
"""

import datetime
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, NotRequired, TypedDict

from tfx.components.pusher import executor
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import Artifact, BaseChannel, Channel, artifact_utils, component_spec, standard_artifacts
from tfx.types.standard_component_specs import MODEL_KEY, PUSHED_MODEL_KEY

from components import gate
from components.mask_validation_artifact import MaskValidation, split_facts
from components.mirror import mirror_version, newest_mirrored
from components.model_card import CardFacts, card_page, card_text
from flexunet.core.config.card import PushSettings
from flexunet.core.features import (
    ACCEPTED_REFUSED,
    ASSETS_EXTRA,
    EXPORTED_CARD,
    EXPORTED_CARD_PAGE,
    EXPORTED_CONFIG,
    EXPORTED_OPERATING_POINT,
    IMPORTED_FROM,
    RECORDS_FINGERPRINT,
)
from flexunet.core.files import read_json
from flexunet.core.lock import locked
from flexunet.core.results.lineage import Provenance
from flexunet.core.results.metrics import Scores
from flexunet.history.pushes import PUSHED_COMPARABLE, PUSHED_MODEL_ID, PUSHED_SHA256
from flexunet.serving.exported import exported_training
from flexunet.serving.signing import sign, signed_by
from flexunet.serving.versions import (
    LONGEST_ROLLBACK,
    Retention,
    content_hash,
    newest_version,
    push_version,
    pushed_hash,
    read_provenance,
    rolled_back,
)

Artifacts = dict[str, list[Artifact]]

logger = logging.getLogger("flexunet.pusher")


class Parameters(TypedDict):
    """See `AtomicPusher`."""

    directory: str
    comparable: str
    settings: str
    keep_versions: NotRequired[int | None]
    mirror: str
    signing_key: str
    accepted_refused: str
    code: str


class Executor(executor.Executor):
    """Pushes a model that every blessing accepts to `directory/<version>`, unless it was rolled back.

    A person may overrule the gate with a reason, and no other check.
    """

    def Do(self, input_dict: Artifacts, output_dict: Artifacts, exec_properties: Parameters) -> None:
        self._log_startup(input_dict, output_dict, exec_properties)
        pushed = artifact_utils.get_single_instance(output_dict[PUSHED_MODEL_KEY])
        model, directory = Path(self.GetModelPath(input_dict)), Path(exec_properties["directory"])
        refused = not self.CheckBlessing({"model_blessing": input_dict["model_blessing"]})
        reason = exec_properties[ACCEPTED_REFUSED] if refused else ""
        if (refused and not reason) or not self._is_servable(input_dict):
            self._MarkNotPushed(pushed)
            return
        # Reads all of the model: once for all who ask, and before anybody has to wait.
        digest = content_hash(model)
        # `flexunet rollback` may come while a run trains: it holds the folder from its first step to its last.
        with locked(directory, wait_seconds=LONGEST_ROLLBACK):
            if _was_rolled_back(digest, directory):
                self._MarkNotPushed(pushed)
            else:
                self._push(input_dict, pushed, exec_properties, model, digest, reason)

    def _push(
        self,
        input_dict: Artifacts,
        pushed: Artifact,
        exec_properties: Parameters,
        model: Path,
        digest: str,
        reason: str,
    ) -> None:
        directory = Path(exec_properties["directory"])
        inputs = {key: artifacts[0] for key, artifacts in input_dict.items() if artifacts}
        measured = _measured(inputs, exec_properties["settings"])
        provenance = _provenance(inputs, measured, model)
        provenance["sha256"] = digest
        provenance["run"] = self._context.pipeline_run_id if self._context else None
        if reason:
            provenance["accepted_refused"] = reason
        retention = Retention(exec_properties.get("keep_versions"), exec_properties["mirror"])
        # Asked first: a store that cannot be used must not leave a version that only this folder has.
        above, key = newest_mirrored(retention.mirror), exec_properties["signing_key"]
        again = bool(reason) and _accepted_for(directory) != reason
        again = again or (bool(key) and not _is_signed(directory, Path(key)))
        card = _card(inputs, measured, provenance, model)

        def complete(folder: Path) -> None:
            if card:
                text, extra = card_text(card), folder / ASSETS_EXTRA
                (extra / EXPORTED_CARD).write_text(text, encoding="utf-8")
                (extra / EXPORTED_CARD_PAGE).write_text(card_page(text, card.name), encoding="utf-8")
            if key:
                sign(folder, Path(key))

        target = push_version(model, directory, provenance, retention, above, again, complete)
        if retention.mirror:
            mirror_version(target, retention.mirror, retention.versions)
        self._MarkPushed(pushed, pushed_destination=str(target), pushed_version=target.name)
        pushed.set_int_custom_property(PUSHED_MODEL_ID, inputs[MODEL_KEY].id)
        pushed.set_string_custom_property(PUSHED_COMPARABLE, exec_properties["comparable"])
        pushed.set_string_custom_property(PUSHED_SHA256, pushed_hash(target))
        if reason:
            pushed.set_string_custom_property(ACCEPTED_REFUSED, reason)

    def _is_servable(self, input_dict: Artifacts) -> bool:
        """Whether our serving validator and, where it is configured, TFX's InfraValidator accepted the model."""
        blessings = [input_dict.get("infra_blessing"), input_dict.get("server_blessing")]
        return all(self.CheckBlessing({"infra_blessing": blessing}) for blessing in blessings if blessing)


class AtomicPusherSpec(component_spec.ComponentSpec):
    """Inputs, output and parameters of the pusher."""

    PARAMETERS = {
        "directory": component_spec.ExecutionParameter(type=str),
        "comparable": component_spec.ExecutionParameter(type=str),
        "settings": component_spec.ExecutionParameter(type=str),
        "keep_versions": component_spec.ExecutionParameter(type=int, optional=True),
        "mirror": component_spec.ExecutionParameter(type=str),
        "signing_key": component_spec.ExecutionParameter(type=str),
        ACCEPTED_REFUSED: component_spec.ExecutionParameter(type=str),
        "code": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "model_blessing": component_spec.ChannelParameter(type=standard_artifacts.ModelBlessing),
        "infra_blessing": component_spec.ChannelParameter(type=standard_artifacts.InfraBlessing, optional=True),
        "server_blessing": component_spec.ChannelParameter(type=standard_artifacts.InfraBlessing, optional=True),
        "evaluation": component_spec.ChannelParameter(type=standard_artifacts.ModelEvaluation, optional=True),
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples, optional=True),
        "baseline_model": component_spec.ChannelParameter(type=standard_artifacts.Model, optional=True),
        "validation": component_spec.ChannelParameter(type=MaskValidation, optional=True),
    }
    OUTPUTS = {"pushed_model": component_spec.ChannelParameter(type=standard_artifacts.PushedModel)}


class AtomicPusher(base_component.BaseComponent):
    """Pushes `model` to `directory/<version>` by one rename, if every blessing there is accepts it.

    Args:
      model: a Model, an export below its `Format-Serving`.
      model_blessing: the gate's.
      directory: where TF Serving looks for versions; one machine's folder or a volume.
      code: fingerprint that keys the cache, of the signing key as well: another one in the same file signs anew.
      infra_blessing: of a serving validator.
      server_blessing: of another one.
      evaluation: of this project's Evaluator, whose scores go into the version's provenance and card; needs `settings`.
      examples: the records that the model was measured on, for the provenance.
      baseline_model: the one that it was compared with, for the provenance.
      validation: of MaskValidator, for the version's card.
      comparable: two models with the same text can be measured on the same records; kept with the push.
      settings: PushSettings as JSON.
      keep_versions: how many of the newest versions stay; None for all.
      mirror: URL of a store that gets a copy of each version, or "".
      signing_key: file of the private key that each version is signed with, or "".
      accepted_refused: a person's reason to push the model although the gate refuses it, or "".
    """

    SPEC_CLASS = AtomicPusherSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        model: BaseChannel,
        model_blessing: BaseChannel,
        directory: str,
        code: str,
        infra_blessing: BaseChannel | None = None,
        server_blessing: BaseChannel | None = None,
        evaluation: BaseChannel | None = None,
        examples: BaseChannel | None = None,
        baseline_model: BaseChannel | None = None,
        validation: BaseChannel | None = None,
        comparable: str = "",
        settings: str = "",
        keep_versions: int | None = None,
        mirror: str = "",
        signing_key: str = "",
        accepted_refused: str = "",
    ) -> None:
        spec = AtomicPusherSpec(
            model=model,
            model_blessing=model_blessing,
            infra_blessing=infra_blessing,
            server_blessing=server_blessing,
            evaluation=evaluation,
            examples=examples,
            baseline_model=baseline_model,
            validation=validation,
            directory=directory,
            comparable=comparable,
            settings=settings,
            keep_versions=keep_versions,
            mirror=mirror,
            signing_key=signing_key,
            accepted_refused=accepted_refused,
            code=code,
            pushed_model=Channel(type=standard_artifacts.PushedModel),
        )
        super().__init__(spec=spec)


def _accepted_for(directory: Path) -> str | None:
    """Why the newest version was pushed against the gate, if it was: a reason belongs into a version's provenance."""
    newest = newest_version(directory)
    return read_provenance(newest).get(ACCEPTED_REFUSED) if newest else None


def _is_signed(directory: Path, key: Path) -> bool:
    newest = newest_version(directory)
    return newest is not None and signed_by(newest, key)


def _was_rolled_back(digest: str, directory: Path) -> bool:
    version = rolled_back(directory).get(digest)
    if version is not None:
        logger.warning("the model was rolled back as version %s: not pushed again", version)
    return version is not None


class _Measured(NamedTuple):
    """What the Evaluator found, and the scores that it is told by."""

    settings: PushSettings
    evaluation: gate.Evaluation
    scores: Scores


def _measured(inputs: Mapping[str, Artifact], settings: str) -> _Measured | None:
    if "evaluation" not in inputs:
        return None
    said, evaluation = PushSettings.model_validate_json(settings), gate.read_evaluation(inputs["evaluation"].uri)
    return _Measured(said, evaluation, gate.metrics_json(evaluation, said))


def _provenance(inputs: Mapping[str, Artifact], measured: _Measured | None, exported: Path) -> Provenance:
    """What a version is made from and why it was accepted, as far as the pipeline tells."""
    examples, baseline = inputs.get("examples"), inputs.get("baseline_model")
    found: Provenance = {
        "pushed": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "model_uri": inputs[MODEL_KEY].uri,
        "baseline": baseline.uri if baseline else None,
    }
    directory = inputs[MODEL_KEY].get_string_custom_property(IMPORTED_FROM)
    if directory:
        found["imported"] = {"directory": directory, "weights": exported_training(exported).get("weights")}
    if examples:
        fingerprint = examples.get_string_custom_property(RECORDS_FINGERPRINT)
        found["data"] = {"fingerprint": fingerprint, "span": examples.span}
    if measured:
        scores = measured.scores
        found["gate"] = scores["gate"]
        found["scores"] = {
            "examples": scores["examples"],
            "foreground_dice": scores["foreground_dice"],
            "mean_iou": scores["mean_iou"],
            "classes": scores["classes"],
        }
    return found


def _card(
    inputs: Mapping[str, Artifact], measured: _Measured | None, provenance: Provenance, exported: Path
) -> CardFacts | None:
    """What a version's card is made of; None without an evaluation, or for a model of somebody else."""
    extra = exported / ASSETS_EXTRA
    config = read_json(extra / EXPORTED_CONFIG)
    if measured is None or config is None:
        return None
    said, evaluation, scores = measured
    baseline, validation = inputs.get("baseline_model"), inputs.get("validation")
    return CardFacts(
        card=said.card,
        classes=[c.name for c in said.classes],
        scores=scores,
        details=gate.details_json(evaluation, said),
        baseline=gate.baseline_json(evaluation, baseline.uri) if baseline else None,
        splits=split_facts(validation) if validation else {},
        provenance=provenance,
        config=config,
        training=exported_training(exported),
        point=read_json(extra / EXPORTED_OPERATING_POINT),
        sha256=provenance.get("sha256", ""),
    )
