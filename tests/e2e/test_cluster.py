"""The whole night on a real standalone cluster gives the rows that the embedded run gives."""

import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyspark
import pytest
from tests.e2e.project import NIGHT, ROOT, Shell

from nightjar.core.releases import ReleaseLog
from nightjar.demo import PIPELINE

SPARK_HOME = Path(pyspark.__file__).parent
STAGES = ("ingest", "clean", "validate", "features", "score", "audit", "publish")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A master and two workers with one core each, on loopback; yields the master's address."""
    folder = tmp_path_factory.mktemp("cluster")
    port, page = _free_port(), _free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "SPARK_HOME": str(SPARK_HOME),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_NO_DAEMONIZE": "1",
        **{k: v for k, v in os.environ.items() if k == "JAVA_HOME"},
    }
    master = f"spark://127.0.0.1:{port}"
    deploy = "org.apache.spark.deploy"
    secure = "-Dspark.master.rest.enabled=false"
    daemons = [
        [
            f"{deploy}.master.Master",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--webui-port",
            str(page),
        ],
        *[
            [
                f"{deploy}.worker.Worker",
                "--host",
                "127.0.0.1",
                "--cores",
                "1",
                "--memory",
                "1500m",
                "--webui-port",
                "0",
                "--work-dir",
                str(folder / f"worker{i}"),
                master,
            ]
            for i in (1, 2)
        ],
    ]
    processes = []
    try:
        for i, daemon in enumerate(daemons):
            log = (folder / f"{i}.log").open("w")
            processes.append(
                subprocess.Popen(
                    [str(SPARK_HOME / "bin" / "spark-class"), *daemon],
                    env={**environment, "SPARK_DAEMON_JAVA_OPTS": secure},
                    stdout=log,
                    stderr=log,
                )
            )
            log.close()
        _wait_for_workers(page, 2)
        yield master
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait(30)


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
    """spark-submit of one stage. Executors run a Python that sees the environment's packages but
    not its editable installs, so that nightjar must come from --py-files."""
    package = scratch / "nightjar.zip"
    subprocess.run(["make", "-s", "-C", ROOT, "zip", f"ZIP={package}"], check=True)
    python = scratch / "executor-python"
    site = sysconfig.get_paths()["purelib"]
    python.write_text(f'#!/bin/sh\nPYTHONPATH="$PYTHONPATH:{site}" exec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    command = [
        str(SPARK_HOME / "bin" / "spark-submit"),
        "--master",
        master,
        "--properties-file",
        str(project / "spark-conf" / "standalone.conf"),
        "--conf",
        "spark.executor.memory=700m",
        "--conf",
        "spark.driver.memory=1g",
        "--conf",
        "spark.sql.shuffle.partitions=4",
        "--conf",
        f"spark.pyspark.driver.python={sys.executable}",
        "--conf",
        f"spark.pyspark.python={python}",
        *(["--py-files", str(package)] if ship else []),
        str(project / "jobs" / f"{stage}.py"),
        PIPELINE,
        "--ds",
        str(NIGHT),
        "--project",
        str(project),
    ]
    environment = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "JAVA_HOME")}
    environment |= {"SPARK_HOME": str(SPARK_HOME), "SPARK_LOCAL_IP": "127.0.0.1"}
    return subprocess.run(
        command,
        env=environment,
        cwd=scratch,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def _published(project: Path) -> list[tuple]:
    log = ReleaseLog(project / "warehouse", PIPELINE)
    files = log.folder(log.require()) / "ds=*" / "*.parquet"
    return duckdb.sql(f"FROM read_parquet('{files}') ORDER BY ALL").fetchall()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait_for_workers(page: int, count: int) -> None:
    for _ in range(120):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{page}/json/", timeout=5) as answer:
                if json.load(answer)["aliveworkers"] == count:
                    return
        except OSError:
            pass
        time.sleep(0.5)
    raise TimeoutError(f"{count} workers did not register within a minute")
