"""A writer that was given up while it still lived, frozen in mid-write, goes on after its retry has
finished and the night is published. Real jobs, real signals."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest
from tests.e2e.project import NIGHT, Shell, relocate

from nightjar.core.releases import ReleaseLog
from nightjar.demo import PIPELINE

FLIGHTS = Path("warehouse/landing/flights") / f"{NIGHT}.csv"


@pytest.fixture
def project(released: Path, tmp_path: Path) -> Path:
    """A project with the night released."""
    project = tmp_path / "project"
    shutil.copytree(released, project, symlinks=True)
    relocate(released, project)
    return project


class Late:
    """How the late writer ended, and what it said."""

    status: int
    said: str


@contextmanager
def frozen_job(
    project: Path, stage: str, folder: Path, begun: Callable[[], bool], *more: str
) -> Iterator["Late"]:
    """A stage's job, its driver and JVM stopped once a new folder is there in `folder`; they go on
    when the block ends."""
    known = set(folder.glob("*"))
    command = [sys.executable, f"jobs/{stage}.py", PIPELINE, "--ds", str(NIGHT), *more]
    log, late = project / "late.log", Late()
    with log.open("w") as output:
        job = subprocess.Popen(
            command,
            cwd=project,
            env=Shell(project).environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 200
        while set(folder.glob("*")) == known:
            assert job.poll() is None, log.read_text()
            assert time.monotonic() < deadline, "it never wrote"
        os.killpg(job.pid, signal.SIGSTOP)
        assert begun(), "it was stopped too late: there is nothing left to write"
        yield late
        os.killpg(job.pid, signal.SIGCONT)
        late.status = job.wait(200)
        late.said = log.read_text()
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
            job.wait()


def state(project: Path) -> tuple[str, list[tuple], dict[str, str]]:
    """The release, its rows, and which attempt counts for each step of the night."""
    log = ReleaseLog(project / "warehouse", PIPELINE)
    release = log.require()
    rows = duckdb.sql(
        f"FROM read_parquet('{log.folder(release)}/ds=*/*.parquet') ORDER BY ALL"
    ).fetchall()
    keys = {row[:3] for row in duckdb.sql(
        "SELECT time_hour, carrier, flight FROM "
        f"read_parquet('{log.folder(release)}/ds=*/*.parquet')"
    ).fetchall()}  # fmt: skip
    assert len(keys) == len(rows), "a row is there twice"
    records = (project / "warehouse" / "runs" / PIPELINE / str(NIGHT)).glob("*.json")
    return release.id, rows, {p.stem: json.loads(p.read_text())["attempt"] for p in records}


def test_features_written_late_count_for_nothing(project: Path) -> None:
    """The retry had another delivery to work on: what the late writer makes of the old one is
    neither released nor taken up by a later stage."""
    shell = Shell(project)
    folder = project / "warehouse" / "features" / PIPELINE
    record = project / "warehouse" / "runs" / PIPELINE / str(NIGHT) / "features.json"
    old = record.read_text()
    begun = lambda: record.read_text() == old  # noqa: E731
    with frozen_job(project, "features", folder, begun, "--force") as late:
        lines = (project / FLIGHTS).read_text().splitlines(keepends=True)
        (project / FLIGHTS).write_text("".join(lines[:-10]))
        shell.nightjar("run", PIPELINE, "--ds", str(NIGHT))
        before = state(project)
        assert len(before[1]) == len(lines) - 11
    assert late.status == 5, late.said
    assert "[CONFLICT] another run has begun step 'features'" in late.said
    assert state(project) == before  # later stages look for the record before them: the retry's
    shell.nightjar("verify", PIPELINE)


@pytest.mark.parametrize("delivery", ["the same", pytest.param("another", marks=pytest.mark.slow)])
def test_a_publish_that_goes_on_late_changes_nothing(project: Path, delivery: str) -> None:
    shell = Shell(project)
    # The night as its audit left it.
    shutil.rmtree(project / "warehouse" / "published")
    (project / "warehouse" / "runs" / PIPELINE / str(NIGHT) / "publish.json").unlink()
    log = ReleaseLog(project / "warehouse", PIPELINE)
    folder = project / "warehouse" / "published" / PIPELINE / "nights" / f"ds={NIGHT}"
    with frozen_job(project, "publish", folder, lambda: log.head().version == 0) as late:
        if delivery == "another":
            lines = (project / FLIGHTS).read_text().splitlines(keepends=True)
            (project / FLIGHTS).write_text("".join(lines[:-10]))
        shell.nightjar("run", PIPELINE, "--ds", str(NIGHT))
        before = state(project)
    assert late.status == (0 if delivery == "the same" else 5), late.said
    assert state(project) == before
    shell.nightjar("verify", PIPELINE, "--all")
