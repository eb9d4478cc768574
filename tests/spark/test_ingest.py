"""Delivered files to bronze rows: bound by header, numbered, counted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from nightjar.core.contract import Contract
from nightjar.core.errors import HeaderMismatch, MissingInput, UnreadableInput
from nightjar.core.pipeline import Source
from nightjar.engine.delivery import look_at_files
from nightjar.engine.stages.ingest import (
    FILE,
    PARSED,
    UNPARSABLE,
    bronze_schema,
    file_batches,
    read_files,
)

NIGHT = date(2024, 3, 1)
SOURCE = Source(contract="things", format="csv", path="landing/{ds}.csv")


def rows_of(folder: Path, content: str | bytes, columns: tuple[str, ...] = ("a", "b")) -> list[Any]:
    (folder / "f.csv").write_bytes(content.encode() if isinstance(content, str) else content)
    batches = list(file_batches(folder, "f.csv", NIGHT, columns, ","))
    return list(pa.Table.from_batches(batches).to_pylist())


def parsed(rows: list[Any]) -> list[tuple[Any, ...]]:
    return [(r["_record"], r["a"], r["b"]) for r in rows if r["kind"] == PARSED]


def unparsable(rows: list[Any]) -> list[tuple[Any, ...]]:
    return [(r["_record"], r["_text"], r["_reason"]) for r in rows if r["kind"] == UNPARSABLE]


def test_columns_are_bound_by_name_in_any_order(tmp_path: Path) -> None:
    assert parsed(rows_of(tmp_path, "a,b\n1,x\n2,y\n")) == [(1, "1", "x"), (2, "2", "y")]
    assert parsed(rows_of(tmp_path, "b,a\nx,1\ny,2\n")) == [(1, "1", "x"), (2, "2", "y")]


def test_values_are_text_unchanged(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, 'a,b\n 007 ,NA\n"1,5","say ""x""\nthere"\n,""\n')
    assert parsed(rows) == [(1, " 007 ", "NA"), (2, "1,5", 'say "x"\nthere'), (3, "", "")]


def test_every_row_says_where_it_is_from(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, "a,b\n1,x\n2,y,z\n3,w\n")
    assert {(r["_ds"], r["_file"]) for r in rows} == {(NIGHT, "f.csv")}
    assert sorted((r["_record"], r["kind"]) for r in rows) == [
        (0, FILE),
        (1, PARSED),
        (2, UNPARSABLE),
        (3, PARSED),
    ]


def test_records_that_cannot_be_parsed_keep_their_text(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, "a,b\n1\n2,x\n3,y,z\n")
    assert parsed(rows) == [(2, "2", "x")]
    assert unparsable(rows) == [
        (1, "1", "found 1 fields, expected 2"),
        (3, "3,y,z", "found 3 fields, expected 2"),
    ]


def test_bytes_that_are_no_utf8_make_one_record_unparsable(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, b"a,b\n1,x\n2,\xff\n3,z\n")
    assert parsed(rows) == [(1, "1", "x"), (3, "3", "z")]
    assert unparsable(rows) == [(2, "2,\\xff", "column 'b' is not UTF-8")]


def test_the_last_row_holds_the_facts_of_the_file(tmp_path: Path) -> None:
    content = b"a,b\n1,x\n2,y,z\n3,\xff\n\n4,w\n"
    last = rows_of(tmp_path, content)[-1]
    assert last["kind"] == FILE
    assert (last["_records"], last["_unparsable"]) == (4, 2)
    assert last["_bytes"] == len(content)
    assert last["_sha256"] == hashlib.sha256(content).hexdigest()


def test_a_file_with_a_header_alone_has_no_records(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, "a,b\n")
    assert [(r["kind"], r["_records"]) for r in rows] == [(FILE, 0)]


@pytest.fixture
def things(contract: Callable[..., Contract]) -> Contract:
    return contract(
        [{"name": "a", "logicalType": "integer"}, {"name": "b", "logicalType": "string"}]
    )


def test_files_are_read_by_spark(spark: SparkSession, tmp_path: Path, things: Contract) -> None:
    nights = [date(2024, 3, 1), date(2024, 3, 2)]
    (tmp_path / "landing").mkdir()
    files = {ds: tmp_path / SOURCE.file(ds) for ds in nights}
    files[nights[0]].write_text("a,b\n1,x\n2,y\n")
    files[nights[1]].write_text("b,a\nz,3\nno,9,9\n")
    frame = read_files(spark, files, tmp_path, things, SOURCE)
    assert frame.drop("kind").schema == bronze_schema(things)
    rows = sorted(frame.collect(), key=lambda r: (r["_ds"], r["_record"]))
    names = [path.relative_to(tmp_path).as_posix() for path in files.values()]
    assert [(r["_ds"], r["_file"], r["kind"], r["a"], r["b"]) for r in rows] == [
        (nights[0], names[0], FILE, None, None),
        (nights[0], names[0], PARSED, "1", "x"),
        (nights[0], names[0], PARSED, "2", "y"),
        (nights[1], names[1], FILE, None, None),
        (nights[1], names[1], PARSED, "3", "z"),
        (nights[1], names[1], UNPARSABLE, None, None),
    ]
    assert rows[-1]["_text"] == "no,9,9"


def test_one_wrong_file_is_refused_by_its_kind(tmp_path: Path, things: Contract) -> None:
    (tmp_path / "f.csv").write_text("a,bb,c\n1,2,3\n")
    with pytest.raises(HeaderMismatch) as caught:
        look_at_files({NIGHT: tmp_path / "f.csv"}, things, ",")
    assert caught.value.details["missing"] == ["b"]
    assert caught.value.details["extra"] == ["bb", "c"]


def test_all_wrong_files_are_listed_at_once(tmp_path: Path, things: Contract) -> None:
    files = {date(2024, 3, d): tmp_path / f"{d}.csv" for d in (1, 2, 3)}
    files[date(2024, 3, 2)].write_text("a,b\n")
    with pytest.raises(MissingInput, match=r"2 of 3 files(.|\n)*1\.csv(.|\n)*3\.csv"):
        look_at_files(files, things, ",")
    files[date(2024, 3, 1)].write_text("a\n")
    with pytest.raises(UnreadableInput, match="2 of 3 files"):
        look_at_files(files, things, ",")
