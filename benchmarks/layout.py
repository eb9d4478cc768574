"""What compaction, sorting, zstd and the page index gain: python benchmarks/layout.py [ROWS].

One night of made-up scores, as many small unsorted snappy files (what a wide shuffle leaves), and
the same rows sorted and laid out by `nightjar.engine.layout.compact`. Each query runs five times
in a fresh DuckDB connection; the median of wall seconds is shown, and the bytes on disk.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nightjar.engine.layout import compact

SMALL = 200
QUERIES = {
    "one carrier's mean": "SELECT avg(score) FROM t WHERE carrier = 7",
    "one hour's rows": "SELECT * FROM t WHERE departure BETWEEN 500000 AND 500600",
    "whole table, one column": "SELECT avg(score) FROM t",
    "whole table, grouped": "SELECT carrier, avg(score), count(*) FROM t GROUP BY 1",
}


def make(folder: Path, rows: int) -> pa.Table:
    random = np.random.default_rng(7)
    table = pa.table(
        {
            "departure": random.integers(0, 1_000_000, rows),
            "carrier": random.integers(0, 16, rows),
            "flight": random.integers(1, 6000, rows),
            "score": np.round(random.beta(2, 6, rows), 6),
            "model": pa.array(["boosted_trees/3"] * rows),
        }
    )
    size = -(-rows // SMALL)
    folder.mkdir()
    for i in range(SMALL):
        pq.write_table(
            table.slice(i * size, size), folder / f"part-{i:05d}.parquet", compression="snappy"
        )
    return table


def seconds(folder: Path, sql: str) -> float:
    spent = []
    for _ in range(5):
        connection = duckdb.connect()
        started = time.perf_counter()
        connection.execute(sql.replace("FROM t", f"FROM read_parquet('{folder}/*.parquet')"))
        connection.fetchall()
        spent.append(time.perf_counter() - started)
    return statistics.median(spent)


def main(rows: int) -> None:
    root = Path(tempfile.mkdtemp())
    try:
        table = make(root / "small", rows)
        sort = ["departure", "carrier", "flight"]
        (root / "sorted").mkdir()
        ordered = table.sort_by([(name, "ascending") for name in sort])
        pq.write_table(ordered, root / "sorted" / "part-0.parquet")
        started = time.perf_counter()
        compact(root / "sorted", root / "laid-out", sort)
        took = time.perf_counter() - started
        compact(root / "small", root / "merged")
        print(f"{rows:,} rows; laying out takes {took:.2f} s\n")
        kinds = ("small", "merged", "laid-out")
        print(f"{'':<26}" + "".join(f"{kind:>12}" for kind in kinds))
        files = [list((root / kind).iterdir()) for kind in kinds]
        print(f"{'files':<26}" + "".join(f"{len(f):>12}" for f in files))
        sizes = [sum(p.stat().st_size for p in f) / 1e6 for f in files]
        print(f"{'MB':<26}" + "".join(f"{size:>12.1f}" for size in sizes))
        for name, sql in QUERIES.items():
            found = [seconds(root / kind, sql) * 1000 for kind in kinds]
            print(f"{name + ', ms':<26}" + "".join(f"{ms:>12.1f}" for ms in found))
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4_000_000)
