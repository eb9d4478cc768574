"""Quarantined rows as a file that an engineer edits, and back: what was changed, and only that.

A CSV file is for spreadsheets: UTF-8 with a byte order mark, every text quoted, nothing that a
spreadsheet takes for a formula. Parquet has the texts as they are. Personal data is masked unless
asked for. A cell that stands as it was exported stands for the delivered text, whatever the file
could not show of it (personal data, null beside empty text); any other cell is the new text.
"""

from __future__ import annotations

import csv
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from nightjar.core.contract import Contract
from nightjar.core.errors import RepairRefused, UsageError, near
from nightjar.core.spreadsheet import neutralise, restore
from nightjar.engine.quarantine import Refused, hidden
from nightjar.engine.repairs import DISCARD, REPLACE, Key, Repair

ORIGIN = ("_file", "_record", "_sha256")
ASKED = ("_action", "_reason")
SHOWN = ("_broken", "_text")
_LONGEST_CELL = 1 << 27
_ROWS = 10_000
_FAULTS_SHOWN = 10


@dataclass(frozen=True)
class Edit:
    """One row of an edited file. `cells` are the contract's columns as they stand in the file."""

    line: int
    file: str
    record: int
    sha256: str
    action: str
    reason: str
    cells: Mapping[str, str | None]

    @property
    def key(self) -> Key:
        return self.file, self.record


@dataclass(frozen=True)
class Known:
    """A record that may be repaired: its texts by now, what it broke, and its repair if any."""

    values: Mapping[str, str | None]
    rules: tuple[str, ...]
    repair: Repair | None = None


# -- out ------------------------------------------------------------------------------------------


def columns(contract: Contract) -> list[str]:
    return [*ORIGIN, "_broken", *ASKED, *contract.names, "_text"]


def export(
    rows: Iterable[Refused],
    target: Path,
    contract: Contract,
    digests: Mapping[str, str],
    *,
    unmask: bool = False,
) -> int:
    """Write the records to `target`, .csv or .parquet; returns how many there are.

    Raises:
        UsageError: another ending, or the file is there already.
    """
    kind = _kind(target)
    if target.exists():
        raise UsageError(f"{target} is there already, and may hold somebody's work; name another")
    pii = frozenset[str]() if unmask else contract.pii
    table = (_row(row.masked(pii), digests[row.file], contract) for row in rows)
    making = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        write = _write_csv if kind == ".csv" else _write_parquet
        count = write(table, making, columns(contract))
        os.replace(making, target)
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error.strerror}") from error
    finally:
        making.unlink(missing_ok=True)
    return count


def _row(row: Refused, sha256: str, contract: Contract) -> dict[str, str | int | None]:
    values = row.values or {}
    reasons = [
        f"{b['rule']}: found {'nothing' if b['found'] is None else repr(b['found'])}, "
        f"expected {b['expected']}"
        for b in row.broken
    ]
    return {
        "_file": row.file,
        "_record": row.record,
        "_sha256": sha256,
        "_broken": "; ".join(reasons),
        "_action": "",
        "_reason": "",
        **{name: values.get(name) for name in contract.names},
        "_text": row.text,
    }


def _write_csv(rows: Iterable[Mapping[str, Any]], path: Path, names: Sequence[str]) -> int:
    count = 0
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        file.write(",".join(names) + "\r\n")
        for count, row in enumerate(rows, start=1):  # noqa: B007
            file.write(",".join(_cell(row[name]) for name in names) + "\r\n")
    return count


def _cell(value: str | int | None) -> str:
    if value is None or isinstance(value, int):
        return "" if value is None else str(value)
    return '"' + neutralise(value).replace('"', '""') + '"'


def _write_parquet(rows: Iterable[Mapping[str, Any]], path: Path, names: Sequence[str]) -> int:
    schema = pa.schema([(n, pa.int64() if n == "_record" else pa.string()) for n in names])
    listed = list(rows)
    pq.write_table(pa.Table.from_pylist(listed, schema), path)
    return len(listed)


# -- in -------------------------------------------------------------------------------------------


def read_edits(path: Path, contract: Contract) -> list[Edit]:
    """The rows of an edited file.

    Raises:
        UsageError: the file is not there or has another ending.
        RepairRefused: it is no such file: its columns, a row's length, a number, an action.
    """
    kind = _kind(path)
    if not path.is_file():
        raise UsageError(f"no file {path}")
    listed = list(_csv_rows(path) if kind == ".csv" else _parquet_rows(path))
    names = list(listed[0][1]) if listed else []
    wanted = [*ORIGIN, *contract.names]
    known = {*wanted, *ASKED, *SHOWN}
    faults = [f"column '{n}' is missing ({near(n, names)})" for n in wanted if n not in names]
    faults += [f"column '{n}' is unknown ({near(n, known)})" for n in names if n not in known]
    if faults and listed:
        raise _refused(path, faults)
    edits: list[Edit] = []
    seen: dict[Key, int] = {}
    for line, row in listed:
        number = str(row["_record"] or "")
        action = (row.get("_action") or "").strip().lower()
        if not number.isdecimal() or not row["_file"] or not row["_sha256"]:
            faults.append(
                f"row {line}: _file, _record and _sha256 must stand as they were exported"
            )
            continue
        if action not in ("", DISCARD):
            faults.append(f"row {line}: _action is {action!r}; expected nothing or '{DISCARD}'")
            continue
        edit = Edit(
            line, row["_file"], int(number), row["_sha256"], action,
            (row.get("_reason") or "").strip(), {n: row[n] for n in contract.names},
        )  # fmt: skip
        if edit.key in seen:
            faults.append(f"row {line}: record {edit.record} stands in row {seen[edit.key]} too")
        seen.setdefault(edit.key, line)
        edits.append(edit)
    if faults:
        raise _refused(path, faults)
    return edits


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, str | None]]]:
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from _records(path, file)
    except UnicodeDecodeError as error:
        raise _refused(path, ["is not UTF-8: save it as 'CSV UTF-8'"]) from error
    except csv.Error as error:
        raise _refused(path, [f"is not CSV: {error}"]) from error
    finally:
        csv.field_size_limit(before)


def _records(path: Path, file: IO[str]) -> Iterator[tuple[int, dict[str, str | None]]]:
    reader = csv.reader(file, strict=True)
    header = next(reader, [])
    if len(set(header)) != len(header):
        raise _refused(path, ["a column stands twice"])
    ragged = []
    for line, cells in enumerate(reader, start=2):  # as a spreadsheet counts: the header is 1
        if len(cells) == len(header):
            row: dict[str, str | None] = dict(zip(header, cells, strict=True))
            yield line, {n: restore(v or "") if n.startswith("_") else v for n, v in row.items()}
        elif cells:
            ragged.append(f"row {line}: {len(cells)} cells, the header has {len(header)}")
    if ragged:
        raise _refused(path, ragged)


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, str | None]]]:
    try:
        table = pq.read_table(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise _refused(path, [f"is not Parquet: {error}"]) from error
    typed = [
        f"column '{f.name}' has type {f.type}; expected text"
        for f in table.schema
        if f.name != "_record" and not pa.types.is_string(f.type)
        and not pa.types.is_large_string(f.type) and not pa.types.is_null(f.type)
    ]  # fmt: skip
    if typed:
        raise _refused(path, typed)
    yield from enumerate(table.to_pylist(), start=1)


# -- what was changed -----------------------------------------------------------------------------


def resolve(
    edits: Iterable[Edit],
    known: Mapping[Key, Known],
    digests: Mapping[str, str],
    contract: Contract,
    *,
    spreadsheet: bool,
    replay: int,
    at: str,
    by: str,
    reason: str,
) -> list[Repair]:
    """The repairs that the edited rows ask for; none for a row that says what is known already.

    `known` are the records in quarantine or repaired before, among those edited.

    Raises:
        RepairRefused: a row is of no such record or of another delivery; a discard has no reason.
    """
    repairs, faults = [], []
    for edit in edits:
        found = known.get(edit.key)
        if digests.get(edit.file) != edit.sha256:
            faults.append(f"row {edit.line}: {edit.file} was delivered anew since it was exported")
        elif found is None:
            faults.append(
                f"row {edit.line}: record {edit.record} of {edit.file} is not in quarantine"
            )
        elif edit.action == DISCARD and not (edit.reason or reason):
            faults.append(f"row {edit.line}: a row is discarded for a reason; write it in _reason")
        else:
            values = {
                c.name: _value(edit.cells[c.name], found.values.get(c.name), c.pii, spreadsheet)
                for c in contract.columns
            }
            changed = tuple(n for n, v in values.items() if v != found.values.get(n))
            action = DISCARD if edit.action == DISCARD else REPLACE
            done = found.repair is not None and found.repair.action == action
            if changed or (action == DISCARD and not done):
                repairs.append(
                    Repair(replay, at, by, action, edit.reason or reason, edit.file, edit.sha256,
                           edit.record, found.rules, changed, values)
                )  # fmt: skip
    if faults:
        raise _refused(None, faults)
    return repairs


def _value(cell: str | None, before: str | None, pii: bool, spreadsheet: bool) -> str | None:
    """The text that a cell stands for."""
    shown = hidden(before) if pii else before
    for exported in {before, shown}:
        as_cell = ("" if exported is None else neutralise(exported)) if spreadsheet else exported
        if cell == as_cell:
            return before
    return restore(cell or "") if spreadsheet else cell


def _kind(path: Path) -> str:
    if path.suffix not in (".csv", ".parquet"):
        raise UsageError(f"{path} must end in .csv or .parquet")
    return path.suffix


def _refused(path: Path | None, faults: Sequence[str]) -> RepairRefused:
    shown = "".join(f"\n- {fault}" for fault in faults[:_FAULTS_SHOWN])
    more = f"\n- and {len(faults) - _FAULTS_SHOWN} more" if len(faults) > _FAULTS_SHOWN else ""
    return RepairRefused(
        f"{path or 'the edited rows'}: {len(faults)} fault(s); nothing was replayed{shown}{more}",
        faults=list(faults),
    )
