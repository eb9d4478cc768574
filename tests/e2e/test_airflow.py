"""A whole night by Airflow and real spark-submit: the command line's release, and no secret."""

import json
import os
import shlex
import shutil
import sqlite3
import subprocess
import textwrap
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import pytest
import yaml
from tests.e2e.project import AS_OF, NIGHT, ROOT, Shell, relocate
from tests.e2e.test_quarantine import mend

from nightjar.core.project import Project
from nightjar.core.records import RecordBook
from nightjar.core.releases import ReleaseLog
from nightjar.demo import PIPELINE
from nightjar.engine.registry import Registry

AIRFLOW = ROOT / ".venv-orchestrator" / "bin" / "airflow"
SECRET = "planted-5ecret-9f31"
STAGES = ["ingest", "clean", "validate", "features", "score", "audit", "publish"]


class Airflow:
    """Airflow's command, in a home of its own, over a project."""

    def __init__(self, home: Path, project: Path, settings: dict[str, str] | None = None) -> None:
        self.home, self.project = home, project
        self.at = datetime(2013, 12, 2, 5)
        for name in ("dags", "jobs"):
            shutil.copytree(ROOT / name, project / name, dirs_exist_ok=True)
        self.environment = {
            **{k: os.environ[k] for k in ("PATH", "HOME", "JAVA_HOME") if k in os.environ},
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(project / "dags"),
            "AIRFLOW__API_AUTH__JWT_SECRET": f"{SECRET}{0:064}",
            "AIRFLOW_CONN_SPARK_DEFAULT": json.dumps(
                {"conn_type": "spark", "host": "local[2]", "login": "spark", "password": SECRET}
            ),
            "AIRFLOW_CONN_LAKE": f"aws://key:{SECRET}@",
            "AIRFLOW_VAR_NIGHTJAR": json.dumps(
                {"spark_url": "http://spark.example", "mlflow_url": "http://mlflow.example"}
            ),
            "NIGHTJAR_JOB_ENVIRONMENT": str(ROOT / ".venv"),
            "JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
            **(settings or {}),
        }
        self("db", "migrate")

    def __call__(self, *arguments: str, expect: int = 0) -> str:
        done = subprocess.run(
            [str(AIRFLOW), *arguments],
            env=self.environment,
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=500,
            check=False,
        )
        assert done.returncode == expect, done.stdout[-20_000:]
        return done.stdout

    def test(self, params: dict | None = None, expect: int = 0, kind: str = "nightly") -> str:
        """A DAG of the pipeline by `airflow dags test`, which is `dag.test()`; returns its log."""
        self.at += timedelta(minutes=1)
        dag, at = f"{PIPELINE}_{kind}", self.at.isoformat()
        return self("dags", "test", dag, at, "--conf", json.dumps(params or {}), expect=expect)

    def ask(self, sql: str) -> list[tuple]:
        with sqlite3.connect(self.home / "airflow.db") as books:
            return books.execute(sql).fetchall()

    def states(self) -> dict[str, str]:
        """The state of each task of the newest run; of a mapped one, by what it is labelled."""
        found = self.ask(
            "SELECT task_id, rendered_map_index, map_index, state FROM task_instance "
            "WHERE run_id = (SELECT run_id FROM dag_run ORDER BY id DESC LIMIT 1)"
        )
        return {
            task if index < 0 else f"{task} {label or index}": state
            for task, label, index, state in found
        }


def notify_by_file(project: Path, more: str = "") -> Path:
    """Let failures and missed deadlines be told to a file; returns it.

    The notifier is one of the project's own, beside its DAGs; the template is the one of the docs.
    """
    docs = (ROOT / "docs" / "airflow.md").read_text()
    subject = yaml.safe_load(docs.partition("```yaml\n")[2].partition("```")[0])["orchestration"][
        "notify"
    ]["arguments"]["subject"]
    (project / "dags").mkdir(exist_ok=True)
    (project / "dags" / "told.py").write_text(NOTIFIER)
    path = project / "told.txt"
    spec = project / "pipelines" / f"{PIPELINE}.yaml"
    text = spec.read_text()
    head, found, rest = text.partition("\norchestration: {")
    assert found
    notify = {"notifier": "told.FileNotifier", "arguments": {"path": str(path), "line": subject}}
    spec.write_text(f"{head}{found}notify: {json.dumps(notify)}, {more}{rest}")
    return path


NOTIFIER = textwrap.dedent("""
    from airflow.sdk import BaseNotifier


    class FileNotifier(BaseNotifier):
        template_fields = ("line",)

        def __init__(self, path, line, **kwargs):
            super().__init__(**kwargs)
            self.path, self.line = path, line

        def notify(self, context):
            with open(self.path, "a") as file:
                file.write(self.line + "\\n")
""")


@pytest.fixture
def project(copy_of_trained: Path) -> Path:
    """The trained project, its nights cut by stage."""
    spec = copy_of_trained / "pipelines" / f"{PIPELINE}.yaml"
    text = spec.read_text()
    assert text.count("tasks: datasets") == 1
    spec.write_text(text.replace("tasks: datasets", "tasks: stages"))
    return copy_of_trained


@pytest.fixture
def airflow(tmp_path: Path, project: Path) -> Airflow:
    home = tmp_path / "airflow"
    home.mkdir()
    return Airflow(home, project)


class Watch(threading.Thread):
    """Reads the environment of every process that runs a job of the project."""

    def __init__(self, project: Path) -> None:
        super().__init__(daemon=True)
        self.marker = str(project / "jobs").encode()
        self.seen: dict[str, bytes] = {}
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(0.2):
            for pid, command in processes():
                # The launcher is a process of Airflow; what it launches is not.
                if self.marker in command and b"launch.py" not in command:
                    try:
                        environment = Path(f"/proc/{pid}/environ").read_bytes()
                    except OSError:
                        continue
                    self.seen[command.split(b"\0")[0].decode().rpartition("/")[2]] = environment


def processes() -> Iterator[tuple[int, bytes]]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                yield int(folder.name), (folder / "cmdline").read_bytes()
            except OSError:
                continue


def rows(project: Path) -> list[tuple]:
    log = ReleaseLog(project / "warehouse", PIPELINE)
    files = log.folder(log.require()) / "ds=*" / "*.parquet"
    return duckdb.sql(f"FROM read_parquet('{files}') ORDER BY ALL").fetchall()


def test_a_night_by_airflow_is_the_command_lines_night(
    released: Path, project: Path, airflow: Airflow
) -> None:
    watch = Watch(project)
    watch.start()
    log = airflow.test()
    watch.stopped.set()
    watch.join()
    assert airflow.states() == dict.fromkeys(STAGES, "success")
    assert rows(project) == rows(released)
    assert len(rows(project)) > 900

    # The release as an asset, for those who wait for it.
    release = ReleaseLog(project / "warehouse", PIPELINE).require()
    ((uri, extra),) = airflow.ask(
        "SELECT a.uri, e.extra FROM asset_event e JOIN asset a ON a.id = e.asset_id"
    )
    assert uri == f"nightjar://{PIPELINE}/flight_delay_scores"
    assert json.loads(extra) == {
        "release": release.id,
        "ds": str(NIGHT),
        "rows": release.rows,
        "model": f"{PIPELINE}/1",
    }

    # Links to what the tasks made.
    links = {
        (task, key.removeprefix("_link_")): json.loads(value)
        for task, key, value in airflow.ask("SELECT task_id, key, value FROM xcom")
        if key.startswith("_link_")
    }
    docs = Project.find(project).warehouse / "docs" / PIPELINE / str(NIGHT) / "index.html"
    assert links["validate", "DataDocsLink"] == docs.as_uri()
    assert docs.is_file()
    assert links["score", "MLflowLink"].startswith("http://mlflow.example/#/runs/")
    assert links["publish", "SparkLink"].startswith("http://spark.example/history/local-")

    # What was planted is nowhere that a person or the driver could see.
    assert "Spark-Submit cmd" in log
    assert SECRET not in log
    assert {"java", "python"} <= {name.rstrip("0123456789.") for name in watch.seen}
    for name, environment in watch.seen.items():
        assert SECRET.encode() not in environment, name
        assert b"AIRFLOW" not in environment, name
    kept = airflow.ask("SELECT task_id, rendered_fields FROM rendered_task_instance_fields")
    assert len(kept) == len(STAGES)
    assert all("--ds" in str(fields) and SECRET not in str(fields) for _, fields in kept)
    assert SECRET.encode() not in (airflow.home / "airflow.db").read_bytes()
    records = (project / "warehouse" / "runs").rglob("*.json")
    assert all(SECRET not in path.read_text() for path in records)


def test_a_training_by_airflow_tries_each_candidate_in_a_task_of_its_own(
    project: Path, airflow: Airflow
) -> None:
    asked = {"as_of": str(AS_OF), "candidates": ["logistic"], "force": True}
    log = airflow.test(asked, kind="train")
    states = airflow.states()
    assert {name: state for name, state in states.items() if not name.startswith("trial")} == {
        "load": "skipped",
        "prepare": "success",
        "promote": "success",
    }
    assert states["trial logistic"] == "success"
    assert sorted(states.values()).count("skipped") == 2, states  # load, and the other candidate
    assert log.count("training logistic ...") == 1, "tried once, and not again to decide"
    record = RecordBook(project / "warehouse", PIPELINE).get(AS_OF, "train")
    assert list(record.details["candidates"]) == ["logistic"]
    links = airflow.ask(
        "SELECT value FROM xcom WHERE key = '_link_MLflowLink' AND task_id = 'trial'"
    )
    assert len(links) == 2
    [link] = [value for (value,) in links if value != '""']  # what was skipped leads nowhere
    assert record.details["candidates"]["logistic"]["run"] in link
    champion = Registry(Project.find(project), PIPELINE).require_champion()
    assert record.details["champion"] == champion.label


def test_a_data_fault_is_final_at_once_and_publishes_nothing(
    project: Path, airflow: Airflow
) -> None:
    (project / "warehouse" / "landing" / "flights" / f"{NIGHT}.csv").unlink()
    told = notify_by_file(project)
    log = airflow.test(expect=1)
    states = airflow.states()
    assert states.pop("ingest") == "failed"  # not up_for_retry, though it has two retries
    assert set(states.values()) == {"upstream_failed"}
    assert told.read_text() == f"{PIPELINE}_nightly: ingest failed\n"
    assert "[INPUT_MISSING]" in log
    assert "the data was refused (exit status 3); trying again would not help" in log
    assert ReleaseLog(project / "warehouse", PIPELINE).current() is None


def test_repairs_by_trigger(released: Path, tmp_path: Path) -> None:
    project, home = tmp_path / "project", tmp_path / "airflow"
    shutil.copytree(released, project, symlinks=True)
    relocate(released, project)
    home.mkdir()
    airflow, shell = Airflow(home, project), Shell(project)
    log = ReleaseLog(project / "warehouse", PIPELINE)
    first, before = log.require(), rows(project)

    # Mended rows, and a reason that would be an option, a command, a template.
    edited = project / "warehouse" / "edited" / "airports.csv"
    edited.parent.mkdir()
    night = ["--ds", str(NIGHT), "--dataset", "airports"]
    shell.nightjar("quarantine", "export", PIPELINE, *night, "--to", str(edited))
    assert mend(edited) == 4
    reason = f"--release; $(touch {tmp_path}/ran) `id` {{{{ ds }}}} 'asked' \"it\""
    asked = {"what": "replay", "ds": str(NIGHT), "dataset": "airports", "rows": edited.name}
    airflow.test({**asked, "reason": reason}, kind="repair")
    assert airflow.states() == {"replay": "success", "change_release": "skipped"}
    second = log.require()
    assert (second.parent, len(log.all())) == (first.id, 2)
    assert len(rows(project)) == len(before)
    history = shell.answer("quarantine", "history", PIPELINE)["repairs"]
    assert [(r["by"], r["reason"]) for r in history] == [("dag_test", reason)] * 4
    assert not (tmp_path / "ran").exists()
    facts = second.partitions[str(NIGHT)]["rows"]["airports"]
    assert (facts["clean"], facts["quarantined"]) == (1458, 0)

    back = {"what": "rollback", "release": first.id}
    airflow.test({**back, "dry_run": True}, kind="repair")
    assert log.require() == second
    airflow.test(back, kind="repair")
    assert airflow.states() == {"replay": "skipped", "change_release": "success"}
    assert log.require() == first
    assert rows(project) == before
    told = [json.loads(extra) for (extra,) in airflow.ask("SELECT extra FROM asset_event")]
    assert [t["release"] for t in told] == [second.id, first.id]
    assert told[1] == {
        "release": first.id, "ds": str(NIGHT), "rows": len(before), "model": f"{PIPELINE}/1",
    }  # fmt: skip

    # What was rolled back does not come again by itself, and trying again would not help.
    said = airflow.test({"ds": str(NIGHT), "only": "publish"}, expect=1)
    assert airflow.states()["publish"] == "failed"  # not up_for_retry
    assert "[WITHDRAWN]" in said
    assert "rolled back (exit status 6); trying again would not help" in said
    assert log.require() == first
    said = airflow.test({"what": "rollback", "release": f"{first.id[:-1]}x"}, 1, "repair")
    assert "release" in said
    assert log.require() == first


def test_a_dry_run_shows_what_would_run(project: Path, airflow: Airflow) -> None:
    log = airflow.test({"dry_run": True, "ds": "2013-12-02", "model": "1"})
    assert set(airflow.states().values()) == {"skipped"}
    for stage in STAGES:
        assert f"jobs/{stage}.py {PIPELINE} --ds 2013-12-02" in log
    assert "jobs/score.py flight_delays --ds 2013-12-02 --model 1 --project" in log
    assert not (project / "warehouse" / "runs" / PIPELINE / "2013-12-02").exists()

    # While the DAG is known: the commands that the docs show.
    docs = " ".join((ROOT / "docs" / "airflow.md").read_text().split())
    for shown in (
        'airflow pools set spark 4 "Spark drivers"',
        f"airflow backfill create --dag-id {PIPELINE}_nightly --from-date 2013-12-01 "
        "--to-date 2014-01-01 --max-active-runs 3",
        """airflow variables set nightjar '{"connection": "yarn", "profile": "yarn", """
        """"files_url": "https://files.example.org/warehouse", "mlflow_url": """
        """"https://mlflow.example.org", "spark_url": "https://history.example.org"}'""",
    ):
        assert shown in docs
        _, *arguments = shlex.split(shown)
        said = airflow(*arguments, *(["--dry-run"] if "backfill" in arguments else []))
        if "backfill" in arguments:
            assert said.count("2013-12-") >= 31
