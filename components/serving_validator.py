"""Between Evaluator and Pusher: can TF Serving run this export, and does it answer what was measured?

The stock InfraValidator starts TF Serving in Docker or Kubernetes. This one needs neither: a clean process loads the
export through TensorFlow's C API, which is the session loader of TF Serving, and never imports TensorFlow's Python.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import tensorflow as tf
from tfx import v1 as tfx
from tfx.components.util import model_utils
from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import Artifact, artifact_utils, component_spec, standard_artifacts
from tfx.utils import path_utils

from flexunet.core.config.serving import ServingSettings
from flexunet.core.features import ACCEPTED_REFUSED, SPLIT_TEST
from flexunet.core.root import SERVING_FILE
from flexunet.serving.c_api import save_arrays
from flexunet.serving.wire import as_strings
from transform_module.images import decode_one

# The names by which TFX's own InfraValidator blesses; its Pusher reads the property.
INFRA_BLESSED: Final = "INFRA_BLESSED"
_BLESSED: Final = "blessed"
_FILES: Final = {True: INFRA_BLESSED, False: "INFRA_NOT_BLESSED"}
NOT_CHECKED: Final = "the gate refused the model, so it was not checked for serving"


class Executor(base_executor.BaseExecutor):
    """Blesses a model that passed every check; `serving.json` beside the blessing has the problems and the figures."""

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        self._log_startup(input_dict, output_dict, exec_properties)
        settings = ServingSettings.model_validate_json(exec_properties["settings"])
        blessing = artifact_utils.get_single_instance(output_dict["blessing"])
        accepted = model_utils.is_model_blessed(artifact_utils.get_single_instance(input_dict["model_blessing"]))
        if accepted or exec_properties[ACCEPTED_REFUSED]:
            model = artifact_utils.get_single_instance(input_dict["model"])
            records = _records(input_dict["examples"], settings.serving.test_images)
            findings = check_export(Path(path_utils.serving_model_path(model.uri)), records, settings)
        else:
            findings = {"problems": [NOT_CHECKED]}
        _bless(blessing, findings)


class ServingValidatorSpec(component_spec.ComponentSpec):
    """Inputs, output and parameters of the serving validator."""

    PARAMETERS = {
        "settings": component_spec.ExecutionParameter(type=str),
        ACCEPTED_REFUSED: component_spec.ExecutionParameter(type=str),
        "code": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "model_blessing": component_spec.ChannelParameter(type=standard_artifacts.ModelBlessing),
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
    }
    OUTPUTS = {"blessing": component_spec.ChannelParameter(type=standard_artifacts.InfraBlessing)}


class ServingValidator(base_component.BaseComponent):
    """`settings` is ServingSettings as JSON, `accepted_refused` a person's reason or "", `code` keys the cache."""

    SPEC_CLASS = ServingValidatorSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        model: tfx.types.BaseChannel,
        model_blessing: tfx.types.BaseChannel,
        examples: tfx.types.BaseChannel,
        settings: str,
        code: str,
        accepted_refused: str = "",
    ) -> None:
        spec = ServingValidatorSpec(
            model=model,
            model_blessing=model_blessing,
            examples=examples,
            settings=settings,
            accepted_refused=accepted_refused,
            code=code,
            blessing=tfx.dsl.Channel(type=standard_artifacts.InfraBlessing),
        )
        super().__init__(spec=spec)


def check_export(model: Path, records: list[bytes], settings: ServingSettings) -> dict[str, Any]:
    """Runs flexunet/serving/validate.py in a process of its own; a crash or a hang of it is the model's problem.

    Returns:
      `{problems, load_seconds, idle_megabytes, megabytes_above_idle, latency_seconds, batch}`, what was measured.
    """
    with tempfile.TemporaryDirectory() as folder:
        inputs, result = Path(folder) / "inputs.npz", Path(folder) / "result.json"
        save_arrays(inputs, _arrays(records, settings))
        command = [sys.executable, "-m", "flexunet.serving.validate", str(model), str(inputs), str(result)]
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
        findings = json.loads(result.read_text(encoding="utf-8"))
    findings["problems"] += _beyond_bounds(findings, settings)
    return findings


def _arrays(records: list[bytes], settings: ServingSettings) -> dict[str, Any]:
    rows = [tf.train.Example.FromString(record).features.feature for record in records]
    keys = {"images": settings.records.image, "masks": settings.records.mask}
    columns = {name: as_strings([row[key].bytes_list.value[0] for row in rows]) for name, key in keys.items()}
    pictures = as_strings([_picture(image, settings) for image in columns["images"]])
    return {**columns, "pictures": pictures, "examples": as_strings(records)}


def _picture(encoded: bytes, settings: ServingSettings) -> bytes:
    """The pixels that the graph decodes, without loss: Pillow reads a JPEG a little differently."""
    return tf.io.encode_png(decode_one(tf.constant(encoded), settings.image).image, compression=1).numpy()


def _records(examples: list[Artifact], count: int) -> list[bytes]:
    """The first records of the test split."""
    folders = artifact_utils.get_split_uris(examples, SPLIT_TEST)
    files = sorted(file for folder in folders for file in tf.io.gfile.glob(f"{folder}/*"))
    dataset = tf.data.TFRecordDataset(files, compression_type="GZIP").take(count)
    return [bytes(record) for record in dataset.as_numpy_iterator()]


def _how_it_ended(done: "subprocess.CompletedProcess[str]") -> str:
    lines = done.stderr.strip().splitlines()
    last = lines[-1] if lines else "no message"
    if done.returncode < 0:
        return f"{signal.Signals(-done.returncode).name}; {last}"
    return f"exit code {done.returncode}; {last}"


def _beyond_bounds(findings: dict[str, Any], settings: ServingSettings) -> Iterator[str]:
    bounds = settings.serving
    latency = findings.get("latency_seconds", {}).get("p50")
    if bounds.max_latency_seconds is not None and latency is not None and latency > bounds.max_latency_seconds:
        yield f"one image takes {latency:.3f} s, at most {bounds.max_latency_seconds:g} (serving.max_latency_seconds)"
    memory = findings.get("megabytes_above_idle")
    if bounds.max_memory_megabytes is not None and memory is not None and memory > bounds.max_memory_megabytes:
        yield f"{memory:.0f} MB above idle, at most {bounds.max_memory_megabytes:g} (serving.max_memory_megabytes)"


def _bless(blessing: Artifact, findings: dict[str, Any]) -> None:
    blessed = not findings["problems"]
    blessing.set_int_custom_property(_BLESSED, int(blessed))
    folder = Path(blessing.uri)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _FILES[blessed]).touch()
    text = json.dumps({"blessed": blessed, **findings}, indent=2) + "\n"
    (folder / SERVING_FILE).write_text(text, encoding="utf-8")
