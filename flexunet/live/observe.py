"""What is kept of an image that was served: a line of numbers, the same for images that a model was tried on."""

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import numpy as np

from flexunet.core import features
from flexunet.core.config.data import ImageConfig
from flexunet.core.files import JsonObject
from flexunet.core.grey import grey_of
from flexunet.core.pictures import Refused, open_image
from flexunet.live.exchange import MOST_BODY, Exchange
from flexunet.serving.paths import PREDICT_PATH
from flexunet.serving.protos import predict_pb2 as pb
from flexunet.serving.wire import CANARY, PREDICT, from_tensor

# Share of an image's pixels above which it shows a class: a rim of a few wrong ones does not.
SHOWN: Final = 0.001
# gRPC's frame of a message: whether it is compressed, and its length.
_PREFIX: Final = 5
_NEEDED: Final = (features.OUTPUT_VALID, features.OUTPUT_CONFIDENCE, features.OUTPUT_CLASS_FRACTIONS)
# Of a camera: callers could send anything.
_LONGEST_NAME: Final = 80
_OF_CANARY: Final = -1
_SIGNATURES: Final = ("", features.SIGNATURE_SERVING, features.SIGNATURE_REST)


class NotSeenError(Exception):
    """A request that holds no images as files, or that is not understood; says which, in one of a few words."""


class Answer(NamedTuple):
    """What the model said of an image; `shares` by class name, the background not among them."""

    valid: bool
    confidence: float
    shares: dict[str, float]


@dataclass(frozen=True)
class Seen:
    """An image that was asked for.

    Attributes:
      time: in seconds since 1970.
      seconds: that its request took.
      version: of the model, as the server told it or the request named it; 0: not told, -1: the canary, not told which.
      valid: whether it had an answer; without one the numbers below are None or empty.
      camera: value of the header that tells cameras apart, its first 80 characters; "" without one.
      kind: of file, such as png.
      width, height: upright, in pixels.
      brightness, contrast, sharpness: as `flexunet.core.grey` has them.
      confidence: mean over its pixels of the probability of the class chosen there.
      shares: of its pixels, by the name of the defect class.
    """

    time: float
    seconds: float
    version: int
    valid: bool
    camera: str = ""
    kind: str = ""
    width: int | None = None
    height: int | None = None
    brightness: float | None = None
    contrast: float | None = None
    sharpness: float | None = None
    confidence: float | None = None
    shares: dict[str, float] = field(default_factory=dict)


def seen_in(exchange: Exchange, camera_header: str = "") -> list[tuple[bytes, Seen]]:
    """The images of an exchange that was answered, as they were sent.

    Raises:
      NotSeenError: there are none.
    """
    try:
        version, images, answers = _read_grpc(exchange) if exchange.interface == "grpc" else _read_rest(exchange)
        camera = exchange.headers.get(camera_header.lower(), "")[:_LONGEST_NAME]
        return [
            (encoded, seen(encoded, answer, exchange.received, exchange.seconds, version, camera))
            for encoded, answer in zip(images, answers, strict=True)
        ]
    except NotSeenError:
        raise
    # Other people's messages can be anything.
    except Exception as error:
        raise NotSeenError("not understood") from error


def seen(encoded: bytes, answer: Answer, time: float, seconds: float, version: int, camera: str = "") -> Seen:
    """An image and its answer in numbers."""
    known = Seen(time, seconds, version, answer.valid, camera)
    if not answer.valid:
        return known
    known = replace(known, confidence=answer.confidence, shares=answer.shares)
    try:
        picture = open_image(encoded, ImageConfig())
    except Refused:
        # 16 bits without `image.value_range`, which only the model knows: there is an answer, and no grey level.
        return known
    (width, height), grey = picture.image.size, grey_of(picture.image)
    return replace(
        known,
        kind=picture.kind.suffix,
        width=width,
        height=height,
        brightness=grey.brightness,
        contrast=grey.contrast,
        sharpness=grey.sharpness,
    )


def answers_of(outputs: Mapping[str, np.ndarray]) -> list[Answer]:
    """Of the outputs of `serving_default`, by name, with a row for each image.

    Raises:
      NotSeenError: they are others.
    """
    if any(name not in outputs for name in _NEEDED):
        raise NotSeenError("other outputs were asked for")
    names = outputs.get(features.OUTPUT_CLASS_NAMES)
    return [
        Answer(bool(valid), float(confidence), _shares(fractions, None if names is None else names[row]))
        for row, (valid, confidence, fractions) in enumerate(zip(*(outputs[n] for n in _NEEDED), strict=True))
    ]


def _shares(fractions: np.ndarray, names: np.ndarray | None) -> dict[str, float]:
    """Of the defect classes; a model of before 0.2.0 tells no names: then they have numbers."""
    told = [str(i) for i in range(len(fractions))] if names is None else names
    named = [name.decode() if isinstance(name, bytes) else str(name) for name in told]
    return {name: float(share) for name, share in [*zip(named, fractions, strict=True)][1:]}


def _read_grpc(exchange: Exchange) -> tuple[int, list[bytes], list[Answer]]:
    if exchange.path != PREDICT:
        raise NotSeenError("another method")
    request = pb.PredictRequest.FromString(_message(exchange.request))
    response = pb.PredictResponse.FromString(_message(exchange.answer))
    _require_images(request.model_spec.signature_name)
    if features.INPUT_IMAGE_BYTES not in request.inputs:
        raise NotSeenError("other inputs")
    images = [*from_tensor(request.inputs[features.INPUT_IMAGE_BYTES])]
    outputs = {name: from_tensor(tensor) for name, tensor in response.outputs.items()}
    return response.model_spec.version.value, images, answers_of(outputs)


def _message(body: bytes) -> bytes:
    if body[:1] != b"\0" or int.from_bytes(body[1:_PREFIX], "big") != len(body) - _PREFIX:
        raise NotSeenError("compressed, or more than one message")
    return body[_PREFIX:]


def _require_images(signature: str) -> None:
    if signature not in _SIGNATURES:
        raise NotSeenError("another signature")


def _read_rest(exchange: Exchange) -> tuple[int, list[bytes], list[Answer]]:
    place = PREDICT_PATH.fullmatch(exchange.path)
    if not place:
        raise NotSeenError("another method")
    asked, answered = json.loads(exchange.request), json.loads(_unpacked(exchange))
    _require_images(asked.get("signature_name", ""))
    images = [base64.b64decode(row["b64"]) for row in _rows(asked)]
    # An answer tells no version.
    version = int(place["version"] or (_OF_CANARY if place["label"] == CANARY else 0))
    return version, images, answers_of(_columns(answered))


def _unpacked(exchange: Exchange) -> bytes:
    """The answer; of a small one that would become huge, the beginning, which is no JSON."""
    if not exchange.packed:
        return exchange.answer
    return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(exchange.answer, MOST_BODY)


def _rows(document: JsonObject) -> list[JsonObject]:
    """The images' base64, by columns or by rows; a request of one image may leave out the list."""
    found = document["inputs"] if "inputs" in document else document["instances"]
    if isinstance(found, dict) and features.INPUT_IMAGE_BYTES in found:
        found = found[features.INPUT_IMAGE_BYTES]
    return [row.get(features.INPUT_IMAGE_BYTES, row) for row in (found if isinstance(found, list) else [found])]


def _columns(document: JsonObject) -> dict[str, np.ndarray]:
    """Outputs by name, of either form of an answer; those that are read."""
    columns: JsonObject = document.get("outputs", {})
    rows: list[JsonObject] = document.get("predictions", [])
    names = {*_NEEDED, features.OUTPUT_CLASS_NAMES} & {*(rows[0] if rows else columns)}
    return {name: np.asarray([row[name] for row in rows] if rows else columns[name]) for name in names}
