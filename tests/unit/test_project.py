"""Projects, dates, errors and run records."""

from __future__ import annotations

import hashlib
import os
import pickle
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightjar.core import errors, records
from nightjar.core.errors import (
    Conflict,
    Fault,
    NightjarError,
    NotThereYet,
    SpecError,
    UsageError,
    near,
)
from nightjar.core.pipeline import Source
from nightjar.core.project import Project, nights_between, parse_ds
from nightjar.core.records import Record, RecordBook, fingerprint

# -- where a project is ------------------------------------------------------------------------


def test_found_at_or_above_the_working_folder(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NIGHTJAR_WAREHOUSE", raising=False)
    monkeypatch.chdir(project.root / "schemas")
    assert Project.find() == Project(project.root, project.root / "warehouse")


def test_the_warehouse_is_the_one_given_then_the_environments(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NIGHTJAR_WAREHOUSE", str(tmp_path / "from-environment"))
    assert Project.find(project.root).warehouse == tmp_path / "from-environment"
    assert Project.find(project.root, tmp_path / "given").warehouse == tmp_path / "given"


def test_no_project(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotThereYet) as caught:
        Project.find(project.root / "schemas")
    assert caught.value.details["searched"] == [str(project.root / "schemas")]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotThereYet) as caught:
        Project.find()
    assert str(tmp_path.parent) in caught.value.details["searched"]


def test_names(project: Project) -> None:
    assert project.pipeline_names() == ["late_trips"]
    assert project.contract_names() == ["stations", "trip_scores", "trips"]
    assert project.pipeline_file("late_trips").is_file()
    assert project.relative(project.warehouse / "a" / "b") == "a/b"
    for name in ("late_trip", "../late_trips", "schemas/trips", ""):
        with pytest.raises(UsageError) as caught:
            project.pipeline_file(name)
        assert caught.value.details["found"] == name


# -- dates -------------------------------------------------------------------------------------


def test_dates() -> None:
    assert parse_ds("2013-12-01") == date(2013, 12, 1)
    assert parse_ds("2016-02-29") == date(2016, 2, 29)


@pytest.mark.parametrize(
    "text",
    [
        "../../x",
        "2013-1-1",
        '2013-12-01"; drop',
        "2013-12-01\n",
        " 2013-12-01",
        "2013-02-30",
        "2015-02-29",
        "20131201",
        "2013-W01-1",
        "0000-01-01",
        "2013-12-01T00:00",
        "٢٠١٣-١٢-٠١",
        "",
    ],
)
def test_no_dates(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_ds(text)
    assert (caught.value.code, caught.value.details["found"]) == ("USAGE", text)


@given(st.text(max_size=12))
def test_any_text_is_the_date_it_shows_or_refused(text: str) -> None:
    try:
        shown = parse_ds(text).isoformat()
    except UsageError:
        return
    assert shown == text


def test_nights_between() -> None:
    first, last = date(2016, 2, 28), date(2016, 3, 1)
    assert nights_between(first, last) == [first, date(2016, 2, 29), last]
    assert nights_between(first, first) == [first]
    with pytest.raises(UsageError):
        nights_between(last, first)


# -- errors ------------------------------------------------------------------------------------

FAMILY = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, NightjarError)
]


def test_codes_are_unique_and_exits_are_known() -> None:
    assert len({kind.code for kind in FAMILY}) == len(FAMILY)
    assert {kind.exit_status for kind in FAMILY} == {1, 2, 3, 4, 5, 6}


@pytest.mark.parametrize("kind", [k for k in FAMILY if k is not SpecError], ids=lambda k: k.code)
def test_errors_survive_pickling(kind: type[NightjarError]) -> None:
    error = kind("it is so", path="a/b", count=3)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.message, again.details) == (kind, "it is so", error.details)
    assert again.as_dict() == {"code": kind.code, "message": "it is so", "path": "a/b", "count": 3}
    assert str(again) == f"[{kind.code}] it is so"


def test_spec_errors_keep_their_faults_sorted_and_once() -> None:
    late, early = Fault("b.yaml", 3, "wrong"), Fault("a.yaml", 9, "odd", "do this")
    error = pickle.loads(pickle.dumps(SpecError(faults=[late, early, late])))
    assert error.faults == (early, late)
    assert "2 faults" in str(error)
    assert "a.yaml:9: odd\n    do this\nb.yaml:3: wrong" in str(error)
    assert error.as_dict()["faults"][0] == {
        "file": "a.yaml",
        "line": 9,
        "problem": "odd",
        "suggestion": "do this",
    }


def test_near() -> None:
    assert "'flights'" in near("flihgts", ["flights", "weather"])
    assert near("zzz", ["b", "a", "b"]) == "known: a, b"
    assert near("zzz", []) == "none is known"


# -- records -----------------------------------------------------------------------------------

NIGHT = date(2013, 12, 1)
RECORD = Record("clean", "2013-12-01", "f1", "a1", counts={"rows": 3})


def put(book: RecordBook, record: Record) -> None:
    book.claim(date.fromisoformat(record.ds), record.step, record.attempt)
    book.put(record)


def test_a_record_is_read_back(tmp_path: Path) -> None:
    book = RecordBook(tmp_path, "late_trips")
    assert (book.get(NIGHT, "clean"), book.nights("clean")) == (None, [])
    put(book, RECORD)
    put(book, replace(RECORD, ds="2013-11-30"))
    assert book.get(NIGHT, "clean") == RECORD
    assert book.nights("clean") == [date(2013, 11, 30), NIGHT]
    assert book.nights("publish") == []


@pytest.mark.parametrize("text", ["", '{"step": "clean", "ds"', "[]", "{}", '{"strange": 1}', "7"])
def test_a_torn_record_is_none(tmp_path: Path, text: str) -> None:
    book = RecordBook(tmp_path, "late_trips")
    put(book, RECORD)
    (tmp_path / "runs/late_trips/2013-12-01/clean.json").write_text(text)
    assert book.get(NIGHT, "clean") is None


def test_the_attempt_that_began_last_writes_the_record(tmp_path: Path) -> None:
    book = RecordBook(tmp_path, "late_trips")
    first, second = replace(RECORD, attempt="a1"), replace(RECORD, attempt="a2")
    other = replace(RECORD, step="clean.trips")  # a step of its own, though its name begins so
    for one in (first, other, second):
        book.claim(NIGHT, one.step, one.attempt)
    with pytest.raises(Conflict):  # while the second still works
        book.put(first)
    assert book.get(NIGHT, "clean") is None
    book.put(second)
    book.put(other)
    for late in (first, second):  # a claim is good for one record
        with pytest.raises(Conflict):
            book.put(late)
    assert book.get(NIGHT, "clean") == second
    names = sorted(p.name for p in (tmp_path / "runs/late_trips/2013-12-01").iterdir())
    assert names == ["clean.json", "clean.trips.json"]


def test_a_claim_that_is_taken_away_while_its_record_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = RecordBook(tmp_path, "late_trips")
    book.claim(NIGHT, "clean", "a1")
    monkeypatch.setattr(os, "fsync", lambda handle: book.claim(NIGHT, "clean", "a2"))
    with pytest.raises(Conflict):
        book.put(RECORD)
    assert book.get(NIGHT, "clean") is None
    monkeypatch.undo()
    book.put(replace(RECORD, attempt="a2"))
    assert book.get(NIGHT, "clean") == replace(RECORD, attempt="a2")


def test_a_record_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = RecordBook(tmp_path, "late_trips")
    put(book, RECORD)
    path = tmp_path / "runs/late_trips/2013-12-01/clean.json"
    old = path.read_text()

    def full(handle: int) -> None:
        raise OSError("no space")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        put(book, replace(RECORD, attempt="a2"))
    assert path.read_text() == old
    monkeypatch.undo()
    put(book, replace(RECORD, attempt="a3"))
    assert [p.name for p in path.parent.iterdir()] == ["clean.json"]


def test_fingerprints_see_values_and_not_their_order() -> None:
    source = Source.model_validate({"contract": "a", "format": "csv", "path": "a.csv"})
    first = fingerprint(a=1, b={"x": 1, "y": [1, 2]}, spec=source, day=NIGHT, at=Path("x"))
    again = fingerprint(at=Path("x"), day=NIGHT, spec=source, b={"y": [1, 2], "x": 1}, a=1)
    assert first == again
    others = [fingerprint(a=1), fingerprint(a="1"), fingerprint(a=[1]), fingerprint(b=1)]
    assert len({*others, first}) == 5


def test_a_fingerprint_is_the_same_on_every_machine() -> None:
    text = '{"a": 1, "day": "2013-12-01"}'
    assert fingerprint(day=NIGHT, a=1) == hashlib.sha256(text.encode()).hexdigest()


def test_a_fingerprint_of_something_else_is_refused() -> None:
    with pytest.raises(TypeError):
        fingerprint(a={1, 2})


def test_the_code_has_one_digest() -> None:
    assert records.code_digest() == records.code_digest.__wrapped__()
