"""The encoding that XGBoost, scikit-learn and Keras share: what it learns, and what it gives."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from nightjar.core.pipeline import Features
from nightjar.engine import encoding
from nightjar.engine.encoding import Encoding, Layout

FEATURES = Features(base="b", as_of="t", numeric=("n", "m"), categorical=("c",))
SCHEMA = "n double, m double, c string"
LEARNT = Encoding(("n", "m"), {"c": ("b", "a")}, (2.0, 5.0), (3.0, 5.0), (2.0, 1.0))


@pytest.mark.parametrize("partitions", [1, 3, 40])
def test_it_learns_medians_means_deviations_and_categories(
    spark: SparkSession, partitions: int
) -> None:
    chance = random.Random(1)
    numbers = [chance.expovariate(1) for _ in range(501)]
    rows = [(n, 7.0, chance.choice("abbb")) for n in numbers] + [(None, 7.0, None)] * 9
    frame = spark.createDataFrame(rows, SCHEMA).repartition(partitions)
    found = encoding.learn(frame, FEATURES)
    assert found.medians == (float(np.median(numbers)), 7.0)
    assert found.means == (pytest.approx(np.mean(numbers)), 7.0)
    assert found.deviations == (pytest.approx(np.std(numbers)), 1.0), "a constant is not scaled"
    assert found.categories == {"c": ("b", "a")}, "the most frequent first; a missing one is none"


def test_ties_of_categories_are_in_alphabetical_order(spark: SparkSession) -> None:
    frame = spark.createDataFrame([(1.0, 1.0, c) for c in "zayb"], SCHEMA)
    assert encoding.learn(frame, FEATURES).categories == {"c": ("a", "b", "y", "z")}


def test_medians_of_many_values_are_close_and_memory_is_bounded() -> None:
    chance = np.random.default_rng(0)
    values = chance.normal(size=300_000)
    seen = encoding._Numbers()
    for part in np.array_split(values, 30):
        seen.add(part)
        assert len(seen.values) <= encoding._KEPT + 10_000
    facts = seen.facts()
    assert len(facts["values"]) <= encoding.POINTS
    median, mean, deviation = encoding._merged([facts])
    below = (values < median).mean()
    assert abs(below - 0.5) <= 2 / encoding.POINTS
    assert (mean, deviation) == (pytest.approx(values.mean()), pytest.approx(values.std()))


def test_values_that_are_no_numbers_count_for_nothing(spark: SparkSession) -> None:
    rows = [(n, 1.0, "a") for n in (1.0, 2.0, 3.0, float("nan"), float("inf"), None)]
    found = encoding.learn(spark.createDataFrame(rows, SCHEMA).coalesce(1), FEATURES)
    assert (found.medians[0], found.means[0]) == (2.0, 2.0)


BATCH = pa.RecordBatch.from_pydict(
    {
        "n": pa.array([1.0, None, float("inf"), 1e300]),
        "m": pa.array([5.0, 6.0, 5.0, 5.0]),
        "c": ["a", "b", None, "never seen"],
    }
)
LAYOUTS: dict[str, tuple[Layout, list[list[float]]]] = {
    "codes, missing kept": (
        Layout(),
        [[1, 5, 1], [np.nan, 6, 0], [np.nan, 5, 2], [1e30, 5, 2]],
    ),
    "codes, imputed": (Layout(impute=True), [[1, 5, 1], [2, 6, 0], [2, 5, 2], [1e30, 5, 2]]),
    "one column a category": (
        Layout(onehot=True, impute=True),
        [[1, 5, 0, 1], [2, 6, 1, 0], [2, 5, 0, 0], [1e30, 5, 0, 0]],
    ),
    "standardised": (
        Layout(impute=True, standardize=True),
        [[-1, 0, 1], [-0.5, 1, 0], [-0.5, 0, 2], [1e6, 0, 2]],
    ),
}


@pytest.mark.parametrize(("layout", "expected"), LAYOUTS.values(), ids=LAYOUTS)
def test_the_matrix(layout: Layout, expected: list[list[float]]) -> None:
    found = LEARNT.matrix(BATCH, layout)
    assert found.dtype == np.float32
    assert np.array_equal(found, np.array(expected, dtype=np.float32), equal_nan=True)
    assert found.shape[1] == len(LEARNT.names(layout))


def test_it_is_the_same_after_json() -> None:
    assert Encoding.from_json(LEARNT.to_json()) == LEARNT
