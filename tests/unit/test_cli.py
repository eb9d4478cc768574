"""The command line, as far as it goes without Spark."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import date
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from nightjar.cli import app
from nightjar.core.project import Project
from nightjar.core.records import Record, RecordBook

COMMANDS = [c.name or c.callback.__name__ for c in app.registered_commands if c.callback]
HEAVY = {
    *("pyspark", "pandas", "numpy", "pyarrow", "sklearn", "mlflow", "great_expectations"),
    *("duckdb", "tensorflow", "airflow"),
}


def nightjar(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def place(project: Project) -> tuple[str, ...]:
    return ("--project", str(project.root), "--warehouse", str(project.warehouse))


def loaded_by(*arguments: str) -> set[str]:
    """The top-level modules that one command leaves in sys.modules."""
    code = (
        "import sys, nightjar.cli\n"
        "try: nightjar.cli.app(sys.argv[1:])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print('\\n', *{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


def test_help_is_light() -> None:
    assert "nightjar" in (loaded := loaded_by("--help"))
    assert not loaded & {*HEAVY, "sqlglot"}


def test_listing_releases_is_light(project: Project) -> None:
    assert not loaded_by("releases", *place(project)) & HEAVY


@pytest.mark.parametrize("command", [("quarantine", "list"), ("accounting",)])
def test_what_is_in_the_records_is_light(project: Project, command: tuple[str, ...]) -> None:
    book = RecordBook(project.warehouse, "late_trips")
    files = [{"file": "f.csv", "bytes": 9, "sha256": "0", "records": 3, "unparsable": 1}]
    became = {"clean": 1, "quarantined": 2, "deduplicated": 0, "discarded": 0}
    told = [{"file": "f.csv", "sha256": "0", **became}]
    counts, details = {"read": 3, **became}, {"files": told, "rules_broken": {"trips.x": 2}}
    for step, more in (
        ("ingest.trips", {"details": {"files": files}}),
        ("clean.trips", {"counts": counts, "details": details}),
    ):
        book.claim(date(2024, 3, 1), step, "")
        book.put(Record(step, "2024-03-01", "", "", **more))  # type: ignore[arg-type]
    assert not loaded_by(*command, "late_trips", *place(project)) & HEAVY
    shown = nightjar(*command, "late_trips", *place(project)).output
    assert "2024-03-01" in shown
    assert "2 x trips.x" in shown or "f.csv" in shown


@pytest.mark.parametrize(
    "asked",
    [
        ("show", "late_trips", "--ds", "2024-03-01", "--dataset", "../../etc"),
        ("show", "late_trips", "--ds", "2024-03-01", "--dataset", "trips'; DROP TABLE x; --"),
        ("show", "late_trips", "--ds", "../2024", "--dataset", "trips"),
        ("show", "late_trips", "--ds", "2024-02-30", "--dataset", "trips"),
        ("list", "../late_trips"),
        ("list", "$(reboot)"),
        ("replay", "late_trips", "--ds", "2024-03-01", "--dataset", "trip", "--rows", "x.csv"),
        ("replay", "late_trips", "--ds", "2024-03-01", "--rows", "x.csv"),
    ],
)
def test_values_are_data_never_paths_or_commands(project: Project, asked: tuple[str, ...]) -> None:
    result = nightjar("quarantine", *asked, *place(project))
    assert (result.exit_code, result.exception.__class__) == (2, SystemExit)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    result = nightjar(command, "--help")
    assert (result.exit_code, "Exit status" in result.stdout) == (0, True)


def test_no_command_is_a_call_for_help() -> None:
    result = nightjar()
    assert (result.exit_code, all(name in result.output for name in COMMANDS)) == (2, True)


@pytest.fixture
def without_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the environment of a scheduler, which has no Spark."""
    monkeypatch.setitem(sys.modules, "pyspark", None)
    monkeypatch.delitem(sys.modules, "nightjar.engine.trainers", raising=False)
    monkeypatch.setitem(sys.modules, "pyspark.sql", None)


@pytest.mark.usefixtures("without_engine")
def test_check(project: Project) -> None:
    result = nightjar("check", "--project", str(project.root), "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {
        "pipelines": ["late_trips"],
        "contracts": ["stations", "trip_scores", "trips"],
    }
    assert "pyspark" in result.stderr


@pytest.mark.usefixtures("without_engine")
def test_check_reports_every_fault(project: Project, edit: Any) -> None:
    pipeline, contract = "pipelines/late_trips.yaml", "schemas/stations.odcs.yaml"
    expected = [
        (pipeline, edit(pipeline, "base: trips", "base: trisp"), "did you mean 'trips'?"),
        (contract, edit(contract, "status: active", "statsu: active"), "did you mean 'status'?"),
    ]
    result = nightjar("check", "--project", str(project.root), "--json")
    error = json.loads(result.stdout)["error"]
    assert (result.exit_code, error["code"]) == (2, "SPEC_INVALID")
    assert [(f["file"], f["line"], f["suggestion"]) for f in error["faults"]] == expected
    for file, line, suggestion in expected:
        assert f"{file}:{line}: " in result.stderr
        assert suggestion in result.stderr


def test_an_estimator_that_is_not_there(project: Project, edit: Any) -> None:
    line = edit("pipelines/late_trips.yaml", "LogisticRegression", "LogisticRegresion")
    result = nightjar("check", "--project", str(project.root), "--json")
    (fault,) = json.loads(result.stdout)["error"]["faults"]
    assert (result.exit_code, fault["line"]) == (2, line)
    assert "LogisticRegression" in fault["suggestion"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "late_trip", "--ds", "2013-12-01"),
        ("train", "late_trip", "--as-of", "2013-12-01"),
        ("load", "late_trip", "--from", "2013-12-01", "--to", "2013-12-02"),
        ("releases", "late_trip"),
    ],
)
def test_an_unknown_pipeline(project: Project, arguments: tuple[str, ...]) -> None:
    result = nightjar(*arguments, *place(project), "--json")
    error = json.loads(result.stdout)["error"]
    assert (result.exit_code, error["code"], error["found"]) == (2, "USAGE", "late_trip")
    assert "'late_trips'" in error["message"]
    assert not project.warehouse.exists()


@pytest.mark.parametrize("ds", ["2013-1-1", "../../x", '2013-12-01"; drop', "", "tomorrow"])
def test_a_date_that_is_none(project: Project, ds: str) -> None:
    for arguments in (("run", "late_trips", "--ds", ds), ("train", "late_trips", "--as-of", ds)):
        result = nightjar(*arguments, *place(project))
        assert (result.exit_code, "YYYY-MM-DD" in result.stderr or ds in result.stderr) == (2, True)
    assert not project.warehouse.exists()


def test_a_range_that_runs_backwards(project: Project) -> None:
    nights = ("--from", "2013-12-02", "--to", "2013-12-01")
    result = nightjar("load", "late_trips", *nights, *place(project), "--json")
    assert (result.exit_code, json.loads(result.stdout)["error"]["code"]) == (2, "USAGE")


def test_a_broken_pipeline_does_not_run(project: Project, edit: Any) -> None:
    edit("pipelines/late_trips.yaml", "base: trips", "base: trisp")
    result = nightjar("run", "late_trips", "--ds", "2013-12-01", *place(project), "--json")
    assert (result.exit_code, json.loads(result.stdout)["error"]["code"]) == (2, "SPEC_INVALID")


def test_releases_before_the_first(project: Project) -> None:
    result = nightjar("releases", *place(project), "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"releases": []})
    assert not project.warehouse.exists()


def test_query_before_the_first_release(project: Project) -> None:
    result = nightjar("query", "SELECT 1", *place(project), "--json")
    assert (result.exit_code, json.loads(result.stdout)["error"]["code"]) == (4, "NOT_THERE_YET")


def test_no_project_here(project: Project) -> None:
    result = nightjar("check", "--project", str(project.root / "schemas"))
    assert (result.exit_code, "[NOT_THERE_YET]" in result.stderr) == (4, True)
