"""Quarantined rows as files: what nobody touched comes back as it was, the rest as it was meant."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nightjar.core.contract import Contract, load_contract
from nightjar.core.errors import RepairRefused, UsageError
from nightjar.core.spreadsheet import neutralise, restore
from nightjar.engine.edits import Known, export, read_edits, resolve
from nightjar.engine.quarantine import Refused
from nightjar.engine.repairs import Repair

FILE, SHA = "landing/things/2024-03-01.csv", "a" * 64
NASTY = st.one_of(
    st.text("'=-1@\t ", max_size=4),
    st.text('+|%＝*"\r\n,;0é\0\ufeff', max_size=6),
    st.text(st.characters(codec="utf-8"), max_size=8),
)
CELL = st.one_of(st.none(), NASTY)
ROWS = st.lists(st.tuples(CELL, CELL), min_size=1, max_size=5)
QUICK = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def things(tmp_path: Path) -> Contract:
    path = tmp_path / "things.odcs.yaml"
    path.write_text(
        "{apiVersion: v3.1.0, kind: DataContract, id: t, version: 1.0.0, status: active, schema: "
        "[{name: things, properties: [{name: who, logicalType: string, classification: pii}, "
        "{name: what, logicalType: string}]}]}"
    )
    return load_contract(path)


def held(rows: list[tuple[str | None, str | None]]) -> list[Refused]:
    reason = {"rule": "things.what.x", "column": "what", "found": "=f", "expected": "-e"}
    return [
        Refused(FILE, i, (reason,), {"who": who, "what": what}, None)
        for i, (who, what) in enumerate(rows, start=1)
    ]


def repairs(path: Path, rows: list[Refused], contract: Contract, **more: Any) -> list[Repair]:
    known = {r.key: Known(r.values or {}, r.rules) for r in rows} | more.pop("known", {})
    return resolve(
        read_edits(path, contract), known, {FILE: SHA}, contract,
        spreadsheet=path.suffix == ".csv", replay=1, at="now", by="ada", reason="",
    )  # fmt: skip


def rewrite(path: Path, change: Callable[[dict[str, str]], None]) -> None:
    """As a spreadsheet saves it: other quotes, no byte order mark."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        change(row)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@QUICK
@given(NASTY)
def test_a_cell_is_no_formula_and_comes_back(text: str) -> None:
    cell = neutralise(text)
    assert restore(cell) == text
    number = re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", cell)
    assert number or not re.match(r"\s*[=+\-@＝＋－＠|%]|[\t\r\n]", cell)


@QUICK
@given(ROWS, st.sampled_from([".csv", ".parquet"]), st.booleans(), st.booleans())
def test_what_nobody_touched_is_no_repair(
    tmp_path: Path, things: Contract, rows: Any, kind: str, unmask: bool, saved: bool
) -> None:
    path = tmp_path / f"rows{kind}"
    path.unlink(missing_ok=True)
    assert export(held(rows), path, things, {FILE: SHA}, unmask=unmask) == len(rows)
    if saved and kind == ".csv":
        rewrite(path, lambda row: None)
    assert repairs(path, held(rows), things) == []


@QUICK
@given(CELL, CELL, NASTY)
def test_what_was_touched_is_what_was_meant(
    tmp_path: Path, things: Contract, who: str | None, what: str | None, new: str
) -> None:
    path = tmp_path / "rows.csv"
    path.unlink(missing_ok=True)
    rows = held([(who, what)])
    export(rows, path, things, {FILE: SHA})
    rewrite(path, lambda row: row.update(what=neutralise(new)))
    found = repairs(path, rows, things)
    # Null and empty text look the same in CSV: what looks untouched is.
    same = new == what or (new == "" and what is None)
    values: list[Mapping[str, str | None]] = [] if same else [{"who": who, "what": new}]
    assert [r.values for r in found] == values


def test_personal_data_is_masked_unless_asked_for(tmp_path: Path, things: Contract) -> None:
    rows = held([("ada", "=1+1"), (None, "x")])
    for name, unmask, shown in (("a.csv", False, "***"), ("b.csv", True, "ada")):
        export(rows, tmp_path / name, things, {FILE: SHA}, unmask=unmask)
        with (tmp_path / name).open(encoding="utf-8-sig", newline="") as file:
            first, second = csv.DictReader(file)
        assert (first["who"], first["what"], second["who"]) == (shown, "'=1+1", "")
        assert (first["_record"], first["_sha256"]) == ("1", SHA)
        assert first["_broken"] == "things.what.x: found '=f', expected -e"
    export(rows, tmp_path / "a.parquet", things, {FILE: SHA})
    (who, none) = pq.read_table(tmp_path / "a.parquet")["who"].to_pylist()
    assert (who, none) == ("***", None)
    assert "ada" not in (tmp_path / "a.csv").read_text()


def test_a_repaired_record_is_held_against_its_repair(tmp_path: Path, things: Contract) -> None:
    rows, path = held([("ada", "bad")]), tmp_path / "rows.csv"
    export(rows, path, things, {FILE: SHA})
    rewrite(path, lambda row: row.update(what="good"))
    (made,) = repairs(path, rows, things)
    again = {made.key: Known(made.values, made.rules, made)}
    assert repairs(path, rows, things, known=again) == []
    rewrite(path, lambda row: row.update(_action="Discard", _reason="why"))
    (gone,) = repairs(path, rows, things, known=again)
    assert (gone.action, gone.reason, gone.changed) == ("discard", "why", ())
    again = {made.key: Known(gone.values, gone.rules, gone)}
    assert repairs(path, rows, things, known=again) == []


def test_a_fault_names_the_row_as_a_spreadsheet_counts(tmp_path: Path, things: Contract) -> None:
    rows, path = held([("ada", "bad"), ("bob", "bad")]), tmp_path / "rows.csv"
    export(rows, path, things, {FILE: SHA})
    rewrite(path, lambda row: row.update(_action="discrd"))
    with pytest.raises(RepairRefused, match=r"(?s)row 2: _action.*row 3: _action"):
        repairs(path, rows, things)


def test_an_unparsable_record_gets_its_columns(tmp_path: Path, things: Contract) -> None:
    reason = {"rule": "things.unparsable", "column": None, "found": "f", "expected": "e"}
    row = Refused(FILE, 7, (reason,), None, "a,b,c")
    path = tmp_path / "rows.csv"
    export([row], path, things, {FILE: SHA}, unmask=True)
    assert '"a,b,c"' in path.read_text()
    rewrite(path, lambda cells: cells.update(who="ada"))
    (made,) = repairs(path, [row], things)
    assert (made.values, made.changed) == ({"who": "ada", "what": None}, ("who",))


def test_work_is_never_overwritten(tmp_path: Path, things: Contract) -> None:
    path = tmp_path / "rows.csv"
    export(held([("a", "b")]), path, things, {FILE: SHA})
    with pytest.raises(UsageError, match="already"):
        export(held([("a", "b")]), path, things, {FILE: SHA})
    with pytest.raises(UsageError, match=r"\.csv or \.parquet"):
        export([], tmp_path / "rows.xlsx", things, {})


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (f"_file,_record,_sha256,who,wat\r\nf,1,{SHA},a,b\r\n", "did you mean 'wat'"),
        (f"_file;_record;_sha256;who;what\r\nf;1;{SHA};a;b\r\n", "'_record' is missing"),
        (f"_file,_record,_sha256,who,what\r\nf,1,{SHA},a\r\n", "4 cells"),
        (f"_file,_record,_sha256,who,what\r\nf,1e3,{SHA},a,b\r\n", "as they were exported"),
        (f'_file,_record,_sha256,who,what\r\nf,1,{SHA},"a"x,b\r\n', "is not CSV"),
        ("_file,_file,who\r\nf,f,w\r\n", "stands twice"),
        (b"_file,_record,_sha256,who,what\r\nf,1,s,\xe9,b\r\n", "UTF-8"),
    ],
)
def test_a_file_that_is_no_export_is_refused(
    tmp_path: Path, things: Contract, text: str | bytes, named: str
) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RepairRefused) as caught:
        read_edits(path, things)
    assert named in caught.value.message


def test_parquet_of_other_types_is_refused(tmp_path: Path, things: Contract) -> None:
    import pyarrow as pa

    path = tmp_path / "rows.parquet"
    columns = {"_file": ["f"], "_record": [1], "_sha256": [SHA], "who": ["a"], "what": [1.5]}
    pq.write_table(pa.table(columns), path)
    with pytest.raises(RepairRefused, match="double"):
        read_edits(path, things)
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(RepairRefused, match="is not Parquet"):
        read_edits(path, things)
