"""Delivered files to bronze rows: bound by header, numbered, counted."""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession
from tests.spark.conftest import pipeline

from nightjar.core.checks import DataType
from nightjar.core.contract import Column, Contract
from nightjar.core.errors import (
    AccountingError,
    ForeignInput,
    HeaderMismatch,
    MissingInput,
    RepeatedInput,
    UnreadableInput,
    UnsettledInput,
)
from nightjar.core.pipeline import Source
from nightjar.core.records import Record
from nightjar.engine.delivery import admitted, find_files, look_at_files
from nightjar.engine.stages import ingest
from nightjar.engine.stages.ingest import (
    FILE,
    PARSED,
    UNPARSABLE,
    accounted,
    bronze_schema,
    file_batches,
    write_files,
)

NIGHT = date(2024, 3, 1)
SOURCE = Source(contract="things", format="csv", path="landing/{ds}.csv")


def rows_of(folder: Path, content: str | bytes, columns: tuple[str, ...] = ("a", "b")) -> list[Any]:
    (folder / "f.csv").write_bytes(content.encode() if isinstance(content, str) else content)
    contract = Contract(
        "things", "1", "", tuple(Column(c, DataType("string")) for c in columns), (), (), ()
    )
    batches = list(file_batches(folder, "f.csv", NIGHT, contract, SOURCE))
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
    named = {ds: (SOURCE.file(ds),) for ds in nights}
    failed = tmp_path / "bronze" / "_making" / "failed-parsed.parquet"  # of a task that ended badly
    failed.parent.mkdir(parents=True)
    failed.write_bytes(b"PAR1")
    write_files(spark, named, tmp_path, things, SOURCE, tmp_path / "bronze")
    frame = spark.read.parquet(str(tmp_path / "bronze"))
    assert frame.drop("kind").schema == bronze_schema(things)
    assert {path.name for path in (tmp_path / "bronze").iterdir()} == {
        f"kind={kind}" for kind in (PARSED, UNPARSABLE, FILE)
    }
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


def look(root: Path, things: Contract, *names: str) -> None:
    look_at_files(root, {NIGHT: names}, things, SOURCE)


def test_one_wrong_file_is_refused_by_its_kind(tmp_path: Path, things: Contract) -> None:
    (tmp_path / "f.csv").write_text("a,bb,c\n1,2,3\n")
    with pytest.raises(HeaderMismatch) as caught:
        look(tmp_path, things, "f.csv")
    assert caught.value.details["missing"] == ["b"]
    assert caught.value.details["extra"] == ["bb", "c"]


def test_all_wrong_files_are_listed_at_once(tmp_path: Path, things: Contract) -> None:
    names = [f"{n}.csv" for n in (1, 2, 3)]
    (tmp_path / "2.csv").write_text("a,b\n")
    with pytest.raises(MissingInput, match=r"2 of 3 files(.|\n)*1\.csv(.|\n)*3\.csv"):
        look(tmp_path, things, *names)
    (tmp_path / "1.csv").write_text("a\n")
    with pytest.raises(UnreadableInput, match="2 of 3 files"):
        look(tmp_path, things, *names)


# -- which files ---------------------------------------------------------------------------------


def test_a_star_takes_all_that_match_and_nothing_else_is_special(tmp_path: Path) -> None:
    source = Source(contract="things", format="csv", path="landing/{ds}/a*[x]*.csv")
    folder = tmp_path / "landing" / "2024-03-01"
    folder.mkdir(parents=True)
    taken = ["a b[x]=%20é.csv", "a*[x]?.csv", "a[x].csv", "a_[x]\n.csv"]
    for name in (*taken, "ax.csv", "b[x].csv", "a[x].csv.part", "A[x].csv"):
        (folder / name).write_text("")
    found = find_files(tmp_path, source, [NIGHT])
    assert found == {NIGHT: tuple(f"landing/2024-03-01/{n}" for n in sorted(taken))}
    with pytest.raises(MissingInput, match="nothing there"):
        find_files(tmp_path, source, [date(2024, 3, 2)])


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "landing").mkdir()
    Path(os.fsdecode(b"%b/landing/\xff.csv" % bytes(tmp_path))).write_text("a,b\n")
    with pytest.raises(UnreadableInput, match="no UTF-8"):
        find_files(tmp_path, SOURCE.model_copy(update={"path": "landing/*.csv"}), [NIGHT])


def test_links_may_not_lead_out_of_the_landing_folder(tmp_path: Path, things: Contract) -> None:
    (tmp_path / "landing").mkdir()
    (tmp_path / "landing" / "in.csv").write_text("a,b\n1,2\n")
    (tmp_path / "secret.csv").write_text("a,b\n1,2\n")
    (tmp_path / "landing" / "good.csv").symlink_to("in.csv")
    (tmp_path / "landing" / "bad.csv").symlink_to("../secret.csv")
    (tmp_path / "landing" / "loop.csv").symlink_to("loop.csv")
    look(tmp_path, things, "landing/good.csv")
    with pytest.raises(ForeignInput):
        look(tmp_path, things, "landing/bad.csv")
    with pytest.raises(UnreadableInput):
        look(tmp_path, things, "landing/loop.csv")
    (bad,) = file_batches(tmp_path, "landing/bad.csv", NIGHT, things, SOURCE)
    assert bad.column("_reason").to_pylist() == ["INPUT_OUTSIDE"]


def test_a_pipe_is_no_file(tmp_path: Path, things: Contract) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(UnreadableInput, match="no plain file"):
        look(tmp_path, things, "pipe.csv")


def test_a_file_must_have_settled(tmp_path: Path, things: Contract) -> None:
    (tmp_path / "f.csv").write_text("a,b\n1,2\n")
    source = Source(contract="things", format="csv", path="f.csv", settled="10 minutes")
    with pytest.raises(UnsettledInput):
        admitted(tmp_path, "f.csv", source)
    os.utime(tmp_path / "f.csv", (4e9, 4e9))  # the clock of another machine
    assert admitted(tmp_path, "f.csv", SOURCE) == tmp_path / "f.csv"
    os.utime(tmp_path / "f.csv", (1e9, 1e9))
    assert admitted(tmp_path, "f.csv", source) == tmp_path / "f.csv"


# -- the stage -----------------------------------------------------------------------------------


class Traffic:
    """A project whose source `traffic` is many files a night."""

    def __init__(self, parcels: Any, **options: Any) -> None:
        self.parcels = parcels
        sources = pipeline()["sources"]
        path = "landing/traffic/{ds}/*.csv*"
        sources["traffic"] = {**sources["traffic"], "path": path, **options}
        parcels.write_spec(sources=sources)

    def land(self, ds: date, name: str, content: str | bytes) -> Path:
        path = self.parcels.project.warehouse / "landing" / "traffic" / str(ds) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def run(self, *nights: date) -> dict[date, Record]:
        return ingest.run(self.parcels.work(*nights), "traffic")


def rows(depot: str, count: int = 1, header: str = "depot,seen_at,jam") -> str:
    return header + "\n" + f"{depot},2024-03-01T00:00:00Z,1\n" * count


@pytest.fixture
def traffic(new_parcels: Callable[..., Any]) -> Traffic:
    return Traffic(new_parcels())


def test_a_night_of_many_files_is_accounted_for_file_by_file(traffic: Traffic) -> None:
    other = date(2024, 3, 2)
    traffic.land(NIGHT, "b.csv", rows("north", 3) + "short\n")
    traffic.land(NIGHT, "a é%=[1].csv", rows("south", 2).encode("utf-16"))
    traffic.land(NIGHT, "c.csv.gz", gzip.compress(rows("east", 4).encode()))
    traffic.land(NIGHT, "none.csv", "depot,seen_at,jam\n")
    traffic.land(NIGHT, "none2.csv", "depot,seen_at,jam\n")
    traffic.land(other, "b.csv", rows("west"))
    records = traffic.run(NIGHT, other)
    assert records[NIGHT].counts == {"read": 10, "unparsable": 1}
    assert records[other].counts == {"read": 1, "unparsable": 0}
    said = {
        Path(f["file"]).name: (f["records"], f["unparsable"], f["encoding"])
        for f in records[NIGHT].details["files"]
    }
    assert said == {
        "a é%=[1].csv": (2, 0, "utf-16-le"),
        "b.csv": (4, 1, "utf-8"),
        "c.csv.gz": (4, 0, "utf-8"),
        "none.csv": (0, 0, "utf-8"),
        "none2.csv": (0, 0, "utf-8"),
    }
    # A late file makes the night another one.
    traffic.land(NIGHT, "late.csv", rows("late"))
    assert traffic.run(NIGHT)[NIGHT].counts == {"read": 11, "unparsable": 1}


def test_what_only_the_executors_see_is_an_error_of_ours(traffic: Traffic) -> None:
    cut = gzip.compress(rows("north", 2_000_000).encode())[:-20]
    traffic.land(NIGHT, "a.csv", rows("north"))
    traffic.land(NIGHT, "b.csv.gz", cut)
    with pytest.raises(UnreadableInput, match=r"b\.csv\.gz.*truncated"):
        traffic.run(NIGHT)
    traffic.land(NIGHT, "c.csv.gz", cut[:-1])
    with pytest.raises(UnreadableInput, match="2 of 3 files"):
        traffic.run(NIGHT)
    assert traffic.parcels.work(NIGHT).book.get(NIGHT, "ingest.traffic") is None


def test_the_same_bytes_twice_are_refused(traffic: Traffic) -> None:
    other = date(2024, 3, 2)
    first = traffic.land(NIGHT, "a.csv", rows("north"))
    copy = traffic.land(NIGHT, "b.csv", rows("north"))
    with pytest.raises(RepeatedInput, match=r"b\.csv holds the very bytes of .*a\.csv"):
        traffic.run(NIGHT)
    copy.unlink()
    traffic.run(NIGHT)
    traffic.land(other, "c.csv", first.read_bytes())
    with pytest.raises(RepeatedInput, match=r"2024-03-02/c\.csv holds the very bytes"):
        traffic.run(other)
    allowed = Traffic(traffic.parcels, repeats="allow")
    assert allowed.run(other)[other].counts["read"] == 1


def test_rows_that_were_not_written_are_noticed(traffic: Traffic) -> None:
    traffic.land(NIGHT, "a.csv", rows("north", 2))
    record = traffic.run(NIGHT)[NIGHT]
    folder = traffic.parcels.project.warehouse / record.outputs[PARSED]
    name = record.details["files"][0]["file"]
    assert accounted(folder.parent, {NIGHT: [name]})[NIGHT, name]["_records"] == 2
    for part in folder.iterdir():
        part.unlink()
    with pytest.raises(AccountingError):
        accounted(folder.parent, {NIGHT: [name]})
