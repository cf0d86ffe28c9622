"""Records as ingest and Transform write them, made from what a test gives."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from pictures import encoded


def serialized(values: dict[str, Any]) -> bytes:
    """A tf.train.Example: a feature for each value, which is bytes, text, an int, a float or a list of bytes."""
    feature = {name: _feature(value) for name, value in values.items()}
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def record(image: NDArray[np.uint8], mask: NDArray[np.uint8], name: str = "id", group: str = "group") -> bytes:
    """What ingest writes of a pair of pixels, without the figures that only statistics read."""
    images = {"image/encoded": encoded(image), "mask/encoded": encoded(mask)}
    return serialized({**images, "image/id": name, "image/group": group})


def tile(
    image: NDArray[np.uint8],
    class_ids: NDArray[np.uint8],
    size: tuple[int, int] | None = None,
    **texts: str,
) -> bytes:
    """What Transform writes of one image's tiles: `[tiles, height, width, 3]` pixels, `[tiles, height, width]` ids; for
    `image.fit = "tile"` the image's own size, with `dataset.sources` its `source`, with `equal_groups` its `group`.
    """
    arrays = {"image": image, "class_ids": class_ids}
    arrays |= {"size": np.array(size, np.int32)} if size else {}
    return serialized({**texts, **{name: tf.io.serialize_tensor(array).numpy() for name, array in arrays.items()}})


def write_examples(path: Path, examples: Iterable[bytes]) -> Path:
    """A TFRecord file, compressed as all of ours are; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path), tf.io.TFRecordOptions("GZIP", compression_level=1)) as writer:
        for example in examples:
            writer.write(example)
    return path


def _feature(value: Any) -> tf.train.Feature:
    if isinstance(value, int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
    if isinstance(value, float):
        return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
    values = value if isinstance(value, list) else [value]
    texts = [text.encode() if isinstance(text, str) else text for text in values]
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=texts))
