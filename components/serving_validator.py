"""Between Evaluator and Pusher: can TF Serving run this export, and does it answer what was measured?

The stock InfraValidator starts TF Serving in Docker or Kubernetes. This one needs neither: a clean process loads the
export through TensorFlow's C API, which is the session loader of TF Serving, and never imports TensorFlow's Python.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import tensorflow as tf
from tfx.components.util import model_utils
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import Artifact, artifact_utils, standard_artifacts
from tfx.utils import path_utils

from flexunet.core.config.data import ImageConfig
from flexunet.core.config.serving import ServingSettings
from flexunet.core.errors import UserError
from flexunet.core.features import SPLIT_TEST
from flexunet.core.files import read_json, write_json
from flexunet.core.results.serving import INFRA_BLESSED, NOT_CHECKED, Findings, Serving
from flexunet.core.root import SERVING_FILE
from flexunet.serving.c_api import save_arrays
from flexunet.serving.exported import exported_config
from flexunet.serving.wire import as_strings
from transform_module.images import decode_one
from transform_module.pipelines import read_records

# The name by which TFX's own InfraValidator blesses; its Pusher reads the property.
_BLESSED: Final = "blessed"
_FILES: Final = {True: INFRA_BLESSED, False: "INFRA_NOT_BLESSED"}


@component
def ServingValidator(
    model: InputArtifact[standard_artifacts.Model],
    model_blessing: InputArtifact[standard_artifacts.ModelBlessing],
    examples: InputArtifact[standard_artifacts.Examples],
    blessing: OutputArtifact[standard_artifacts.InfraBlessing],
    settings: Parameter[str],
    code: Parameter[str],
    accepted_refused: Parameter[str] = "",
) -> None:
    """Blesses a model that passed every check; `serving.json` beside the blessing has the problems and the figures.

    `settings` is ServingSettings as JSON, `accepted_refused` a person's reason or "", `code` keys the cache.
    """
    del code
    parsed = ServingSettings.model_validate_json(settings)
    findings: Findings = {"problems": [NOT_CHECKED]}
    if model_utils.is_model_blessed(model_blessing) or accepted_refused:
        records = _records(examples, parsed.serving.test_images)
        findings = check_export(Path(path_utils.serving_model_path(model.uri)), records, parsed)
    _bless(blessing, findings)


def check_export(model: Path, records: list[bytes], settings: ServingSettings) -> Findings:
    """Runs flexunet/serving/validate.py in a process of its own; a crash or a hang of it is the model's problem.

    `records` are serialized tf.Examples of the test split.
    """
    try:
        image = exported_config(model).image
    except UserError as error:
        return {"problems": [str(error)]}
    with tempfile.TemporaryDirectory() as folder:
        inputs, result = Path(folder) / "inputs.npz", Path(folder) / "result.json"
        save_arrays(inputs, _arrays(records, settings, image))
        # It works in a folder of its own, where a path that begins here would lead elsewhere.
        command = [sys.executable, "-m", "flexunet.serving.validate", str(model.resolve()), str(inputs), str(result)]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            # This process may hold all of the GPU's memory.
            "CUDA_VISIBLE_DEVICES": "-1",
        }
        limit = settings.serving.timeout_seconds
        try:
            done = subprocess.run(  # noqa: S603  our own module
                command, cwd=folder, env=environment, capture_output=True, text=True, timeout=limit, check=False
            )
        except subprocess.TimeoutExpired:
            return {"problems": [f"the check took longer than {limit:g} s (serving.timeout_seconds)"]}
        if done.returncode != 0:
            return {"problems": [f"serving the model ended the process: {_how_it_ended(done)}"]}
        findings: Findings = read_json(result)
    findings["problems"] += _beyond_bounds(findings, settings)
    return findings


def _arrays(records: list[bytes], settings: ServingSettings, image: ImageConfig) -> dict[str, np.ndarray]:
    rows = [tf.train.Example.FromString(record).features.feature for record in records]
    keys = {"images": settings.records.image, "masks": settings.records.mask}
    columns = {name: as_strings([row[key].bytes_list.value[0] for row in rows]) for name, key in keys.items()}
    pictures = as_strings([_picture(encoded, image) for encoded in columns["images"]])
    return {**columns, "pictures": pictures, "examples": as_strings(records)}


def _picture(encoded: bytes, image: ImageConfig) -> bytes:
    """The pixels that the graph decodes by the export's own settings, without loss: Pillow reads a JPEG a little
    differently."""
    return tf.io.encode_png(decode_one(tf.constant(encoded), image).image, compression=1).numpy()


def _records(examples: Artifact, count: int) -> list[bytes]:
    """The first records of the test split."""
    folders = artifact_utils.get_split_uris([examples], SPLIT_TEST)
    files = sorted(file for folder in folders for file in tf.io.gfile.glob(f"{folder}/*"))
    return [bytes(record) for record in read_records(files).take(count).as_numpy_iterator()]


def _how_it_ended(done: "subprocess.CompletedProcess[str]") -> str:
    lines = done.stderr.strip().splitlines()
    last = lines[-1] if lines else "no message"
    if done.returncode < 0:
        return f"{signal.Signals(-done.returncode).name}; {last}"
    return f"exit code {done.returncode}; {last}"


def _beyond_bounds(findings: Findings, settings: ServingSettings) -> Iterator[str]:
    bounds = settings.serving
    latency = findings.get("latency_seconds")
    most = bounds.max_latency_seconds
    if most is not None and latency is not None and latency["p50"] > most:
        yield f"one image takes {latency['p50']:.3f} s, at most {most:g} (serving.max_latency_seconds)"
    memory, bound = findings.get("megabytes_above_idle"), bounds.max_memory_megabytes
    if bound is not None and memory is None and latency is not None:
        yield "this machine's kernel tells no peak of memory: unset the bound (serving.max_memory_megabytes)"
    if bound is not None and memory is not None and memory > bound:
        yield f"{memory:.0f} MB above idle, at most {bound:g} (serving.max_memory_megabytes)"


def _bless(blessing: Artifact, findings: Findings) -> None:
    blessed = not findings["problems"]
    blessing.set_int_custom_property(_BLESSED, int(blessed))
    folder = Path(blessing.uri)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _FILES[blessed]).touch()
    serving: Serving = {"blessed": blessed, **findings}
    write_json(folder / SERVING_FILE, serving)
