"""Strict ingest beside what a user would write: spark.read.csv and a Parquet write.

    python benchmarks/ingest.py [--megabytes 300] [--runs 3]

Both read the same delivered files (the demo's flights, repeated) with all columns as text and
write Parquet, in turn in one session. Prints seconds and CPU seconds of each run and the ratio
of the medians. Nightjar also binds by header, keeps unparsable records, numbers them and takes
SHA-256; Spark's reader does none of it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path

from nightjar.core.plan import load_plan
from nightjar.core.project import Project
from nightjar.demo import land
from nightjar.engine.quality.types import text_schema
from nightjar.engine.session import start
from nightjar.engine.stages.ingest import read_files


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
            path = scratch / f"{i}.csv"
            path.write_bytes(header + body * copies)
            files[date(2013, 1, 1) + timedelta(days=i)] = path
        size = sum(p.stat().st_size for p in files.values())
        schema = text_schema(contract)

        def ours(out: str) -> None:
            frame = read_files(spark, files, scratch, contract, source)
            frame.write.partitionBy("kind").parquet(out)

        def plain(out: str) -> None:
            paths = [str(p) for p in files.values()]
            spark.read.csv(paths, schema=schema, header=True).write.parquet(out)

        print(f"{size / 1e6:.0f} MB of CSV in {len(files)} files")
        took: dict[str, list[float]] = {"nightjar": [], "spark.read.csv": []}
        for run in range(given.runs + 1):
            for label, do in (("nightjar", ours), ("spark.read.csv", plain)):
                out = scratch / "out"
                started = time.monotonic()
                do(str(out))
                seconds = time.monotonic() - started
                shutil.rmtree(out)
                if run:  # the first of each warms the JVM up
                    took[label].append(seconds)
                    print(f"{label:16} {seconds:6.1f} s {size / seconds / 1e6:6.0f} MB/s")
        ratio = statistics.median(took["nightjar"]) / statistics.median(took["spark.read.csv"])
        print(
            f"nightjar / spark.read.csv: {ratio:.2f} (medians of {given.runs}, "
            f"{os.cpu_count()} cores)"
        )
    spark.stop()


if __name__ == "__main__":
    main()
