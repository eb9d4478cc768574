"""Attempts that no record names: marked, then deleted, and never the others."""

from __future__ import annotations

import os
import time
from datetime import date, timedelta
from pathlib import Path

from nightjar.core.attempts import collect
from nightjar.core.records import Record, RecordBook

DAY = timedelta(days=1)
OURS, KILLED, NEW = "a" * 16, "b" * 16, "c" * 16


def attempt(warehouse: Path, key: str) -> Path:
    file = warehouse / key / "silver" / "part-0.parquet"
    file.parent.mkdir(parents=True)
    file.write_text("rows")
    return warehouse / key


def record(warehouse: Path, name: str) -> None:
    key = f"cleaned/trips.rides/{name}"
    outputs = {"silver": f"{key}/silver", "quarantine": f"{key}/quarantine"}
    book = RecordBook(warehouse, "trips")
    book.claim(date(2026, 1, 1), "clean.rides", name)
    book.put(Record("clean.rides", "2026-01-01", "f", name, outputs))


def back(folder: Path, by: timedelta) -> None:
    then = time.time() - by.total_seconds()
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (then, then))


def test_what_no_record_names_goes_after_its_grace(tmp_path: Path) -> None:
    kept = attempt(tmp_path, f"cleaned/trips.rides/{OURS}")
    orphans = [
        attempt(tmp_path, f"bronze/trips.rides/{KILLED}"),
        attempt(tmp_path, f"scores/trips/{KILLED}-raw"),
        attempt(tmp_path, f"training/trips/{KILLED}-x1y2"),
    ]
    others = [
        attempt(tmp_path, f"bronze/trips_too.rides/{KILLED}"),
        attempt(tmp_path, f"published/trips/{KILLED}"),
        attempt(tmp_path, "bronze/trips.rides/by-hand"),
    ]
    record(tmp_path, OURS)
    for folder in (kept, *orphans, *others):
        back(folder, 9 * DAY)
    names = tuple(str(o.relative_to(tmp_path)) for o in orphans)
    assert collect(tmp_path, "trips", DAY, dry_run=True).marked == names
    first = collect(tmp_path, "trips", DAY)
    assert (first.marked, first.deleted) == (names, ()), "old files are no reason to hurry"
    again = collect(tmp_path, "trips", DAY)
    assert (again.marked, again.deleted) == ((), ())
    for folder in orphans:
        back(folder, 2 * DAY)
    assert collect(tmp_path, "trips", DAY, dry_run=True).deleted == names
    assert all(o.exists() for o in orphans)
    assert collect(tmp_path, "trips", DAY).deleted == names
    assert not any(o.exists() for o in orphans)
    assert all((o / "silver" / "part-0.parquet").exists() for o in (kept, *others))


def test_an_attempt_that_is_still_written_stays(tmp_path: Path) -> None:
    slow = attempt(tmp_path, f"cleaned/trips.rides/{NEW}")
    collect(tmp_path, "trips", DAY)
    back(slow, 2 * DAY)
    (slow / "silver" / "part-1.parquet").write_text("more")
    assert collect(tmp_path, "trips", DAY).deleted == ()
    record(tmp_path, NEW)
    back(slow, 2 * DAY)
    assert collect(tmp_path, "trips", DAY).deleted == ()
    assert not (slow / ".unneeded").exists(), "it counts now: the mark is gone"


def test_an_attempt_that_was_overtaken_waits_for_its_readers(tmp_path: Path) -> None:
    old = attempt(tmp_path, f"cleaned/trips.rides/{OURS}")
    new = attempt(tmp_path, f"cleaned/trips.rides/{NEW}")
    record(tmp_path, OURS)
    back(old, 9 * DAY)
    record(tmp_path, NEW)
    assert collect(tmp_path, "trips", DAY).deleted == ()
    assert old.exists()
    back(old, 2 * DAY)
    collect(tmp_path, "trips", DAY)
    assert (old.exists(), new.exists()) == (False, True)
