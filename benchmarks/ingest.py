"""Strict ingest beside what a user would write: spark.read.csv and a Parquet write.

    python benchmarks/ingest.py [--megabytes 300] [--runs 3]

Both read the same delivered files (the demo's flights, repeated) with all columns as text and
write Parquet, in turn in one session. Prints wall seconds and CPU seconds (of this process and
all below it: JVM and Python workers) of each run and the ratios of the medians. Nightjar also
binds by header, checks quotes and encoding, keeps unparsable records, numbers them and takes
SHA-256; Spark's reader does none of it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

from nightjar.core.plan import load_plan
from nightjar.core.project import Project
from nightjar.demo import land
from nightjar.engine.quality.types import text_schema
from nightjar.engine.session import start
from nightjar.engine.stages.ingest import write_files


def cpu_seconds() -> float:
    """CPU seconds that this process and all below it have used so far (Linux)."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(fields[1])
        ticks[int(stat.parent.name)] = sum(map(int, fields[11:15]))  # with ended children
    family = {os.getpid()}
    while grown := {child for child, of in parents.items() if of in family} - family:
        family |= grown
    return sum(ticks[p] for p in family) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    project = Project.find()
    plan = load_plan(project, "flight_delays")
    contract, source = plan.contracts["flights"], plan.spec.sources["flights"]
    spark = start("ingest benchmark", project.root / "spark-conf" / "local.conf")
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        land(scratch)
        delivered = sorted((scratch / "landing" / "flights").iterdir())
        header = delivered[0].read_bytes().split(b"\n", 1)[0] + b"\n"
        body = b"".join(p.read_bytes().split(b"\n", 1)[1] for p in delivered)
        copies = max(1, (given.megabytes << 20) // len(body) // 8)
        files = {}
        for i in range(8):
            (scratch / f"{i}.csv").write_bytes(header + body * copies)
            files[date(2013, 1, 1) + timedelta(days=i)] = (f"{i}.csv",)
        paths = [str(scratch / f"{i}.csv") for i in range(8)]
        size = sum(Path(p).stat().st_size for p in paths)
        schema = text_schema(contract)

        def ours(out: str) -> None:
            write_files(spark, files, scratch, contract, source, Path(out))

        def plain(out: str) -> None:
            spark.read.csv(paths, schema=schema, header=True).write.parquet(out)

        print(f"{size / 1e6:.0f} MB of CSV in {len(files)} files")
        ways: dict[str, Callable[[str], None]] = {"nightjar": ours, "spark.read.csv": plain}
        wall: dict[str, list[float]] = {label: [] for label in ways}
        cpu: dict[str, list[float]] = {label: [] for label in ways}
        for run in range(given.runs + 1):
            for label, do in ways.items():
                out = scratch / "out"
                began, used = time.monotonic(), cpu_seconds()
                do(str(out))
                took, used = time.monotonic() - began, cpu_seconds() - used
                shutil.rmtree(out)
                if run:  # the first of each warms the JVM up
                    wall[label].append(took)
                    cpu[label].append(used)
                    print(
                        f"{label:16} {took:6.1f} s {used:6.1f} CPU s "
                        f"{size / used / 1e6:6.0f} MB per CPU s"
                    )
        ratios = [
            statistics.median(of["nightjar"]) / statistics.median(of["spark.read.csv"])
            for of in (wall, cpu)
        ]
        print(
            f"nightjar / spark.read.csv: wall {ratios[0]:.2f}, CPU {ratios[1]:.2f} "
            f"(medians of {given.runs}, {os.cpu_count()} cores)"
        )
    spark.stop()


if __name__ == "__main__":
    main()
