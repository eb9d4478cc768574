"""Airflow as it runs in production: PostgreSQL, scheduler, DAG processor and API server, started
and stopped here. Slow: `pytest -m slow tests/e2e/test_airflow_server.py`."""

import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.project import NIGHT, ROOT, Shell
from tests.e2e.test_airflow import SECRET, Airflow, Watch, notify_by_file, processes, rows

from nightjar.core.releases import ReleaseLog
from nightjar.demo import PIPELINE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]
POSTGRES = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
NIGHTLY, REPAIR = f"{PIPELINE}_nightly", f"{PIPELINE}_repair"
# Planted besides SECRET: what encrypts Airflow's connections, and a key that the driver is to have.
FERNET_KEY = base64.urlsafe_b64encode(SECRET.ljust(32, "0")[:32].encode()).decode()
LAKE_KEY = "planted-lake-k3y-77aa"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for(what: Callable[[], Any], seconds: float, why: str) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, f"{why}: not within {seconds:.0f} s"
        time.sleep(0.5)
    return found


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """A database cluster of its own, on loopback; yields SQLAlchemy's address."""
    if POSTGRES is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    # Not below pytest's folder, which is for its user's eyes alone.
    folder, port = Path(tempfile.mkdtemp(prefix="nightjar-postgres-")), free_port()
    as_owner: list[str] = []
    if os.geteuid() == 0:  # PostgreSQL does not run as root
        as_owner = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        shutil.chown(folder, "postgres", "postgres")
    data = folder / "data"

    def run(*command: str) -> None:
        subprocess.run([*as_owner, *command], check=True, capture_output=True, cwd=folder)

    run(str(POSTGRES / "initdb"), "-D", str(data), "-A", "trust", "-U", "airflow", "--no-sync")
    options = f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off"
    run(
        str(POSTGRES / "pg_ctl"), "-D", str(data), "-l", str(data / "log"), "-o", options,
        "-w", "start",
    )  # fmt: skip
    try:
        run(str(POSTGRES / "createdb"), "-h", "127.0.0.1", "-p", str(port), "-U", "airflow", "af")
        yield f"postgresql+psycopg2://airflow:{SECRET}@127.0.0.1:{port}/af"
    finally:
        run(str(POSTGRES / "pg_ctl"), "-D", str(data), "-m", "immediate", "stop")
        shutil.rmtree(folder)


class Server(Airflow):
    """Airflow's processes, and a client of its REST interface."""

    def __init__(self, home: Path, project: Path, database: str) -> None:
        port, self.database = free_port(), database
        self.base = f"http://127.0.0.1:{port}"
        self.token = ""
        self.processes: list[subprocess.Popen[bytes]] = []
        self.settings = {
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database,
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.base}/execution/",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(port),
            "AIRFLOW__API__BASE_URL": self.base,
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "15",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "10",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
            "AIRFLOW__CORE__FERNET_KEY": FERNET_KEY,
            "AWS_SECRET_ACCESS_KEY": LAKE_KEY,
        }
        super().__init__(home, project, self.settings)

    def start(self) -> None:
        self("pools", "set", "spark", "2", "Spark drivers at one time")
        for name in ("api-server", "scheduler", "dag-processor"):
            with (self.home / f"{name}.log").open("wb") as log:
                self.processes.append(
                    subprocess.Popen(
                        [str(ROOT / ".venv-orchestrator" / "bin" / "airflow"), name],
                        env=self.environment,
                        cwd=self.home,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
                )
        wait_for(self._login, 240, "the API server answers")
        wait_for(lambda: self.get(f"dags/{NIGHTLY}", ok=(200, 404)).get("dag_id"), 120, "the DAG")

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)

    def _login(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.base}/auth/token", timeout=10) as answer:
                self.token = json.load(answer)["access_token"]
            return True
        except (OSError, ValueError):
            assert all(p.poll() is None for p in self.processes), "a process of Airflow ended"
            return False

    def call(
        self, method: str, path: str, body: Any = None, ok: tuple[int, ...] = (200, 201)
    ) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self.base}/api/v2/{path}",
            data=json.dumps(body).encode() if body is not None else None,
            method=method,
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                status, found = answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            status, found = error.code, json.loads(error.read() or b"{}")
        assert status in ok, f"{method} {path}: {status} {found}"
        return found

    def get(self, path: str, ok: tuple[int, ...] = (200,)) -> dict[str, Any]:
        return self.call("GET", path, ok=ok)

    def trigger(
        self, conf: dict[str, Any], ok: tuple[int, ...] = (200,), dag: str = NIGHTLY
    ) -> dict[str, Any]:
        body = {"logical_date": None, "conf": conf}
        return self.call("POST", f"dags/{dag}/dagRuns", body, ok)

    def finished(self, run: str, seconds: float = 600, dag: str = NIGHTLY) -> str:
        """The state in which a run ended."""

        def state() -> str | None:
            found = str(self.get(f"dags/{dag}/dagRuns/{run}")["state"])
            return found if found in ("success", "failed") else None

        return str(wait_for(state, seconds, f"run {run} ends"))

    def tasks(self, run: str) -> dict[str, dict[str, Any]]:
        found = self.get(f"dags/{NIGHTLY}/dagRuns/{run}/taskInstances")["task_instances"]
        return {task["task_id"]: task for task in found}


@pytest.fixture(scope="module")
def server(
    trained: Path, postgres: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Airflow over a copy of the trained project; a night is one task."""
    from tests.e2e.project import relocate

    folder = tmp_path_factory.mktemp("server")
    project, home = folder / "project", folder / "airflow"
    shutil.copytree(trained, project, symlinks=True)
    relocate(trained, project)
    home.mkdir()
    spec = project / "pipelines" / f"{PIPELINE}.yaml"
    spec.write_text(
        spec.read_text().replace("tasks: datasets", "tasks: night, retry_after: 0 minutes")
    )
    notify_by_file(project, "released_by: 20 seconds, ")
    made = Server(home, project, postgres)
    # A connection in the database, encrypted there, beside the one in the environment.
    made("connections", "add", "lake_in_database", "--conn-uri", f"aws://key:{SECRET}@")
    made.start()
    try:
        yield made
    finally:
        made.stop()
        assert drivers(project) == []


def drivers(project: Path) -> list[int]:
    """Every living process of a job of the project: launcher, JVM, driver."""
    marker = str(project / "jobs").encode()
    return [pid for pid, command in processes() if marker in command]


def test_bad_parameters_are_refused_and_good_ones_give_a_release(
    server: Server, released: Path
) -> None:
    for conf, named in (
        ({"ds": "tomorrow"}, "tomorrow"),
        ({"ds": f"{NIGHT}; rm -rf /"}, "rm -rf"),
        ({"ds": str(NIGHT), "force": "yes"}, "yes"),
        ({"ds": str(NIGHT), "only": "drop table"}, "drop table"),
        ({"ds": str(NIGHT), "model": "1 --conf a=b"}, "1 --conf a=b"),
    ):
        assert named in json.dumps(server.trigger(conf, ok=(400, 422)))
    unknown = server.trigger({"ds": str(NIGHT), "dss": "2013-12-01"})["dag_run_id"]
    assert server.finished(unknown) == "failed"
    assert server.tasks(unknown)["night"]["try_number"] == 1  # not tried again

    watch = Watch(server.project)
    watch.start()
    run = server.trigger({"ds": str(NIGHT)})["dag_run_id"]
    assert server.finished(run) == "success"
    watch.stopped.set()
    watch.join()
    no_secret_is_told(server, run, watch)
    assert rows(server.project) == rows(released)
    (event,) = server.get("assets/events")["asset_events"]
    release = ReleaseLog(server.project / "warehouse", PIPELINE).require()
    assert event["extra"]["release"] == release.id

    # The consumer ran because the release landed, and read it.
    def consumed() -> dict[str, Any]:
        runs = server.get(f"dags/{PIPELINE}_released/dagRuns")["dag_runs"]
        return {r["state"]: r for r in runs}.get("success", {})

    consumer = wait_for(consumed, 120, "the consumer of the release runs")
    told = server.get(
        f"dags/{PIPELINE}_released/dagRuns/{consumer['dag_run_id']}"
        "/taskInstances/read_release/xcomEntries/return_value"
    )["value"]
    assert str(release.id) in str(told)
    assert str(release.rows) in str(told)


def no_secret_is_told(server: Server, run: str, watch: Watch) -> None:
    """Of what was planted: neither in a log file of any process, nor in what Airflow shows or keeps
    of the run, nor in the driver's environment; there, only the driver's own key."""
    planted = [SECRET.encode(), FERNET_KEY.encode()]
    scheduler = Path(f"/proc/{server.processes[1].pid}/environ").read_bytes()
    assert all(secret in scheduler for secret in [*planted, LAKE_KEY.encode()])
    assert {"java", "python"} <= {name.rstrip("0123456789.") for name in watch.seen}
    for name, environment in watch.seen.items():
        assert LAKE_KEY.encode() in environment, name
        assert not [secret for secret in planted if secret in environment], name
        assert b"AIRFLOW" not in environment, name

    planted.append(LAKE_KEY.encode())
    logs = [path for path in server.home.rglob("*") if path.is_file()]
    names = {str(path.relative_to(server.home)) for path in logs}
    assert {"scheduler.log", "dag-processor.log", "api-server.log"} <= names
    task = [path for path in logs if f"run_id={run}" in str(path)]
    assert b"Spark-Submit cmd" in b"".join(path.read_bytes() for path in task)
    shown = json.dumps(server.tasks(run))
    assert f'--ds", "{NIGHT}' in shown.replace("\\", "")  # the rendered fields
    dumped = subprocess.run(
        [str(POSTGRES / "pg_dump"), "-d", server.database.replace("+psycopg2", "")],
        capture_output=True, check=True,
    ).stdout  # fmt: skip
    assert b"lake_in_database" in dumped
    records = (server.project / "warehouse" / "runs").rglob("*.json")
    texts = {
        **{str(path): path.read_bytes() for path in [*logs, *records]},
        "the task as REST shows it": shown.encode(),
        "the database": dumped,
    }
    assert [name for name, text in texts.items() if any(s in text for s in planted)] == []


def test_a_failure_and_a_missed_deadline_are_told(server: Server) -> None:
    """By a notifier of the project's own, at once and under the scheduler."""
    told = server.project / "told.txt"
    run = server.trigger({"ds": "2013-12-09", "dss": "2013-12-09"})["dag_run_id"]
    assert server.finished(run) == "failed"

    def lines() -> set[str]:
        return set(told.read_text().splitlines()) if told.exists() else set()

    failed, late = f"{NIGHTLY}: night failed", f"{NIGHTLY}: no release in time"
    wait_for(lambda: lines() >= {failed, late}, 120, "both are told")
    assert lines() == {failed, late}


def test_a_backfill_of_three_nights(server: Server) -> None:
    days = [date(2013, 12, 2) + timedelta(days=i) for i in range(3)]
    body = {
        "dag_id": NIGHTLY,
        "from_date": f"{days[0]}T00:00:00Z",
        "to_date": f"{days[-1]}T23:59:00Z",
        "max_active_runs": 2,
        "reprocess_behavior": "none",
    }
    backfill = server.call("POST", "backfills", body)["id"]
    wait_for(
        lambda: server.get(f"backfills/{backfill}")["completed_at"], 900, "the backfill is complete"
    )
    runs = [
        r
        for r in server.get(f"dags/{NIGHTLY}/dagRuns?limit=100")["dag_runs"]
        if r["run_type"] == "backfill"
    ]
    assert {(r["data_interval_start"][:10], r["state"]) for r in runs} == {
        (str(day), "success") for day in days
    }
    release = ReleaseLog(server.project / "warehouse", PIPELINE).require()
    assert set(map(str, days)) <= set(release.partitions)
    for day in days:  # each night's file, each flight once
        landed = server.project / "warehouse" / "landing" / "flights" / f"{day}.csv"
        found = [row for row in nights(server.project) if row[0] == str(day)]
        assert found == [(str(day), len(landed.read_text().splitlines()) - 1)]


def nights(project: Path) -> list[tuple[str, int]]:
    """Rows and distinct keys by night; a key that stands twice fails here."""
    import duckdb

    log = ReleaseLog(project / "warehouse", PIPELINE)
    files = log.folder(log.require()) / "ds=*" / "*.parquet"
    found = duckdb.sql(
        "SELECT ds::VARCHAR, count(*), count(DISTINCT (time_hour, carrier, flight)) "
        f"FROM read_parquet('{files}', hive_partitioning = true) GROUP BY ds"
    ).fetchall()
    assert all(total == distinct for _, total, distinct in found)
    return [(ds, total) for ds, total, _ in found]


@pytest.mark.parametrize("after", ["clean", "features"])
def test_sigkill_of_a_task_leaves_no_orphan_and_the_retry_gives_the_release(
    server: Server, after: str
) -> None:
    day = {"clean": "2013-12-06", "features": "2013-12-07"}[after]
    run = server.trigger({"ds": day})["dag_run_id"]
    layer = server.project / "warehouse" / {"clean": "cleaned", "features": "features"}[after]

    def writing() -> bool:
        return any(p.stat().st_mtime > begun for p in layer.rglob("*") if p.is_dir())

    begun = time.time()
    wait_for(writing, 300, f"the night writes to {layer.name}")
    before = drivers(server.project)
    assert before
    task = parent(next(pid for pid in before if b"launch.py" in command(pid)))
    assert b"jobs" not in command(task)  # the process of Airflow that runs the task
    os.kill(task, signal.SIGKILL)
    wait_for(lambda: not set(before) & set(drivers(server.project)), 20, "driver and JVM end")
    assert server.finished(run, 900) == "success"
    assert server.tasks(run)["night"]["try_number"] == 2
    landed = server.project / "warehouse" / "landing" / "flights" / f"{day}.csv"
    assert (day, len(landed.read_text().splitlines()) - 1) in nights(server.project)
    Shell(server.project).nightjar("verify", PIPELINE)


def command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_marking_a_task_failed_ends_its_driver(server: Server) -> None:
    run = server.trigger({"ds": "2013-12-08"})["dag_run_id"]
    wait_for(lambda: len(drivers(server.project)) >= 3, 200, "the driver runs")
    path = f"dags/{NIGHTLY}/dagRuns/{run}/taskInstances/night"
    server.call("PATCH", path, {"new_state": "failed"})
    wait_for(lambda: not drivers(server.project), 40, "driver and JVM end")
    assert ReleaseLog(server.project / "warehouse", PIPELINE).require().ds != "2013-12-08"


def test_a_broken_pipeline_is_told_and_leaves_the_others_in_service(server: Server) -> None:
    file = server.project / "pipelines" / "broken.yaml"
    sound = (server.project / "pipelines" / f"{PIPELINE}.yaml").read_text()
    file.write_text(sound.replace(f"name: {PIPELINE}", "name: broken\nspeed: 3", 1))

    def errors() -> list[dict[str, Any]]:
        return list(server.get("importErrors")["import_errors"])

    (error,) = wait_for(errors, 120, "the import error")
    assert error["filename"] == "pipelines/broken.yaml"
    assert "unknown key 'speed'" in error["stack_trace"]
    assert server.get(f"dags/{NIGHTLY}")["is_stale"] is False
    file.unlink()
    wait_for(lambda: not errors(), 120, "the import error goes")


def test_the_repairs(server: Server) -> None:
    """One stage again; another model's scores; back to the release before."""

    def told() -> list[str]:
        events = server.get("assets/events?order_by=timestamp&limit=100")["asset_events"]
        return [event["extra"].get("release", "nothing") for event in events]

    shell, log = Shell(server.project), ReleaseLog(server.project / "warehouse", PIPELINE)
    assert server.finished(server.trigger({"ds": str(NIGHT)})["dag_run_id"]) == "success"
    before, events = log.require(), told()
    score = server.project / "warehouse" / "runs" / PIPELINE / str(NIGHT) / "score.json"
    attempt = json.loads(score.read_text())["attempt"]
    run = server.trigger({"ds": str(NIGHT), "only": "score", "force": True})["dag_run_id"]
    assert server.finished(run) == "success"
    assert json.loads(score.read_text())["attempt"] != attempt
    assert log.require().id == before.id  # nothing was published
    assert told() == events

    shell.nightjar("train", PIPELINE, "--as-of", "2013-12-02", "--force")
    challenger = json.loads((score.parents[1] / "2013-12-02" / "train.json").read_text())[
        "details"
    ]["champion"]
    assert challenger == f"{PIPELINE}/2"
    for model, conf in ((challenger, {}), (f"{PIPELINE}/1", {"model": "1"})):
        again = server.trigger({"ds": str(NIGHT), **conf})["dag_run_id"]
        assert server.finished(again) == "success"
        assert log.require().partitions[str(NIGHT)]["model"]["version"] == model

    # Back, by one click; a form without `what` is refused.
    server.trigger({"release": before.id}, ok=(400, 422), dag=REPAIR)
    back = server.trigger({"what": "rollback", "release": before.id}, dag=REPAIR)["dag_run_id"]
    assert server.finished(back, dag=REPAIR) == "success"
    assert log.require().id == before.id
    assert told()[-1] == before.id


@pytest.mark.parametrize(
    ("tasks", "day", "drivers_started"),
    [("night", "2013-12-10", 1), ("stages", "2013-12-11", 7), ("datasets", "2013-12-12", 19)],
)
def test_from_trigger_to_release(
    server: Server, tasks: str, day: str, drivers_started: int
) -> None:
    """Each cut of a night gives its release; prints where the time went."""
    spec = server.project / "pipelines" / f"{PIPELINE}.yaml"
    spec.write_text(re.sub(r"tasks: \w+", f"tasks: {tasks}", spec.read_text()))
    wait_for(
        lambda: server.get(f"dags/{NIGHTLY}/tasks")["total_entries"] == drivers_started,
        120,
        "the night is cut anew",
    )
    run = server.trigger({"ds": day})["dag_run_id"]
    assert server.finished(run, 1500) == "success"
    release = ReleaseLog(server.project / "warehouse", PIPELINE).require()
    landed = server.project / "warehouse" / "landing" / "flights" / f"{day}.csv"
    assert (day, len(landed.read_text().splitlines()) - 1) in nights(server.project)
    assert day in release.partitions

    told = server.get(f"dags/{NIGHTLY}/dagRuns/{run}")
    wall = at(told["end_date"]) - at(told["queued_at"])
    instances = server.tasks(run)
    assert len(instances) == drivers_started
    taken = sum(task["duration"] for task in instances.values())
    records = (server.project / "warehouse" / "runs" / PIPELINE / day).glob("*.json")
    steps = sum(json.loads(path.read_text())["seconds"] for path in records)
    coming_up = sum(until_ready(server, run, name) for name in instances)
    load = os.getloadavg()[1]
    print(
        f"{tasks}: {wall:.0f} s from trigger to release; {drivers_started} drivers took "
        f"{taken:.0f} s: {coming_up:.0f} s to come up, {steps:.0f} s of steps; load {load:.1f}"
    )


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def until_ready(server: Server, run: str, task: str) -> float:
    """Seconds from spark-submit to the driver's first step: JVM, Python, imports, session."""
    folder = server.home / "logs" / f"dag_id={NIGHTLY}" / f"run_id={run}" / f"task_id={task}"
    log = folder / "attempt=1.log"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    submitted = next(at(e["timestamp"]) for e in lines if "Spark-Submit cmd" in e["event"])
    for entry in lines:
        if step := re.search(r"20\d\d-\d\d-\d\d  .*\((\d+\.\d) s\)$", entry["event"]):
            return at(entry["timestamp"]) - float(step[1]) - submitted
    raise AssertionError(f"no step is told in {log}")


def test_make_airflow_is_ready_to_trigger(trained: Path, tmp_path: Path) -> None:
    """`make airflow` runs this script; here in a copy of the project, on a port of its own."""
    project = tmp_path / "project"
    shutil.copytree(trained, project, symlinks=True)
    for name in ("dags", ".ci"):
        shutil.copytree(ROOT / name, project / name)
    for name in (".venv", ".venv-orchestrator"):
        (project / name).symlink_to(ROOT / name)
    port = free_port()
    environment = {k: os.environ[k] for k in ("PATH", "HOME", "JAVA_HOME") if k in os.environ}
    with subprocess.Popen(
        [str(project / ".ci" / "airflow")],
        env={**environment, "PORT": str(port)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as running:
        assert running.stdout is not None
        said: list[str] = []
        try:
            for line in running.stdout:
                said.append(line)
                if line.startswith("  log "):
                    break
            base = f"http://127.0.0.1:{port}"
            assert f"Airflow is up: {base}\n" in said, said
            (login,) = [line for line in said if line.startswith("  login ")]
            user, password = login.removeprefix("  login").strip().split(", password ")
            token = _post(f"{base}/auth/token", {"username": user, "password": password})
            request = urllib.request.Request(
                f"{base}/api/v2/dags", headers={"Authorization": f"Bearer {token['access_token']}"}
            )

            def found() -> set[str]:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    dags = json.load(answer)["dags"]
                return {dag["dag_id"] for dag in dags if not dag["is_paused"]}

            expected = {f"{PIPELINE}_{kind}" for kind in ("nightly", "train", "repair", "released")}
            wait_for(lambda: found() == expected, 120, "the DAGs are there")
            (line,) = [line for line in said if line.startswith("  commands  ")]
            command = line.removeprefix("  commands  ").replace(", then airflow ...", "").strip()
            pools = subprocess.run(
                ["bash", "-c", f"{command} && airflow pools list -o json"],
                env=environment, capture_output=True, text=True, check=True,
            ).stdout  # fmt: skip
            assert '"pool": "spark"' in pools
        finally:
            running.terminate()
            running.wait(90)
    marker = str(project).encode()
    wait_for(lambda: not [p for p, c in processes() if marker in c], 30, "all of it ends")


def _post(address: str, body: dict[str, str]) -> dict[str, Any]:
    request = urllib.request.Request(
        address, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return dict(json.load(answer))
