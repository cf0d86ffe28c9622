"""Which versions TensorFlow Serving serves and what they are called: `models.config` in their folder, its own
ModelServerConfig as text, for `--model_config_file`.

Without that file a server serves the newest version. With it, it serves what the file names, and a push alone changes
nothing. `stable` is the version that everybody asks, `canary` one that a share of the requests tries.

TF Serving assigns labels before it loads (`server_core.cc`, ReloadConfig), and refuses, as a whole, a file that gives a
label to a version that is not loaded. With --allow_version_labels_for_unavailable_models it takes a label that is new,
and still refuses to move one to a version that is not loaded: so `stable` goes only to what was the canary.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from google.protobuf import text_format

from flexunet.core.errors import UserError, last_line
from flexunet.core.files import replace_text
from flexunet.serving.protos import predict_pb2 as pb
from flexunet.serving.wire import CANARY, MODEL_NAME, STABLE

CONFIG_FILE: Final = "models.config"


@dataclass(frozen=True)
class Named:
    """The versions that are served; `base_path`: where the server has their folder."""

    base_path: str
    stable: int
    canary: int | None = None

    @property
    def versions(self) -> list[int]:
        """All of them, ascending."""
        return sorted({self.stable, *([] if self.canary is None else [self.canary])})


def read_named(directory: Path) -> Named | None:
    """What `models.config` in the versions' folder names; None without that file.

    Raises:
      UserError: it is not what `write_named` writes: nothing but what the labels tell may be served.
    """
    path = directory / CONFIG_FILE
    if not path.is_file():
        return None
    config = parse_config(path)
    model = config.model_config_list.config[0]
    named = Named(model.base_path, model.version_labels.get(STABLE, 0), model.version_labels.get(CANARY))
    if not named.stable or config != _config(named):
        raise UserError(
            f"{path}: expected what `flexunet live canary` writes, one model {MODEL_NAME} whose versions are those "
            f"labelled {STABLE} and {CANARY}: restore it, or remove it to begin anew"
        )
    return named


def write_named(directory: Path, named: Named) -> None:
    """Writes `models.config` by one rename: a server reads the old one or the new one."""
    replace_text(directory / CONFIG_FILE, text_format.MessageToString(_config(named)))


def _config(named: Named) -> pb.ModelServerConfig:
    model = pb.ModelConfig(name=MODEL_NAME, base_path=named.base_path, model_platform="tensorflow")
    model.model_version_policy.specific.versions.extend(named.versions)
    model.version_labels[STABLE] = named.stable
    if named.canary is not None:
        model.version_labels[CANARY] = named.canary
    return pb.ModelServerConfig(model_config_list=pb.ModelConfigList(config=[model]))


def parse_config(path: Path) -> pb.ModelServerConfig:
    """A ModelServerConfig that names models.

    Raises:
      UserError: it cannot be read, or TF Serving would not start with it.
    """
    try:
        found = text_format.Parse(path.read_text(encoding="utf-8"), pb.ModelServerConfig())
    except (OSError, ValueError, text_format.ParseError) as error:
        raise UserError(f"{path}: {last_line(error)}; expected a ModelServerConfig as text") from None
    for problem in _problems(found):
        raise UserError(f"{path}: {problem}")
    return found


def _problems(config: pb.ModelServerConfig) -> Iterator[str]:
    """What `ValidateModelConfigList` refuses."""
    models = config.model_config_list.config
    if not models:
        yield "names no model, expected model_config_list with one"
    names = [model.name for model in models]
    for model in models:
        if names.count(model.name) > 1:
            yield f"names the model {model.name!r} twice, expected different names"
        if not model.base_path.startswith("/") and "://" not in model.base_path:
            yield f"base_path is {model.base_path!r}, expected an absolute path, as the server sees it"
        if not model.model_platform:
            yield 'model_platform is missing, expected "tensorflow"'
