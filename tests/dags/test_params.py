"""What a run may be asked for, and which arguments a task makes of it."""

import json
import re
from datetime import date
from pathlib import Path

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import ParamValidationError

from nightjar.core.errors import UsageError
from nightjar.orchestration.airflow import project_dags
from nightjar.orchestration.params import NightRequest, NotAsked, RepairRequest, TrainRequest
from nightjar.orchestration.tasks import Task

INTERVAL = (date(2013, 12, 1), date(2013, 12, 2))


def test_a_night_is_the_day_on_which_its_data_interval_begins() -> None:
    asked = NightRequest.of({})
    assert asked.arguments(Task("clean", "flights"), INTERVAL) == [
        "--ds", "2013-12-01", "--source", "flights",
    ]  # fmt: skip
    assert NightRequest.of({"ds": "2013-11-30"}).night(INTERVAL) == date(2013, 11, 30)
    with pytest.raises(UsageError, match="neither"):
        asked.night(None)


def test_force_and_model_reach_the_tasks_that_know_them() -> None:
    asked = NightRequest.of({"force": True, "model": "2"})
    assert asked.arguments(Task("score"), INTERVAL)[2:] == ["--model", "2", "--force"]
    assert asked.arguments(Task("night"), INTERVAL)[2:] == ["--model", "2", "--force"]
    assert asked.arguments(Task("audit"), INTERVAL)[2:] == ["--force"]


def test_only_one_stage() -> None:
    asked = NightRequest.of({"only": "score"})
    assert asked.arguments(Task("score"), INTERVAL) == ["--ds", "2013-12-01"]
    with pytest.raises(NotAsked):
        asked.arguments(Task("clean", "flights"), INTERVAL)
    assert asked.job(Task("night")) == "score"  # of a night in one task, the stage's own job
    assert NightRequest.of({}).job(Task("night")) == "night"


def test_a_training_ends_where_its_interval_ends() -> None:
    asked = TrainRequest.of({"candidates": ["logistic"]})
    with pytest.raises(NotAsked, match="no history"):
        asked.arguments(Task("load"), INTERVAL)
    assert asked.arguments(Task("prepare"), INTERVAL) == [
        "--ds", "2013-12-02", "--candidate", "logistic",
    ]  # fmt: skip
    assert asked.arguments(Task("trial", candidate="logistic"), INTERVAL)[2:] == [
        "--candidate", "logistic",
    ]  # fmt: skip
    with pytest.raises(NotAsked, match="only logistic"):
        asked.arguments(Task("trial", candidate="boosted_trees"), INTERVAL)
    forced = TrainRequest.of({"force": True})
    assert forced.arguments(Task("trial", candidate="boosted_trees"), INTERVAL)[2:] == [
        "--candidate", "boosted_trees", "--force",
    ]  # fmt: skip
    assert forced.arguments(Task("promote"), INTERVAL) == ["--ds", "2013-12-02"]
    loading = TrainRequest.of({"load_first": "2013-01-01", "load_last": "2013-11-30"})
    assert loading.arguments(Task("load"), None) == ["--ds", "2013-01-01", "--to", "2013-11-30"]


RELEASE = "r000003-2013-12-01-c6af8fc4"


def test_a_replay_is_for_one_night_and_the_other_task_is_skipped() -> None:
    asked = RepairRequest.of({"what": "replay", "ds": "2013-12-01", "reason": "--release; $(x)"})
    assert asked.arguments(Task("replay"), None) == [
        "--ds", "2013-12-01", "--reason=--release; $(x)",
    ]  # fmt: skip
    with pytest.raises(NotAsked, match="replay was asked for"):
        asked.require("change_release")
    back = RepairRequest.of({"what": "rollback", "release": RELEASE})
    back.require("change_release")
    with pytest.raises(NotAsked):
        back.arguments(Task("replay"), None)


def test_mended_rows_lie_in_one_folder_of_the_warehouse(tmp_path: Path) -> None:
    def asked(rows: str) -> RepairRequest:
        params = {"what": "replay", "ds": "2013-12-01", "dataset": "airports", "rows": rows}
        return RepairRequest.of(params)

    folder = tmp_path / "edited"
    folder.mkdir()
    (folder / "airports.csv").touch()
    (tmp_path / "secret.csv").touch()
    (folder / "link.csv").symlink_to(tmp_path / "secret.csv")
    assert asked("airports.csv").file(tmp_path) == folder / "airports.csv"
    assert "--dataset=airports" in asked("airports.csv").arguments(Task("replay"), None)
    with pytest.raises(UsageError, match=r"did you mean 'airports\.csv'"):
        asked("airport.csv").file(tmp_path)
    with pytest.raises(UsageError, match=r"no file 'link\.csv'"):
        asked("link.csv").file(tmp_path)
    for name in ("../secret.csv", "/etc/passwd", "a/../../secret.csv", "airports.txt", "a\n.csv"):
        with pytest.raises(UsageError, match="rows"):
            asked(name)


def test_what_the_docs_say_to_trigger_is_good() -> None:
    docs = (Path(__file__).parents[2] / "docs" / "airflow.md").read_text()
    section = docs.partition("## Repairs")[2].partition("## Production")[0]
    shown = [
        json.loads(text.replace("RELEASE", RELEASE)) for text in re.findall("`({.*?})`", section)
    ]
    assert [params.get("what") for params in shown] == [
        None, None, None, "rollback", "pin", "replay", "replay",
    ]  # fmt: skip
    for params in shown:
        kinds = {"what": RepairRequest, "as_of": TrainRequest, "ds": NightRequest}
        next(kind for name, kind in kinds.items() if name in params).of(params)


@pytest.mark.parametrize(
    ("kind", "params", "named"),
    [
        (NightRequest, {"ds": "2013-02-30"}, "ds: expected a day .*YYYY-MM-DD .found '2013-02-30'"),
        (NightRequest, {"ds": "2013-12-01; rm -rf /"}, "ds"),
        (NightRequest, {"model": "1 --conf spark.x=y"}, "model"),
        (NightRequest, {"only": "drop"}, "only"),
        (NightRequest, {"dss": "2013-12-01"}, "no parameter 'dss'; did you mean 'ds'"),
        (RepairRequest, {}, "what is missing"),
        (RepairRequest, {"what": "delete"}, "what"),
        (RepairRequest, {"what": "replay"}, "replay needs ds"),
        (RepairRequest, {"what": "rollback"}, "rollback needs release"),
        (RepairRequest, {"what": "rollback", "release": "../../x"}, "release"),
        (RepairRequest, {"what": "pin", "release": RELEASE, "ds": "2013-12-01"}, "takes no ds"),
        (RepairRequest, {"what": "replay", "ds": "2013-12-01", "dataset": "airports"}, "rows"),
        (RepairRequest, {"what": "replay", "ds": "2013-12-01", "reason": "a\nb"}, "reason"),
        (TrainRequest, {"load_first": "2013-12-01"}, "load_last"),
        (TrainRequest, {"load_first": "2013-12-02", "load_last": "2013-12-01"}, "after"),
    ],
)
def test_what_is_refused(kind: type, params: dict, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        kind.of(params)


@pytest.fixture(scope="module")
def dags() -> dict[str, DAG]:
    return project_dags(Path(__file__).parents[2])


@pytest.mark.parametrize(
    ("dag", "name", "value", "good"),
    [
        ("nightly", "ds", "2013-12-01", True),
        ("nightly", "ds", None, True),
        ("nightly", "ds", "yesterday", False),
        ("nightly", "ds", "2013-12-32", False),
        ("nightly", "only", "score", True),
        ("nightly", "only", None, True),
        ("nightly", "only", "sc", False),
        ("nightly", "model", "3", True),
        ("nightly", "model", "latest", False),
        ("nightly", "force", True, True),
        ("nightly", "force", "yes", False),
        ("repair", "what", "rollback", True),
        ("repair", "what", "drop", False),
        ("repair", "release", RELEASE, True),
        ("repair", "release", None, True),
        ("repair", "release", "current", False),
        ("repair", "dataset", "airports", True),
        ("repair", "dataset", "airport", False),
        ("repair", "rows", "airports.csv", True),
        ("repair", "rows", "../airports.csv", False),
        ("repair", "reason", "asked the source", True),
        ("repair", "reason", "one\ntwo", False),
        ("train", "candidates", ["logistic"], True),
        ("train", "candidates", ["lgoistic"], False),
        ("train", "candidates", ["logistic", "logistic"], False),
        ("train", "load_first", "2013", False),
    ],
)
def test_airflow_holds_each_value_against_its_schema(
    dags: dict[str, DAG], dag: str, name: str, value: object, good: bool
) -> None:
    params = dags[f"flight_delays_{dag}"].params
    if good:
        assert params.get_param(name).resolve(value) == value
    else:
        with pytest.raises(ParamValidationError):
            params.get_param(name).resolve(value)


def test_every_default_is_good() -> None:
    dags = project_dags(Path(__file__).parents[2])
    for dag in dags.values():
        if dag.dag_id.endswith("_repair"):  # what to do must be said
            with pytest.raises(ParamValidationError):
                dag.params.validate()
            dag.params["what"] = "replay"
        dag.params.validate()
    assert set(dags["flight_delays_nightly"].params) == set(NightRequest.model_fields)
    assert set(dags["flight_delays_repair"].params) == set(RepairRequest.model_fields)
    assert set(dags["flight_delays_train"].params) == set(TrainRequest.model_fields)
