"""In the place of a training: takes an export that exists into a run, so that the rest judges, tries and pushes it."""

import shutil
from pathlib import Path

from tfx.dsl.component.experimental.annotations import OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts
from tfx.utils import path_utils

from flexunet.core.features import ASSETS_EXTRA, EXPORTED_PROVENANCE, IMPORTED_FROM
from flexunet.serving.versions import content_hash


@component
def ModelImporter(
    model: OutputArtifact[standard_artifacts.Model],
    model_run: OutputArtifact[standard_artifacts.ModelRun],
    source: Parameter[str],
    sha256: Parameter[str],
    code: Parameter[str],
) -> None:
    """Copies an export of this project: what a run judged stays with it, whatever becomes of the folder.

    `source` is the export's folder, `sha256` its `content_hash`, which keys the cache as `code` does; `model_run`, a
    training's history and pictures, stays empty.

    Raises:
      ValueError: the folder is not what it was when the run began.
    """
    del model_run, code
    target = Path(path_utils.serving_model_dir(model.uri))
    shutil.copytree(source, target)
    # Of a version that another run pushed; this one's push writes its own.
    (target / ASSETS_EXTRA / EXPORTED_PROVENANCE).unlink(missing_ok=True)
    if content_hash(target) != sha256:
        raise ValueError(f"{source} was changed after the run began, expected a folder that stays: run again")
    model.set_string_custom_property(IMPORTED_FROM, source)
