"""Releases: the log is the truth, and a reader sees one whole release or another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nightjar.core.errors import Conflict, NotThereYet, UsageError
from nightjar.core.project import Project
from nightjar.core.query import query_releases
from nightjar.core.releases import Release, ReleaseLog

NIGHT = date(2013, 12, 1)
NEXT = date(2013, 12, 2)

Publish = Callable[..., tuple[Release, bool]]


@pytest.fixture
def log(project: Project) -> ReleaseLog:
    return ReleaseLog(project.warehouse, "late_trips")


@pytest.fixture
def stage(tmp_path: Path) -> Callable[[date, int], tuple[Path, dict[str, Any]]]:
    """Write `rows` rows of one night as Parquet; the answer is the folder and its facts."""

    def stage(ds: date, rows: int) -> tuple[Path, dict[str, Any]]:
        folder = tmp_path / f"attempt-{ds}-{rows}"
        folder.mkdir()
        file = folder / f"part-{rows}.parquet"
        pq.write_table(pa.table({"trip_id": range(rows), "score": [0.5] * rows}), file)
        facts = {
            "rows": rows,
            "bytes": file.stat().st_size,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
        return folder, {"files": {file.name: facts}, "model": {"version": "m/1"}}

    return stage


@pytest.fixture
def publish(log: ReleaseLog, stage: Callable[[date, int], Any]) -> Publish:
    def publish(ds: date, rows: int = 2, key: str = "k1") -> tuple[Release, bool]:
        source, partition = stage(ds, rows)
        return log.publish("trip_scores", ds, key, source, partition)

    return publish


def visible(log: ReleaseLog) -> list[str]:
    return [release.id for release in log.all()]


def files(folder: Path) -> dict[str, int]:
    """The inode of every Parquet file."""
    found = folder.rglob("*.parquet")
    return {path.relative_to(folder).as_posix(): path.stat().st_ino for path in found}


def test_nothing_yet(log: ReleaseLog) -> None:
    assert (log.current(), log.all()) == (None, [])
    with pytest.raises(NotThereYet) as caught:
        log.require()
    assert caught.value.details["pipeline"] == "late_trips"


def test_the_first_release(log: ReleaseLog, publish: Publish) -> None:
    release, landed = publish(NIGHT, rows=3)
    assert (landed, release.version, release.parent, release.rows) == (True, 1, None, 3)
    assert (release.dataset, release.ds, list(release.partitions)) == (
        "trip_scores",
        "2013-12-01",
        ["2013-12-01"],
    )
    assert log.current() == release == log.require(release.id)
    manifest = json.loads((log.folder(release) / "manifest.json").read_text())
    assert Release(**manifest) == release
    assert (log.root / "current").resolve() == log.folder(release)
    with pytest.raises(NotThereYet):
        log.require("r000009-nothing")


def test_the_next_night_shares_the_files_of_the_first(log: ReleaseLog, publish: Publish) -> None:
    first, _ = publish(NIGHT, rows=2)
    second, _ = publish(NEXT, rows=5)
    assert (second.version, second.parent, second.rows) == (2, first.id, 7)
    before, after = files(log.folder(first)), files(log.folder(second))
    assert list(before) == ["ds=2013-12-01/part-2.parquet"]
    assert set(after) == {*before, "ds=2013-12-02/part-5.parquet"}
    assert {name: after[name] for name in before} == before


def test_a_night_again_replaces_it_and_leaves_the_old_release(
    log: ReleaseLog, publish: Publish
) -> None:
    first, _ = publish(NIGHT, rows=2)
    second, landed = publish(NIGHT, rows=4, key="k2")
    assert (landed, second.rows, first.rows) == (True, 4, 2)
    assert set(files(log.folder(first))) == {"ds=2013-12-01/part-2.parquet"}
    assert set(files(log.folder(second))) == {"ds=2013-12-01/part-4.parquet"}


def test_a_run_that_landed_is_recognised(log: ReleaseLog, publish: Publish) -> None:
    first, _ = publish(NIGHT, rows=2)
    (log.root / "current").unlink()
    again, landed = publish(NIGHT, rows=3)
    assert (again, landed, visible(log)) == (first, False, [first.id])
    assert (log.root / "current").resolve() == log.folder(first)


@pytest.mark.parametrize("target", ["releases/gone", None])
def test_current_heals(log: ReleaseLog, publish: Publish, target: str | None) -> None:
    publish(NIGHT)
    current = log.root / "current"
    current.unlink()
    if target:
        current.symlink_to(target)
    second, _ = publish(NEXT, rows=3)
    assert current.resolve() == log.folder(second)


def test_a_log_entry_is_never_overwritten(
    log: ReleaseLog, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = publish(NIGHT)
    entry = log.root / "log" / "0000000001.json"
    before = entry.read_bytes()
    monkeypatch.setattr(ReleaseLog, "current", lambda self: None)  # blind to what has landed
    with pytest.raises(Conflict):
        publish(NEXT, rows=3)
    monkeypatch.undo()
    assert (entry.read_bytes(), visible(log)) == (before, [first.id])
    assert [path.name for path in (log.root / "log").iterdir()] == [entry.name]


def test_racing_publishers_all_land(
    log: ReleaseLog, stage: Callable[[date, int], tuple[Path, dict[str, Any]]]
) -> None:
    nights = [NIGHT + timedelta(days=i) for i in range(6)]
    staged = {ds: stage(ds, i + 1) for i, ds in enumerate(nights)}

    def land(ds: date) -> bool:
        source, partition = staged[ds]
        return ReleaseLog(log.root.parents[1], "late_trips").publish(
            "trip_scores", ds, f"key-{ds}", source, partition
        )[1]

    with ThreadPoolExecutor(len(nights)) as pool:
        assert all(pool.map(land, nights))
    newest = log.require()
    assert [release.version for release in log.all()] == [1, 2, 3, 4, 5, 6]
    assert list(newest.partitions) == [ds.isoformat() for ds in nights]
    assert (newest.rows, len(files(log.folder(newest)))) == (21, 6)
    assert (log.root / "current").resolve() == log.folder(newest)


@pytest.mark.parametrize("change", ["gone", "grown"])
def test_a_source_that_changed_since_its_audit(
    log: ReleaseLog,
    stage: Callable[[date, int], tuple[Path, dict[str, Any]]],
    publish: Publish,
    change: str,
) -> None:
    first, _ = publish(NIGHT)
    source, partition = stage(NEXT, 3)
    file = source / "part-3.parquet"
    if change == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes() + b"more")
    with pytest.raises(Conflict) as caught:
        log.publish("trip_scores", NEXT, "k", source, partition)
    assert (caught.value.code, "part-3.parquet" in caught.value.message) == ("CONFLICT", True)
    assert (visible(log), (log.root / "current").resolve()) == ([first.id], log.folder(first))


# -- queries -----------------------------------------------------------------------------------


def test_query_the_current_release(project: Project, publish: Publish) -> None:
    publish(NIGHT, rows=2)
    second, _ = publish(NEXT, rows=3)
    sql = "SELECT ds, count(*) AS n FROM trip_scores GROUP BY ds ORDER BY ds"
    answer = query_releases(project, sql)
    assert answer.columns == ["ds", "n"]
    assert answer.rows == [(NIGHT, 2), (NEXT, 3)]
    assert answer.releases == {"trip_scores": second.id}


def test_query_before_the_first_release(project: Project) -> None:
    with pytest.raises(NotThereYet) as caught:
        query_releases(project, "SELECT 1")
    assert caught.value.exit_status == 4


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM nothing",
        "SELEC 1",
        "SELECT * FROM read_text('{outside}')",
        "SELECT * FROM read_csv('{warehouse}/published/../secret.txt')",
        "COPY (SELECT 1) TO '{outside}.copy'",
        "COPY (SELECT 1 AS trip_id) TO '{warehouse}/published/late_trips/evil.parquet'",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{warehouse}/published/late_trips/evil.parquet'",
        "SELECT 1; DROP VIEW trip_scores",
        "SET enable_external_access = true",
        "ATTACH '{outside}.db'",
        "INSTALL httpfs",
    ],
)
def test_a_query_only_reads_what_is_released(project: Project, publish: Publish, sql: str) -> None:
    publish(NIGHT)
    outside = project.warehouse / "secret.txt"
    outside.write_text("secret")
    before = sorted(project.warehouse.rglob("*"))
    with pytest.raises(UsageError) as caught:
        query_releases(project, sql.format(outside=outside, warehouse=project.warehouse))
    assert "secret\n" not in caught.value.message
    assert sorted(project.warehouse.rglob("*")) == before
