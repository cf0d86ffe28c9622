"""`flexunet lineage`: which data, configuration, code and baseline made a pushed version."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from flexunet.core.errors import UserError
from flexunet.core.features import ACCEPTED_REFUSED, ASSETS_EXTRA, EXPORTED_PROVENANCE, RECORDS_FINGERPRINT
from flexunet.core.files import JsonObject
from flexunet.core.results.lineage import BaselineOrigin, DataOrigin, ImportedModel, Provenance, PushedScores
from flexunet.core.root import Root
from flexunet.history.database import is_known, whereabouts
from flexunet.history.pushes import PUSHED_MODEL, PUSHED_MODEL_ID, PUSHED_SHA256
from flexunet.history.runs import PUSHED_VERSION
from flexunet.history.store import Artifact, Execution, History, read_history
from flexunet.serving.exported import exported_part
from flexunet.serving.versions import content_hash, model_directory, read_provenance

# Edges that lead to another model: what made that one did not make this one.
_OTHER_MODELS: Final = ("baseline_model", "base_model")


@dataclass(frozen=True)
class Lineage:
    """`source` says where the answer comes from; None and empty: not known there.

    `code` has a fingerprint for each node on the way to the model; `base_model`: where a warm start began; `imported`:
    the export that a run took instead of training one.
    """

    version: str
    source: str
    sha256: str
    run: str | None
    pushed: str | None
    accepted_refused: str | None
    model: str | None
    data: DataOrigin
    config: JsonObject
    code: dict[str, str]
    baseline: BaselineOrigin | None
    base_model: str | None
    imported: ImportedModel | None
    scores: PushedScores

    def as_json(self) -> JsonObject:
        """Plain values."""
        return asdict(self)


class _Exported(BaseModel):
    """All that an export tells of its configuration, by whatever version of the project."""

    model_config = ConfigDict(extra="allow")


def lineage_of(model: Path) -> Lineage:
    """Lineage of a version that a run or a rollback pushed.

    Args:
      model: the version's folder, or the folder of the versions, whose newest is meant.

    Raises:
      UserError: no such version, or neither ML Metadata nor the version itself knows where it comes from.
    """
    version = model_directory(model)
    path = version / ASSETS_EXTRA / EXPORTED_PROVENANCE
    provenance = read_provenance(version)
    if not provenance:
        raise UserError(f"{path}: missing, expected a version that a run pushed, such as DIR/serving_model/1")
    sha256, number = provenance.get("sha256", ""), provenance.get("version", 0)
    root = version.resolve().parent.parent
    if not is_known(root):
        source = f"{path}, written when it was pushed: there is no {Root(root).metadata}"
        return _from_provenance(version, provenance, source)
    history = read_history(root)
    pushes = [p for p in history.of_kind(PUSHED_MODEL) if p.properties.get(PUSHED_SHA256) == sha256]
    if not pushes:
        source = f"{path}, written when it was pushed: {whereabouts(root)} does not know this model"
        return _from_provenance(version, provenance, source)
    # A rollback gives the same model a number that no run gave: then its first push tells what made it.
    own = [push for push in pushes if push.properties.get(PUSHED_VERSION) == str(number)]
    return _from_metadata(version, provenance, history, [*own, pushes[-1]][0], f"ML Metadata in {whereabouts(root)}")


def data_folder(version: Path, which: Literal["records", "directory"]) -> Path | None:
    """Where a version's data lie: the records that its run copied, or the folder that it read them from.

    None where that is not noted or no longer there.

    Raises:
      UserError: as `lineage_of`.
    """
    noted = lineage_of(version).data.get(which)
    return Path(noted) if noted and Path(noted).is_dir() else None


def is_intact(version: Path, lineage: Lineage) -> bool | None:
    """Whether the files of the version are still those that were pushed; None where nobody noted their hash."""
    return content_hash(version) == lineage.sha256 if lineage.sha256 else None


def _from_provenance(version: Path, provenance: Provenance, source: str) -> Lineage:
    # A version that somebody else made and a rollback restored knows little of itself.
    baseline = provenance.get("baseline")
    return Lineage(
        version=str(version),
        source=source,
        sha256=provenance.get("sha256", ""),
        run=provenance.get("run"),
        pushed=provenance.get("pushed"),
        accepted_refused=provenance.get("accepted_refused"),
        model=provenance.get("model_uri"),
        data=provenance.get("data", {}),
        config=exported_part(version, _Exported).model_dump(mode="json"),
        code={},
        baseline={"model": baseline, "version": None} if baseline else None,
        base_model=None,
        imported=provenance.get("imported"),
        scores=provenance.get("scores", {}),
    )


def _from_metadata(version: Path, provenance: Provenance, history: History, push: Artifact, source: str) -> Lineage:
    pusher = history.maker[push.id]
    run = history.run_of.get(pusher.id)
    model, baseline = pusher.input("model"), pusher.input("baseline_model")
    makers = _makers(history, pusher)
    trainer = makers.get("Trainer")
    base = trainer.input("base_model") if trainer else None
    return Lineage(
        version=str(version),
        source=source,
        sha256=provenance.get("sha256", ""),
        run=run.run_id if run else None,
        pushed=pusher.ended.isoformat(timespec="seconds"),
        accepted_refused=push.properties.get(ACCEPTED_REFUSED),
        model=model.uri if model else None,
        data=_data(makers.get("RecordGen")),
        config=_config(makers, version),
        code={name: code for name, execution in makers.items() if (code := _code(execution.properties))},
        baseline=_baseline(history, baseline) if baseline else None,
        base_model=base.uri if base else None,
        imported=provenance.get("imported"),
        scores=provenance.get("scores", {}),
    )


def _makers(history: History, last: Execution) -> dict[str, Execution]:
    """Executions on the way from the records to `last`, by node, without those that made other models."""
    found: dict[str, Execution] = {}
    waiting = [last]
    while waiting:
        execution = waiting.pop()
        if execution.node not in found:
            found[execution.node] = execution
            artifacts = [a for key, inputs in execution.inputs.items() if key not in _OTHER_MODELS for a in inputs]
            waiting += [history.maker[a.id] for a in artifacts if a.id in history.maker]
    return dict(sorted(found.items(), key=lambda item: item[1].id))


def _data(record_gen: Execution | None) -> DataOrigin:
    if record_gen is None:
        return {}
    examples, properties = record_gen.output("examples"), record_gen.properties
    return {
        "directory": properties.get("input_base"),
        "span": examples.properties.get("span") if examples else None,
        "fingerprint": properties.get(RECORDS_FINGERPRINT),
        "records": examples.uri if examples else None,
    }


def _config(makers: dict[str, Execution], version: Path) -> JsonObject:
    """Put together from the sections that the nodes were given."""
    config: JsonObject = {}
    trainer = makers.get("Trainer")
    if trainer and not trainer.input("hyperparameters"):
        config |= json.loads(_custom_config(trainer)["config"])
    else:
        # Imported, or with values that a search found: the model's own.
        config |= exported_part(version, _Exported).model_dump(mode="json")
    for node in ("ServingValidator", "Pusher"):
        if node in makers:
            config |= json.loads(makers[node].properties["settings"])
    return config


def _code(value: object) -> str | None:
    """The fingerprint of the code that a node ran, wherever in its properties TFX has room for one."""
    if isinstance(value, str) and value.startswith(("{", "[")):
        value = json.loads(value)
    if isinstance(value, dict):
        if isinstance(value.get("code"), str):
            return value["code"]
        value = list(value.values())
    if isinstance(value, list):
        return next((code for item in value if (code := _code(item))), None)
    return None


def _custom_config(execution: Execution) -> dict[str, str]:
    """The `custom_config` of those of TFX's own nodes that call our code."""
    return json.loads(execution.properties["custom_config"])


def _baseline(history: History, model: Artifact) -> BaselineOrigin:
    """Folder of the baseline, and the number that it was pushed under."""
    pushes = [p for p in history.of_kind(PUSHED_MODEL) if p.properties.get(PUSHED_MODEL_ID) == model.id]
    numbers = [p.properties[PUSHED_VERSION] for p in pushes if PUSHED_VERSION in p.properties]
    return {"model": model.uri, "version": int(numbers[0]) if numbers else None}
