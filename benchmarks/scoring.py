"""Distributed scoring beside its floor: the same rows through an identity mapInArrow.

    python benchmarks/scoring.py [--rows 800000] [--runs 3] [--trees 50]

One session, local[2]. Rows are the demo's kind: 11 numbers, 4 categories, three columns besides.
Each of these is done in turn, once to warm up and then --runs times, into Spark's noop sink:
reading alone; an identity mapInArrow; each model in mapInArrow. Prints wall seconds (medians), the
ratio to the identity, and the library's own predict on an encoded matrix in memory, one thread.
Ends with the memory of the Python workers after few and after many rows.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame

from nightjar.core.pipeline import Features, Label, SklearnCandidate, XGBoostCandidate
from nightjar.engine.session import start
from nightjar.engine.trainers import TrainingSet, portable, trainer

NUMERIC = tuple(f"n{i}" for i in range(11))
CATEGORICAL = {"carrier": 16, "origin": 3, "dest": 105, "weekday": 7}
FEATURES = Features(base="b", as_of="t", numeric=NUMERIC, categorical=tuple(CATEGORICAL))
LABEL = Label.model_validate({"name": "late", "expr": "late", "known_after": "1 day"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=800_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--trees", type=int, default=50)
    given = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    conf = Path(__file__).parents[1] / "spark-conf" / "local.conf"
    spark = start("scoring benchmark", conf)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "rows", given.rows)
        rows = spark.read.parquet(str(folder / "rows"))
        few = rows.limit(50_000).cache()
        training = TrainingSet.of(few, FEATURES, LABEL, ("id",), folder)
        models = {
            "xgboost": XGBoostCandidate(
                trainer="xgboost", params={"n_estimators": given.trees, "max_depth": 6}
            ),
            "sklearn": SklearnCandidate(
                trainer="sklearn",
                estimator="sklearn.ensemble.HistGradientBoostingClassifier",
                params={"max_iter": given.trees},
                categorical="index",
            ),
        }
        learnt = {name: trainer(name).fit(training, made) for name, made in models.items()}
        few.unpersist()
        jobs: dict[str, DataFrame] = {
            "read alone": rows,
            "identity mapInArrow": rows.mapInArrow(identity, rows.schema),
            **{name: trainer(name).score(model, rows) for name, model in learnt.items()},
        }
        took: dict[str, list[float]] = {name: [] for name in jobs}
        for run in range(given.runs + 1):
            for label, job in jobs.items():
                started = time.perf_counter()
                job.write.format("noop").mode("overwrite").save()
                if run:
                    took[label].append(time.perf_counter() - started)
        floor = statistics.median(took["identity mapInArrow"])
        print(f"{given.rows:,} rows, {given.trees} trees, {spark.sparkContext.master}")
        for label, seconds in took.items():
            middle = statistics.median(seconds)
            print(
                f"{label:22} {middle:6.2f} s  {given.rows / middle:12,.0f} rows/s  "
                f"{middle / floor:5.2f} x identity"
            )
        alone(learnt, folder / "rows")
        memory(spark, learnt["xgboost"], rows)
    spark.stop()


def write(folder: Path, count: int) -> None:
    """Rows in eight files, from a fixed seed."""
    folder.mkdir()
    chance = np.random.default_rng(0)
    for i in range(8):
        size = count // 8
        numbers = {name: chance.normal(size=size) for name in NUMERIC}
        words = {
            name: pa.array([f"{name}{k}" for k in chance.integers(0, n, size)])
            for name, n in CATEGORICAL.items()
        }
        late = numbers["n0"] + numbers["n1"] * numbers["n2"] + chance.normal(size=size) > 1
        table = {
            "id": np.arange(size) + i * size,
            "at": pa.array(np.arange(size), pa.timestamp("us", tz="UTC")),
            "late": late.astype(float),
        }
        pq.write_table(pa.table({**table, **numbers, **words}), folder / f"part-{i}.parquet")


def identity(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield from batches


def alone(learnt: dict[str, Any], folder: Path) -> None:
    """The library's own predict, on a matrix that is in memory already."""
    table = pq.read_table(folder)
    for name, model in learnt.items():
        batches = table.to_batches(max_chunksize=portable.BATCH_ROWS)
        matrix = np.concatenate([model.encoding.matrix(b, model.layout) for b in batches])
        predict = portable.predictor(model, threads=1)
        predict(matrix[:1000])
        started = time.perf_counter()
        predict(matrix)
        seconds = time.perf_counter() - started
        print(f"{name + ' in memory':22} {seconds:6.2f} s  {len(matrix) / seconds:12,.0f} rows/s")


def memory(spark: Any, model: Any, rows: DataFrame) -> None:
    """Resident memory of the Python workers: after one partition of 1/8 of the rows, and of all."""
    peaks = []
    for part in (rows.limit(int(rows.count() / 8)), rows):
        scored = trainer("xgboost").score(model, part.coalesce(1))
        scored = scored.mapInArrow(resident, "megabytes double")
        peaks.append(max(row["megabytes"] for row in scored.collect()))
    few, many = peaks
    print(f"memory of a worker: {few:.0f} MB after 1/8 of the rows, {many:.0f} MB after all")


def resident(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    import resource

    for _ in batches:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    yield pa.RecordBatch.from_pydict({"megabytes": [peak]})


if __name__ == "__main__":
    main()
