"""What every trainer but MLlib learns of the features before it learns: codes, medians, scales.

An encoding is learnt in one pass over the training rows and is plain values: it is saved with the
model as JSON and gives the same matrix in training and in scoring. (MLlib learns the same as stages
of its own pipeline, so that its models stay on the JVM.)
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark import TaskContext
from pyspark.sql import DataFrame
from pyspark.sql.types import FloatType, StructField, StructType

from nightjar.core.pipeline import Features

# No value is larger: sums over features stay finite, in float32 too.
LARGEST, MOST_DEVIATIONS = 1e30, 1e6
POINTS = 1024  # of a column's values in one partition, when a median is taken
_KEPT = 65_536


@dataclass(frozen=True)
class Layout:
    """How a matrix is laid out: numeric features first, then the categories.

    Categories are one column of codes each, or with `onehot` one column for each known category.
    Missing numbers are NaN, or with `impute` the training median.
    """

    onehot: bool = False
    impute: bool = False
    standardize: bool = False


@dataclass(frozen=True)
class Encoding:
    """Learnt from training rows; all tuples of numbers are parallel to `numeric`.

    `categories` has, for each categorical feature, its values, the most frequent first; the code
    of a value is its place. A missing or unseen value has the code after the last.
    """

    numeric: tuple[str, ...]
    categories: Mapping[str, tuple[str, ...]]
    medians: tuple[float, ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.numeric, *self.categories)

    def names(self, layout: Layout) -> list[str]:
        """What the columns of the matrix are."""
        if not layout.onehot:
            return list(self.columns)
        pairs = [f"{name}={value}" for name, values in self.categories.items() for value in values]
        return [*self.numeric, *pairs]

    def matrix(self, batch: pa.RecordBatch, layout: Layout) -> NDArray[np.float32]:
        """The features of a batch that has `columns`, as float32 of shape (rows, names)."""
        rows = batch.num_rows
        made = np.zeros((rows, len(self.names(layout))), dtype=np.float32)
        made[:, : len(self.numeric)] = self.numbers(batch, layout.impute, layout.standardize)
        at = len(self.numeric)
        for name, values in self.categories.items():
            codes = self.codes(batch, name)
            if layout.onehot:
                known = np.flatnonzero(codes < len(values))
                made[known, at + codes[known]] = 1
                at += len(values)
            else:
                made[:, at] = codes
                at += 1
        return made

    def numbers(
        self, batch: pa.RecordBatch, impute: bool, standardize: bool
    ) -> NDArray[np.float64]:
        """The numeric features, of shape (rows, numeric), within LARGEST or MOST_DEVIATIONS."""
        made = np.empty((batch.num_rows, len(self.numeric)))
        for i, name in enumerate(self.numeric):
            values = batch.column(name).to_numpy(zero_copy_only=False).astype(np.float64)
            missing = ~np.isfinite(values)
            if missing.any():
                values = np.where(missing, self.medians[i] if impute else np.nan, values)
            if standardize:
                values = (values - self.means[i]) / self.deviations[i]
            most = MOST_DEVIATIONS if standardize else LARGEST
            made[:, i] = np.clip(values, -most, most)
        return made

    def codes(self, batch: pa.RecordBatch, name: str) -> NDArray[np.int32]:
        """The codes of one categorical feature, of shape (rows,)."""
        known = self._known[name]
        found = pc.index_in(batch.column(name), value_set=known)
        return np.asarray(pc.fill_null(found, len(known)).to_numpy(), dtype=np.int32)

    @cached_property
    def _known(self) -> dict[str, pa.Array]:
        return {name: pa.array(values, pa.string()) for name, values in self.categories.items()}

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Encoding:
        found = json.loads(text)
        return cls(
            tuple(found["numeric"]),
            {name: tuple(values) for name, values in found["categories"].items()},
            *(tuple(found[name]) for name in ("medians", "means", "deviations")),
        )


def learn(rows: DataFrame, features: Features) -> Encoding:
    """The encoding of some rows; the same for the same partitions, in whatever order they finish.

    Medians are exact where a column has at most POINTS different values in each partition, and
    else off by less than one part in POINTS of the rows.
    """
    look = partial(_look, tuple(features.numeric), tuple(features.categorical))
    names = [*features.numeric, *features.categorical]
    found = rows.select(*names).mapInArrow(look, "part int, facts string").collect()
    parts = [json.loads(row["facts"]) for row in sorted(found, key=lambda row: row["part"])]
    numeric = [_merged([part["numeric"][name] for part in parts]) for name in features.numeric]
    categories = {}
    for name in features.categorical:
        counts: Counter[str] = Counter()
        for part in parts:
            counts.update(part["categories"][name])
        categories[name] = tuple(sorted(counts, key=lambda value: (-counts[value], value)))
    medians, means, deviations = zip(*numeric, strict=True) if numeric else ((), (), ())
    return Encoding(tuple(features.numeric), categories, medians, means, deviations)


def encoded(
    rows: DataFrame, encoding: Encoding, layout: Layout, kept: Sequence[str] = ()
) -> DataFrame:
    """The matrix as float columns `x0`, `x1`, ..., beside the columns `kept`."""
    matrix = [StructField(f"x{i}", FloatType()) for i in range(len(encoding.names(layout)))]
    schema = StructType([*rows.select(*kept).schema.fields, *matrix])
    chosen = rows.select(*dict.fromkeys([*kept, *encoding.columns]))
    return chosen.mapInArrow(partial(_encode, encoding, layout, tuple(kept)), schema)


def _encode(
    encoding: Encoding, layout: Layout, kept: tuple[str, ...], batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        matrix = encoding.matrix(batch, layout)
        columns = [pa.array(matrix[:, i]) for i in range(matrix.shape[1])]
        names = [*kept, *(f"x{i}" for i in range(len(columns)))]
        yield pa.RecordBatch.from_arrays([*(batch.column(n) for n in kept), *columns], names)


def _look(
    numeric: tuple[str, ...], categorical: tuple[str, ...], batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """One row: what a partition holds, as JSON."""
    numbers = {name: _Numbers() for name in numeric}
    counts: dict[str, Counter[str]] = {name: Counter() for name in categorical}
    for batch in batches:
        for name, seen in numbers.items():
            seen.add(batch.column(name).to_numpy(zero_copy_only=False).astype(np.float64))
        for name, counter in counts.items():
            for entry in pc.value_counts(batch.column(name).drop_null()).to_pylist():
                counter[entry["values"]] += entry["counts"]
    context = TaskContext.get()
    assert context is not None, "runs in a task"
    facts = {
        "numeric": {name: seen.facts() for name, seen in numbers.items()},
        "categories": counts,
    }
    yield pa.RecordBatch.from_pydict(
        {"part": pa.array([context.partitionId()], pa.int32()), "facts": [json.dumps(facts)]}
    )


class _Numbers:
    """Count, mean, sum of squares and some quantiles of one column; memory is bounded."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0
        self.values: NDArray[np.float64] = np.empty(0)
        self.weights: NDArray[np.float64] = np.empty(0)

    def add(self, values: NDArray[np.float64]) -> None:
        values = values[np.isfinite(values)]
        if not len(values):
            return
        mean = float(values.mean())
        squares = float(((values - mean) ** 2).sum())
        self.count, self.mean, self.squares = _combined(
            (self.count, self.mean, self.squares), (len(values), mean, squares)
        )
        self.values = np.concatenate([self.values, values])
        self.weights = np.concatenate([self.weights, np.ones(len(values))])
        if len(self.values) > _KEPT:
            self._compress()

    def _compress(self) -> None:
        found, place = np.unique(self.values, return_inverse=True)
        counts: NDArray[Any] = np.bincount(place, self.weights)
        if len(found) > POINTS:
            middles = (np.cumsum(counts) - counts / 2) / counts.sum()
            bins = np.minimum(middles * POINTS, POINTS - 1).astype(int)
            sums: NDArray[Any] = np.bincount(bins, counts, POINTS)
            weighted: NDArray[Any] = np.bincount(bins, counts * found, POINTS)
            found, counts = weighted[sums > 0] / sums[sums > 0], sums[sums > 0]
        self.values, self.weights = found, counts

    def facts(self) -> dict[str, Any]:
        self._compress()
        moments = (self.count, self.mean, self.squares)
        return {
            "moments": moments,
            "values": self.values.tolist(),
            "weights": self.weights.tolist(),
        }


Moments = tuple[int, float, float]


def _combined(one: Moments, other: Moments) -> Moments:
    """Moments of both: Chan, Golub and LeVeque (1979)."""
    count = one[0] + other[0]
    if count == 0:
        return one
    apart = other[1] - one[1]
    mean = one[1] + apart * other[0] / count
    return count, mean, one[2] + other[2] + apart * apart * one[0] * other[0] / count


def _merged(parts: Sequence[Mapping[str, Any]]) -> tuple[float, float, float]:
    """Median, mean and standard deviation of a column over all partitions.

    Without a value they are 0, 0 and 1; a constant column has deviation 1, so that it becomes 0.
    """
    total: Moments = (0, 0.0, 0.0)
    for part in parts:
        count, mean, squares = part["moments"]
        total = _combined(total, (count, mean, squares))
    if total[0] == 0:
        return 0.0, 0.0, 1.0
    values = np.concatenate([part["values"] for part in parts])
    weights = np.concatenate([part["weights"] for part in parts])
    order = np.argsort(values, kind="stable")
    below = np.cumsum(weights[order])
    median = float(values[order][np.searchsorted(below, below[-1] / 2)])
    deviation = float(np.sqrt(total[2] / total[0]))
    return median, total[1], deviation if deviation > 1e-12 * max(1.0, abs(total[1])) else 1.0
