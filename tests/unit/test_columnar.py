"""Parquet: every row of a file as exact text, or a fault that says why not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nightjar.core.checks import Castable, DataType, RowRule
from nightjar.core.contract import Column, Contract
from nightjar.core.errors import EmptyInput, HeaderMismatch, OversizedInput, UnreadableInput
from nightjar.core.pipeline import Source
from nightjar.engine import columnar
from nightjar.engine.delivered import FileFacts, Records, Unparsable

SOURCE = Source(contract="t", format="parquet", path="x")


def contract(kind: str = "string", zone: str | None = None, pattern: str | None = None) -> Contract:
    made = DataType("decimal", 10, 2) if kind == "decimal" else DataType(kind)
    rules = () if kind == "string" else (RowRule("t.v.type", Castable("v", made, pattern, zone)),)
    return Contract("t", "1", "", (Column("v", made),), (), rules, ())


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(values: pa.Array, name: str = "v", **options: Any) -> Path:
        path = tmp_path / "in.parquet"
        pq.write_table(pa.table({name: values}), path, **options)
        return path

    return write


def read(path: Path, of: Contract, source: Source = SOURCE) -> list[Any]:
    columnar.look(path, of, source)
    *items, facts = columnar.read(path, of, source)
    rows: dict[int, Any] = {}
    for item in items:
        if isinstance(item, Records):
            rows.update(zip(item.numbers.tolist(), item.columns[0].to_pylist(), strict=True))
        elif isinstance(item, Unparsable):
            rows[item.number] = item
    assert isinstance(facts, FileFacts)
    assert facts.records == len(rows) == max(rows, default=0)
    return [rows[number] for number in sorted(rows)]


NOON = datetime(2024, 3, 1, 12, 0, 0, 250)


@pytest.mark.parametrize(
    ("values", "of", "texts"),
    [
        (pa.array(["x", "", None]), contract(), ["x", "", None]),
        (pa.array(["x", "x"]).dictionary_encode(), contract(), ["x", "x"]),
        (pa.array([b"\xc3\xa9"]), contract(), ["é"]),
        (pa.nulls(2), contract("int"), [None, None]),
        (pa.array([2**64 - 1], pa.uint64()), contract("bigint"), ["18446744073709551615"]),
        (pa.array([-5, None], pa.int8()), contract("double"), ["-5", None]),
        (pa.array([0.1, 1e300, float("nan")]), contract("double"), ["0.1", "1e+300", "nan"]),
        (pa.array([0.1], pa.float32()), contract("float"), ["0.1"]),
        (pa.array([np.float16(0.5)]), contract("float"), ["0.5"]),
        (pa.array([Decimal("1.50")]), contract("decimal"), ["1.50"]),
        (pa.array([Decimal("0.12345")]), contract("decimal"), ["0.12345"]),
        (pa.array([True, False]), contract("boolean"), ["true", "false"]),
        (
            pa.array([date(1, 1, 1), date(9999, 12, 31)]),
            contract("date"),
            ["0001-01-01", "9999-12-31"],
        ),
        (
            pa.array([NOON], pa.timestamp("us", "UTC")),
            contract("timestamp"),
            ["2024-03-01 12:00:00.000250Z"],
        ),
        (
            pa.array([NOON.replace(tzinfo=UTC)], pa.timestamp("us", "America/New_York")),
            contract("timestamp"),
            ["2024-03-01 12:00:00.000250Z"],
        ),
        (
            pa.array([NOON], pa.timestamp("us")),
            contract("timestamp", "Europe/Rome"),
            ["2024-03-01 12:00:00.000250"],
        ),
        (
            pa.array([1, 1_001, None], pa.timestamp("ns", "UTC")),
            contract("timestamp"),
            ["1970-01-01 00:00:00.000000001Z", "1970-01-01 00:00:00.000001001Z", None],
        ),
        (
            pa.array([5_000], pa.timestamp("ns", "UTC")),
            contract("timestamp"),
            ["1970-01-01 00:00:00.000005Z"],
        ),
        (
            pa.array([5], pa.timestamp("ms", "UTC")),
            contract("timestamp"),
            ["1970-01-01 00:00:00.005Z"],
        ),
    ],
)
def test_values_as_exact_text(
    write: Callable[..., Path], values: pa.Array, of: Contract, texts: list[Any]
) -> None:
    assert read(write(values), of) == texts


def test_int96_to_its_last_digit_and_its_last_year(write: Callable[..., Path]) -> None:
    values = pa.array([datetime(9999, 12, 31), NOON, None], pa.timestamp("us"))
    path = write(values, use_deprecated_int96_timestamps=True)
    assert read(path, contract("timestamp", "UTC")) == [
        "9999-12-31 00:00:00.000000",
        "2024-03-01 12:00:00.000250",
        None,
    ]
    fine = pa.array([1_001, 2_000], pa.timestamp("ns"))
    path = write(fine, use_deprecated_int96_timestamps=True)
    assert read(path, contract("timestamp", "UTC")) == [
        "1970-01-01 00:00:00.000001001",
        "1970-01-01 00:00:00.000002",
    ]


@pytest.mark.parametrize("kind", [pa.string(), pa.binary()])
def test_bytes_that_are_no_utf8(write: Callable[..., Path], kind: pa.DataType) -> None:
    raw = pa.array([b"x", b"\xff", None])
    values = pa.StringArray.from_buffers(3, *raw.buffers()[1:], raw.buffers()[0])
    rows = read(write(values if kind == pa.string() else raw), contract())
    assert rows == ["x", Unparsable(2, "'\\\\xff'", "column 'v' is not UTF-8"), None]


@pytest.mark.parametrize(
    ("values", "of", "said"),
    [
        (pa.array([1.0]), contract("int"), "double; the contract says int"),
        (pa.array([1]), contract(), "int64; the contract says string"),
        (pa.array([[1]]), contract("int"), "list"),
        (pa.array([{"x": 1}]), contract(), "struct"),
        (pa.array([1]), contract("date"), "the contract says date"),
        (pa.array([date(2024, 1, 1)]), contract("timestamp"), "the contract says timestamp"),
        (pa.array([NOON]), contract("timestamp"), "defaultTimezone"),
        (
            pa.array([NOON], pa.timestamp("us", "UTC")),
            contract("timestamp", "Europe/Rome"),
            "local times of Europe/Rome",
        ),
        (pa.array([date(2024, 1, 1)]), contract("date", None, "dd/MM/yyyy"), "remove the format"),
        (pa.array([NOON]), contract("timestamp", "UTC", "yyyy"), "remove the format"),
    ],
)
def test_kinds_that_are_not_the_contracts(
    write: Callable[..., Path], values: pa.Array, of: Contract, said: str
) -> None:
    with pytest.raises(HeaderMismatch) as caught:
        read(write(values), of)
    assert said in caught.value.message


def test_other_columns(write: Callable[..., Path]) -> None:
    with pytest.raises(HeaderMismatch):
        read(write(pa.array(["x"]), "w"), contract())


def test_damage_is_found(write: Callable[..., Path]) -> None:
    whole = write(
        pa.array([str(i) for i in range(5000)]), compression="none", write_page_checksum=True
    ).read_bytes()
    path = write(pa.array(["x"]))
    for content in (whole[:-5], whole[: len(whole) // 2], whole[4:], b"PAR1PAR1", b"PAR1" * 9):
        path.write_bytes(content)
        with pytest.raises(UnreadableInput):
            read(path, contract())
    flipped = bytearray(whole)
    flipped[5000] ^= 4
    path.write_bytes(flipped)
    with pytest.raises(UnreadableInput, match="CRC"):
        read(path, contract())
    path.write_bytes(b"")
    with pytest.raises(EmptyInput):
        read(path, contract())


def test_what_unpacks_to_too_much_is_refused(write: Callable[..., Path]) -> None:
    path = write(pa.array(["x" * 1000 + str(i) for i in range(2000)]), compression="zstd")
    source = SOURCE.model_copy(
        update={"limits": SOURCE.limits.model_copy(update={"unpacked": 1 << 20})}
    )
    with pytest.raises(OversizedInput):
        read(path, contract(), source)
