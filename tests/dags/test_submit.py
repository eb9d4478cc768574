"""What is submitted, in which environment, and what is refused before anything is."""

import json
import os
import re
from pathlib import Path

import pytest
import yaml
from airflow.sdk.exceptions import AirflowFailException
from tests.dags.conftest import ROOT

from nightjar.core.pipeline import Orchestration
from nightjar.orchestration.airflow import SubmitJob, job_environment, project_dags


@pytest.fixture
def audit(project: Path) -> SubmitJob:
    return project_dags(project)["flight_delays_nightly"].get_task("audit")


def connect(monkeypatch: pytest.MonkeyPatch, **parts: object) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SPARK_DEFAULT", json.dumps({"conn_type": "spark", **parts}))


def test_the_command(monkeypatch: pytest.MonkeyPatch, project: Path, audit: SubmitJob) -> None:
    connect(monkeypatch, host="spark://master", port=7077, password="pass-w0rd")
    monkeypatch.setenv("NIGHTJAR_JOB_ENVIRONMENT", "/opt/job")
    (project / "dist").mkdir()
    (project / "dist" / "nightjar.zip").touch()
    audit.application_args = ["flight_delays", "--ds", "2013-12-01"]
    command = audit._get_hook()._build_spark_submit_command("jobs/audit.py")
    assert command[1] == "-I"
    assert command[2].endswith("launch.py")
    assert command[3] == str(os.getpid())
    assert command[4:] == [
        "/opt/job/bin/spark-submit",
        "--master", "spark://master:7077",
        "--properties-file", str(project / "spark-conf" / "local.conf"),
        "--py-files", str(project / "dist" / "nightjar.zip"),
        "--name", "flight_delays.audit",
        "jobs/audit.py", "flight_delays", "--ds", "2013-12-01",
    ]  # fmt: skip


def test_without_a_connection_nothing_is_guessed(audit: SubmitJob) -> None:
    with pytest.raises(AirflowFailException, match="airflow connections add spark_default"):
        audit._get_hook()


@pytest.mark.parametrize("host", ["spark://master", "master"])
def test_cluster_mode_of_a_standalone_cluster_is_refused(
    monkeypatch: pytest.MonkeyPatch, audit: SubmitJob, host: str
) -> None:
    connect(monkeypatch, host=host, port=7077, extra={"deploy-mode": "cluster"})
    with pytest.raises(AirflowFailException, match="deploy-mode to client"):
        audit._get_hook()


def test_cluster_mode_of_yarn_is_followed_through_its_resource_manager(
    monkeypatch: pytest.MonkeyPatch, audit: SubmitJob
) -> None:
    connect(monkeypatch, host="yarn", extra={"deploy-mode": "cluster"})
    hook = audit._get_hook()
    assert hook._should_track_yarn_application_via_rm_api()
    connect(monkeypatch, host="yarn")
    assert not audit._get_hook()._should_track_yarn_application_via_rm_api()


def test_an_unknown_profile_is_refused(monkeypatch: pytest.MonkeyPatch, audit: SubmitJob) -> None:
    connect(monkeypatch, host="local[*]")
    audit.profile = "lcoal"
    with pytest.raises(AirflowFailException, match="known: gpu, kubernetes, local"):
        audit._get_hook()


def test_the_driver_sees_nothing_of_airflow(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AIRFLOW_CONN_LAKE", "AIRFLOW__CORE__FERNET_KEY", "_AIRFLOW_X", "PYTHONPATH"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("HADOOP_CONF_DIR", "/etc/hadoop")
    seen = job_environment(Path("/opt/job"))
    assert "secret" not in seen.values()
    assert seen["HADOOP_CONF_DIR"] == "/etc/hadoop"
    assert seen["PATH"].startswith("/opt/job/bin:")
    assert seen["PYSPARK_PYTHON"] == seen["PYSPARK_DRIVER_PYTHON"] == "/opt/job/bin/python"


def test_the_settings_that_the_docs_show_are_good_and_are_the_defaults() -> None:
    text = (ROOT / "docs" / "airflow.md").read_text()
    (block,) = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    shown = Orchestration.model_validate(yaml.safe_load(block)["orchestration"])
    assert shown.model_fields_set == set(Orchestration.model_fields)
    with_examples = {"training", "end", "released_by", "notify"}
    assert (
        shown.model_copy(
            update={name: Orchestration.model_fields[name].default for name in with_examples}
        )
        == Orchestration()
    )
