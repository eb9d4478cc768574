"""One rank's share of the rows: row groups of Parquet as batches of equal size for Keras.

No more than one row group and what the batches need of it are in memory. Each epoch goes through
the row groups, and through the rows of each, in an order that the seed, the rank and the epoch
decide. Steps beyond the share are rows of weight zero.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nightjar.engine.trainers.horovod_keras.job import Group

Batch = tuple[dict[str, NDArray[Any]], NDArray[np.float32], NDArray[np.float32]]


class Shard:
    """Batches of one rank. Set `epoch` before each pass. `reading` is entered while it reads."""

    def __init__(
        self,
        groups: Sequence[Group],
        numeric: int,
        categorical: int,
        batch_size: int,
        steps: int,
        class_weights: Sequence[float],
        order: tuple[int, int] | None,
        reading: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """`order` is seed and rank; with None the rows keep the order of the files.

        `class_weights` multiply the weights of the rows; without any they stay as they are.
        """
        self.groups, self.numeric, self.categorical = list(groups), numeric, categorical
        self.batch_size, self.steps, self.order = batch_size, steps, order
        self.class_weights = np.array(class_weights, dtype=np.float32)
        self.reading = reading
        self.epoch = 0
        self.seconds_reading = 0.0
        self._footers: dict[str, pq.FileMetaData] = {}  # as costly to read as a row group

    def batches(self) -> Iterator[Batch]:
        """`steps` batches of `batch_size` rows."""
        made = 0
        width = self.numeric + self.categorical + 2
        rest = np.empty((0, width), dtype=np.float32)
        groups = self._groups()
        while made < self.steps:
            with self.reading():
                started = time.perf_counter()
                while len(rest) < self.batch_size:
                    rows = next(groups, None)
                    if rows is None:
                        missing = self.batch_size - len(rest)
                        rows = np.zeros((missing, width), dtype=np.float32)
                    rest = np.concatenate([rest, rows]) if len(rest) else rows
                batch = self._batch(rest[: self.batch_size])
                rest = rest[self.batch_size :]
                self.seconds_reading += time.perf_counter() - started
            made += 1
            yield batch

    def _groups(self) -> Iterator[NDArray[np.float32]]:
        """The rows of one row group at a time: features, label, weight."""
        chance = None
        groups = self.groups
        if self.order is not None:
            chance = np.random.default_rng([*self.order, self.epoch])
            groups = [groups[i] for i in chance.permutation(len(groups))]
        columns = [f"x{i}" for i in range(self.numeric + self.categorical)] + ["label", "weight"]
        for path, place, _ in groups:
            footer = self._footers.get(path)
            with pq.ParquetFile(path, metadata=footer, page_checksum_verification=True) as file:
                self._footers[path] = file.metadata
                table = file.read_row_group(place, columns=columns, use_threads=False)
            rows = np.column_stack([table.column(name).to_numpy() for name in columns])
            rows = rows.astype(np.float32, copy=False)
            yield rows if chance is None else rows[chance.permutation(len(rows))]

    def _batch(self, rows: NDArray[np.float32]) -> Batch:
        features: dict[str, NDArray[Any]] = {}
        if self.numeric:
            features["numeric"] = rows[:, : self.numeric]
        if self.categorical:
            features["categorical"] = rows[:, self.numeric : -2].astype(np.int32)
        labels, weights = rows[:, -2], rows[:, -1]
        if len(self.class_weights):
            weights = weights * self.class_weights[labels.astype(int)]
        return features, labels[:, None], weights

    def dataset(self) -> Any:
        """The batches as a tf.data.Dataset, made two ahead of their use."""
        import tensorflow as tf

        features = {}
        if self.numeric:
            features["numeric"] = tf.TensorSpec((self.batch_size, self.numeric), tf.float32)
        if self.categorical:
            features["categorical"] = tf.TensorSpec((self.batch_size, self.categorical), tf.int32)
        signature = (
            features,
            tf.TensorSpec((self.batch_size, 1), tf.float32),
            tf.TensorSpec((self.batch_size,), tf.float32),
        )
        made = tf.data.Dataset.from_generator(self.batches, output_signature=signature)
        options = tf.data.Options()
        options.threading.private_threadpool_size = 1
        # There is nothing to tune here, and the tuner sleeps for seconds at the end of each epoch
        # before it lets go of the pass that is over.
        options.autotune.enabled = False
        return (
            made.apply(tf.data.experimental.assert_cardinality(self.steps))
            .prefetch(2)
            .with_options(options)
        )
