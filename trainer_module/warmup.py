"""Requests that TF Serving replays before it calls a version ready."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from flexunet.core import features
from flexunet.core.config.train import TrainerConfig
from flexunet.serving.limits import BATCH_ROWS
from flexunet.serving.protos import predict_pb2 as pb
from flexunet.serving.wire import as_strings, predict_request

# The first request of a size compiles kernels; later ones of another size are as fast as ever.
_BATCH_SIZES = (1, BATCH_ROWS)
# A model for images of 8192x8192 would have gigabytes of warm-up.
_MAX_BYTES = 16 * 2**20


def write_warmup(directory: Path, config: TrainerConfig) -> None:
    """Writes requests for every served signature to `assets.extra/tf_serving_warmup_requests`.

    A record that fails makes TF Serving refuse the version: the export's tests and the serving validator replay them.
    """
    path = directory / features.ASSETS_EXTRA / features.EXPORTED_WARMUP
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in _requests(config):
            request = predict_request(signature, inputs)
            writer.write(pb.PredictionLog(predict_log=pb.PredictLog(request=request)).SerializeToString())


def _requests(config: TrainerConfig) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    pixels = _picture(config.image.height, config.image.width)
    encoded = [_encode(pixels, kind) for kind in ("PNG", "JPEG", "BMP", "WEBP")]
    for count in (count for count in _BATCH_SIZES if count == 1 or count * pixels.nbytes <= _MAX_BYTES):
        pictures = as_strings([encoded[index % len(encoded)] for index in range(count)])
        records = as_strings([_record(picture, config) for picture in pictures])
        stacked = np.repeat(pixels[np.newaxis], count, axis=0)
        values = {
            features.INPUT_IMAGE_BYTES: pictures,
            features.INPUT_EXAMPLES: records,
            features.INPUT_PIXELS: stacked,
        }
        for signature, name in features.SERVED.items():
            yield signature, {name: values[name]}


def _picture(height: int, width: int) -> np.ndarray:
    """Noise over a slope: what a flat image would let a decoder skip."""
    noise = np.random.default_rng(0).integers(0, 64, (height, width, 3))
    slope = np.linspace(0, 191, width)[np.newaxis, :, np.newaxis]
    return (noise + slope).astype(np.uint8)


def _encode(pixels: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def _record(picture: bytes, config: TrainerConfig) -> bytes:
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[picture]))
    example = tf.train.Example(features=tf.train.Features(feature={config.records.image: feature}))
    return example.SerializeToString()
