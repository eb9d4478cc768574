"""A real standalone cluster of Spark on loopback, and spark-submit to it."""

import json
import os
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyspark
from tests.e2e.project import ROOT

SPARK_HOME = Path(pyspark.__file__).parent


@contextmanager
def standalone(
    folder: Path, workers: Sequence[Sequence[str]], environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """A master, and a worker for each list of further arguments; yields the master's address."""
    port, page = _free_port(), _free_port()
    given = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "SPARK_HOME": str(SPARK_HOME),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_NO_DAEMONIZE": "1",
        "SPARK_DAEMON_JAVA_OPTS": "-Dspark.master.rest.enabled=false",
        **{k: v for k, v in os.environ.items() if k == "JAVA_HOME"},
        **(environment or {}),
    }
    master = f"spark://127.0.0.1:{port}"
    here = ["--host", "127.0.0.1"]
    daemons = [["master.Master", *here, "--port", str(port), "--webui-port", str(page)]]
    for i, arguments in enumerate(workers, start=1):
        place = ["--memory", "1500m", "--webui-port", "0", "--work-dir", str(folder / f"worker{i}")]
        daemons.append(["worker.Worker", *here, *place, *arguments, master])
    program = str(SPARK_HOME / "bin" / "spark-class")
    processes = []
    try:
        for i, (daemon, *arguments) in enumerate(daemons):
            command = [program, f"org.apache.spark.deploy.{daemon}", *arguments]
            with (folder / f"{i}.log").open("w") as log:
                processes.append(
                    subprocess.Popen(command, env=given, cwd=ROOT, stdout=log, stderr=log)
                )
        _wait_for_workers(page, len(workers))
        yield master
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait(30)


def submit(
    master: str,
    scratch: Path,
    profile: Path,
    application: Sequence[str | Path],
    conf: Mapping[str, str] | None = None,
    ship: bool = True,
) -> subprocess.CompletedProcess[str]:
    """spark-submit of an application with its arguments. Executors run a Python that sees the
    environment's packages but not its editable installs: nightjar must come from --py-files."""
    package = scratch / "nightjar.zip"
    subprocess.run(["make", "-s", "-C", ROOT, "zip", f"ZIP={package}"], check=True)
    python = scratch / "executor-python"
    site = sysconfig.get_paths()["purelib"]
    python.write_text(f'#!/bin/sh\nPYTHONPATH="$PYTHONPATH:{site}" exec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    settings = {
        "spark.executor.memory": "700m",
        "spark.driver.memory": "1g",
        "spark.sql.shuffle.partitions": "4",
        "spark.pyspark.driver.python": sys.executable,
        "spark.pyspark.python": str(python),
        **(conf or {}),
    }
    command = [str(SPARK_HOME / "bin" / "spark-submit"), "--master", master]
    command += ["--properties-file", str(profile)]
    command += [word for pair in settings.items() for word in ("--conf", "=".join(pair))]
    command += ["--py-files", str(package)] if ship else []
    environment = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "JAVA_HOME")}
    environment |= {"SPARK_HOME": str(SPARK_HOME), "SPARK_LOCAL_IP": "127.0.0.1"}
    return subprocess.run(
        [*command, *map(str, application)],
        env=environment,
        cwd=scratch,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


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
