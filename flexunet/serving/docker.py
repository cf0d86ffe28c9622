"""The command that starts TF Serving's official image on a model folder."""

import shlex
from pathlib import Path
from typing import Final

from flexunet.core.config.serving import ServingConfig
from flexunet.core.errors import UserError
from flexunet.serving.limits import CLIENT_SECONDS, GRPC_THREADS, REST_THREADS
from flexunet.serving.model_config import CONFIG_FILE, parse_config
from flexunet.serving.wire import MODEL_NAME

# Of TF Serving, in place of --model_name and --model_base_path. Labels are assigned before versions are loaded, which
# without the last one is refused, and the server does not start.
NAMED_ARGUMENTS: Final = (
    f"--model_config_file=/models/{MODEL_NAME}/{CONFIG_FILE}",
    "--model_config_file_poll_wait_seconds=10",
    "--allow_version_labels_for_unavailable_models=true",
)


def docker_command(model: Path, grpc_port: int, rest_port: int, config: Path | None = None) -> str:
    """A shell command; where `model` is a numeric version, the server follows the newest beside it.

    Args:
      model: a version's folder, or a SavedModel.
      grpc_port: on this machine.
      rest_port: likewise.
      config: `models.config` beside the versions, which the server follows instead.

    Raises:
      UserError: the file lies or names a folder where the container does not have it.
    """
    base = model.resolve()
    if config is not None:
        _check_place(config, base)
        _check_base_path(config)
    # TF Serving looks for versions: a SavedModel that is none itself is mounted as version 1.
    source, target = (base.parent, f"/models/{MODEL_NAME}")
    if not base.name.isdigit():
        source, target = base, f"/models/{MODEL_NAME}/1"
    words = [
        # As PID 1 the server would not hear Ctrl-C or `docker stop`: --init is PID 1 and passes signals on.
        *("docker", "run", "--init", "--rm", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"),
        *("--user", "1000:1000", "-p", f"{grpc_port}:8500", "-p", f"{rest_port}:8501"),
        *("--mount", f"type=bind,source={source},target={target},readonly"),
        *("--entrypoint", "tensorflow_model_server", ServingConfig().image),
        *(NAMED_ARGUMENTS if config else (f"--model_name={MODEL_NAME}", f"--model_base_path=/models/{MODEL_NAME}")),
        *("--port=8500", "--rest_api_port=8501", f"--rest_api_timeout_in_ms={round(1000 * CLIENT_SECONDS)}"),
        # The graph batches by itself.
        *("--enable_batching=false", f"--grpc_max_threads={GRPC_THREADS}", f"--rest_api_num_threads={REST_THREADS}"),
    ]
    return shlex.join(words)


def _check_place(config: Path, version: Path) -> None:
    expected = version.parent / CONFIG_FILE
    if config.resolve() != expected or not version.name.isdigit():
        raise UserError(f"{config}: expected {expected}, beside numeric versions: the container reads it there")


def _check_base_path(config: Path) -> None:
    for model in parse_config(config).model_config_list.config:
        if model.base_path != f"/models/{MODEL_NAME}":
            raise UserError(
                f"{config}: base_path is {model.base_path}, expected /models/{MODEL_NAME}, where the container has the "
                f"versions: flexunet live canary ROOT --base-path /models/{MODEL_NAME}"
            )
