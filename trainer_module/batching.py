"""Rows one after the other, or a few together, so that the memory of a batch stays bounded."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def map_rows(function: Callable[..., Any], elements: Any, signature: Any) -> Any:
    """`tf.map_fn`, one row at a time."""
    # What stands at an image's own size can take a gigabyte.
    return tf.map_fn(function, elements, fn_output_signature=signature, parallel_iterations=1)


def in_chunks(
    function: Callable[..., tuple[tf.Tensor, ...]], elements: Any, dtypes: tuple[tf.DType, ...], size: int
) -> tuple[tf.Tensor, ...]:
    """Applies `function` to slices of at most `size` rows, one after the other, so that memory stays bounded."""
    rows = tf.shape(tf.nest.flatten(elements)[0])[0]
    with tf.control_dependencies([tf.debugging.assert_positive(rows, "the batch is empty, expected at least one row")]):
        chunks = -(-rows // size)

    def body(index: tf.Tensor, arrays: tuple[tf.TensorArray, ...]) -> tuple[tf.Tensor, tuple[tf.TensorArray, ...]]:
        part = tf.nest.map_structure(lambda t: t[index * size : (index + 1) * size], elements)
        results = function(part)
        return index + 1, tuple(array.write(index, r) for array, r in zip(arrays, results, strict=True))

    empty = tuple(tf.TensorArray(dtype, chunks, infer_shape=False) for dtype in dtypes)
    _, filled = tf.while_loop(lambda index, _: index < chunks, body, (tf.constant(0), empty), parallel_iterations=1)
    return tuple(array.concat() for array in filled)
