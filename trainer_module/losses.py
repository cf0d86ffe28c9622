"""Losses over class ids uint8 `[N, H, W]` and probabilities float32 `[N, H, W, C]`; pixels with IGNORE_ID do not count.

Each gives one value per image, float32 `[N]`.
"""

from collections.abc import Callable, Sequence
from typing import Final

import tensorflow as tf

from flexunet.core.config.data import SegmentationClass
from flexunet.core.config.train import TrainConfig
from flexunet.core.features import IGNORE_ID

Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

# Keras clips probabilities at its epsilon, 1e-7, before the logarithm; so do we, so that the seed's numbers compare.
_EPSILON: Final = 1e-7


def make_loss(config: TrainConfig, classes: Sequence[SegmentationClass]) -> Loss:
    """The loss that `train.loss` names, with the weights and the focus that the configuration gives."""
    weights = [config.class_weights.get(c.name, 1.0) for c in classes] if config.class_weights else None
    gamma = config.focal_gamma if config.loss.startswith("focal") else 0.0

    def loss(class_ids: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
        result = focal(class_ids, probabilities, gamma, weights, config.hardest_pixels)
        # The sum trains rare classes by Dice and keeps the calibration of cross-entropy; nnU-Net, Isensee et al. 2021.
        return result + foreground_dice_loss(class_ids, probabilities) if config.loss.endswith("dice") else result

    return loss


def cross_entropy(class_ids: tf.Tensor, probabilities: tf.Tensor, weights: Sequence[float] | None = None) -> tf.Tensor:
    """Mean categorical cross-entropy over the labelled pixels of each image, weighted by true class if asked."""
    return focal(class_ids, probabilities, 0.0, weights)


def focal(
    class_ids: tf.Tensor,
    probabilities: tf.Tensor,
    gamma: float,
    weights: Sequence[float] | None = None,
    hardest: float = 1.0,
) -> tf.Tensor:
    """Cross-entropy that looks away from what is sure already, (1 - p)**gamma; Lin et al. 2017, arXiv:1708.02002.

    With `hardest` below 1 the mean is over that share of each image's labelled pixels, those of the largest weighted
    value: online bootstrapping, Wu et al. 2016, arXiv:1605.06885. nnU-Net's TopKLoss takes a tenth of a whole batch,
    and counts ignored pixels among what it takes it of; here each image has its own, and only labelled ones count.
    """
    truth = _one_hot(class_ids, probabilities.shape[-1])
    probability = tf.reduce_sum(truth * probabilities, axis=-1)
    each = log_loss(probability)
    if gamma:
        # Not of 0, where a power below 1 has no finite slope.
        each *= tf.maximum(1 - _clipped(probability), _EPSILON) ** gamma
    labelled = tf.cast(tf.not_equal(tf.cast(class_ids, tf.int32), IGNORE_ID), tf.float32)
    weight = labelled if weights is None else tf.reduce_sum(truth * tf.constant(weights, tf.float32), axis=-1)
    if hardest < 1:
        weight *= _hardest(each * weight, labelled, hardest)
    return tf.math.divide_no_nan(tf.reduce_sum(each * weight, axis=[1, 2]), tf.reduce_sum(weight, axis=[1, 2]))


def _hardest(values: tf.Tensor, labelled: tf.Tensor, share: float) -> tf.Tensor:
    """float32 `[N, H, W]`: 1 for the pixels of the largest values, 0 for others; those at the edge share what is left.

    So each image's sum is the number of pixels that are meant, at least one, however many values are alike. It is a
    threshold from `top_k` and not its places: those would be gathered, and the gradient scattered.
    """
    # Never None: a model's images have one size.
    pixels = values.shape[1:].num_elements() or 0
    flat = tf.reshape(tf.stop_gradient(tf.where(labelled > 0, values, -1.0)), [-1, pixels])
    most = max(1, round(share * pixels))
    wanted = tf.clip_by_value(tf.round(share * tf.reduce_sum(labelled, axis=[1, 2])), 1, most)
    sorted_values = tf.math.top_k(flat, most).values
    edge = tf.gather(sorted_values, tf.cast(wanted, tf.int32) - 1, batch_dims=1)[:, tf.newaxis]
    harder, equal = (tf.cast(found, tf.float32) for found in (flat > edge, flat == edge))
    # XLA may compute `flat` twice and round it in another way: then nothing equals the edge.
    left = (wanted - tf.reduce_sum(harder, axis=1)) / tf.maximum(tf.reduce_sum(equal, axis=1), 1)
    counted = harder + equal * left[:, tf.newaxis]
    # NaN is neither harder nor equal, and a network that diverged must not look like one that has learnt all.
    return tf.reshape(tf.where(tf.math.is_nan(edge), edge, counted), tf.shape(values))


def log_loss(probability: tf.Tensor) -> tf.Tensor:
    """Of the probability that a pixel's true class has."""
    return -tf.math.log(_clipped(probability))


def _clipped(probability: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(probability, _EPSILON, 1.0)


def foreground_dice_loss(class_ids: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
    """1 - soft Dice, mean of the defect classes, pooled over the batch; Milletari et al. 2016, arXiv:1606.04797.

    Pooled, since most images hold only some of the classes, and Dice of a class that is absent says nothing; over the
    batches of all replicas, so that several devices train what one would.
    """
    truth = _one_hot(class_ids, probabilities.shape[-1])
    labelled = tf.reduce_sum(truth, axis=-1, keepdims=True)
    overlap = tf.reduce_sum(truth * probabilities, axis=[0, 1, 2])
    total = tf.reduce_sum((truth + probabilities) * labelled, axis=[0, 1, 2])
    overlap, total = _over_replicas(overlap), _over_replicas(total)
    loss = 1 - tf.reduce_mean((2 * overlap[1:] + 1) / (total[1:] + 1))
    return tf.fill(tf.shape(class_ids)[:1], loss)


def _one_hot(class_ids: tf.Tensor, num_classes: int) -> tf.Tensor:
    """float32 `[N, H, W, C]`; an ignored pixel is all zeros, since 255 is out of range."""
    return tf.one_hot(tf.cast(class_ids, tf.int32), num_classes)


def _over_replicas(value: tf.Tensor) -> tf.Tensor:
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return value
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value)
