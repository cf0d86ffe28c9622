"""Rows one after the other, a few together so that the memory of a batch stays bounded, or of several requests."""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import tensorflow as tf

from flexunet.core.config.data import ImageConfig
from flexunet.serving import limits

if TYPE_CHECKING:
    from tensorflow.types.experimental import GenericFunction

Rows = TypeVar("Rows")


def map_rows(function: Callable[..., Rows], elements: object, signature: object) -> Rows:
    """`tf.map_fn`, one row at a time."""
    # What stands at an image's own size can take a gigabyte.
    return tf.map_fn(function, elements, fn_output_signature=signature, parallel_iterations=1)


def map_small_rows(function: Callable[..., Rows], elements: object, signature: object, small: tf.Tensor) -> Rows:
    """`map_rows`, two rows at a time where `small`, bool scalar, tells that there is memory for both."""
    return tf.cond(
        small,
        lambda: tf.map_fn(function, elements, fn_output_signature=signature, parallel_iterations=2),
        lambda: map_rows(function, elements, signature),
    )


def in_chunks(
    function: Callable[..., tuple[tf.Tensor, ...]], elements: object, dtypes: tuple[tf.DType, ...], size: int
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


def in_batches(predict: Callable[[tf.Tensor], tf.Tensor], tiles: tf.Tensor, settings: ImageConfig) -> tf.Tensor:
    """`predict`, uint8 `[N, height, width, 3]` -> float32 `[N, height, width, C]`, of at most BATCH_ROWS tiles at once.

    Args:
      predict: the model.
      tiles: of at most BATCH_ROWS images; only one that is cut has more than one tile. For the others there is no loop,
        which takes half a millisecond.
      settings: whether images are cut.
    """
    if settings.fit != "tile":
        return predict(tiles)
    [predicted] = in_chunks(lambda part: (predict(part),), tiles, (tf.float32,), limits.BATCH_ROWS)
    return predicted


def in_requests(
    function: Callable[[tf.Tensor], tuple[tf.Tensor, ...]], rows: tf.Tensor, dtypes: tuple[tf.DType, ...], most: int
) -> tuple[tf.Tensor, ...]:
    """`in_chunks` for rows `[N, ...]` of which most requests have no more than `most`: for those there is no loop."""
    count = tf.shape(rows)[0]
    # A request without rows is refused there.
    fits = (count > 0) & (count <= most)
    return tf.cond(fits, lambda: function(rows), lambda: in_chunks(function, rows, dtypes, most))


def join_requests(function: "GenericFunction", rows: tf.Tensor, queue: str, most: int) -> tuple[tf.Tensor, ...]:
    """Applies `function` to the rows of all the requests that wait in this moment, at most `most` together.

    TF Serving's own batching compares requests of a signature by their shapes: two image sizes in one moment fail the
    whole batch, and a request without rows waits for ever. Here a request is checked first and waits for nobody: a
    batch starts when one of `BATCH_THREADS` is free. A full queue answers UNAVAILABLE.

    Args:
      function: `[N, ...]` -> tensors `[N, ...]`; it must treat rows alike, whoever sent them. One that is traced once,
        however many places of a graph call it: nodes take their time at every load.
      rows: from 1 to `most` rows.
      queue: name; signatures that call `function` under one name wait together.
      most: rows in a batch.
    """
    concrete = function.get_concrete_function(tf.TensorSpec([None, *rows.shape[1:]], rows.dtype))
    return tuple(
        tf.raw_ops.BatchFunction(
            in_tensors=[rows],
            captured_tensors=concrete.captured_inputs,
            f=concrete,
            num_batch_threads=limits.BATCH_THREADS,
            max_batch_size=most,
            batch_timeout_micros=0,
            max_enqueued_batches=limits.QUEUED_BATCHES,
            enable_large_batch_splitting=False,
            shared_name=queue,
            Tout=[output.dtype for output in concrete.outputs],
        )
    )
