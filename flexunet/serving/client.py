"""Masks for images, from a model that runs anywhere; light: neither TensorFlow nor SciPy is imported.

with connect("grpc://host:8500") as model:
    for prediction in predict_images(model, [path.read_bytes() for path in paths]):
        print(prediction.class_ids.shape, prediction.confidence)
"""

import collections
import contextlib
import functools
import io
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flexunet.core import features
from flexunet.core.errors import UserError
from flexunet.core.regions import without_small
from flexunet.serving.transport import Either, Model, Options, ServingError, Split
from flexunet.serving.wire import CANARY, STABLE, as_strings

__all__ = ["Model", "Options", "Prediction", "ServingError", "connect", "predict_image", "predict_images"]

_CHOICES: Final = "grpc://HOST:8500, grpcs://HOST:8500, http://HOST:8501, https://HOST:8501 or a model's folder"
_OUTPUTS: Final = (
    features.OUTPUT_MASK_PNG,
    features.OUTPUT_CLASS_FRACTIONS,
    features.OUTPUT_CONFIDENCE,
    features.OUTPUT_VALID,
    features.OUTPUT_ERROR,
)

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Prediction:
    """The answer to one image.

    Attributes:
      class_ids: uint8 `[h, w]` at the image's own size; `[0, 0]` if there is no answer. Of a model with an operating
        point, regions smaller than its smallest are removed: the server leaves that to its clients.
      class_fractions: float32 `[C]`, the share of the image's pixels.
      class_names: by class id; empty from a model of before 0.2.0, which does not tell them.
      confidence: mean over the pixels of the probability of the class chosen there.
      error: "" or why there is no answer.
      seconds: from the request to the answer.
    """

    class_ids: NDArray[np.uint8]
    class_fractions: NDArray[np.float32]
    confidence: float
    error: str
    seconds: float
    class_names: tuple[str, ...] = ()

    @property
    def valid(self) -> bool:
        """Whether there is an answer."""
        return not self.error


def connect(
    target: str, options: Options | None = None, fallback: str | None = None, canary: float | None = None
) -> Model:
    """The model at a URL or in a folder.

    Args:
      target: of it.
      options: how it is called.
      fallback: asked where `target` cannot be reached: the server's own address, where `target` is a proxy's.
      canary: share of the requests, 0 to 1, that the version labelled `canary` answers, where there is one; all others
        go to the one labelled `stable`, and not to the newest.

    Raises:
      UserError: neither a URL nor a model's folder; a share of a folder, or of one version.
    """
    options = options or Options()
    if canary is not None:
        if "://" not in target:
            raise UserError(f"{target}: a folder has no labels, expected a server's URL for a share of a canary")
        if options.version is not None:
            raise UserError(f"{target}: version {options.version} and a share of a canary, expected one of them")
        stable, tried = (connect(target, replace(options, label=label), fallback) for label in (STABLE, CANARY))
        return Split(stable, tried, canary)
    if fallback is None:
        return _connect(target, options)
    return Either(_connect(target, replace(options, unreachable_attempts=1)), _connect(fallback, options))


def _connect(target: str, options: Options) -> Model:
    scheme, separator, rest = target.partition("://")
    if not separator:
        from flexunet.serving.local_model import LocalModel

        return LocalModel(Path(target))
    if scheme in {"grpc", "grpcs"} and ":" in rest:
        from flexunet.serving.grpc_model import GrpcModel

        return GrpcModel(rest.rstrip("/"), scheme == "grpcs", options)
    if scheme in {"http", "https"} and rest:
        from flexunet.serving.rest_model import RestModel

        return RestModel(target.rstrip("/"), options)
    raise UserError(f"{target}: expected {_CHOICES}")


def predict_image(model: Model, encoded: bytes) -> Prediction:
    """PNG, JPEG, BMP or WebP bytes -> the answer; an image that is refused is one with an `error`.

    Raises:
      ServingError: the model gave no answer at all.
    """
    started = time.perf_counter()
    inputs = {features.INPUT_IMAGE_BYTES: as_strings([encoded])}
    # All outputs: a model of before 0.2.0 refuses to be asked for the class names that it does not have.
    outputs = model.run(features.SIGNATURE_SERVING, inputs)
    missing = [name for name in _OUTPUTS if name not in outputs]
    if missing:
        raise ServingError(f"the answer has no {', '.join(missing)}: is this a model of this project?")
    mask_png, error = outputs[features.OUTPUT_MASK_PNG][0], outputs[features.OUTPUT_ERROR][0].decode()
    class_ids = np.zeros((0, 0), np.uint8) if error else np.asarray(Image.open(io.BytesIO(mask_png)))
    fractions = outputs[features.OUTPUT_CLASS_FRACTIONS][0]
    if not error and features.OUTPUT_SMALLEST_REGIONS in outputs:
        class_ids = without_small(class_ids, outputs[features.OUTPUT_SMALLEST_REGIONS][0].tolist())
        fractions = fractions_of(class_ids, len(fractions))
    return Prediction(
        class_ids=class_ids,
        class_fractions=fractions,
        confidence=float(outputs[features.OUTPUT_CONFIDENCE][0]),
        error=error,
        seconds=time.perf_counter() - started,
        class_names=tuple(name.decode() for name in outputs[features.OUTPUT_CLASS_NAMES][0])
        if features.OUTPUT_CLASS_NAMES in outputs
        else (),
    )


def fractions_of(class_ids: NDArray[np.uint8], num_classes: int) -> NDArray[np.float32]:
    """The share of the pixels of each class, float32 `[C]`."""
    return (np.bincount(class_ids.ravel(), minlength=num_classes) / class_ids.size).astype(np.float32)


def predict_images(model: Model, images: Iterable[bytes], concurrency: int = 4) -> Iterator[Prediction]:
    """The answers, in order. At most `concurrency` requests are under way, and as many images in memory.

    The server joins them to batches. One image a request: a large one would delay its batch-mates' answers.

    Raises:
      ServingError: the model gave no answer at all; what is under way is let go.
    """
    with contextlib.closing(in_order(functools.partial(predict_image, model), images, concurrency)) as answers:
        for answer in answers:
            yield answer.result()


def in_order(
    function: Callable[[_Item], _Answer], items: Iterable[_Item], concurrency: int
) -> Generator[Future[_Answer], None, None]:
    """`function` of each item, `concurrency` at a time; yields what ended, in the order of the items.

    Closed before its end, it drops what has not begun and waits for what has.
    """
    waiting, own = collections.deque[Future[_Answer]](), set[int]()
    pool = ThreadPoolExecutor(concurrency, initializer=lambda: own.add(threading.get_ident()))
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= concurrency:
                yield _ended(waiting.popleft())
        while waiting:
            yield _ended(waiting.popleft())
    finally:
        # Nobody closed it, and the garbage collector happened to come in one of its own threads.
        collected = threading.get_ident() in own
        pool.shutdown(wait=not collected, cancel_futures=True)


def _ended(future: Future[_Answer]) -> Future[_Answer]:
    wait([future])
    return future
