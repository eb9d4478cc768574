"""One reader in a loop: resolve, read, compare with what the release says it holds."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from forge import PIPELINE, ROWS

from nightjar.core.releases import ReleaseLog
from nightjar.core.releases.log import nights_of
from nightjar.core.releases.views import _live, connect

Counts = dict[str, int]


def reader(kind: str, root: Path) -> Callable[[str], Counts]:
    """Reads a folder; answers how many different rows each run has."""
    if kind == "duckdb":
        connection = connect()
        return lambda f: dict(
            connection.execute(
                f"SELECT run, count(DISTINCT k) FROM read_parquet('{f}/ds=*/*.parquet') GROUP BY 1"
            ).fetchall()
        )
    if kind == "pandas":
        import pandas as pd

        return lambda f: pd.read_parquet(f).groupby("run")["k"].nunique().to_dict()
    if kind == "polars":
        import polars as pl

        return lambda f: dict(
            pl.scan_parquet(f"{f}/ds=*/*.parquet")
            .group_by("run").agg(pl.col("k").n_unique()).collect().rows()
        )  # fmt: skip
    if kind == "arrow":
        import pyarrow.dataset as ds

        return lambda f: dict(Counter(ds.dataset(f).to_table(["run"])["run"].to_pylist()))
    if kind == "spark":
        return spark_reader()
    connection = connect()
    rows = f"read_parquet('{root}/current/ds=*/*.parquet')"
    if kind == "catalog":
        rows = _live(ReleaseLog(Path(), "", store=_store(root)))
    sql = f"SELECT run, count(DISTINCT k) FROM {rows} GROUP BY 1"
    return lambda _: dict(connection.execute(sql).fetchall())


def _store(root: Path) -> Any:
    from nightjar.core.releases import PosixStore

    return PosixStore(root)


def spark_reader() -> Callable[[str], Counts]:
    from pyspark.sql import SparkSession

    spark = (
        SparkSession.builder.master("local[1]")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.shuffle.partitions", "1")
        .config("spark.driver.memory", "1g")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("OFF")
    return lambda f: {
        r["run"]: r["n"]
        for r in spark.read.parquet(f).groupBy("run").agg({"k": "count"})
        .withColumnRenamed("count(k)", "n").collect()
    }  # fmt: skip


def _asks_again(error: str, log: ReleaseLog) -> bool:
    """Is this one of the two errors that a live view may end in (see docs/releases.md)?"""
    gone = re.search(r"nights/ds=[^/]*/[0-9a-f]*", error)
    if gone and "No such file" in error:  # vacuum took a night that no release has any more
        return gone[0] not in {n["folder"] for r in log.all() for n in nights_of(r).values()}
    return "landed while" in error


def main(kind: str, warehouse: Path, seconds: float, quota: int) -> None:
    """Read for so many seconds, and on until there are `quota` reads."""
    log = ReleaseLog(warehouse, PIPELINE)
    root = warehouse / "published" / PIPELINE
    read = reader(kind, root)
    reads, skipped, seen = 0, 0, set()
    wrong: list[str] = []
    errors: list[str] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end or reads < quota:
        if kind in ("catalog", "unresolved"):
            first = log.head().version
            try:
                found = read("")
            except Exception as error:
                if kind == "catalog" and not _asks_again(str(error), log):
                    errors.append(str(error)[:300])
                skipped += 1
                continue
            last = log.head().version
            if kind == "unresolved" and last > first:
                continue  # several releases within one read: nothing is promised
            allowed = [
                {n["run_key"] for n in nights_of(r).values()}
                # The pointers lag behind the log while an entry's writer heals them.
                for v in range(max(1, first - 4), last + 1)
                if (r := log._visible(log.entry(v)))
            ]
            if set(found) not in allowed or set(found.values()) != {2 * ROWS}:
                wrong.append(
                    f"{first}-{last}: {sorted(found.items())}; expected one of "
                    f"{[sorted(a) for a in allowed]}"
                )
        else:
            folder = os.path.realpath(root / "current")
            try:
                found = read(folder)
            except Exception as error:
                errors.append(f"{type(error).__name__} {error}"[:300])
                continue
            listed = json.loads(Path(folder + ".json").read_text())["nights"]
            if found != {n["run_key"]: n["rows"] for n in listed}:
                wrong.append(f"{folder}: {sorted(found.items())}")
            seen.add(folder)
        reads += 1
    answer = {"reads": reads, "releases": len(seen), "skipped": skipped}
    print(json.dumps(answer | {"wrong": wrong[:5], "errors": errors[:5]}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
    sys.stdout.flush()
    os._exit(0)
