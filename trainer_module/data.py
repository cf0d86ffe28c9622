"""Batches for training, streamed from Transform's records."""

from collections.abc import Sequence

import tensorflow as tf

from pipeline import features
from pipeline.config import TrainerConfig

_SHUFFLE_BUFFER = 1024
_FEATURES = {
    features.TRANSFORMED_IMAGE: tf.io.FixedLenFeature([], tf.string),
    features.TRANSFORMED_CLASS_IDS: tf.io.FixedLenFeature([], tf.string),
}


def tiles_dataset(files: Sequence[str], config: TrainerConfig) -> tf.data.Dataset:
    """Pairs of uint8 `[height, width, 3]` and class ids uint8 `[height, width]`, one for each tile."""
    height, width = config.image.height, config.image.width

    def parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        row = tf.io.parse_single_example(record, _FEATURES)
        tiles = tf.io.parse_tensor(row[features.TRANSFORMED_IMAGE], tf.uint8)
        tile_ids = tf.io.parse_tensor(row[features.TRANSFORMED_CLASS_IDS], tf.uint8)
        return tf.ensure_shape(tiles, [None, height, width, 3]), tf.ensure_shape(tile_ids, [None, height, width])

    records = tf.data.TFRecordDataset(files, compression_type="GZIP")
    return records.map(parse, num_parallel_calls=tf.data.AUTOTUNE).unbatch()


def count_tiles(files: Sequence[str], config: TrainerConfig) -> int:
    """Reads the records once, decoding nothing but their shapes."""
    return int(tiles_dataset(files, config).reduce(tf.constant(0, tf.int64), lambda n, _: n + 1))


def training_batches(files: Sequence[str], tiles: int, config: TrainerConfig) -> tf.data.Dataset:
    """Endless shuffled batches: uint8 `[N, height, width, 3]` and uint8 `[N, height, width]`; N is always batch_size.

    The order differs from epoch to epoch and repeats for a seed.
    """
    seed = config.train.seed
    dataset = _cached(tiles_dataset(files, config), tiles, config)
    # Shuffled before it repeats, so that every epoch holds every image.
    dataset = dataset.shuffle(min(_SHUFFLE_BUFFER, tiles), seed=seed, reshuffle_each_iteration=True).repeat()
    if config.train.flips:
        seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).batch(2, drop_remainder=True)
        dataset = tf.data.Dataset.zip(dataset, seeds).map(random_flips, num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.batch(config.train.batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def evaluation_batches(files: Sequence[str], tiles: int, config: TrainerConfig) -> tf.data.Dataset:
    """Every tile once, in order; the last batch may be smaller."""
    dataset = _cached(tiles_dataset(files, config), tiles, config)
    # Keras takes the end of a dataset of unknown length for an accident and warns.
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(tiles))
    return dataset.batch(config.train.batch_size).prefetch(tf.data.AUTOTUNE)


def random_flips(pair: tuple[tf.Tensor, tf.Tensor], seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Flips image and class ids together; `seed` is int64 `[2]`."""
    image, class_ids = pair
    ids = class_ids[..., tf.newaxis]
    for flip, salt in ((tf.image.stateless_random_flip_left_right, 0), (tf.image.stateless_random_flip_up_down, 1)):
        image, ids = flip(image, seed + salt), flip(ids, seed + salt)
    return image, ids[..., 0]


def _cached(dataset: tf.data.Dataset, tiles: int, config: TrainerConfig) -> tf.data.Dataset:
    """In memory while the decoded pixels fit into the limit, otherwise read again each epoch."""
    size = tiles * config.image.height * config.image.width * 4
    return dataset.cache() if size <= config.train.cache_megabytes * 2**20 else dataset
