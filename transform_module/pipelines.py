"""Pipelines of tf.data that end when their last element was taken."""

from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf


def read_records(files: Sequence[str | Path]) -> tf.data.Dataset:
    """Serialized records, string scalars, of gzipped TFRecords, one file after the other; see `untuned`."""
    return untuned(tf.data.TFRecordDataset([str(file) for file in files], compression_type="GZIP"))


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """A dataset, and what is built on it, without tf.data's tuner: AUTOTUNE is as many calls as cores, at most 16.

    The tuner's thread sleeps between its rounds, each time twice as long, up to a minute. An iterator that ends wakes
    it and waits for its end; but it looks for `IsCancelled()`, which becomes true only after all were woken
    (CancellationManager::StartCancelWithStatus), and where a core is free it mostly looks too early and sleeps on. So
    one pass in two over images that are predicted meanwhile took twice its time.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
