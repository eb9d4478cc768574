"""Queries see what is released, and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nightjar.core.errors import NotThereYet, UsageError
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
