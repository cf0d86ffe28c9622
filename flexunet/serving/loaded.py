"""The versions that the development server holds in memory, loaded and freed by TF Serving's rules."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from flexunet.core.errors import UserError
from flexunet.core.features import EXPORTED_GRAPH
from flexunet.serving.c_api import SavedModel, SavedModelError
from flexunet.serving.model_config import parse_config
from flexunet.serving.protos import predict_pb2 as pb
from flexunet.serving.versions import versions
from flexunet.serving.wire import MODEL_NAME

logger = logging.getLogger("flexunet.serving")


class UnknownLabelError(Exception):
    """A label that no configuration gave."""


class MissingError(Exception):
    """A version that is not loaded."""


@dataclass
class Loaded:
    """A version in memory, freed when nobody uses it any more."""

    version: int
    model: SavedModel
    signatures: pb.SignatureDefMap
    users: int = 0
    retired: bool = False


class Wanted(NamedTuple):
    """Folders by version, and versions by label."""

    folders: dict[int, Path]
    labels: dict[str, int]


@dataclass
class Versions:
    """What is loaded; several threads may ask while another loads.

    Attributes:
      check: raises UserError for a folder that must not be served.
    """

    check: Callable[[Path], None] = lambda folder: None
    labels: dict[str, int] = field(default_factory=dict)
    _loaded: dict[int, Loaded] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextlib.contextmanager
    def using(self, version: int | None = None, label: str = "") -> Iterator[Loaded]:
        """The version asked for, by default the highest, held while it is used.

        Raises:
          UnknownLabelError, MissingError: there is none.
        """
        with self._lock:
            if label:
                if label not in self.labels:
                    raise UnknownLabelError(label)
                version = self.labels[label]
            number = max(self._loaded, default=0) if version is None else version
            if number not in self._loaded:
                raise MissingError
            found = self._loaded[number]
            found.users += 1
        try:
            yield found
        finally:
            with self._lock:
                found.users -= 1
            self._free([found])

    @property
    def numbers(self) -> list[int]:
        """Loaded versions, the highest first, as TF Serving lists them."""
        return sorted(self._loaded, reverse=True)

    def serve(self, folders: dict[int, Path]) -> None:
        """Loads what is new, then retires what is no longer wanted: some version answers all the time.

        Raises:
          UserError: a version cannot be loaded, or must not be served; the others are served all the same.
        """
        problems: list[str] = []
        for number, folder in folders.items():
            if number not in self._loaded:
                try:
                    self.check(folder)
                    found = _load(number, folder)
                except UserError as error:
                    problems.append(str(error))
                    continue
                with self._lock:
                    self._loaded[number] = found
        with self._lock:
            gone = [self._loaded.pop(number) for number in [*self._loaded] if number not in folders]
            for one in gone:
                one.retired = True
        self._free(gone)
        if problems:
            raise UserError("\n".join(problems))

    def close(self) -> None:
        """Frees everything."""
        self.serve({})

    def _free(self, candidates: list[Loaded]) -> None:
        with self._lock:
            free = [one for one in candidates if one.retired and not one.users]
            for one in free:
                # Two that end at once may both see no user left: only the first of them frees.
                one.retired = False
        for one in free:
            one.model.close()


def _load(number: int, folder: Path) -> Loaded:
    try:
        model = SavedModel(folder)
    except SavedModelError as error:
        raise UserError(str(error).splitlines()[0]) from error
    [graph] = pb.SavedModel.FromString((folder / EXPORTED_GRAPH).read_bytes()).meta_graphs
    return Loaded(number, model, pb.SignatureDefMap(signature_def=graph.signature_def))


@dataclass
class ConfigFile:
    """A model server's configuration that is read again and again.

    Attributes:
      path: of the file.
      allow_unavailable: as --allow_version_labels_for_unavailable_models.
    """

    path: Path
    allow_unavailable: bool = True

    def apply(self, to: Versions) -> None:
        """Labels first, then versions: what refuses the labels leaves all as it was.

        Raises:
          UserError: the file, a label or a version is refused.
        """
        wanted = self._wanted()
        for label, number in wanted.labels.items():
            is_new = self.allow_unavailable and to.labels.get(label, number) == number
            if number not in to.numbers and not is_new:
                raise UserError(
                    f"{self.path}: Request to assign label to version {number} of model {MODEL_NAME}, which is not "
                    "currently available for inference"
                )
        to.labels = wanted.labels
        to.serve(wanted.folders)

    def _wanted(self) -> Wanted:
        """Raises UserError for a file that TF Serving refuses, or that names another model than this server's."""
        models = {model.name: model for model in parse_config(self.path).model_config_list.config}
        if [*models] != [MODEL_NAME]:
            raise UserError(f"{self.path}: expected one model, {MODEL_NAME}: this server knows no other")
        model = models[MODEL_NAME]
        base, policy = Path(model.base_path), model.model_version_policy
        there = versions(base)
        kind = policy.WhichOneof("policy_choice")
        if kind == "specific":
            missing = sorted({*policy.specific.versions} - {*there})
            if missing:
                logger.warning("%s: no version %s, which %s names", base, missing[0], self.path)
            there = [number for number in there if number in policy.specific.versions]
        elif kind != "all":
            there = there[-(policy.latest.num_versions or 1) :]
        return Wanted({number: base / str(number) for number in there}, dict(model.version_labels))


class Polling:
    """Applies a configuration every few seconds, as TF Serving polls; what is refused is logged and tried again."""

    def __init__(self, config: ConfigFile, to: Versions, seconds: float) -> None:
        self._config, self._to, self._seconds = config, to, seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Waits for what is being loaded."""
        self._stopped.set()
        self._thread.join()

    def _poll(self) -> None:
        said = ""
        while not self._stopped.wait(self._seconds):
            try:
                self._config.apply(self._to)
                said = ""
            except UserError as error:
                if str(error) != said:
                    logger.error("%s", error)
                said = str(error)
