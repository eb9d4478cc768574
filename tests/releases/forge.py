"""Small nights to publish, a file system that fails on demand, and what must always hold."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import signal
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from nightjar.core.releases import PosixStore, Release, ReleaseLog, System
from nightjar.core.releases.log import nights_of

PIPELINE = "flights"
DATASET = "scores"
ROWS = 20


def day(i: int) -> date:
    return date(2013, 1, 1) + timedelta(days=i)


class Batch:
    """The files of one run of one night: every row says which run made it."""

    def __init__(self, root: Path, night: int, run: str, files: int = 2, rows: int = ROWS) -> None:
        self.ds, self.run_key = day(night), f"{day(night)}/{run}"
        self.folder = root / f"{self.ds}-{run}"
        self.rows, self.count = rows, files

    def write(self) -> Batch:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.folder.mkdir(parents=True, exist_ok=True)
        for part in range(self.count):
            keys = range(part * self.rows, (part + 1) * self.rows)
            table = pa.table(
                {
                    "k": pa.array(keys, pa.int64()),
                    "run": [self.run_key] * self.rows,
                    "score": [(hash_of(self.run_key, k) % 1000) / 1000 for k in keys],
                    "who": [f"person {k}" for k in keys],
                }
            )
            pq.write_table(table, self.folder / f"part-{part}.parquet", compression="zstd")
        return self

    @property
    def partition(self) -> dict[str, Any]:
        files = {}
        for path in sorted(self.folder.glob("part-*.parquet")):
            data = path.read_bytes()
            files[path.name] = {
                "rows": self.rows,
                "bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
            }
        return {"files": files, "model": {"version": "gbt/1"}, "columns": COLUMNS}

    def publish(self, log: ReleaseLog, **options: Any) -> tuple[Release, bool]:
        return log.publish(DATASET, self.ds, self.run_key, self.folder, self.partition, **options)


COLUMNS = [
    {"name": "k", "description": "The key", "pii": False, "key": True},
    {"name": "run", "description": "Which run made the row; it isn't secret", "pii": False},
    {"name": "score", "description": "The score", "pii": False, "score": True},
    {"name": "who", "description": "A name", "pii": True},
]


def hash_of(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")


# -- a file system that fails ----------------------------------------------------------------------

CALLS = sorted(name for name in vars(System) if not name.startswith("_"))
FAULTS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EACCES": errno.EACCES}


class Dead(BaseException):
    """Stands for the end of the process, where a test cannot kill itself."""


class FailingSystem(System):
    """Counts its calls and goes wrong at the `at`-th: an error, once or from then on, or death.

    Death and ENOSPC in the middle of a write leave half of it. A dead one stays dead: cleaning
    up on the way out has no effect, as after SIGKILL.
    """

    def __init__(
        self,
        at: int = 0,
        fault: int | str = "",
        persistent: bool = False,
        seed: int = 0,
        only: tuple[str, ...] = (),
    ) -> None:
        self.at, self.fault, self.persistent, self.only = at, fault, persistent, only
        self.random = random.Random(seed)
        self.calls: list[str] = []
        self.hit = False

    def before(self, name: str, args: tuple[Any, ...]) -> None:
        self.calls.append(name)
        turn = len(self.calls)
        dead = self.hit and self.fault in ("die", "kill")
        if dead:
            raise Dead
        counts = not self.only or name in self.only
        if turn == self.at or (turn > self.at > 0 and self.persistent and counts):
            self.hit = True
            if name == "write" and self.fault != errno.EACCES:
                data = args[1]
                os.write(args[0], data[: self.random.randint(0, len(data))])
            if self.fault in ("kill", "die"):
                if self.random.random() < 0.5 and name not in ("write", "read"):
                    with contextlib.suppress(OSError):
                        getattr(super(), name)(*args)  # done, and dead before anybody learns of it
                if self.fault == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise Dead
            if name == "close":
                super().close(args[0])  # POSIX: the handle is gone also where close() fails
            assert isinstance(self.fault, int)
            raise OSError(self.fault, os.strerror(self.fault), f"injected into {name}")


def _counted(name: str) -> Any:
    def call(self: FailingSystem, *args: Any) -> Any:
        if self.hit and self.fault in ("die", "kill") and name == "close":
            return System.close(self, *args)
        self.before(name, args)
        return getattr(System, name)(self, *args)

    return call


for _name in CALLS:
    setattr(FailingSystem, _name, _counted(_name))


def failing_log(warehouse: Path, system: System) -> ReleaseLog:
    store = PosixStore(warehouse / "published" / PIPELINE, system)
    return ReleaseLog(warehouse, PIPELINE, store)


# -- what must always hold -------------------------------------------------------------------------


def shown(log: ReleaseLog) -> dict[str, str]:
    """What readers see: the run key of each night of the visible release."""
    release = log.current()
    return {ds: n["run_key"] for ds, n in nights_of(release).items()} if release else {}


def keys_in(path: str | Path, seen: Mapping[str, int] | None = None) -> dict[str, int]:
    """Rows by run key under a release's folder, read by DuckDB."""
    import duckdb

    rows = duckdb.sql(
        f"SELECT run, count(*), count(DISTINCT k) FROM read_parquet('{path}/ds=*/*.parquet') "
        "GROUP BY run"
    ).fetchall()
    assert all(count == distinct for _, count, distinct in rows), f"duplicate rows: {rows}"
    return {run: count for run, count, _ in rows}
