"""One Spark session, and rows to learn from that every trainer gets alike."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from tests.conformance.candidates import LABELS

from nightjar.core.pipeline import Features
from nightjar.engine.session import start
from nightjar.engine.trainers import TrainingSet

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = "id int, n double, m double, c string, d string, w double, y double"
FEATURES = Features(base="b", as_of="t", numeric=("n", "m"), categorical=("c", "d"))

Row = tuple[Any, ...]


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
    session = start("conformance", ROOT / "spark-conf" / "local.conf")
    session.conf.set("spark.sql.shuffle.partitions", "2")
    yield session
    session.stop()


def made_rows(count: int = 400, seed: int = 3, kind: str = "binary") -> list[Row]:
    """Rows whose label follows `n` and `c`; some values are missing, `m` is always 1."""
    label = {
        "binary": lambda x: float(x > 0.5),
        "multiclass": lambda x: float((x > 0) + (x > 1)),
        "regression": lambda x: 1000 + 40 * x,
    }[kind]
    chance = random.Random(seed)
    rows: list[Row] = []
    for i in range(count):
        n, c, d = chance.gauss(0, 1), chance.choice("abc"), chance.choice("xy")
        y = label(n + (c == "a") + chance.gauss(0, 0.7))
        missing = chance.random()
        rows.append(
            (
                i,
                n if missing > 0.1 else None,
                1.0,
                c if missing < 0.9 else None,
                d,
                1.0,
                y,
            )
        )
    return rows


@pytest.fixture(scope="session")
def training(
    spark: SparkSession, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., TrainingSet]:
    """Makes a training set of rows of SCHEMA, in some number of partitions."""

    def make(
        rows: Sequence[Row],
        weighted: bool = False,
        partitions: int = 2,
        kind: str = "binary",
        **more: Any,
    ) -> TrainingSet:
        frame = spark.createDataFrame(list(rows), SCHEMA).repartition(partitions)
        weight = "w" if weighted else None
        folder = more.pop("folder", None) or tmp_path_factory.mktemp("training")
        # A feature is in the key too, as it may be.
        whole = TrainingSet.of(frame, FEATURES, LABELS[kind], ("d", "id"), folder, weight, **more)
        return replace(whole, rows=whole.in_fixed_order(2).cache())

    return make
