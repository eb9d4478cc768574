"""Distributed scoring beside its floor: the same rows through an identity mapInArrow.

    python benchmarks/scoring.py [--rows 800000] [--runs 3] [--trees 10 50]

One session on all cores. Rows are the demo's kind: 11 numbers, 4 categories, three columns besides.
Each of these is done in turn, once to warm up and then --runs times, into Spark's noop sink:
reading alone; an identity mapInArrow; each model. Prints wall seconds (medians) and two ratios: to
the identity, and to the identity together with the library's own predict (one thread, an encoded
matrix in memory) shared out over the cores: what moving the rows and the model itself cost at the
least. Ends with the memory of the Python workers after few and after many rows.
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
    parser.add_argument("--trees", type=int, nargs="+", default=[10, 50])
    given = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    conf = Path(__file__).parents[1] / "spark-conf" / "local.conf"
    spark = start("scoring benchmark", conf)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "rows", given.rows)
        rows = spark.read.parquet(str(folder / "rows"))
        learnt = models(rows.limit(50_000).cache(), folder, given.trees)
        jobs: dict[str, DataFrame] = {
            "read alone": rows,
            "identity mapInArrow": rows.mapInArrow(identity, rows.schema),
            **{name: trainer(model.trainer).score(model, rows) for name, model in learnt.items()},
        }
        took: dict[str, list[float]] = {name: [] for name in jobs}
        for run in range(given.runs + 1):
            for label, job in jobs.items():
                started = time.perf_counter()
                job.write.format("noop").mode("overwrite").save()
                if run:
                    took[label].append(time.perf_counter() - started)
        own = {name: alone(model, folder / "rows") for name, model in learnt.items()}
        cores = os.cpu_count() or 1
        floor = statistics.median(took["identity mapInArrow"])
        print(f"{given.rows:,} rows, {cores} cores, load {os.getloadavg()[0]:.1f}")
        print(f"{'':26}     wall        rows/s  x identity  own predict  x both")
        for label, seconds in took.items():
            middle = statistics.median(seconds)
            line = f"{label:26} {middle:6.2f} s {given.rows / middle:13,.0f} {middle / floor:11.2f}"
            if label in own:
                line += f" {own[label]:10.2f} s {middle / (floor + own[label] / cores):7.2f}"
            print(line)
        memory(spark, next(iter(learnt.values())), rows)
    spark.stop()


def models(few: DataFrame, folder: Path, trees: list[int]) -> dict[str, Any]:
    training = TrainingSet.of(few, FEATURES, LABEL, ("id",), folder)
    found = {}
    for count in trees:
        boosted = XGBoostCandidate(
            trainer="xgboost", params={"n_estimators": count, "max_depth": 6}
        )
        histogram = SklearnCandidate(
            trainer="sklearn",
            estimator="sklearn.ensemble.HistGradientBoostingClassifier",
            params={"max_iter": count},
            categorical="index",
        )
        for candidate in (boosted, histogram):
            name = f"{candidate.trainer}, {count} trees"
            found[name] = trainer(candidate.trainer).fit(training, candidate)
    few.unpersist()
    return found


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


def alone(model: Any, folder: Path) -> float:
    """Seconds of the library's own predict, on a matrix that is in memory already."""
    batches = pq.read_table(folder).to_batches(max_chunksize=portable.BATCH_ROWS)
    matrix = np.concatenate([model.encoding.matrix(b, model.layout) for b in batches])
    predict = portable.predictor(model, threads=1)
    predict(matrix[:1000])
    started = time.perf_counter()
    predict(matrix)
    return time.perf_counter() - started


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
