"""Bad input, case by case: the bytes, and what must happen to them.

A case is one delivered file. It promises right rows, records kept apart with their reasons, or a
refusal of the file by a stable code. `tests/spark/test_corpus.py` holds the real ingest and clean
to it; `python -m tests.corpus` writes the table of docs/input.md.
"""

from __future__ import annotations

import bz2
import gzip
import io
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Row = tuple[str | None, ...]

ZONED = {"timezone": True}
LOCAL = {"defaultTimezone": "America/New_York"}
UTC = {"defaultTimezone": "UTC"}
CODE = {"pattern": "[A-Z]{2}[0-9]{3}"}
# The tables of the corpus, as properties of a contract.
TABLES: dict[str, list[dict[str, Any]]] = {
    "texts": [
        {"name": "a", "logicalType": "string"},
        {"name": "b", "logicalType": "string"},
    ],
    "values": [
        {"name": "id", "logicalType": "string"},
        {"name": "i", "logicalType": "integer", "physicalType": "int"},
        {"name": "big", "logicalType": "integer"},
        {"name": "d", "logicalType": "number"},
        {"name": "n", "logicalType": "number", "physicalType": "decimal(10,2)"},
        {"name": "flag", "logicalType": "boolean"},
        {"name": "day", "logicalType": "date"},
        {"name": "us", "logicalType": "date", "logicalTypeOptions": {"format": "MM/dd/yyyy"}},
        {"name": "at", "logicalType": "timestamp", "logicalTypeOptions": ZONED},
        {"name": "local", "logicalType": "timestamp", "logicalTypeOptions": LOCAL},
        {"name": "code", "logicalType": "string", "logicalTypeOptions": CODE},
        {"name": "note", "logicalType": "string", "logicalTypeOptions": {"maxLength": 20}},
    ],
    "typed": [
        {"name": "i", "logicalType": "integer"},
        {"name": "n", "logicalType": "number", "physicalType": "decimal(10,2)"},
        {"name": "at", "logicalType": "timestamp", "logicalTypeOptions": ZONED},
    ],
    "unzoned": [
        {"name": "at", "logicalType": "timestamp", "logicalTypeOptions": UTC},
    ],
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One delivered file, and its promise.

    `rows` are the clean rows, each value as Spark shows it (times in UTC); `bad` the records that
    are kept apart, by number, with a part of their reason (a rule, or what was found); `code` the
    error that refuses the file. `arrange` makes what bytes alone cannot.
    """

    group: str
    name: str
    content: bytes
    rows: tuple[Row, ...] = ()
    bad: Mapping[int, str] = field(default_factory=dict)
    code: str = ""
    table: str = "texts"
    format: str = "csv"
    file: str = "in.csv"
    options: Mapping[str, Any] = field(default_factory=dict)
    arrange: Callable[[Path], None] | None = None

    @property
    def promise(self) -> str:
        """The promise in words."""
        if self.code:
            return f"refused: `{self.code}`"
        parts = []
        if self.rows or not self.bad:
            parts.append(f"{len(self.rows)} clean row{'s' if len(self.rows) != 1 else ''}")
        parts += [f"record {n} kept apart: {reason}" for n, reason in self.bad.items()]
        return "; ".join(parts)

    def write(self, folder: Path) -> Path:
        """Deliver the file into `folder`."""
        path = folder / self.file
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.arrange:
            self.arrange(path)
        else:
            path.write_bytes(self.content)
        return path


def cases() -> list[Case]:
    """The whole corpus, in the order of the table."""
    makers = (
        _shapes, _columns, _quotes, _encodings, _packed, _names, _whole, _fractions, _words,
        _dates, _times, _texts, _json, _parquet,
    )  # fmt: skip
    return [case for maker in makers for case in maker()]


def gz(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def csv(group: str, name: str, content: str | bytes, *rows: Row, **more: Any) -> Case:
    raw = content.encode() if isinstance(content, str) else content
    return Case(group, name, raw, rows, **more)


ONE: Row = ("1", "x")
TWO: Row = ("2", "y")


def _shapes() -> Iterator[Case]:
    def case(name: str, content: str | bytes, *rows: Row, **more: Any) -> Case:
        return csv("Shape", name, content, *rows, **more)

    few, many = "found 1 fields, expected 2", "found 3 fields, expected 2"
    again = "the header stands here once more"
    yield case("plain", "a,b\n1,x\n2,y\n", ONE, TWO)
    yield case("no newline at the end", "a,b\n1,x\n2,y", ONE, TWO)
    yield case("CRLF", "a,b\r\n1,x\r\n2,y\r\n", ONE, TWO)
    yield case("lone CR", "a,b\r1,x\r2,y\r", ONE, TWO)
    yield case("three kinds of line end in one file", "a,b\n1,x\r\n2,y\r", ONE, TWO)
    yield case("blank lines", "\n\na,b\n\n1,x\n\r\n\n2,y\n\n", ONE, TWO)
    yield case("a line of spaces", "a,b\n1,x\n   \n2,y\n", ONE, TWO, bad={2: few})
    yield case("a field too few", "a,b\n1\n2,y\n", TWO, bad={1: few})
    yield case("a field too many", "a,b\n1,x,z\n2,y\n", TWO, bad={1: many})
    yield case("a comma at each line's end", "a,b\n1,x,\n2,y,\n", bad={1: many, 2: many})
    yield case("the last record cut", "a,b\n1,x\n2", ONE, bad={2: few})
    yield case("a header alone", "a,b\n")
    yield case("a header without a newline", "a,b")
    yield case("an empty file", "", code="INPUT_EMPTY")
    yield case("newlines alone", "\n\r\n\n", code="INPUT_EMPTY")
    yield case("a byte order mark alone", b"\xef\xbb\xbf", code="INPUT_EMPTY")
    yield case("the header again, in the middle", "a,b\n1,x\na,b\n2,y\n", ONE, TWO, bad={2: again})
    yield case(
        "files put together, with their marks", "\ufeffa,b\n1,x\n\ufeffa,b\n2,y\n", ONE, TWO,
        bad={2: again},
    )  # fmt: skip
    yield case("files of two layouts put together", "a,b\n1,x\nb,a\ny,2\n", code="INPUT_COLUMNS")
    yield case("a NUL in a value", b"a,b\n1,x\n2,y\0\n", ONE, bad={2: "holds a NUL"})
    yield case("a line of NULs", b"a,b\n1,x\n\0\0\0\n2,y\n", ONE, TWO, bad={2: few})
    yield case("a record beyond the limit", b"a,b\n1,x\n2," + b"y" * 4000 + b"\n",
               code="INPUT_TOO_LARGE", options={"limits": {"record": "1 KiB"}})  # fmt: skip
    yield case("a long record within the limit", b"a,b\n1,x\n2," + b"y" * 5_000_000 + b"\n",
               ONE, ("2", "y" * 5_000_000))  # fmt: skip
    yield case("semicolons, declared", "a;b\n1;x,y\n", ("1", "x,y"), options={"delimiter": ";"})
    yield case("semicolons, not declared", "a;b\n1;x\n", code="INPUT_COLUMNS")
    yield case("tabs, declared", "a\tb\n1\tx y\n", ("1", "x y"), options={"delimiter": "\t"})
    yield case("pipes, declared", "a|b\n1|x\n", ONE, options={"delimiter": "|"})
    yield case("sep= on the first line", "sep=,\na,b\n1,x\n", code="INPUT_COLUMNS")
    yield case("a title above the header", "Report of March\na,b\n1,x\n", code="INPUT_COLUMNS")
    yield case("a total below the rows", "a,b\n1,x\nTotal: 1\n", ONE, bad={2: few})
    yield case("an HTML page", "<html><body>504 Gateway</body></html>\n", code="INPUT_COLUMNS")


def _columns() -> Iterator[Case]:
    def case(name: str, content: str | bytes, *rows: Row, **more: Any) -> Case:
        return csv("Columns", name, content, *rows, **more)

    yield case("another order", "b,a\nx,1\ny,2\n", ONE, TWO)
    for name, header in (
        ("a column missing", "a\n1\n"),
        ("a column too many", "a,b,c\n1,x,z\n"),
        ("a column renamed", "a,bee\n1,x\n"),
        ("a column twice", "a,b,a\n1,x,3\n"),
        ("another case", "A,B\n1,x\n"),
        ("a space before a name", "a, b\n1,x\n"),
        ("a zero-width space in a name", "a,b\u200b\n1,x\n"),
        ("a Cyrillic letter in a name", "\u0430,b\n1,x\n"),
        ("a name that is empty", "a,b,\n1,x,\n"),
        ("no header", "1,x\n2,y\n"),
        ("all of the header in quotes", '"a,b"\n1,x\n'),
        ("a quote that the header leaves open", '"a,b\n1,x\n'),
    ):
        yield case(name, header, code="INPUT_COLUMNS")
    yield case("names in quotes", '"a","b"\n1,x\n', ONE)


def _quotes() -> Iterator[Case]:
    def case(name: str, content: str | bytes, *rows: Row, **more: Any) -> Case:
        return csv("Quotes", name, content, *rows, **more)

    after = "goes on after its closing quote"
    yield case("a comma inside", 'a,b\n1,"x,y"\n', ("1", "x,y"))
    yield case("doubled quotes inside", 'a,b\n1,"say ""x"""\n', ("1", 'say "x"'))
    yield case("a newline inside", 'a,b\n1,"x\ny"\n2,y\n', ("1", "x\ny"), TWO)
    yield case("CRLF inside", 'a,b\r\n1,"x\r\ny"\r\n', ("1", "x\r\ny"))
    yield case("a quote amid a bare value", 'a,b\n1,5" pipe\n', ("1", '5" pipe'))
    yield case("backslashes", "a,b\n1,\\x\\\n", ("1", "\\x\\"))
    yield case("quotes escaped by backslashes", 'a,b\n1,"say \\"x\\""\n2,y\n', TWO, bad={1: after})
    yield case("text after a closing quote", 'a,b\n1,"x"z\n2,y\n', TWO, bad={1: after})
    yield case("a space after a closing quote", 'a,b\n1,"x" \n2,y\n', TWO, bad={1: after})
    yield case("a space before a quote", 'a,b\n1, "x"\n', ("1", ' "x"'))
    yield case("an open quote at the end", 'a,b\n1,x\n2,"y\n', ONE, bad={2: "quote is not closed"})
    yield case("an open quote early", 'a,b\n1,"x\n2,y\n3,z\n', bad={1: "quote is not closed"})
    yield case(
        "an open quote that another closes", 'a,b\n1,"x\n2,y"\n3,z\n', ("1", "x\n2,y"), ("3", "z")
    )
    yield case("empty, and empty in quotes", 'a,b\n1,\n2,""\n', ("1", None), ("2", None))
    yield case("single quotes, declared", "a,b\n1,'x,y'\n", ("1", "x,y"), options={"quote": "'"})
    yield case("single quotes, not declared", "a,b\n1,'x,y'\n",
               bad={1: "found 3 fields, expected 2"})  # fmt: skip
    yield case("nothing quotes, declared", 'a,b\n1,"x\n2,y"\n', ("1", '"x'), ("2", 'y"'),
               options={"quote": ""})  # fmt: skip


def _encodings() -> Iterator[Case]:
    text = "a,b\n1,é€\n"

    def case(name: str, content: str | bytes, *rows: Row, **more: Any) -> Case:
        return csv("Encoding", name, content, *rows, **more)

    right = ("1", "é€")
    latin = "a,b\n1,éü\n".encode("latin-1")
    yield case("UTF-8", text, right)
    yield case("UTF-8 with a byte order mark", "\ufeff" + text, right)
    yield case("a byte order mark before a quoted name", '\ufeff"a",b\n1,é€\n', right)
    yield case("UTF-16, little end first, with a mark", text.encode("utf-16"), right)
    yield case("UTF-16, big end first, with a mark", ("\ufeff" + text).encode("utf-16-be"), right)
    yield case("UTF-16 without a mark", text.encode("utf-16-le"), code="INPUT_UNREADABLE")
    yield case("UTF-16 without a mark, declared", text.encode("utf-16-le"), right,
               options={"encoding": "utf-16-le"})  # fmt: skip
    yield case("UTF-16 declared, and no mark says which", text.encode("utf-16-le"),
               code="INPUT_UNREADABLE", options={"encoding": "utf-16"})  # fmt: skip
    yield case("UTF-16 with half a pair",
               "a,b\n1,x\n2,".encode("utf-16") + b"\x00\xd8" + "\n".encode("utf-16-le"),
               ONE, bad={2: "is not UTF-16-LE"})  # fmt: skip
    yield case("UTF-16 cut in a character", "a,b\n1,x\n2,y".encode("utf-16")[:-1], ONE,
               bad={2: "is not UTF-16-LE"})  # fmt: skip
    yield case("UTF-32", text.encode("utf-32"), code="INPUT_UNREADABLE")
    yield case("Latin-1, not declared", latin, bad={1: "is not UTF-8"})
    yield case("Latin-1, declared", latin, ("1", "éü"), options={"encoding": "latin-1"})
    yield case("Latin-1, detected", latin, ("1", "éü"), options={"encoding": "detect"})
    yield case("windows-1252, detected", text.encode("cp1252"), right,
               options={"encoding": "detect"})  # fmt: skip
    yield case("windows-1252, declared", text.encode("cp1252"), right,
               options={"encoding": "windows-1252"})  # fmt: skip
    yield case("UTF-8 where detection is asked", text, right, options={"encoding": "detect"})
    yield case("a mark that contradicts what is declared", "\ufeff" + text,
               code="INPUT_UNREADABLE", options={"encoding": "latin-1"})  # fmt: skip
    yield case("one Latin-1 byte in UTF-8", b"a,b\n1,x\n2,\xe9\n3,\xc3\xa9\n", ONE, ("3", "é"),
               bad={2: "is not UTF-8"})  # fmt: skip
    yield case("an overlong form", b"a,b\n1,x\n2,\xc0\xaf\n", ONE, bad={2: "is not UTF-8"})
    yield case("a surrogate in UTF-8", b"a,b\n1,x\n2,\xed\xa0\x80\n", ONE, bad={2: "is not UTF-8"})
    yield case("a character cut by the end", b"a,b\n1,x\n2,\xc3", ONE, bad={2: "is not UTF-8"})
    yield case("a Latin-1 byte in the header", b"a,b\xe9\n1,x\n", code="INPUT_UNREADABLE")
    yield case("an emoji, and letters right to left", "a,b\n\U0001f42c,\u05d0\u05d1\n",
               ("\U0001f42c", "\u05d0\u05d1"))  # fmt: skip


def _packed() -> Iterator[Case]:
    text = b"a,b\n1,x\n2,y\n"
    long = b"a,b\n" + b"1,x\n" * 500_000

    def case(name: str, content: bytes, *rows: Row, file: str = "in.csv.gz", **more: Any) -> Case:
        return csv("Compression", name, content, *rows, file=file, **more)

    zstd = pa.compress(text, codec="zstd", asbytes=True)
    refused = {"code": "INPUT_UNREADABLE"}
    yield case("gzip", gz(text), ONE, TWO)
    yield case("gzip of two members", gz(text[:6]) + gz(text[6:]), ONE, TWO)
    yield case("bz2", bz2.compress(text), ONE, TWO, file="in.csv.bz2")
    yield case("zstd", zstd, ONE, TWO, file="in.csv.zst")
    yield case("gzip, truncated early", gz(text)[:-9], **refused)
    yield case("gzip, truncated late", gz(long)[:-9], **refused)
    yield case("gzip, a bit flipped", _flipped(gz(text), 16), **refused)
    yield case("gzip, then other bytes", gz(text) + b"garbage", **refused)
    yield case("bz2, truncated", bz2.compress(text)[:-9], file="in.csv.bz2", **refused)
    yield case("bz2, a bit flipped", _flipped(bz2.compress(text), 30), file="in.csv.bz2", **refused)
    yield case("zstd, truncated", zstd[:-5], file="in.csv.zst", **refused)
    yield case("text that is named .gz", text, **refused)
    yield case("gzip that is named .csv", gz(text), file="in.csv", **refused)
    yield case("bz2 that is named .gz", bz2.compress(text), **refused)
    yield case("a zip archive", b"PK\3\4" + bytes(60), file="in.csv", **refused)
    yield case("nothing, packed", gz(b""), code="INPUT_EMPTY")
    yield case("a bomb", gz(long), code="INPUT_TOO_LARGE",
               options={"limits": {"unpacked": "1 MiB"}})  # fmt: skip
    yield case("UTF-16 in gzip", gz(text.decode().encode("utf-16")), ONE, TWO)


def _flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :]


def _names() -> Iterator[Case]:
    text = b"a,b\n1,x\n"
    for name, file in (
        ("a space", "in put.csv"),
        ("letters beyond ASCII", "übung-\u6771.csv"),
        ("a percent sign", "in%20put.csv"),
        ("an equals sign", "ds=2024-01-01.csv"),
        ("brackets", "in[1].csv"),
        ("a star", "in*.csv"),
        ("a newline", "in\nput.csv"),
        ("an underscore first", "_in.csv"),
        ("a dot first", ".in.csv"),
        ("no ending", "in"),
    ):
        yield Case("Names and files", f"{name} in its name", text, (ONE,), file=file)

    def folder(path: Path) -> None:
        path.mkdir()

    def link(target: str) -> Callable[[Path], None]:
        return lambda path: path.symlink_to(target)

    def inside(path: Path) -> None:
        (path.parent / "real.csv").write_bytes(text)
        path.symlink_to("real.csv")

    def case(name: str, arrange: Callable[[Path], None], **more: Any) -> Case:
        return Case("Names and files", name, b"", arrange=arrange, **more)

    yield case("a link inside the landing folder", inside, rows=(ONE,))
    yield case("a link out of the landing folder", link("/etc/passwd"), code="INPUT_OUTSIDE")
    yield case("a link to nothing", link("nowhere.csv"), code="INPUT_MISSING")
    yield case("a link to itself", link("in.csv"), code="INPUT_UNREADABLE")
    yield case("a folder of that name", folder, code="INPUT_UNREADABLE")
    yield case("a pipe of that name", os.mkfifo, code="INPUT_UNREADABLE")


VALUES = [column["name"] for column in TABLES["values"]]


def value(
    group: str, name: str, column: str, text: str, kept: str | None = None, rule: str = "type"
) -> Case:
    """A row with `text` in one column: kept as the value `kept`, or quarantined by `rule`."""
    row = dict.fromkeys(VALUES, "") | {"id": "1", column: f'"{text}"'}
    content = f"{','.join(VALUES)}\n{','.join(row.values())}\n"
    typed: dict[str, str | None] = dict.fromkeys(VALUES) | {"id": "1", column: kept}
    return Case(
        group,
        f"{name}: {column} `{text if len(text) < 40 else text[:37] + '...'}`",
        content.encode(),
        (tuple(typed.values()),) if kept is not None else (),
        {} if kept is not None else {1: f"values.{column}.{rule}"},
        table="values",
    )


def _whole() -> Iterator[Case]:
    def case(name: str, column: str, text: str, kept: str | None = None) -> Case:
        return value("Whole numbers", name, column, text, kept)

    yield case("leading zeros", "i", "007", "7")
    yield case("a sign", "i", "+7", "7")
    yield case("the largest", "i", "2147483647", "2147483647")
    yield case("one beyond", "i", "2147483648")
    yield case("the largest", "big", "9223372036854775807", "9223372036854775807")
    yield case("one beyond", "big", "9223372036854775808")
    yield case("a fraction", "i", "1.5")
    yield case("a fraction of zero", "i", "1.0")
    yield case("an exponent", "i", "1e3")
    yield case("thousands", "i", "1,234")
    yield case("hexadecimal", "i", "0x10")
    yield case("an underscore", "i", "1_000")
    yield case("a space", "i", " 7")
    yield case("a no-break space", "i", "7\u00a0")
    yield case("a zero-width space", "i", "7\u200b")
    yield case("Arabic digits", "i", "\u0667")
    yield case("full-width digits", "i", "\uff17")
    yield case("a letter O", "i", "1O")
    yield case("a minus sign that is none", "i", "\u22125")
    yield case("a minus behind", "i", "5-")
    yield case("words", "i", "N/A")


def _fractions() -> Iterator[Case]:
    def case(name: str, column: str, text: str, kept: str | None = None) -> Case:
        return value("Fractions", name, column, text, kept)

    yield case("plain", "d", "-1.5e3", "-1500.0")
    yield case("NaN", "d", "NaN")
    yield case("infinity", "d", "Infinity")
    yield case("infinity, short", "d", "-inf")
    yield case("overflow", "d", "1e400")
    yield case("English thousands", "d", "1,234.5")
    yield case("German thousands", "d", "1.234,5")
    yield case("a decimal comma", "d", "1,5")
    yield case("a percent sign", "d", "12%")
    yield case("a currency sign", "d", "$5.00")
    yield case("a currency behind", "d", "5.00 €")
    yield case("brackets for minus", "d", "(5.00)")
    yield case("a suffix of Java", "d", "1.5d")
    yield case("more digits than a double keeps", "d", "0.12345678901234567890")
    yield case("a whole number past its precision", "d", "9007199254740993")
    yield case("the last that is exact", "d", "9007199254740992", "9.007199254740992E15")
    yield case("two points", "d", "1.2.3")
    yield case("exact", "n", "1.25", "1.25")
    yield case("zeros behind", "n", "1.2500", "1.25")
    yield case("a digit too many", "n", "1.255")
    yield case("a digit far behind", "n", "1.2500000000000000000001")
    yield case("too large", "n", "123456789.00")
    yield case("an exponent", "n", "125e-2", "1.25")


def _words() -> Iterator[Case]:
    def case(
        name: str, column: str, text: str, kept: str | None = None, rule: str = "type"
    ) -> Case:
        return value("Booleans", name, column, text, kept, rule)

    yield case("lower case", "flag", "true", "true")
    yield case("upper case", "flag", "FALSE", "false")
    for text in ("yes", "Y", "1", "0", "t", "on", "ja", "tru", "true "):
        yield case("another spelling", "flag", text)


def _dates() -> Iterator[Case]:
    def case(name: str, column: str, text: str, kept: str | None = None) -> Case:
        return value("Dates", name, column, text, kept)

    yield case("ISO", "day", "2024-02-29", "2024-02-29")
    yield case("the first year", "day", "0001-01-01", "0001-01-01")
    yield case("the last year", "day", "9999-12-31", "9999-12-31")
    yield case("the year 0", "day", "0000-01-01")
    yield case("five digits", "day", "10000-01-01")
    yield case("no leap year", "day", "2023-02-29")
    yield case("30 February", "day", "2024-02-30")
    yield case("month 13", "day", "2024-13-01")
    yield case("a year alone", "day", "2024")
    yield case("a year and a month", "day", "2024-01")
    yield case("short parts", "day", "2024-1-1")
    yield case("with a time", "day", "2024-01-01T00:00:00")
    yield case("with other text", "day", "2024-01-01 junk")
    yield case("another order", "day", "31/01/2024")
    yield case("a spreadsheet's number", "day", "45322")
    yield case("a word", "day", "today")
    yield case("by its format", "us", "02/29/2024", "2024-02-29")
    yield case("day first", "us", "29/02/2024")
    yield case("30 February, by format", "us", "02/30/2024")
    yield case("two digits of a year", "us", "02/29/24")


def _times() -> Iterator[Case]:
    def case(name: str, column: str, text: str, kept: str | None = None) -> Case:
        return value("Times", name, column, text, kept)

    yield case("with an offset", "at", "2024-01-01T05:30:00+05:30", "2024-01-01 00:00:00")
    yield case("microseconds", "at", "2024-01-01T00:00:00.123456Z", "2024-01-01 00:00:00.123456")
    yield case("nanoseconds", "at", "2024-01-01T00:00:00.123456789Z")
    yield case("no offset", "at", "2024-01-01T00:00:00")
    yield case("a date alone", "at", "2024-01-01")
    yield case("24 o'clock", "at", "2024-01-01T24:00:00Z")
    yield case("a leap second", "at", "2016-12-31T23:59:60Z")
    yield case("an offset of 19 hours", "at", "2024-01-01T00:00:00+19:00")
    yield case("before the year 1, in UTC", "at", "0001-01-01T00:00:00+05:00")
    yield case("seconds since 1970", "at", "1704067200")
    yield case("summer", "local", "2013-07-01 12:00:00", "2013-07-01 16:00:00")
    yield case("the hour that the clocks skip", "local", "2013-03-10 02:30:00")
    yield case("the hour that they show twice", "local", "2013-11-03 01:30:00")
    yield case("just before it", "local", "2013-11-03 00:59:59", "2013-11-03 04:59:59")
    yield case("just after it", "local", "2013-11-03 02:00:00", "2013-11-03 07:00:00")
    yield case("an offset where none may be", "local", "2013-07-01 12:00:00Z")


def _texts() -> Iterator[Case]:
    def case(
        name: str, column: str, text: str, kept: str | None = None, rule: str = "pattern"
    ) -> Case:
        return value("Texts", name, column, text, kept, rule)

    yield case("a pattern kept", "code", "AB007", "AB007")
    yield case("a Cyrillic letter", "code", "\u0410B007")
    yield case("a zero-width space", "code", "AB\u200b007")
    yield case("full-width letters", "code", "\uff21B007")
    yield case("Arabic digits", "code", "AB\u0660\u0660\u0667")
    yield case("lower case", "code", "ab007")
    yield case("a newline behind", "code", "AB007\n")
    yield case("as long as may be", "note", "x" * 20, "x" * 20)
    yield case("over-long", "note", "x" * 21, rule="length")
    yield case("characters, not bytes", "note", "\U0001f42c" * 20, "\U0001f42c" * 20)
    yield case("spaces kept", "note", "  x  ", "  x  ")
    yield case("zeros kept", "note", "00123", "00123")
    yield case("a formula is text", "note", "=1+1", "=1+1")


def _json() -> Iterator[Case]:
    def case(name: str, content: str | bytes, *rows: Row, **more: Any) -> Case:
        return csv("JSON lines", name, content, *rows, format="jsonl", file="in.jsonl", **more)

    good = '{"a": "1", "b": "x"}\n'

    def second(name: str, line: str, reason: str) -> Case:
        return case(name, good + line + '\n{"a": "2", "b": "y"}\n', ONE, TWO, bad={2: reason})

    yield case("plain", good + '{"b": "y", "a": "2"}', ONE, TWO)
    yield case("lone CR, blank lines", good.replace("\n", "\r\r\n"), ONE)
    yield case("UTF-16", good.encode("utf-16"), ONE)
    yield case("a byte order mark", "\ufeff" + good, ONE)
    packed = gz(good.encode())
    yield Case("JSON lines", "gzip", packed, (ONE,), format="jsonl", file="in.jsonl.gz")
    yield case("null, and a key that is missing", '{"a": null, "b": "x"}\n{"a": "2"}\n',
               (None, "x"), ("2", None))  # fmt: skip
    yield case("numbers keep their digits", '{"a": 1.50, "b": 123456789012345678901234567890}\n',
               ("1.50", "123456789012345678901234567890"))  # fmt: skip
    yield case("escapes", '{"a": "\\u0031", "b": "\\ud83d\\udc2c"}\n', ("1", "\U0001f42c"))
    yield second("a broken record", '{"a": "2", "b"', "is no JSON")
    yield second("a record cut by a newline", '{"a": "2', "is no JSON")
    yield second("single quotes", "{'a': 2}", "is no JSON")
    yield second("a comma at the end", '{"a": "2",}', "is no JSON")
    yield second("a key twice", '{"a": "2", "a": "3"}', "key 'a' stands twice")
    yield second("a key that nobody knows", '{"a": "2", "c": 1}', "key 'c' is not in the contract")
    yield second("an object inside", '{"a": {"x": 1}}', "key 'a' holds an object")
    yield second("a list inside", '{"a": [1]}', "key 'a' holds a list")
    yield second("100,000 levels deep", '{"a": ' + "[" * 100_000 + "}", "nested too deep")
    yield second("a list for a record", '["2", "y"]', "is no JSON object")
    yield second("a number for a record", "17", "is no JSON object")
    yield second("NaN", '{"a": NaN}', "NaN is no JSON")
    yield second("leading zeros", '{"a": 007}', "is no JSON")
    yield second("half a surrogate pair", '{"a": "\\ud800"}', "half a surrogate pair")
    yield second("two records on one line", '{"a": "2"} {"a": "3"}', "is no JSON")
    yield second("a tab in a text", '{"a": "x\ty"}', "is no JSON")
    yield case("bytes that are not UTF-8", good.encode() + b'{"a": "\xff"}\n', ONE,
               bad={2: "is no text"})  # fmt: skip
    yield case("one array of all records", '[{"a": "1", "b": "x"}]\n', code="INPUT_UNREADABLE")
    yield case("an empty file", "", code="INPUT_EMPTY")
    yield case("a newline alone", "\n")
    yield case("a line beyond the limit", '{"a": "' + "x" * 3_000_000 + '"}\n',
               code="INPUT_TOO_LARGE", options={"limits": {"record": "1 MiB"}})  # fmt: skip

    def typed(name: str, line: str, *rows: Row, **more: Any) -> Case:
        return case(name, line, *rows, table="typed", **more)

    at = '"at": "2024-01-01T00:00:00Z"'
    row = ("1", "2.50", "2024-01-01 00:00:00")
    yield typed("typed values", f'{{"i": 1, "n": 2.5, {at}}}\n', row)
    yield typed("numbers as texts", f'{{"i": "1", "n": "2.50", {at}}}\n', row)
    yield typed("a huge number", f'{{"i": 92233720368547758070, "n": 2.5, {at}}}\n',
                bad={1: "typed.i.type"})  # fmt: skip
    yield typed("a fraction for a whole number", f'{{"i": 1.0, "n": 2.5, {at}}}\n',
                bad={1: "typed.i.type"})  # fmt: skip
    yield typed("a digit too many", f'{{"i": 1, "n": 2.555, {at}}}\n', bad={1: "typed.n.type"})
    yield typed("a boolean for a number", f'{{"i": true, "n": 2.5, {at}}}\n',
                bad={1: "typed.i.type"})  # fmt: skip


NOON = datetime(2024, 3, 1, 12)


def parquet(columns: Mapping[str, pa.Array], **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(dict(columns)), sink, **options)
    return sink.getvalue()


def _parquet() -> Iterator[Case]:
    def case(name: str, content: bytes, *rows: Row, **more: Any) -> Case:
        return csv("Parquet", name, content, *rows, format="parquet", file="in.parquet", **more)

    texts = {"a": pa.array(["1", "2"]), "b": pa.array(["x", "y"])}
    many = {"a": pa.array([str(i) for i in range(3000)]), "b": pa.nulls(3000, pa.string())}
    whole = parquet(many, compression="none", write_page_checksum=True, use_dictionary=False)
    refused = {"code": "INPUT_UNREADABLE"}
    yield case("plain", parquet(texts), ONE, TWO)
    yield case("another order", parquet(dict(reversed(texts.items()))), ONE, TWO)
    yield case("dictionaries", parquet({n: c.dictionary_encode() for n, c in texts.items()}),
               ONE, TWO)  # fmt: skip
    yield case("no rows", parquet({n: c[:0] for n, c in texts.items()}))
    missing = parquet({"a": texts["a"], "b": pa.nulls(2)})
    yield case("missing values", missing, ("1", None), ("2", None))
    yield case("an empty file", b"", code="INPUT_EMPTY")
    yield case("truncated", whole[:-100], **refused)
    yield case("its first half", whole[: len(whole) // 2], **refused)
    yield case("its begin missing", whole[100:], **refused)
    yield case("a bit flipped, with checksums", _flipped(whole, 9000), **refused)
    yield case("text that is named .parquet", b"a,b\n1,x\n", **refused)
    yield case("a column missing", parquet({"a": texts["a"]}), code="INPUT_COLUMNS")
    yield case("a column too many", parquet({**texts, "c": texts["a"]}), code="INPUT_COLUMNS")
    yield case("numbers where texts are agreed", parquet({**texts, "a": pa.array([1, 2])}),
               code="INPUT_COLUMNS")  # fmt: skip
    yield case("a list", parquet({**texts, "a": pa.array([["1"], ["2"]])}), code="INPUT_COLUMNS")
    yield case("bytes that are not UTF-8",
               parquet({**texts, "a": pa.array([b"1", b"\xff"], pa.binary())}), ONE,
               bad={2: "is not UTF-8"})  # fmt: skip

    def typed(name: str, *rows: Row, **more: Any) -> Case:
        columns = {
            "i": pa.array([1], pa.int64()),
            "n": pa.array([Decimal("2.50")]),
            "at": pa.array([NOON], pa.timestamp("us", "UTC")),
        }
        changed = {k: more.pop(k) for k in tuple(more) if k in columns}
        options = {"use_deprecated_int96_timestamps": True} if more.pop("int96", False) else {}
        return case(name, parquet({**columns, **changed}, **options), *rows, table="typed", **more)

    row = ("1", "2.50", "2024-03-01 12:00:00")
    kind = {"code": "INPUT_COLUMNS"}
    yield typed("typed values", row)
    yield typed("a narrower number", row, i=pa.array([1], pa.int8()))
    yield typed("an unsigned number too large", i=pa.array([2**64 - 1], pa.uint64()),
                bad={1: "typed.i.type"})  # fmt: skip
    yield typed("a double for a whole number", i=pa.array([1.0]), **kind)
    yield typed("texts for numbers", row, i=pa.array(["1"]))
    yield typed("a decimal of a larger scale", row, n=pa.array([Decimal("2.5000")]))
    yield typed("a decimal with a digit too many", n=pa.array([Decimal("2.5001")]),
                bad={1: "typed.n.type"})  # fmt: skip
    yield typed("a double for a decimal", row, n=pa.array([2.5]))
    yield typed("NaN for a decimal", n=pa.array([float("nan")]), bad={1: "typed.n.type"})
    yield typed("times in another zone", row,
                at=pa.array([NOON], pa.timestamp("us", "America/New_York")))  # fmt: skip
    yield typed("milliseconds", row, at=pa.array([NOON], pa.timestamp("ms", "UTC")))
    yield typed("nanoseconds that are zero", row, at=pa.array([NOON], pa.timestamp("ns", "UTC")))
    yield typed("nanoseconds that are not", at=pa.array([1], pa.timestamp("ns", "UTC")),
                bad={1: "typed.at.type"})  # fmt: skip
    yield typed("times without a zone", at=pa.array([NOON], pa.timestamp("us")), **kind)
    yield typed("INT96, where instants are agreed", int96=True, **kind)
    yield typed("dates for times", at=pa.array([NOON.date()]), **kind)

    def unzoned(name: str, at: pa.Array, *rows: Row, **more: Any) -> Case:
        options = {"use_deprecated_int96_timestamps": True} if more.pop("int96", False) else {}
        return case(name, parquet({"at": at}, **options), *rows, table="unzoned", **more)

    last = pa.array([datetime(9999, 12, 31)], pa.timestamp("us"))
    noon = pa.array([NOON], pa.timestamp("us"))
    yield unzoned("times without a zone, which the contract names", noon, row[2:])
    yield unzoned("INT96, whose zone the contract names", noon, row[2:], int96=True)
    yield unzoned("INT96 of the year 9999", last, ("9999-12-31 00:00:00",), int96=True)
    yield unzoned("INT96 with nanoseconds", pa.array([1], pa.timestamp("ns")), int96=True,
                  bad={1: "unzoned.at.type"})  # fmt: skip
