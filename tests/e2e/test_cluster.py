"""The whole night on a real standalone cluster gives the rows that the embedded run gives."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from tests.e2e.cluster import standalone, submit
from tests.e2e.project import NIGHT, Shell

from nightjar.core.releases import ReleaseLog
from nightjar.demo import PIPELINE

STAGES = ("ingest", "clean", "validate", "features", "score", "audit", "publish")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A master and two workers with one core each; yields the master's address."""
    with standalone(tmp_path_factory.mktemp("cluster"), [("--cores", "1")] * 2) as master:
        yield master


def test_the_night_on_a_cluster_equals_the_embedded_night(
    cluster: str, copy_of_trained: Path, tmp_path: Path
) -> None:
    embedded = copy_of_trained
    Shell(embedded).nightjar("run", PIPELINE, "--ds", str(NIGHT))
    expected = _published(embedded)
    assert len(expected) > 900
    # The same project after training, its night forgotten.
    project = embedded
    shutil.rmtree(project / "warehouse" / "published")
    shutil.rmtree(project / "warehouse" / "runs" / PIPELINE / str(NIGHT))
    records = {}
    for stage in STAGES:
        done = _submit(cluster, project, tmp_path, stage)
        assert done.returncode == 0, f"{stage}:\n{done.stdout}\n{done.stderr}"
        night = project / "warehouse" / "runs" / PIPELINE / str(NIGHT)
        records = {p.stem: json.loads(p.read_text()) for p in night.glob("*.json")}
    assert _published(project) == expected
    applications = {r["spark_application"] for r in records.values()}
    assert len(applications) == len(STAGES)  # one spark-submit a stage
    assert all(name.startswith("app-") for name in applications)  # named by the master, not local


def test_executors_have_nightjar_only_because_it_is_shipped(
    cluster: str, copy_of_trained: Path, tmp_path: Path
) -> None:
    done = _submit(cluster, copy_of_trained, tmp_path, "ingest", ship=False)
    assert done.returncode != 0
    assert "No module named 'nightjar'" in done.stdout + done.stderr


def _submit(
    master: str, project: Path, scratch: Path, stage: str, ship: bool = True
) -> subprocess.CompletedProcess[str]:
    job = project / "jobs" / f"{stage}.py"
    arguments = [job, PIPELINE, "--ds", str(NIGHT), "--project", project]
    profile = project / "spark-conf" / "standalone.conf"
    return submit(master, scratch, profile, arguments, ship=ship)


def _published(project: Path) -> list[tuple]:
    log = ReleaseLog(project / "warehouse", PIPELINE)
    files = log.folder(log.require()) / "ds=*" / "*.parquet"
    return duckdb.sql(f"FROM read_parquet('{files}') ORDER BY ALL").fetchall()
