"""Batches for training, streamed from Transform's records."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from flexunet.core import features
from flexunet.core.config.train import AugmentConfig, TrainerConfig
from trainer_module.augment import make_augment
from trainer_module.crops import crops, join_tiles
from transform_module.graphs import as_written
from transform_module.pipelines import read_records, untuned

_SHUFFLE_TILES: Final = 1024
_SHUFFLE_BYTES: Final = 256 * 2**20
# Of a sample: an eighth of the tiles, in these bounds.
_FEWEST_TILES: Final = 32
_MOST_TILES: Final = 256
_SAMPLE_BYTES: Final = 64 * 2**20
_MEBIBYTE: Final = 2**20
# Of an image in a pass: they come one after the other, and a shuffle holds some hundreds of tiles.
_MOST_COPIES: Final = 8
_FEATURES: Final = {
    features.TRANSFORMED_IMAGE: tf.io.FixedLenFeature([], tf.string),
    features.TRANSFORMED_CLASS_IDS: tf.io.FixedLenFeature([], tf.string),
}

# Where decoded tiles are kept between epochs: in memory (""), in files that begin with a path, or nowhere (None). The
# first two are what tf.data.Dataset.cache takes.
Cache = str | None


class Pool(NamedTuple):
    """What tiles are drawn from, and how much it is: tiles, or whole images that they are cut from.

    `copies`, float32 `[size, 2]`, tells how often each comes in a pass, so that groups come equally often: where it
    gives all of its tiles, and where it gives one; None: once.
    """

    images: tf.data.Dataset
    size: int
    copies: NDArray[np.float32] | None = None


class Kind(NamedTuple):
    """What a tile has to be: from one of `dataset.sources`, "" for none of them; showing a class, 0 for any tile."""

    source: str
    class_id: int


@as_written
def tiles_dataset(files: Sequence[str], config: TrainerConfig, source: str | None = None) -> tf.data.Dataset:
    """Pairs of uint8 `[height, width, 3]` and class ids uint8 `[height, width]`, one for each tile.

    Of all images that train, or of those from one of `dataset.sources`: "" for none of them.
    """
    records = _records(files, config, source)
    return records.map(lambda record: _parse(record, config), num_parallel_calls=tf.data.AUTOTUNE).unbatch()


def _records(files: Sequence[str], config: TrainerConfig, source: str | None) -> tf.data.Dataset:
    records = read_records(files)
    left_out = [name for name, share in config.dataset.sources.items() if not share]
    if source is None and not left_out:
        return records
    feature = {features.TRANSFORMED_SOURCE: tf.io.FixedLenFeature([], tf.string)}

    def is_wanted(record: tf.Tensor) -> tf.Tensor:
        its_source = tf.io.parse_single_example(record, feature)[features.TRANSFORMED_SOURCE]
        return tf.reduce_all(its_source != left_out) if source is None else its_source == source

    return records.filter(is_wanted)


@as_written
def whole_images(files: Sequence[str], config: TrainerConfig, source: str | None = None) -> tf.data.Dataset:
    """Pairs of uint8 `[h, w, 3]` and class ids uint8 `[h, w]`, one for each image that was cut into tiles."""

    def joined(tiles: tf.Tensor, class_ids: tf.Tensor, size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return join_tiles(tiles, size, config.image), join_tiles(class_ids, size, config.image)

    return images_dataset(files, config, source).map(joined, num_parallel_calls=tf.data.AUTOTUNE)


@as_written
def images_dataset(files: Sequence[str], config: TrainerConfig, source: str | None = None) -> tf.data.Dataset:
    """For each image its tiles, uint8 `[tiles, height, width, 3]`, their class ids, uint8 `[tiles, height, width]`, and
    the size that they cover, int32 `[2]`: the image's own where it is cut, else the model's.
    """

    def size_of(record: tf.Tensor) -> tf.Tensor:
        if config.image.fit != "tile":
            return tf.constant([config.image.height, config.image.width])
        key = features.TRANSFORMED_SIZE
        row = tf.io.parse_single_example(record, {key: tf.io.FixedLenFeature([], tf.string)})
        return tf.ensure_shape(tf.io.parse_tensor(row[key], tf.int32), [2])

    records = _records(files, config, source)
    return records.map(lambda record: (*_parse(record, config), size_of(record)))


def _parse(record: tf.Tensor, config: TrainerConfig) -> tuple[tf.Tensor, tf.Tensor]:
    """An image's tiles uint8 `[tiles, height, width, 3]` and class ids uint8 `[tiles, height, width]`."""
    height, width = config.image.height, config.image.width
    row = tf.io.parse_single_example(record, _FEATURES)
    tiles = tf.io.parse_tensor(row[features.TRANSFORMED_IMAGE], tf.uint8)
    tile_ids = tf.io.parse_tensor(row[features.TRANSFORMED_CLASS_IDS], tf.uint8)
    return tf.ensure_shape(tiles, [None, height, width, 3]), tf.ensure_shape(tile_ids, [None, height, width])


def count_tiles(files: Sequence[str], config: TrainerConfig) -> int:
    """Of images that train. Reads the records once; an image may be several tiles."""
    return _count(tiles_dataset(files, config))


def _count(dataset: tf.data.Dataset) -> int:
    return int(dataset.reduce(tf.constant(0, tf.int64), lambda n, _: n + 1))


def shows_defect(files: Sequence[str], config: TrainerConfig) -> bool:
    """Whether any pixel is labelled as a defect; reads up to the first."""
    defects = tiles_dataset(files, config).filter(
        lambda _, class_ids: tf.reduce_any((class_ids != features.BACKGROUND_ID) & (class_ids != features.IGNORE_ID))
    )
    return any(True for _ in defects.take(1))


def choose_cache(tiles: int, config: TrainerConfig, directory: Path) -> Cache:
    """Memory while `tiles` fit into `train.cache_megabytes`, then files in `directory`, then nowhere."""
    mebibytes = tiles * _tile_bytes(config) / _MEBIBYTE
    if mebibytes <= config.train.cache_megabytes:
        return ""
    return str(directory / "tiles") if mebibytes <= config.train.disk_cache_megabytes else None


@as_written
def training_batches(
    files: Sequence[str], tiles: int, config: TrainerConfig, cache: Cache, first_epoch: int = 0
) -> tf.data.Dataset:
    """Endless shuffled, augmented batches: uint8 `[N, height, width, 3]` and `[N, height, width]`, N = batch_size.

    Order and changes of epoch e follow from `train.seed` and e alone, so that training can go on from `first_epoch` as
    if it had never stopped. What does not fill a batch is left out of an epoch, other tiles each time. With
    `train.defect_share` so many of a batch show a defect, the classes in turn, and with `dataset.sources` so many are
    from each of them; what does not come in one epoch comes in others. With `dataset.equal_groups` an epoch has as many
    steps, of groups that all come equally often. With `augment.crops` tiles are cut anywhere, as many of each image as
    it has otherwise, or one around a defect where one is wanted.

    Raises:
      ValueError: no image is from one of `dataset.sources`, or all are.
    """
    seed, size = config.train.seed, config.train.batch_size
    pools = _pools(files, config, cache)
    buffer = max(size, min(_SHUFFLE_TILES, tiles, _SHUFFLE_BYTES // _tile_bytes(config)))
    shown = _classes_shown(pools[""], config) if config.train.defect_share else {}
    turns = _turns([*shown], config)
    counted = _counted(pools, files, config) if turns else {}

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        # Of this function's graph alone: a shuffle draws from it too, and with 0 takes no tensor for a seed.
        tf.random.set_seed(1)
        # Split, not added: seed 1 would repeat all but the first epoch of seed 0.
        order, changes = tf.unstack(tf.random.split(tf.stack([tf.constant(seed, tf.int64), epoch]), 2)[:, 0])
        if turns:
            # Begun anew, an epoch of few batches would never come to the last of many classes.
            first = tf.math.floormod(epoch * (tiles // size * size), len(turns))
            shuffled = _in_turn(counted, shown, buffer, order, turns, first, config)
        else:
            shuffled = _tiles(pools[""], order, 0, config).shuffle(buffer, seed=order)
        seeds = tf.data.Dataset.counter().map(lambda index: tf.stack([changes, index]))
        return tf.data.Dataset.zip(shuffled.take(tiles // size * size), seeds)

    batches = tf.data.Dataset.counter(first_epoch).flat_map(one_epoch)
    augment = make_augment(config.augment, config.image.height, config.image.width)
    if augment is None:
        batches = batches.map(lambda pair, _: pair)
    else:
        batches = batches.map(lambda pair, seed: augment(pair[0], pair[1], seed), num_parallel_calls=tf.data.AUTOTUNE)
    # Options of what `flat_map` joins are not those of the whole.
    return untuned(batches.batch(size, drop_remainder=True).prefetch(tf.data.AUTOTUNE))


def _pools(files: Sequence[str], config: TrainerConfig, cache: Cache) -> dict[str, tf.data.Dataset]:
    """By source the tiles that it has, or the whole images that they are cut from; "" for those of no source."""
    pool = whole_images if config.augment.crops else tiles_dataset
    if not config.source_tiles():
        return {"": _cached(pool(files, config), cache, "train")}
    names = ["", *config.source_tiles()]
    return {name: _cached(pool(files, config, name), cache, f"train-{i}") for i, name in enumerate(names)}


def _counted(pools: Mapping[str, tf.data.Dataset], files: Sequence[str], config: TrainerConfig) -> dict[str, Pool]:
    """Reads all once, which fills a cache: an epoch may end before a pool does."""
    counted = {name: Pool(images, _count(images)) for name, images in pools.items()}
    if config.dataset.equal_groups:
        for name, pool in counted.items():
            source = name if config.source_tiles() else None
            counted[name] = pool._replace(copies=_copies(files, config, source))
    for name, pool in counted.items():
        if not pool.size:
            what = f"no training image is from {name!r}" if name else "all training images are"
            raise ValueError(
                f"{what} of dataset.sources, expected some in the spans that are read: ingest again, raise "
                "dataset.spans, or change dataset.sources"
            )
    return counted


def _copies(files: Sequence[str], config: TrainerConfig, source: str | None) -> NDArray[np.float32]:
    """Of a pool, in its order: see `Pool`. A pass has as many tiles as without, or less where groups differ so much
    that an image would be many times beside itself.
    """
    feature = {features.TRANSFORMED_GROUP: tf.io.FixedLenFeature([], tf.string)}

    @as_written
    def group_and_tiles(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        group = tf.io.parse_single_example(record, feature)[features.TRANSFORMED_GROUP]
        tiles = tf.shape(_parse(record, config)[0])[0]
        return (
            (group[tf.newaxis], tiles[tf.newaxis])
            if config.augment.crops
            else (tf.repeat(group, tiles), tf.ones(tiles, tf.int32))
        )

    rows = [*_records(files, config, source).map(group_and_tiles).unbatch().as_numpy_iterator()]
    place = np.unique([group for group, _ in rows], return_inverse=True)[1] if rows else np.empty(0, np.int64)
    columns = []
    for gives in ([tiles for _, tiles in rows], [1] * len(rows)):
        of_groups = np.bincount(place, gives)
        copies = of_groups.sum() / (len(of_groups) * of_groups[place]) if rows else np.empty(0)
        columns.append(copies * min(1, _MOST_COPIES / max(copies, default=1)))
    return np.stack(columns, axis=1).astype(np.float32)


def _classes_shown(dataset: tf.data.Dataset, config: TrainerConfig) -> dict[int, int]:
    """The defect classes of which any tile, or whole image, shows a pixel, and how many do.

    Reads all once, which fills a cache: several streams at a time could not, since one on disk has a single writer.
    """
    count = len(config.classes)
    none = tf.zeros([count], tf.int64)
    seen = dataset.reduce(none, lambda seen, pair: seen + tf.cast(_present(pair[1], count), tf.int64)).numpy()
    return {class_id: int(seen[class_id]) for class_id in range(1, count) if seen[class_id]}


def _present(class_ids: tf.Tensor, count: int) -> tf.Tensor:
    """bool `[count]`; what is ignored is out of range and shows nothing."""
    return tf.math.bincount(tf.reshape(tf.cast(class_ids, tf.int32), [-1]), minlength=256)[:count] > 0


def _turns(classes: Sequence[int], config: TrainerConfig) -> list[Kind]:
    """What each tile has to be, for as many batches as give each class its turn; nothing where any may come."""
    size, sources = config.train.batch_size, config.source_tiles()
    drawn = [Kind(name, 0) for name, tiles in sources.items() for _ in range(tiles)]
    each = min(max(1, round(config.train.defect_share * size)), size - len(drawn)) if classes else 0
    order = [Kind("", classes[turn % len(classes)]) for turn in range(each * len(classes))]
    batches = [order[start : start + each] for start in range(0, len(order), each)] if order else [[]]
    rest = [Kind("", 0)] * (size - each - len(drawn))
    if not (classes or sources or config.dataset.equal_groups):
        return []
    return [kind for batch in batches for kind in [*batch, *drawn, *rest]]


def _in_turn(
    pools: Mapping[str, Pool],
    shown: Mapping[int, int],
    buffer: int,
    seed: tf.Tensor,
    turns: Sequence[Kind],
    first: tf.Tensor,
    config: TrainerConfig,
) -> tf.data.Dataset:
    """Endless: a shuffled stream of each kind, which share the buffer; their turns begin at place `first`, int64.

    Of a class it holds no more than a pass has, by `shown`: for more an epoch would begin with many passes over all.
    """
    kinds, names = sorted({*turns}), [*pools]
    streams = [
        _endless(
            pools[kind.source],
            min(shown.get(kind.class_id, buffer), max(1, buffer // len(kinds))),
            seed + names.index(kind.source) * (features.IGNORE_ID + 1) + kind.class_id,
            kind.class_id,
            config,
        )
        for kind in kinds
    ]
    choice = tf.data.Dataset.from_tensor_slices(tf.constant([kinds.index(turn) for turn in turns], tf.int64))
    return tf.data.Dataset.choose_from_datasets(streams, choice.repeat().skip(first))


def _endless(pool: Pool, buffer: int, seed: tf.Tensor, class_id: int, config: TrainerConfig) -> tf.data.Dataset:
    """Shuffled tiles that show a class again and again; 0 is the background, which is no kind of tile: any may come."""
    images = _from_anywhere(pool, seed, int(class_id > 0))
    wanted = images.filter(lambda _, ids: tf.reduce_any(ids == class_id)) if class_id else images
    if config.augment.crops:
        # Others at each repetition.
        return _tiles(wanted.repeat(), seed, class_id, config).shuffle(buffer, seed=seed)
    return wanted.shuffle(buffer, seed=seed).repeat()


def _from_anywhere(pool: Pool, seed: tf.Tensor, column: int) -> tf.data.Dataset:
    """Each epoch begins elsewhere: one that always began at the first image would never come to the last."""
    start = tf.random.stateless_uniform([], tf.stack([seed, -1]), 0, pool.size, tf.int64)
    images = pool.images.skip(start).concatenate(pool.images.take(start))
    return images if pool.copies is None else _copied(images, start, seed, pool.copies[:, column])


def _copied(images: tf.data.Dataset, start: tf.Tensor, seed: tf.Tensor, copies: NDArray[np.float32]) -> tf.data.Dataset:
    """Endless passes, in each of which an image comes so often, a part of once by chance.

    Args:
      images: of one pass, which begins at place `start` of the pool.
      start: int64.
      seed: int64.
      copies: of each of the pool, in its order.
    """

    def repeated(number: tf.Tensor, pair: tuple[tf.Tensor, ...]) -> tf.data.Dataset:
        wanted = tf.gather(tf.constant(copies), tf.math.floormod(start + number, len(copies)))
        drawn = tf.random.stateless_uniform([], tf.stack([seed, number]))
        return tf.data.Dataset.from_tensors(pair).repeat(tf.cast(tf.floor(wanted + drawn), tf.int64))

    return images.repeat().enumerate().flat_map(repeated)


def _tiles(dataset: tf.data.Dataset, seed: tf.Tensor, class_id: int, config: TrainerConfig) -> tf.data.Dataset:
    """As they are, or cut from whole images: each image by a seed of its own."""
    if not config.augment.crops:
        return dataset
    cut = crops(class_id, config.image)
    numbered = dataset.enumerate()
    return numbered.map(lambda index, pair: cut(*pair, tf.stack([seed, index])), tf.data.AUTOTUNE).unbatch()


def evaluation_batches(files: Sequence[str], tiles: int, config: TrainerConfig, cache: Cache) -> tf.data.Dataset:
    """Every tile once, in order; the last batch may be smaller."""
    dataset = _cached(tiles_dataset(files, config), cache, "eval")
    # Keras takes the end of a dataset of unknown length for an accident and warns.
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(tiles))
    return dataset.batch(config.train.batch_size).prefetch(tf.data.AUTOTUNE)


def sample_batches(files: Sequence[str], tiles: int, config: TrainerConfig) -> tf.data.Dataset:
    """Some training batches without their changes, the same each time: uint8 `[N, height, width, 3]`, N = batch_size.

    Of the same mixture, spread evenly over an epoch: an eighth of the tiles, at least 32 and at most 256 or 64 MB, kept
    in memory.
    """
    size = config.train.batch_size
    most = min(_MOST_TILES, _SAMPLE_BYTES // _tile_bytes(config))
    wanted = max(size, min(tiles, most, max(_FEWEST_TILES, tiles // 8)))
    steps, count = tiles // size, wanted // size
    as_they_are = config.model_copy(update={"augment": AugmentConfig()})
    epoch = training_batches(files, tiles, as_they_are, cache=None).take(steps)
    pixels = epoch.shard(steps // count, 0).take(count).map(lambda pixels, _: pixels)
    # A batch comes last, as a strategy wants it that splits batches among GPUs.
    return pixels.unbatch().cache().batch(size, drop_remainder=True)


def _cached(dataset: tf.data.Dataset, cache: Cache, split: str) -> tf.data.Dataset:
    return dataset if cache is None else dataset.cache(f"{cache}-{split}" if cache else "")


def _tile_bytes(config: TrainerConfig) -> int:
    return config.image.height * config.image.width * 4
