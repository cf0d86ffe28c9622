"""Pusher that makes a version visible by one rename and records which model it holds.

The stock Pusher copies file by file into the final folder, which TF Serving polls every second.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from tfx import v1 as tfx
from tfx.components.pusher import component, executor
from tfx.dsl.components.base import executor_spec
from tfx.types import Artifact, artifact_utils, standard_component_specs
from tfx.utils import json_utils

from components.baseline import ACCEPTED_REFUSED, PUSHED_COMPARABLE, PUSHED_MODEL_ID
from pipeline.features import ASSETS_EXTRA, EXPORTED_PROVENANCE


class Executor(executor.Executor):
    """Pushes a blessed model to `custom_config["directory"]/<version>`, or one that a person accepts with a reason."""

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        self._log_startup(input_dict, output_dict, exec_properties)
        pushed = artifact_utils.get_single_instance(output_dict[standard_component_specs.PUSHED_MODEL_KEY])
        settings = json_utils.loads(exec_properties[standard_component_specs.CUSTOM_CONFIG_KEY])
        refused = not self.CheckBlessing(input_dict)
        reason = settings.get(ACCEPTED_REFUSED) if refused else None
        if refused and (not reason or not self._passes_without_gate(input_dict)):
            self._MarkNotPushed(pushed)
            return
        model = artifact_utils.get_single_instance(input_dict[standard_component_specs.MODEL_KEY])
        provenance = {"model_uri": model.uri, **({ACCEPTED_REFUSED: reason} if reason else {})}
        target = push_version(Path(self.GetModelPath(input_dict)), Path(settings["directory"]), provenance)
        self._record(pushed, target, model, settings["comparable"])
        if reason:
            pushed.set_string_custom_property(ACCEPTED_REFUSED, reason)

    def _passes_without_gate(self, input_dict: dict[str, Any]) -> bool:
        """A person can overrule the gate, never another check of the model."""
        others = {k: v for k, v in input_dict.items() if k != standard_component_specs.MODEL_BLESSING_KEY}
        return self.CheckBlessing(others)

    def _record(self, pushed: Artifact, target: Path, model: Artifact, comparable: str) -> None:
        self._MarkPushed(pushed, pushed_destination=str(target), pushed_version=target.name)
        pushed.set_int_custom_property(PUSHED_MODEL_ID, model.id)
        pushed.set_string_custom_property(PUSHED_COMPARABLE, comparable)


class AtomicPusher(component.Pusher):
    """Stock Pusher's inputs and output, with an executor of its own; `accepted_refused` is a person's reason, or ""."""

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        model: tfx.types.BaseChannel,
        model_blessing: tfx.types.BaseChannel,
        directory: str,
        comparable: str,
        code: str,
        accepted_refused: str = "",
    ) -> None:
        settings = {"directory": directory, "comparable": comparable, "code": code}
        # Only if it is given: the key of the cache stays as it was.
        settings |= {ACCEPTED_REFUSED: accepted_refused} if accepted_refused else {}
        super().__init__(model=model, model_blessing=model_blessing, custom_config=settings)


def versions(directory: Path) -> list[int]:
    """The versions that TF Serving sees in `directory`, ascending."""
    if not directory.is_dir():
        return []
    return sorted(int(child.name) for child in directory.iterdir() if child.name.isdigit())


def push_version(model: Path, directory: Path, provenance: dict[str, Any]) -> Path:
    """Copies `model` to the next numeric version of `directory`; returns its folder.

    Written aside under a name that is no number, flushed to disk, then renamed: a server sees all of it or nothing.
    Pushing what the newest version already holds changes nothing.
    """
    existing = versions(directory)
    provenance = {**provenance, "sha256": content_hash(model)}
    if existing and pushed_hash(directory / str(existing[-1])) == provenance["sha256"]:
        return directory / str(existing[-1])
    target = directory / str(existing[-1] + 1 if existing else 1)
    aside = directory / f".{target.name}.incomplete"
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(model, aside)
    extra = aside / ASSETS_EXTRA
    extra.mkdir(exist_ok=True)
    (extra / EXPORTED_PROVENANCE).write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")
    _flush(aside)
    aside.rename(target)
    _flush_path(directory)
    return target


def content_hash(model: Path) -> str:
    """sha256 over the names and bytes of a SavedModel's files: ids and paths begin anew with a new database."""
    digest = hashlib.sha256()
    for path in sorted(p for p in model.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(model)} {content}\n".encode())
    return digest.hexdigest()


def pushed_hash(version: Path) -> str | None:
    """`content_hash` of the model that a version was made from; None for a version that somebody else made."""
    path = version / ASSETS_EXTRA / EXPORTED_PROVENANCE
    return json.loads(path.read_text(encoding="utf-8")).get("sha256") if path.is_file() else None


def _flush(directory: Path) -> None:
    for path in sorted(directory.rglob("*")):
        _flush_path(path)
    _flush_path(directory)


def _flush_path(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
