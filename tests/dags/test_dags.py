"""Every pipeline becomes its DAGs: the same each time, cheaply, and each for itself."""

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import structlog
from airflow.dag_processing.dagbag import DagBag
from airflow.dag_processing.processor import DagFileParseRequest, _parse_file
from airflow.providers.smtp.notifications.smtp import SmtpNotifier
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization
from tests.dags.conftest import ROOT

from nightjar.core.project import Project
from nightjar.orchestration.airflow import project_dags

HEAVY = ("pyspark", "pandas", "pyarrow", "great_expectations", "tensorflow", "mlflow", "sklearn")


def in_fresh_python(script: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_pipeline_has_its_dags() -> None:
    bag = DagBag(str(ROOT / "dags"), bundle_path=ROOT / "dags", bundle_name="dags-folder")
    assert bag.import_errors == {}
    names = Project.find(ROOT).pipeline_names()
    kinds = ("nightly", "train", "repair", "released")
    assert set(bag.dags) == {f"{name}_{kind}" for name in names for kind in kinds}
    for dag in bag.dags.values():
        assert DagSerialization.to_dict(dag)
        assert dag.doc_md
        assert all(task.doc_md for task in dag.tasks)


def edges(dag: DAG) -> dict[str, set[str]]:
    return {task.task_id: set(task.upstream_task_ids) for task in dag.tasks}


def test_a_night_by_dataset() -> None:
    dag = project_dags(ROOT)["flight_delays_nightly"]
    sources = ("flights", "weather", "planes", "airports", "airlines")
    expected: dict[str, set[str]] = {}
    for source in sources:
        expected[f"{source}.ingest"] = set()
        expected[f"{source}.clean"] = {f"{source}.ingest"}
        expected[f"{source}.validate"] = {f"{source}.clean"}
    expected["features"] = {f"{source}.validate" for source in sources}
    expected |= {"score": {"features"}, "audit": {"score"}, "publish": {"audit"}}
    assert edges(dag) == expected


def test_a_night_by_stage_and_in_one_task(settings) -> None:
    by_stage = project_dags(settings("{tasks: stages}"))["flight_delays_nightly"]
    stages = ["ingest", "clean", "validate", "features", "score", "audit", "publish"]
    before = [set(), *({s} for s in stages)]
    assert edges(by_stage) == dict(zip(stages, before, strict=False))
    fused = project_dags(settings("{tasks: night}"))["flight_delays_nightly"]
    assert edges(fused) == {"night": set()}
    for dag, last in ((by_stage, "publish"), (fused, "night")):
        made = {t.task_id: [a.name for a in t.outlets] for t in dag.tasks if t.outlets}
        assert made == {last: ["flight_delay_scores"]}


def test_candidates_are_tried_side_by_side() -> None:
    dag = project_dags(ROOT)["flight_delays_train"]
    assert edges(dag) == {
        "load": set(),
        "prepare": {"load"},
        "trial": {"prepare"},
        "promote": {"trial"},
    }
    trial = dag.get_task("trial")
    assert trial.is_mapped
    assert trial.expand_input.value == {"candidate": ["logistic", "boosted_trees"]}
    written = DagSerialization.from_dict(DagSerialization.to_dict(dag)).get_task("trial")
    assert written.expand_input.value == {"candidate": ["logistic", "boosted_trees"]}


def test_the_settings_of_a_pipeline_reach_its_tasks(settings) -> None:
    project = settings("""
  start: 2013-01-01
  end: 2013-12-31
  training: "0 6 * * 0"
  connection: big
  profile: standalone
  pool: cluster
  retries: 4
  retry_after: 2 minutes
  retry_at_most: 1 hour
  timeout: 3 hours
  released_by: 5 hours
  notify:
    notifier: airflow.providers.smtp.notifications.smtp.SmtpNotifier
    arguments: {to: night@example.org, subject: "{{ ti.task_id }} failed"}
""")
    dags = project_dags(project)
    night, train = dags["flight_delays_nightly"], dags["flight_delays_train"]
    assert (night.timetable.expression, train.timetable.expression) == ("0 4 * * *", "0 6 * * 0")
    assert [str(d.date()) for d in (night.start_date, night.end_date)] == [
        "2013-01-01", "2013-12-31",
    ]  # fmt: skip
    trial = train.get_task("trial").partial_kwargs
    assert {name: trial[name] for name in ("connection", "profile", "pool", "retries")} == {
        "connection": "big", "profile": "standalone", "pool": "cluster", "retries": 4,
    }  # fmt: skip
    for task in [*night.tasks, *(task for task in train.tasks if not task.is_mapped)]:
        assert (task.connection, task.profile, task.pool) == ("big", "standalone", "cluster")
        assert (task.retries, task.retry_delay) == (4, timedelta(minutes=2))
        assert (task.max_retry_delay, task.retry_exponential_backoff) == (timedelta(hours=1), 2)
        assert task.execution_timeout == timedelta(hours=3)
        (notifier,) = task.on_failure_callback
        assert isinstance(notifier, SmtpNotifier)
    (deadline,) = night.deadline
    assert deadline.interval == timedelta(hours=5)
    assert train.deadline is None
    written = DagSerialization.to_dict(night)["dag"]
    assert json.dumps(written["deadline"]).count("SmtpNotifier") == 1


def test_a_repair_is_by_hand_and_one_thing(settings) -> None:
    dag = project_dags(settings("{released_by: 1 hour, notify: {notifier: builtins.dict}}"))[
        "flight_delays_repair"
    ]
    assert edges(dag) == {"change_release": set(), "replay": set()}
    assert (dag.schedule, dag.deadline) == (None, None)
    assert dag.get_task("change_release").pool == "default_pool"  # it takes no Spark driver's slot
    assert dag.get_task("replay").pool == "spark"
    for task in dag.tasks:
        assert [a.name for a in task.outlets] == ["flight_delay_scores"]


def test_a_consumer_waits_for_the_release() -> None:
    dag = project_dags(ROOT)["flight_delays_released"]
    (asset,) = dag.timetable.asset_condition.objects
    assert (asset.name, asset.uri) == (
        "flight_delay_scores", "nightjar://flight_delays/flight_delay_scores",
    )  # fmt: skip


def test_parsing_is_light_and_gives_the_same_dags_each_time() -> None:
    script = f"""
import json, sys
from pathlib import Path
from nightjar.orchestration.airflow import project_dags
dags = project_dags(Path({str(ROOT)!r}))
loaded = [name for name in {HEAVY!r} if name in sys.modules]
from airflow.serialization.serialized_objects import DagSerialization
from airflow.models.serialized_dag import SerializedDagModel
written = {{name: DagSerialization.to_dict(dag) for name, dag in dags.items()}}
versions = {{name: SerializedDagModel.hash(data) for name, data in written.items()}}
print(json.dumps([loaded, versions]))
"""
    first = json.loads(in_fresh_python(script, PYTHONHASHSEED="1").splitlines()[-1])
    second = json.loads(
        in_fresh_python(script, PYTHONHASHSEED="2", TZ="Asia/Tokyo").splitlines()[-1]
    )
    assert first[0] == []
    assert first[1] == second[1]


def test_a_pipeline_costs_little_to_parse(project: Path) -> None:
    file = project / "pipelines" / "flight_delays.yaml"
    for i in range(8):
        copy = file.with_stem(f"flight_delays_{i}")
        copy.write_text(
            file.read_text().replace("name: flight_delays\n", f"name: {copy.stem}\n", 1)
        )
    script = f"""
import time
from pathlib import Path
from nightjar.orchestration.airflow import project_dags
took = []
for _ in range(3):
    start = time.process_time()
    assert len(project_dags(Path({str(project)!r}))) == 36
    took.append((time.process_time() - start) / 9)
print(min(took))
"""
    assert float(in_fresh_python(script).splitlines()[-1]) < 0.050  # CPU seconds a pipeline


FAULTS = {
    "speed: 3\n": "pipelines/{name}.yaml:2: unknown key 'speed'",
    "orchestration: {task: night}\n": "unknown key 'task' did you mean 'tasks'?",
    "orchestration: {released_by: 1 hour}\n": "released_by needs notify",
    "orchestration: {notify: {notifier: no.such.Notifier}}\n": "No module named 'no'",
    "orchestration: {training: every sunday at six am}\n": "'every sunday at six am' is no cron",
}


def test_a_broken_pipeline_is_an_import_error_of_its_own_file(project: Path) -> None:
    """As Airflow's DAG processor parses it; the sound pipeline beside them is untouched."""
    file = project / "pipelines" / "flight_delays.yaml"
    sound, _, _ = file.read_text().partition("\norchestration:")
    expected = {}
    for i, (line, told) in enumerate(FAULTS.items()):
        broken = file.with_stem(f"broken_{i}")
        start = f"name: {broken.stem}\n{line}"
        broken.write_text(sound.replace("name: flight_delays\n", start, 1))
        expected[f"pipelines/{broken.name}"] = told.format(name=broken.stem)
    request = DagFileParseRequest(
        file=str(project / "dags" / "pipelines.py"),
        bundle_path=project / "dags",
        bundle_name="dags-folder",
        callback_requests=[],
    )
    result = _parse_file(request, structlog.get_logger())
    assert result is not None
    assert set(result.import_errors) == set(expected)
    for name, told in expected.items():
        assert told in " ".join(result.import_errors[name].split())
    kinds = ("nightly", "train", "repair", "released")
    assert {d.dag_id for d in result.serialized_dags} == {f"flight_delays_{k}" for k in kinds}


def test_a_command_goes_on_without_a_broken_pipeline(settings) -> None:
    project = settings("{task: night}")
    script = f"""
import warnings
from pathlib import Path
from nightjar.orchestration.airflow import project_dags
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    print(project_dags(Path({str(project)!r})))
print([str(w.message) for w in caught])
"""
    lines = in_fresh_python(script).splitlines()
    assert lines[-2] == "{}"
    assert "pipelines/flight_delays.yaml gives no DAG" in lines[-1]
