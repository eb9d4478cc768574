"""The stage that publishes: from the records of a night to a release, its facts and the catalog."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nightjar.core.errors import GateFailed, Withdrawn
from nightjar.core.plan import load_plan
from nightjar.core.project import Project
from nightjar.core.records import Record, RecordBook
from nightjar.core.releases import ReleaseLog
from nightjar.core.releases.views import connect
from nightjar.engine.stages import publish
from nightjar.engine.stages.audit import file_facts
from nightjar.engine.stages.score import SCORES
from nightjar.engine.work import Work

ROOT = Path(__file__).parents[2]
NIGHT = date(2013, 12, 1)
PIPELINE = "flight_delays"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(ROOT, tmp_path)


def night(project: Project, run: str, force: bool = False) -> Work:
    """A night that is audited, with two rows and no Spark."""
    plan = load_plan(project, PIPELINE)
    folder = project.warehouse / "scores" / PIPELINE / run / f"ds={NIGHT}"
    folder.mkdir(parents=True)
    columns = {name: pa.array(["x", run]) for name in plan.scores.names}
    columns[plan.spec.publish.score] = pa.array([0.25, 0.75])
    pq.write_table(pa.table(columns), folder / "part-00000.parquet")
    book = RecordBook(project.warehouse, PIPELINE)

    def put(step: str, **parts: Any) -> None:
        book.claim(NIGHT, step, run)
        book.put(Record(step=step, ds=str(NIGHT), fingerprint=run, attempt=run, **parts))

    for source in plan.spec.sources:
        put(f"ingest.{source}", details={"files": {"a.csv": "sha"}})
        put(f"clean.{source}", counts={"read": 2, "clean": 2})
        put(f"validate.{source}", details={"checks": [{"rule": source, "passed": True}]})
    model = {"model": "gbt/1", "model_sha256": "0", "model_run": "1"}
    put("score", outputs={SCORES: project.relative(folder)}, details=model)
    files = {p.name: file_facts(p) for p in folder.iterdir()}
    put("audit", details={"files": files, "checks": [{"rule": "rows", "passed": True}]})
    spark: Any = SimpleNamespace(sparkContext=SimpleNamespace(applicationId="none"))
    return Work(project, plan, (NIGHT,), spark, force=force)


def test_a_night_becomes_a_release_and_is_recognised(project: Project) -> None:
    work = night(project, "a")
    first = publish.run(work)[NIGHT]
    assert first.counts == {"rows": 2}
    log = ReleaseLog(project.warehouse, PIPELINE)
    release = log.require(first.details["release"])
    facts = release.partitions[str(NIGHT)]
    assert facts["model"]["version"] == "gbt/1"
    assert facts["checks"]["passed"] == facts["checks"]["total"] == len(facts["checks"]["report"])
    assert {c["name"] for c in facts["columns"] if c["key"]} == {"time_hour", "carrier", "flight"}
    catalog = connect(str(project.warehouse / "published/catalog.duckdb"), read_only=True)
    assert catalog.execute("SELECT count(*) FROM flight_delay_scores").fetchone() == (2,)
    assert publish.run(work)[NIGHT] == first
    assert len(log.versions()) == 1


def test_a_night_that_was_rolled_back_needs_force(project: Project) -> None:
    log = ReleaseLog(project.warehouse, PIPELINE)
    before = publish.run(night(project, "a"))[NIGHT].details["release"]
    work = night(project, "b")
    publish.run(work)
    log.rollback(before)
    with pytest.raises(Withdrawn):
        publish.run(work)
    assert log.require().id == before
    forced = Work(work.project, work.plan, work.nights, work.spark, force=True)
    publish.run(forced)
    assert log.require().parent == before


def test_files_that_changed_since_the_audit_stop_it(project: Project) -> None:
    work = night(project, "a")
    (file,) = (project.warehouse / "scores").rglob("*.parquet")
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(GateFailed):
        publish.run(work)
    assert ReleaseLog(project.warehouse, PIPELINE).current() is None
