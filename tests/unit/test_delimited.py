"""Delimited text: every record of a file, exactly, however it is broken."""

from __future__ import annotations

import bz2
import csv
import gzip
import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nightjar.core.errors import (
    EmptyInput,
    HeaderMismatch,
    MissingInput,
    NightjarError,
    OversizedInput,
    UnreadableInput,
    UnsettledInput,
)
from nightjar.core.pipeline import Source
from nightjar.engine import delimited, textfile
from nightjar.engine.delivered import FileFacts, Records, Unparsable

Rows = dict[int, tuple[str, ...] | Unparsable]


def read(
    path: Path, names: Sequence[str] = "ab", delimiter: str = ",", **options: Any
) -> tuple[Rows, FileFacts]:
    """Every record by its number; a number that comes twice fails."""
    rows: Rows = {}
    source = Source(contract="t", format="csv", path=path.name, delimiter=delimiter, **options)
    *items, facts = delimited.read_records(path, tuple(names), source)
    for item in items:
        found: Rows = {}
        if isinstance(item, Records):
            values = zip(*(column.to_pylist() for column in item.columns), strict=True)
            found = dict(zip(item.numbers.tolist(), values, strict=True))
        elif isinstance(item, Unparsable):
            found = {item.number: item}
        assert not rows.keys() & found.keys()
        rows.update(found)
    assert isinstance(facts, FileFacts)
    assert (facts.bytes, facts.sha256) == (
        path.stat().st_size,
        hashlib.sha256(path.read_bytes()).hexdigest(),
    )
    assert facts.records == len(rows)
    assert facts.unparsable == sum(isinstance(row, Unparsable) for row in rows.values())
    return rows, facts


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(content: str | bytes, name: str = "in.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


# -- good records ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("a,b\n1,2\n3,4\n", [("1", "2"), ("3", "4")]),
        ("a,b\n1,2", [("1", "2")]),
        ("a,b\r\n1,2\r\n", [("1", "2")]),
        ("a,b\r1,2\r3,4\r", [("1", "2"), ("3", "4")]),
        ("a,b\n\n1,2\n\r\n\n3,4\n\n", [("1", "2"), ("3", "4")]),
        ("\n\na,b\n1,2\n", [("1", "2")]),
        ('a,b\n"1","2"\n', [("1", "2")]),
        ('a,b\n"x,y","say ""no"""\n', [("x,y", 'say "no"')]),
        ('a,b\n"line\nbreak","\r\n"\n', [("line\nbreak", "\r\n")]),
        ('a,b\n"",\n', [("", "")]),
        ("a,b\n5\" pipe,it's\n", [('5" pipe', "it's")]),
        ("a,b\n 1 ,NA\n", [(" 1 ", "NA")]),
        ("a,b\nnull,007\n", [("null", "007")]),
        ("a,b\né,\U0001f42c\n", [("é", "\U0001f42c")]),
        ("\ufeffa,b\n1,2\n", [("1", "2")]),
        ('\ufeff"a",b\n1,2\n', [("1", "2")]),
        ("b,a\n1,2\n", [("2", "1")]),
        ("a,b\n", []),
        ("a,b", []),
    ],
)
def test_records(write: Write, text: str, rows: list[tuple[str, str]]) -> None:
    assert read(write(text))[0] == dict(enumerate(rows, 1))


def test_one_column(write: Write) -> None:
    assert read(write('a\n1\n\n""\n2\n'), "a")[0] == {1: ("1",), 2: ("",), 3: ("2",)}


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_delimiters(write: Write, delimiter: str) -> None:
    path = write(f'a{delimiter}b\n1,5{delimiter}"x{delimiter}y"\n')
    assert read(path, delimiter=delimiter)[0] == {1: ("1,5", f"x{delimiter}y")}


@pytest.mark.parametrize(
    ("ending", "pack"),
    [
        (".gz", gzip.compress),
        (".bz2", bz2.compress),
        (".zst", lambda data: pa.compress(data, codec="zstd", asbytes=True)),
        (".gz", lambda data: gzip.compress(data[:5], mtime=0) + gzip.compress(data[5:])),
    ],
)
def test_compressed_files(write: Write, ending: str, pack: Callable[[bytes], bytes]) -> None:
    path = write(pack(b'a,b\n1,2\n3,"4\n'), f"in.csv{ending}")
    rows, _ = read(path)
    assert rows[1] == ("1", "2")
    assert rows[2] == Unparsable(2, '3,"4\n', "a quote is not closed")


# -- broken records ----------------------------------------------------------------------------


def test_ragged_records_keep_their_number_and_text(write: Write) -> None:
    rows, _ = read(write('a,b\n1\n1,2\n\n3,"x,y",5\n6,7\n8\n'))
    assert {n: row.text for n, row in rows.items() if isinstance(row, Unparsable)} == {
        1: "1",
        3: '3,"x,y",5',
        5: "8",
    }
    assert (rows[2], rows[4]) == (("1", "2"), ("6", "7"))
    assert "found 3 fields, expected 2" in rows[3].reason  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ('a,b\n1,2\n"3,4\n5,6\n', '"3,4\n5,6\n'),
        ('a,b\n1,2\n3,"4\n5,6\n', '3,"4\n5,6\n'),
        ('a,b\n1,2\n3,"4', '3,"4'),
        ('a,b\n1,2\n3,"', '3,"'),
        ('a,b\r\n1,2\r\n3,"4\r\n', '3,"4\r\n'),
    ],
)
def test_a_quote_that_is_not_closed(write: Write, text: str, kept: str) -> None:
    rows, _ = read(write(text))
    broken = rows[2]
    assert isinstance(broken, Unparsable)
    assert (rows[1], len(rows), broken.text) == (("1", "2"), 2, kept)
    assert "quote is not closed" in broken.reason


def test_bytes_that_are_not_utf8(write: Write) -> None:
    rows, _ = read(write(b"b,a\n1,2\n3,\xff\xe9\n\xe9,4\n5\xff\n\xc3\xa9,7\n"))
    assert rows[1] == ("2", "1")
    assert rows[2] == Unparsable(2, r"3,\xff\xe9", "column 'a' is not UTF-8")
    assert rows[3] == Unparsable(3, r"\xe9,4", "column 'b' is not UTF-8")
    assert rows[4] == Unparsable(4, r"5\xff", "found 1 fields, expected 2")
    assert rows[5] == ("7", "é")


def test_a_character_cut_by_the_end_of_the_file(write: Write) -> None:
    rows, _ = read(write(b"a,b\n1,2\n3,\xc3"))
    assert rows[2] == Unparsable(2, r"3,\xc3", "column 'b' is not UTF-8")


def test_a_nul_is_no_text(write: Write) -> None:
    rows, _ = read(write("a,b\n1,2\nx\0y,2\n\0\0\n3,4\n"))
    assert rows[2] == Unparsable(2, "x\0y,2", "column 'a' holds a NUL")
    assert rows[3].text == "\0\0"  # type: ignore[union-attr]
    assert (rows[1], rows[4]) == (("1", "2"), ("3", "4"))


@pytest.mark.parametrize("block", [24, 33, 4096])
def test_text_after_a_closing_quote(
    write: Write, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(delimited, "BLOCK_BYTES", block)
    rows, _ = read(write('a,b\n"1"x,2\n"a,"b,2\n5" pipe,"2"\n1,"say \\"hi\\""\n"x""y",""\n'))
    assert {n: row.text for n, row in rows.items() if isinstance(row, Unparsable)} == {
        1: '"1"x,2',
        2: '"a,"b,2',
        4: '1,"say \\"hi\\""',
    }
    assert "goes on after its closing quote" in rows[1].reason  # type: ignore[union-attr]
    assert (rows[3], rows[5]) == (('5" pipe', "2"), ('x"y', ""))


def test_a_header_in_the_middle(write: Write) -> None:
    rows, _ = read(write("a,b\n1,2\na,b\n\ufeffa,b\nb,x\n"))
    again = "the header stands here once more"
    assert rows[2] == Unparsable(2, "a,b", again)
    assert rows[3] == Unparsable(3, "\ufeffa,b", again)
    assert rows[4] == ("b", "x")


def test_a_header_in_the_middle_in_another_order(write: Write) -> None:
    with pytest.raises(HeaderMismatch, match="record 2 is another header"):
        read(write("a,b\n1,2\nb,a\n3,4\n"))


# -- encodings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "declared", "said"),
    [
        ("a,b\né,€\n".encode(), None, "utf-8"),
        ("\ufeffa,b\né,€\n".encode(), "utf-8", "utf-8"),
        ("a,b\né,€\n".encode("utf-16"), None, "utf-16-le"),
        ("a,b\né,€\n".encode("utf-16"), "utf-16", "utf-16-le"),
        ("\ufeffa,b\né,€\n".encode("utf-16-be"), None, "utf-16-be"),
        ("a,b\né,€\n".encode("utf-16-be"), "utf-16-be", "utf-16-be"),
        ("a,b\né,€\n".encode("cp1252"), "windows-1252", "windows-1252"),
        ("a,b\né,€\n".encode("cp1252"), "detect", "windows-1252"),
        ("a,b\né,€\n".encode(), "detect", "utf-8"),
        ("a,b\né,€\n".encode("utf-16"), "detect", "utf-16-le"),
    ],
)
def test_encodings(write: Write, content: bytes, declared: str | None, said: str) -> None:
    rows, facts = read(write(content), encoding=declared)
    assert (rows, facts.encoding) == ({1: ("é", "€")}, said)


def test_latin_1_declared_or_detected(write: Write) -> None:
    path = write("a,b\né,ü\n".encode("latin-1"))
    for declared in ("latin-1", "detect"):
        rows, facts = read(path, encoding=declared)
        assert (rows, facts.encoding) == ({1: ("é", "ü")}, "latin-1")
    assert isinstance(read(path)[0][1], Unparsable)


@pytest.mark.parametrize(
    ("content", "declared"),
    [
        ("\ufeffa,b\n1,2\n".encode(), "latin-1"),
        ("a,b\n1,2\n".encode("utf-16"), "utf-8"),
        ("a,b\n1,2\n".encode("utf-16-le"), "utf-16"),
        ("\ufeffa,b\n1,2\n".encode(), "utf-16"),
    ],
)
def test_a_byte_order_mark_that_contradicts(write: Write, content: bytes, declared: str) -> None:
    with pytest.raises(UnreadableInput, match="byte order mark"):
        read(write(content), encoding=declared)


def test_halves_of_utf_16(write: Write) -> None:
    content = "a,b\n1,2\n3,".encode("utf-16") + b"\x00\xd8" + "\n5,6\n".encode("utf-16-le") + b"7"
    rows, _ = read(write(content))
    assert rows[1] == ("1", "2")
    assert rows[2] == Unparsable(2, r"3,\x00\xd8", "column 'b' is not UTF-16-LE")
    assert rows[3] == ("5", "6")
    assert rows[4] == Unparsable(4, r"\x37", "found 1 fields, expected 2")


# -- bounds --------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_what_unpacks_without_end_is_refused(
    write: Write, monkeypatch: pytest.MonkeyPatch, pack: Callable[[bytes], bytes]
) -> None:
    ending = ".gz" if pack is gzip.compress else ".bz2"
    path = write(pack(b"a,b\n" + b"1,2\n" * 1_000_000), f"in.csv{ending}")
    with pytest.raises(OversizedInput, match=r"unpacked: 3,000,000 B"):
        read(path, limits={"unpacked": 3_000_000})
    monkeypatch.setattr(textfile, "HARMLESS", 1 << 20)
    with pytest.raises(OversizedInput, match="ratio: 50"):
        read(path, limits={"ratio": 50})


def test_a_file_that_grows_while_it_is_read(write: Write) -> None:
    path = write("a,b\n1,2\n")
    source = Source(contract="t", format="csv", path="x")
    items = delimited.read_records(path, "ab", source)
    next(items)
    with path.open("a") as more:
        more.write("3,4\n")
    with pytest.raises(UnsettledInput):
        list(items)


# -- long records and small blocks -------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 3, 6])
def test_a_record_longer_than_a_block(
    write: Write, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    monkeypatch.setattr(delimited, "BLOCK_BYTES", 64)
    rows = [(str(i), "x") for i in range(7)]
    rows[place] = ("long", "y" * 1000)
    text = "a,b\n" + "".join(f"{a},{b}\n" for a, b in rows)
    assert read(write(text))[0] == dict(enumerate(rows, 1))


def test_a_record_longer_than_any_may_be(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "BLOCK_BYTES", 64)
    for length in (1030, 1500, 4000):
        for end in (",3", ""):
            path = write("a,b\n1,2\n" + "x" * length + end + "\n")
            with pytest.raises(OversizedInput):
                read(path, limits={"record": 1024})
    assert read(write("a,b\n" + "x" * 1000 + ",3\n"), limits={"record": 1024})


def test_crlf_in_quotes_where_two_blocks_meet(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("a,b\n" + "1,2\n" * 4 + '3,"x\r\n\r\ny\r\n\r\n"\n')
    for block in range(24, 40):
        monkeypatch.setattr(delimited, "BLOCK_BYTES", block)
        assert read(path)[0][5] == ("3", "x\r\n\r\ny\r\n\r\n")


def test_a_reader_that_is_left_early_closes_its_file(write: Write) -> None:
    source = Source(contract="t", format="csv", path="x")
    items = delimited.read_records(write("a,b\n1,2\n"), "ab", source)
    next(items)
    items.close()  # type: ignore[attr-defined]


NAMES = ("a", "b", "c")


@settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    table=st.lists(
        st.lists(st.text(alphabet='xyé",;\n\r \\', max_size=12), min_size=1, max_size=4),
        max_size=9,
    ),
    delimiter=st.sampled_from(",;\t"),
    ending=st.sampled_from(["\n", "\r\n", "\r"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    blanks=st.sets(st.integers(0, 9)),
    block=st.sampled_from([2, 7, 33, 64, 128, 4096]),
    cut=st.booleans(),
)
def test_the_same_records_as_pythons_csv(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    table: list[list[str]],
    delimiter: str,
    ending: str,
    quoting: int,
    blanks: set[int],
    block: int,
    cut: bool,
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator=ending, quoting=quoting)  # type: ignore[arg-type]
    writer.writerow(NAMES)
    for i, row in enumerate(table):
        writer.writerow(row)
        text.write(ending if i in blanks else "")
    content = text.getvalue().removesuffix(ending) if cut else text.getvalue()
    path = tmp_path / "in.csv"
    path.write_bytes(content.encode())
    monkeypatch.setattr(delimited, "BLOCK_BYTES", block)

    oracle = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter)
    expected = dict(enumerate([tuple(row) for row in oracle if row][1:], 1))
    rows, facts = read(path, NAMES, delimiter)

    assert rows.keys() == expected.keys()
    assert {n: row for n, row in rows.items() if not isinstance(row, Unparsable)} == {
        n: row for n, row in expected.items() if len(row) == len(NAMES)
    }
    assert facts.unparsable == sum(len(row) != len(NAMES) for row in expected.values())


# -- files that are refused --------------------------------------------------------------------


def refusal(path: Path, names: Sequence[str] = "ab") -> NightjarError:
    with pytest.raises(NightjarError) as caught:
        read(path, names)
    assert caught.value.exit_status == 3
    assert path.name in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    ("header", "missing", "extra", "repeated"),
    [
        ("a,c", ["b"], ["c"], []),
        ("a", ["b"], [], []),
        ("a,b,c", [], ["c"], []),
        ("a,b,a", [], [], ["a"]),
        ("A,b", ["a"], ["A"], []),
        ("a, b", ["b"], [" b"], []),
        ("a;b", ["a", "b"], ["a;b"], []),
        ('"a,b', ["a", "b"], ["a,b\n1,2\n"], []),
    ],
)
def test_wrong_columns(
    write: Write, header: str, missing: list[str], extra: list[str], repeated: list[str]
) -> None:
    error = refusal(write(f"{header}\n1,2\n"))
    assert isinstance(error, HeaderMismatch)
    details = error.details
    assert (details["missing"], details["extra"], details["repeated"]) == (missing, extra, repeated)


def test_a_misspelt_column_is_suggested(write: Write) -> None:
    error = refusal(write("carier\nAA\n"), ["carrier"])
    assert "'carrier' is missing (did you mean 'carier'?)" in error.message


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("", "in.csv"),
        ("\n \r\n", "in.csv"),
        ("\ufeff", "in.csv"),
        (b"", "in.csv.gz"),
        (gzip.compress(b"", mtime=0), "in.csv.gz"),
    ],
)
def test_empty_files(write: Write, content: str | bytes, name: str) -> None:
    assert isinstance(refusal(write(content, name)), EmptyInput)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("a,b\n1,2\n".encode("utf-16-le"), "in.csv"),
        ("a,b\n1,2\n".encode("utf-32"), "in.csv"),
        (b"PK\3\4" + b"\0" * 50, "in.csv"),
        (gzip.compress(b"a,b\n1,2\n", mtime=0), "in.csv"),
        (bz2.compress(b"a,b\n1,2\n"), "in.csv.gz"),
        (bz2.compress(b"a,b\n" + b"1,2\n" * 99)[:-9], "in.csv.bz2"),
        (pa.compress(b"a,b\n" + b"1,2\n" * 99, codec="zstd", asbytes=True)[:-9], "in.csv.zst"),
        (b"a\0,b\n1,2\n", "in.csv"),
        (b"a,b\xe9\n1,2\n", "in.csv"),
        (b"a" * 200_000 + b",b\n1,2\n", "in.csv"),
        (b'a"b\nc"d,e\n1,2\n', "in.csv"),
        (b"a,b\n1,2\n", "in.csv.gz"),
        (gzip.compress(b"a,b\n1,2\n", mtime=0)[:-9], "in.csv.gz"),
        (gzip.compress(b"a,b\n" + b"1,2\n" * 500_000, mtime=0)[:-9], "in.csv.gz"),
        (gzip.compress(b"a,b\n1,2\n", mtime=0) + b"garbage", "in.csv.gz"),
    ],
)
def test_unreadable_files(write: Write, content: bytes, name: str) -> None:
    assert isinstance(refusal(write(content, name)), UnreadableInput)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert isinstance(refusal(tmp_path), UnreadableInput)


def test_a_missing_file_names_the_nearest(write: Write) -> None:
    path = write("a,b\n", "2013-12-01.csv")
    error = refusal(path.with_name("2013-12-02.csv"))
    assert isinstance(error, MissingInput)
    assert "'2013-12-01.csv'" in error.message
    assert isinstance(refusal(path.parent / "nowhere" / "x.csv"), MissingInput)


def test_an_open_quote_in_a_long_header_takes_no_time(write: Write) -> None:
    assert isinstance(refusal(write('"a' + "\n" * 900_000)), UnreadableInput)
