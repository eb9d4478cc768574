"""Rows per second with 1, 2 and more ranks of Horovod, one TensorFlow thread each.

    python benchmarks/horovod_scaling.py [--rows 400000] [--ranks 1 2] [--curve FILE.png]

Every rank has the same number of rows (weak scaling), so that efficiency is rows per second with n
ranks over n times that with one. Also prints where the time of a step goes: waiting for input,
computing, and the gradients' allreduce, which includes waiting for the slowest rank. With --curve
the loss by epoch of 1, 2 and 4 ranks on the same rows is drawn, the same rows in all for each.
Needs `make deep`; other work on the machine shows in the figures.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nightjar.core.pipeline import HorovodKerasCandidate
from nightjar.engine.session import start
from nightjar.engine.trainers.horovod_keras.job import Job, shares
from nightjar.engine.trainers.horovod_keras.launch import run

NUMERIC = 20
CATEGORIES = {"carrier": 16, "dest": 105}
GROUP = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=400_000, help="of each rank")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--curve", type=Path)
    given = parser.parse_args()
    most = max([*given.ranks, 4 if given.curve else 1])
    conf = Path(__file__).parents[1] / "spark-conf" / "local.conf"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        profile = folder / "local.conf"
        profile.write_text(conf.read_text().replace("local[*]", f"local[{most}]"))
        spark = start("horovod benchmark", profile)
        groups = write(folder, given.rows * max(given.ranks))
        candidate = HorovodKerasCandidate.model_validate(
            {
                "trainer": "horovod_keras",
                "network": {"layers": [{"dense": given.width}, {"dense": given.width}]},
                "epochs": 3,
                "batch_size": given.batch,
                "validation": 0,
            }
        )
        print(f"{given.rows:,} rows a rank, batches of {given.batch}, {os.cpu_count()} cores")
        print("ranks      rows/s  efficiency   input  compute  allreduce")
        alone = None
        for ranks in given.ranks:
            part = groups[: ranks * given.rows // GROUP]
            job = made(candidate, folder, part, ranks)
            found = run(spark, job, timed=True)
            seconds = max(rank["seconds_after_first"] for rank in found)
            rate = ranks * given.rows * (candidate.epochs - 1) / seconds
            alone = alone or rate / ranks
            spent = np.mean([rank["step_seconds"] for rank in found], axis=0)
            share = " ".join(f"{value / spent.sum():8.1%}" for value in spent)
            print(f"{ranks:5} {rate:11,.0f} {rate / ranks / alone:11.2f} {share}", flush=True)
        if given.curve:
            curve(spark, candidate, folder, groups[: given.rows // GROUP], given.curve)
        spark.stop()


def made(candidate: HorovodKerasCandidate, folder: Path, groups: Any, ranks: int) -> Job:
    place = folder / uuid.uuid4().hex
    place.mkdir()
    numeric = tuple(f"n{i}" for i in range(NUMERIC))
    asked = candidate.model_copy(update={"workers": ranks})
    parts = shares(groups, ranks)
    return Job(asked, str(place), "run", numeric, CATEGORIES, parts, [[]] * ranks, (1.0, 1.0))


def write(folder: Path, count: int) -> list[tuple[str, int, int]]:
    """An encoded matrix as Parquet, in row groups of GROUP rows."""
    chance = np.random.default_rng(0)
    path = folder / "part-0.parquet"
    names = [f"x{i}" for i in range(NUMERIC + len(CATEGORIES))] + ["label", "weight"]
    schema = pa.schema([(name, pa.float32()) for name in names])
    groups = []
    with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
        for i in range(-(-count // GROUP)):
            numbers = chance.normal(size=(GROUP, NUMERIC))
            codes = [chance.integers(0, n, GROUP) for n in CATEGORIES.values()]
            late = numbers[:, 0] + numbers[:, 1] * numbers[:, 2] + chance.normal(size=GROUP) > 0.5
            columns = [*numbers.T, *codes, late, np.ones(GROUP)]
            arrays = [pa.array(column.astype(np.float32)) for column in columns]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=GROUP)
            groups.append((str(path), i, GROUP))
    return groups


def curve(
    spark: Any, candidate: HorovodKerasCandidate, folder: Path, groups: Any, path: Path
) -> None:
    """The loss of each epoch with 1, 2 and 4 ranks; the batches of all ranks together are equal."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for ranks in (1, 2, 4):
        asked = candidate.model_copy(
            update={
                "epochs": 8,
                "batch_size": candidate.batch_size // ranks,
                "scale_learning_rate": False,
            }
        )
        history = run(spark, made(asked, folder, groups, ranks))[0]["history"]["loss"]
        print(f"{ranks} rank(s): loss by epoch " + " ".join(f"{loss:.5f}" for loss in history))
        axes.plot(range(1, 9), history, marker="o", label=f"{ranks} rank{'s' * (ranks > 1)}")
    axes.set_xlabel("epoch")
    axes.set_ylabel("training loss")
    axes.set_title("The same rows, the same batches in all")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
