"""Any bytes, through every reader and loader: an answer, or an error of ours; never a wrong sum.

By default a few hundred inputs of each kind; `pytest -m slow` runs tens of thousands.
"""

from __future__ import annotations

import bz2
import contextlib
import csv
import gzip
import io
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nightjar.core.checks import Castable, DataType, RowRule
from nightjar.core.contract import Column, Contract, load_contract
from nightjar.core.errors import NightjarError, SpecError
from nightjar.core.pipeline import Source
from nightjar.core.plan import load_plan
from nightjar.core.project import Project
from nightjar.engine.delivered import FileFacts, Records, Unparsable
from nightjar.engine.delivery import READERS

CONTRACT = Contract("t", "1", "", tuple(Column(c, DataType("string")) for c in "ab"), (), (), ())
HERE = Path(__file__).parent
QUICK = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
LONG = settings(QUICK, max_examples=6_000)


def read(path: Path, source: Source, contract: Contract = CONTRACT) -> dict[int, Any]:
    """The records by number, once their count is exact.

    Raises:
        NightjarError: the file is refused.
    """
    reader = READERS[source.format]
    rows: dict[int, Any] = {}
    reader.look(path, contract, source)
    *items, facts = reader.read(path, contract, source)
    for item in items:
        if isinstance(item, Records):
            values = zip(*(column.to_pylist() for column in item.columns), strict=True)
            found: dict[int, Any] = dict(zip(item.numbers.tolist(), values, strict=True))
        else:
            assert isinstance(item, Unparsable)
            found = {item.number: item}
        assert not rows.keys() & found.keys()
        rows.update(found)
    assert isinstance(facts, FileFacts)
    assert facts.bytes == path.stat().st_size
    assert facts.records == len(rows)
    assert rows.keys() == set(range(1, len(rows) + 1))
    assert facts.unparsable == sum(isinstance(row, Unparsable) for row in rows.values())
    return rows


def good(rows: dict[int, Any]) -> list[Any]:
    return [row for _, row in sorted(rows.items()) if not isinstance(row, Unparsable)]


# -- CSV -------------------------------------------------------------------------------------------

CSVISH = st.text(alphabet="ab,;\"'\n\r \\x\0é\ufeff\U0001f42c", max_size=60)
CSV_BYTES = st.one_of(
    st.binary(max_size=60),
    CSVISH.map(lambda t: ("a,b\n" + t).encode()),
    st.binary(max_size=40).map(b"a,b\n1,x\n".__add__),
    CSVISH.map(lambda t: ("a,b\n" + t).encode("utf-16")),
    CSVISH.map(lambda t: gzip.compress(("a,b\n" + t).encode())),
)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "delimiter": st.sampled_from([",", ";"]),
        "quote": st.sampled_from(['"', "'", ""]),
        "encoding": st.sampled_from(["utf-8", "utf-16", "latin-1", "windows-1252", "detect"]),
    },
)


def any_csv(tmp_path: Path, content: bytes, options: dict[str, Any]) -> None:
    path = tmp_path / ("in.csv.gz" if content.startswith(b"\x1f\x8b") else "in.csv")
    path.write_bytes(content)
    source = Source(contract="t", format="csv", path="x", **options)
    with contextlib.suppress(NightjarError):
        read(path, source)


@QUICK
@given(CSV_BYTES, OPTIONS)
def test_any_bytes_as_csv(tmp_path: Path, content: bytes, options: dict[str, Any]) -> None:
    any_csv(tmp_path, content, options)


@pytest.mark.slow
@LONG
@given(CSV_BYTES, OPTIONS)
def test_many_bytes_as_csv(tmp_path: Path, content: bytes, options: dict[str, Any]) -> None:
    any_csv(tmp_path, content, options)


# -- JSON lines ------------------------------------------------------------------------------------

JSONISH = st.text(alphabet='{}[]":,ab01eE+-.\\unltrsf \n\r\t\0é\ud800', max_size=60)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner),
    max_leaves=5,
)
JSON_BYTES = st.one_of(
    st.binary(max_size=60),
    JSONISH.map(lambda t: t.encode("utf-8", "surrogatepass")),
    st.lists(JSON_VALUES, max_size=5).map(
        lambda values: "\n".join(map(json.dumps, values)).encode()
    ),
)


def any_json(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(content)
    with contextlib.suppress(NightjarError):
        read(path, Source(contract="t", format="jsonl", path="x"))


@QUICK
@given(JSON_BYTES)
def test_any_bytes_as_json(tmp_path: Path, content: bytes) -> None:
    any_json(tmp_path, content)


@pytest.mark.slow
@LONG
@given(JSON_BYTES)
def test_many_bytes_as_json(tmp_path: Path, content: bytes) -> None:
    any_json(tmp_path, content)


# -- contracts and pipelines -----------------------------------------------------------------------

ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=5), st.none(), max_size=2),
)  # fmt: skip


@st.composite
def changed(draw: Callable[..., Any], file: Path) -> bytes:
    """A file of the project with some of its values replaced, removed or renamed."""
    data = yaml.safe_load(file.read_text())
    for _ in range(draw(st.integers(1, 3))):
        place: Any = data
        while isinstance(place, dict | list) and place:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = draw(st.sampled_from(keys))
            inner = place[key]
            if not isinstance(inner, dict | list) or not inner or draw(st.integers(0, 3)) == 0:
                action = draw(st.sampled_from(["replace", "remove", "rename"]))
                if action == "replace":
                    place[key] = draw(ODD)
                elif action == "remove" or isinstance(place, list):
                    del place[key]
                else:
                    place[draw(st.text(max_size=12))] = place.pop(key)
                break
            place = inner
    text = yaml.safe_dump(data, allow_unicode=False)
    cut = draw(st.integers(0, len(text))) if draw(st.integers(0, 9)) == 0 else len(text)
    return text[:cut].encode()


PIPELINE = HERE / "project" / "pipelines" / "late_trips.yaml"
TRIPS = HERE / "project" / "schemas" / "trips.odcs.yaml"


def any_pipeline(project: Project, content: bytes) -> None:
    (project.root / "pipelines" / "late_trips.yaml").write_bytes(content)
    with contextlib.suppress(SpecError):
        load_plan(project, "late_trips")


def any_contract(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "trips.odcs.yaml"
    path.write_bytes(content)
    with contextlib.suppress(SpecError):
        load_contract(path)


@QUICK
@given(changed(PIPELINE))
def test_any_pipeline(project: Project, content: bytes) -> None:
    any_pipeline(project, content)


@pytest.mark.slow
@LONG
@given(changed(PIPELINE))
def test_many_pipelines(project: Project, content: bytes) -> None:
    any_pipeline(project, content)


@QUICK
@given(changed(TRIPS))
def test_any_contract(tmp_path: Path, content: bytes) -> None:
    any_contract(tmp_path, content)


@pytest.mark.slow
@LONG
@given(changed(TRIPS))
def test_many_contracts(tmp_path: Path, content: bytes) -> None:
    any_contract(tmp_path, content)


# -- good files, damaged ---------------------------------------------------------------------------
#
# Formats with checksums: the rows of the good file, or a refusal. Text without: what an independent
# reader of the damaged bytes finds, or a record kept apart, or a refusal.

ROWS = [(str(i), f'value {i}, "{i * 7}"' if i % 3 else f"é{i}\nnext") for i in range(60)]


def as_csv() -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([("a", "b"), *ROWS])
    return text.getvalue().encode()


def as_json() -> bytes:
    lines = [json.dumps({"a": a, "b": b}, ensure_ascii=False) for a, b in ROWS]
    return "\n".join(lines).encode()


def as_parquet() -> bytes:
    sink = io.BytesIO()
    columns = {"a": [int(a) for a, _ in ROWS], "b": [b for _, b in ROWS]}
    pq.write_table(
        pa.table(columns), sink, row_group_size=20, compression="none", write_page_checksum=True
    )
    return sink.getvalue()


NUMBERS = Contract(
    "t", "1", "",
    (Column("a", DataType("bigint")), Column("b", DataType("string"))), (),
    (RowRule("t.a.type", Castable("a", DataType("bigint"))),), (),
)  # fmt: skip


KINDS: dict[str, tuple[bytes, str, str]] = {
    "csv": (as_csv(), "csv", "in.csv"),
    "jsonl": (as_json(), "jsonl", "in.jsonl"),
    "csv.gz": (gzip.compress(as_csv(), mtime=0), "csv", "in.csv.gz"),
    "csv.bz2": (bz2.compress(as_csv()), "csv", "in.csv.bz2"),
    "parquet": (as_parquet(), "parquet", "in.parquet"),
}


def damaged(content: bytes, chance: random.Random) -> bytes:
    raw = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 5])):
        at = chance.randrange(len(raw)) if raw else 0
        match chance.randrange(6):
            case 0 if raw:
                raw[at] ^= 1 << chance.randrange(8)
            case 1 if raw:
                raw[at] = chance.randrange(256)
            case 2:
                del raw[at : at + chance.randrange(1, 40)]
            case 3:
                del raw[at:]
            case 4:
                begin = chance.randrange(len(content))
                raw[at:at] = content[begin : begin + chance.randrange(1, 60)]
            case _:
                raw[at:at] = chance.choice([b'"', b"\n", b"\0", b",", b"\xff", b"\r\n", b"{"])
    return bytes(raw)


def csv_oracle(content: bytes) -> list[tuple[str, ...]]:
    """The records that another strict reader finds, up to the first that it cannot read.

    A state machine over the text, one character at a time.
    """
    text = content.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    records: list[tuple[str, ...]] = []
    fields: list[str] = []
    field, state, bad = "", "start", False
    for c in [*text, "END"]:
        if c in (",", "\n", "\r", "END") and state != "quoted":
            blank = not fields and state == "start"
            fields.append(field)
            field, state = "", "start"
            if c != ",":
                wrong = bad or any(
                    set(f) & {"\0"} or (not f.isprintable() and _lone(f)) for f in fields
                )
                if not blank and not wrong:
                    records.append(tuple(fields))
                elif not blank:
                    records.append(("\0bad",))
                fields, bad = [], False
            elif c == ",":
                state = "start"
            continue
        if c == "END":
            records.append(("\0bad",))
        elif state == "start" and c == '"':
            state = "quoted"
        elif state == "quoted" and c == '"':
            state = "closing"
        elif state == "closing" and c == '"':
            field, state = field + '"', "quoted"
        else:
            if state == "closing":
                bad, state = True, "bare"
            elif state == "start":
                state = "bare"
            field += c
    return records


def _lone(text: str) -> bool:
    return any("\ud800" <= c <= "\udfff" for c in text)


def json_oracle(content: bytes) -> list[tuple[Any, ...]]:
    """What Python's json makes of each line, one at a time; only records of the right kind."""
    found: list[tuple[Any, ...]] = []
    text = content.decode("utf-8", "surrogateescape")
    for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        if not line.strip("\t\n\v\f\r "):
            continue
        try:
            pairs = json.loads(line, object_pairs_hook=list, parse_int=str, parse_float=str)
            keys = [key for key, _ in pairs]
            values = dict(pairs)
            kept = tuple(values.get(name) for name in "ab")
            right = len(set(keys)) == len(keys) and set(keys) <= {"a", "b"}
            plain = all(v is None or (isinstance(v, str) and not _lone(v)) for v in kept)
            found.append(kept if right and plain and "\0" not in line else ("\0bad",))
        except (ValueError, TypeError, RecursionError):
            found.append(("\0bad",))
    return found


def one_damaged(tmp_path: Path, kind: str, seed: int) -> str:
    """What became of one damaged file; an AssertionError where it is silently wrong."""
    content, format_, name = KINDS[kind]
    raw = damaged(content, random.Random(seed))
    path = tmp_path / name
    path.write_bytes(raw)
    source = Source(contract="t", format=format_, path="x")  # type: ignore[arg-type]
    try:
        rows = read(path, source, NUMBERS if format_ == "parquet" else CONTRACT)
    except NightjarError as error:
        return error.code
    if kind in ("csv", "jsonl"):
        expected = csv_oracle(raw)[1:] if kind == "csv" else json_oracle(raw)
        assert len(rows) == len(expected)
        for number, row in rows.items():
            other = expected[number - 1]
            apart = isinstance(row, Unparsable)
            fits = len(other) == 2 and not (kind == "csv" and set(other) == {"a", "b"})
            assert apart != fits, (number, row, other)
            assert apart or row == other
        return "read"
    assert good(rows) == ROWS or any(isinstance(row, Unparsable) for row in rows.values())
    assert all(row == ROWS[n - 1] for n, row in rows.items() if not isinstance(row, Unparsable))
    return "whole"


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files(tmp_path: Path, kind: str) -> None:
    found = Counter(one_damaged(tmp_path, kind, seed) for seed in range(200))
    assert found.total() == 200


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_damaged_files(tmp_path: Path, kind: str) -> None:
    found = Counter(one_damaged(tmp_path, kind, seed) for seed in range(1_000, 3_400))
    assert found.total() == 2_400
