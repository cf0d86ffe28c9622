"""How Python functions become graphs."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import tensorflow as tf

if TYPE_CHECKING:
    from tensorflow.types.experimental import GenericFunction

# AutoGraph rewrites the source of all that a graph calls, which takes two thirds of the time of an export. Here nothing
# needs it: loops and branches over tensors are written as such, and TensorFlow refuses a Python `if` over a tensor.
as_written = tf.autograph.experimental.do_not_convert


def traced_once(function: Callable[..., object]) -> "GenericFunction":
    """`function` as a part of a graph that is there once, however many places call it.

    A branch and a loop each hold a copy of a Python function that they call, and every load of an export goes through
    all nodes.
    """
    return tf.function(as_written(function))
