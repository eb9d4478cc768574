"""Parquet, read strictly: bound by column name, every row accounted for.

Values come as text, like those of every format, so that one contract is enforced in one way. The
text holds the value exactly: decimals with their digits, doubles in their shortest form, times to
the last digit that is not zero. A kind of column that the contract's type could only guess at (a
time without zone where the contract wants instants, a list, a double for a whole number) is a
fault of the file. Page checksums are verified where the writer made them. No Spark here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nightjar.core.checks import Castable
from nightjar.core.contract import Column, Contract
from nightjar.core.errors import EmptyInput, HeaderMismatch, NightjarError, OversizedInput
from nightjar.core.pipeline import Limits, Source
from nightjar.engine.delivered import FileFacts, Item, Records, Unparsable, check_columns
from nightjar.engine.textfile import DeliveredFile, unreadable

BATCH = 10_000
_FAULTS = (OSError, pa.ArrowException, ValueError, TypeError, KeyError, MemoryError, OverflowError)


def look(path: Path, contract: Contract, source: Source) -> None:
    """As of Reader.

    Raises:
        MissingInput, EmptyInput, UnreadableInput, OversizedInput.
        HeaderMismatch: also where a column's kind cannot be taken for the contract's type.
    """
    with DeliveredFile(path) as file:
        _check(path, _open(file, source.limits), contract)


def read(path: Path, contract: Contract, source: Source) -> Iterator[Item]:
    """As of Reader. Memory is bounded by a page of each column and a batch of rows.

    Raises:
        as `look`; UnsettledInput.
    """
    names = list(contract.delivered_names)
    with DeliveredFile(path) as file:
        size, digest = file.facts()
        parquet = _open(file, source.limits)
        _check(path, parquet, contract)
        done = bad = 0
        try:
            rests = _int96_rests(file, parquet, source.limits, names)
            for batch in parquet.iter_batches(BATCH, columns=names, use_threads=False):
                for item in _items(batch, contract, next(rests), done):
                    bad += isinstance(item, Unparsable)
                    yield item
                done += batch.num_rows
        except _FAULTS as error:
            raise _damaged(path, f"after row {done}: {error}") from error
        if done != parquet.metadata.num_rows:
            raise _damaged(path, f"holds {done} rows and says {parquet.metadata.num_rows}")
        file.require_unchanged()
    yield FileFacts(size, digest, done, bad, "parquet")


def _damaged(path: Path, problem: str) -> NightjarError:
    return unreadable(path, f"is no whole Parquet file: {problem}. Have it delivered again.")


def _open(file: DeliveredFile, limits: Limits, int96: str = "us") -> pq.ParquetFile:
    path = file.path
    size = path.stat().st_size
    if not size:
        raise EmptyInput(f"{path} is empty (0 bytes)", path=str(path))
    try:
        parquet = pq.ParquetFile(
            pa.PythonFile(file.raw.file, mode="r"),
            page_checksum_verification=True,
            coerce_int96_timestamp_unit=int96,
            pre_buffer=False,
        )
        groups = [parquet.metadata.row_group(i) for i in range(parquet.num_row_groups)]
        unpacked = sum(group.total_byte_size for group in groups)
    except _FAULTS as error:
        raise _damaged(path, str(error)) from error
    if unpacked > limits.unpacked:
        raise OversizedInput(
            f"{path} unpacks to {unpacked:,} bytes from {size:,}; the source's limit is "
            f"unpacked: {limits.unpacked:,} B. If the file is right, raise it under 'limits'.",
            path=str(path),
        )
    return parquet


def _check(path: Path, parquet: pq.ParquetFile, contract: Contract) -> None:
    schema = parquet.schema_arrow
    check_columns(path, schema.names, contract.delivered_names)
    casts = {r.column: r.check for r in contract.row_rules if isinstance(r.check, Castable)}
    wrong = []
    for column, name in zip(contract.columns, contract.delivered_names, strict=True):
        found = schema.field(name).type
        problem = _misfit(found, column, casts.get(column.name))
        if problem:
            wrong.append(f"column '{name}' is {found}; {problem}")
    if wrong:
        raise HeaderMismatch(f"{path}: {'. '.join(wrong)}.", path=str(path), types=wrong)


def _misfit(found: pa.DataType, column: Column, check: Castable | None) -> str:
    """Why values of the delivered type are none of the column's; nothing where they are."""
    kind = column.type
    if pa.types.is_dictionary(found):
        found = found.value_type
    text = pa.types.is_string(found) or pa.types.is_large_string(found)
    if text or pa.types.is_null(found) or pa.types.is_binary(found):
        return ""
    number = pa.types.is_integer(found) or pa.types.is_decimal(found)
    if kind.is_number and (number or (pa.types.is_floating(found) and not kind.is_whole)):
        return ""
    if kind.name == "boolean" and pa.types.is_boolean(found):
        return ""
    if kind.name == "date" and pa.types.is_date(found):
        written = check.pattern if check else None
        return f"remove the format {written!r}, which is for text" if written else ""
    if kind.name == "timestamp" and pa.types.is_timestamp(found) and check:
        if check.pattern:
            return f"remove the format {check.pattern!r}, which is for text"
        if found.tz is None and check.zone is None:
            return (
                "it has no time zone, and the contract says that each value carries its offset "
                "(timezone: true): name the zone as defaultTimezone (UTC for what Spark wrote)"
            )
        if found.tz is not None and check.zone not in (None, "UTC"):
            return f"it holds instants, and the contract says local times of {check.zone}"
        return ""
    return f"the contract says {kind}"


Rests = dict[str, "np.ndarray[Any, np.dtype[np.int64]]"]


def _int96_rests(
    file: DeliveredFile, parquet: pq.ParquetFile, limits: Limits, names: Sequence[str]
) -> Iterator[Rests]:
    """Of each batch, the nanoseconds that INT96 times have beyond their microseconds.

    Read as nanoseconds, times beyond the year 2262 wrap around; the difference to the
    microseconds, in the same arithmetic, is right all the same.
    """
    schema = parquet.schema
    columns = [schema.column(i) for i in range(len(schema.names))]
    exact = [c.name for c in columns if c.physical_type == "INT96" and c.name in names]
    if not exact:
        yield from itertools.repeat({})
    coarse = parquet.iter_batches(BATCH, columns=exact, use_threads=False)
    fine = _open(file, limits, "ns").iter_batches(BATCH, columns=exact, use_threads=False)
    for micros, nanos in zip(coarse, fine, strict=True):
        with np.errstate(over="ignore"):
            yield {n: _ticks(nanos.column(n)) - _ticks(micros.column(n)) * 1000 for n in exact}


def _items(
    batch: pa.RecordBatch, contract: Contract, rests: Rests, done: int
) -> Iterator[Records | Unparsable]:
    numbers = np.arange(done + 1, done + batch.num_rows + 1)
    casts = [r.check for r in contract.row_rules if isinstance(r.check, Castable)]
    local = {check.column for check in casts if check.zone is not None}
    columns: list[pa.StringArray] = []
    wrong: dict[int, str] = {}
    for column, name in zip(contract.columns, contract.delivered_names, strict=True):
        values, damaged = as_text(batch.column(name), column.name in local, rests.get(name))
        columns.append(values)
        for row in damaged:
            wrong.setdefault(row, f"column '{name}' is not UTF-8")
    for row, reason in sorted(wrong.items()):
        shown = ", ".join(repr(column[row].as_py()) for column in columns)
        yield Unparsable(int(numbers[row]), shown, reason)
    valid = np.ones(batch.num_rows, dtype=bool)
    valid[list(wrong)] = False
    if valid.any():
        keep = pa.array(valid)
        yield Records(numbers[valid], [c.filter(keep) for c in columns] if wrong else columns)


def as_text(
    values: pa.Array, local: bool = False, rest: np.ndarray[Any, np.dtype[np.int64]] | None = None
) -> tuple[pa.StringArray, list[int]]:
    """Each value as the text that names it exactly, and the rows whose bytes are no UTF-8.

    With `local`, timestamps are written without offset; else with Z. `rest` are nanoseconds that
    come on top of times in microseconds.
    """
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    kind = values.type
    if pa.types.is_timestamp(kind):
        return _times(values, local, rest), []
    if pa.types.is_float16(kind):
        values = values.cast(pa.float32())
    if pa.types.is_date64(kind):
        values = values.cast(pa.date32())
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind)):
        return values.cast(pa.string()), []
    try:
        text = values.cast(pa.binary()).cast(pa.string())  # this cast looks at the bytes
        text.validate(full=True)
        return text, []
    except pa.ArrowInvalid:
        texts, damaged = [], []
        for row, value in enumerate(values.cast(pa.binary()).to_pylist()):
            try:
                texts.append(value if value is None else value.decode())
            except UnicodeDecodeError:
                texts.append(value.decode("utf-8", "backslashreplace"))
                damaged.append(row)
        return pa.array(texts, pa.string()), damaged


def _times(
    values: pa.TimestampArray, local: bool, rest: np.ndarray[Any, np.dtype[np.int64]] | None
) -> pa.StringArray:
    if values.type.unit == "ns":
        ticks = _ticks(values)
        rest = ticks % 1000
        values = pa.array(ticks // 1000, mask=np.asarray(values.is_null())).cast(pa.timestamp("us"))
    # The instants in UTC, or the local times: without a zone.
    text = values.cast(pa.int64()).cast(pa.timestamp(values.type.unit)).cast(pa.string())
    if rest is not None and rest.any():
        digits = pa.array([f"{nanos:03}" if nanos else "" for nanos in rest.tolist()])
        text = pc.binary_join_element_wise(text, digits, "")
    return text if local else pc.binary_join_element_wise(text, "Z", "")


def _ticks(values: pa.TimestampArray) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.asarray(values.cast(pa.int64()).fill_null(0))
