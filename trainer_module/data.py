"""Batches for training, streamed from Transform's records."""

from collections.abc import Sequence

import tensorflow as tf

from pipeline import features
from pipeline.config import TrainerConfig

_SHUFFLE_TILES = 1024
_SHUFFLE_BYTES = 256 * 2**20
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
    """Reads the records once; an image may be several tiles."""
    return int(tiles_dataset(files, config).reduce(tf.constant(0, tf.int64), lambda n, _: n + 1))


def fits_in_memory(tiles: int, config: TrainerConfig) -> bool:
    """Whether that many decoded tiles fit into `train.cache_megabytes`."""
    return tiles * _tile_bytes(config) <= config.train.cache_megabytes * 2**20


def training_batches(files: Sequence[str], tiles: int, config: TrainerConfig, cache: bool) -> tf.data.Dataset:
    """Endless shuffled batches: uint8 `[N, height, width, 3]` and uint8 `[N, height, width]`; N is always batch_size.

    The order differs from epoch to epoch and repeats for a seed.
    """
    seed = config.train.seed
    dataset = tiles_dataset(files, config)
    dataset = dataset.cache() if cache else dataset
    buffer = max(config.train.batch_size, min(_SHUFFLE_TILES, tiles, _SHUFFLE_BYTES // _tile_bytes(config)))
    # Shuffled before it repeats, so that every pass over the data holds every image.
    dataset = dataset.shuffle(buffer, seed=seed, reshuffle_each_iteration=True).repeat()
    if config.train.flips:
        seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).batch(2, drop_remainder=True)
        dataset = tf.data.Dataset.zip(dataset, seeds).map(random_flips, num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.batch(config.train.batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def evaluation_batches(files: Sequence[str], tiles: int, config: TrainerConfig, cache: bool) -> tf.data.Dataset:
    """Every tile once, in order; the last batch may be smaller."""
    dataset = tiles_dataset(files, config)
    dataset = dataset.cache() if cache else dataset
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


def _tile_bytes(config: TrainerConfig) -> int:
    return config.image.height * config.image.width * 4
