"""How the Evaluator loads a model: as TFMA does, but with a signature that takes its records by position.

TFMA calls it so, and a loaded signature takes its inputs by name. It answers all the same, but only after TensorFlow
(2.21, `bind_function_inputs`) has written the whole batch, up to four characters for each byte of its images, into the
words of an error that it then catches. That is more than a millisecond for an image of 60 KB, and several times the
memory of the batch.

TFX loads this module anew each time that it looks for a function in it. So nothing else imports its classes, and Beam
sends them to its workers by value.
"""

# Before TFMA, which lacks half its names unless TFX has stood in for what its libraries dropped.
from tfx import v1  # noqa: F401

# isort: split
import functools
from collections.abc import Callable, Mapping
from typing import Final

import tensorflow as tf
import tensorflow_model_analysis as tfma

from flexunet.core import features

_TAGS: Final = [tf.saved_model.SERVING]


def custom_eval_shared_model(
    eval_saved_model_path: str,
    model_name: str,
    eval_config: tfma.EvalConfig,
    add_metrics_callbacks: None = None,
) -> tfma.types.EvalSharedModel:
    """The model as TFX's Evaluator wants it, which looks for a function of this name; see TFMA's default of it."""
    loader = tfma.types.ModelLoader(functools.partial(EvaluatedModel, eval_saved_model_path), _TAGS)
    return tfma.default_eval_shared_model(
        eval_saved_model_path,
        add_metrics_callbacks,
        model_name=model_name,
        eval_config=eval_config,
        custom_model_loader=loader,
    )


class EvaluatedModel:
    """What TFMA looks for in a loaded model: `signatures`, of which there is `evaluate` alone."""

    def __init__(self, directory: str) -> None:
        # A signature does not keep its variables alive.
        self._loaded = tf.saved_model.load(directory, tags=_TAGS)
        evaluate = _ByPosition(self._loaded.signatures[features.SIGNATURE_EVALUATE])
        self.signatures = {features.SIGNATURE_EVALUATE: evaluate}


class _ByPosition:
    """The signature `evaluate`, called with one tensor of serialized records, string `[N]`."""

    # TFMA gives records, and not features by their names, to a signature that tells no names.
    structured_input_signature = None

    def __init__(self, signature: Callable[..., Mapping[str, tf.Tensor]]) -> None:
        self._signature = signature

    def __call__(self, examples: tf.Tensor) -> Mapping[str, tf.Tensor]:
        return self._signature(**{features.INPUT_EXAMPLES: examples})
