"""Delimited text, read strictly: bound by header name, every record accounted for.

Records come as text, unchanged. A record of the wrong length, with an unclosed quote or with
bytes that are not UTF-8 is not dropped and not guessed at: it is returned as unparsable, with its
text. Pure functions over a file; no Spark here, so that executors can run them anywhere.

Format: RFC 4180; quotes are doubled inside quotes; lines end in LF, CRLF or CR; blank lines hold
no record; a byte order mark is skipped; gzip, bz2 and zstd are known by the file's ending.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from nightjar.core.errors import EmptyInput, HeaderMismatch, MissingInput, UnreadableInput, near

BLOCK_BYTES = 4 << 20
LONGEST_RECORD = 64 << 20


@dataclass(frozen=True)
class FileFacts:
    """What was counted while one file was read. `bytes` and `sha256` are of the file as it lies."""

    bytes: int
    sha256: str
    records: int
    unparsable: int


@dataclass(frozen=True)
class Records:
    """Some records of a file, in order. Numbers count records from 1, the header apart."""

    numbers: np.ndarray[Any, np.dtype[np.int64]]
    columns: Sequence[pa.StringArray]


@dataclass(frozen=True)
class Unparsable:
    """One record that is not what the header promises."""

    number: int
    text: str
    reason: str


class Hashing(io.RawIOBase):
    """A readable file that takes the digest of all that passes."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.size = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self.file.readinto(buffer)  # type: ignore[attr-defined]
        self.digest.update(memoryview(buffer)[:count])
        self.size += count
        return int(count)


def open_text(path: Path) -> tuple[Hashing, pa.NativeFile]:
    """The file's raw bytes, hashed as they pass, and the stream that decompresses them."""
    raw = Hashing(path.open("rb", buffering=0))
    stream = pa.PythonFile(raw, mode="r")
    kind = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}.get(path.suffix)
    return raw, pa.CompressedInputStream(stream, kind) if kind else stream


def read_header(path: Path, delimiter: str) -> list[str]:
    """The column names in the file's first record.

    Raises:
        MissingInput, EmptyInput, UnreadableInput: the file is not there, holds nothing, or does
            not begin with text.
    """
    try:
        raw, stream = open_text(path)
    except FileNotFoundError as error:
        raise _missing(path) from error
    except OSError as error:
        raise UnreadableInput(f"{path} cannot be opened: {error.strerror}") from error
    with raw.file:
        try:
            head = stream.read(1 << 20)
        except (OSError, pa.ArrowException) as error:
            raise UnreadableInput(f"{path} cannot be decompressed: {error}") from error
    if not head.strip():
        raise EmptyInput(f"{path} is empty ({raw.size} bytes); expected at least a header line")
    return _parse_header(path, head, delimiter)


def _parse_header(path: Path, head: bytes, delimiter: str) -> list[str]:
    end = min((i for i in (head.find(b"\n"), head.find(b"\r")) if i >= 0), default=len(head))
    while head[:end].count(b'"') % 2 and end < len(head):
        end = next((i for i in range(end + 1, len(head)) if head[i] in b"\r\n"), len(head))
    if b"\0" in head[:end]:
        raise UnreadableInput(
            f"{path} has NUL bytes in its first line: it is no UTF-8 text (UTF-16, or a binary "
            "file?). Convert it to UTF-8."
        )
    try:
        line = head[:end].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableInput(
            f"{path}: the header is not UTF-8 (byte {error.start}). Convert the file to UTF-8."
        ) from error
    return next(csv.reader([line], delimiter=delimiter), [])


def _missing(path: Path) -> MissingInput:
    folder = path.parent
    others = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    hint = f"nearest there: {near(path.name, others)}" if others else f"{folder} holds nothing"
    return MissingInput(
        f"{path} is not there; {hint[:300]} Deliver the file and run again.", path=str(path)
    )


def check_header(path: Path, found: Sequence[str], expected: Sequence[str]) -> None:
    """Demand the expected names, each once, in any order.

    Raises:
        HeaderMismatch: with what is missing, what is extra and what stands twice.
    """
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    twice = sorted({name for name in found if list(found).count(name) > 1})
    parts = []
    for name in missing:
        close = near(name, extra) if extra else ""
        parts.append(f"column '{name}' is missing" + (f" ({close})" if "mean" in close else ""))
    parts += [f"column '{name}' is not in the contract" for name in extra]
    parts += [f"column '{name}' stands twice" for name in twice]
    if parts:
        raise HeaderMismatch(
            f"{path}: {'; '.join(parts)}. Expected, in any order: {', '.join(expected)}. "
            "Have the file delivered again, or change the contract if the source has changed.",
            path=str(path),
            missing=missing,
            extra=extra,
            repeated=twice,
        )


def read_records(
    path: Path, expected: Sequence[str], delimiter: str = ","
) -> Iterator[Records | Unparsable | FileFacts]:
    """Every record of the file, as text, columns in the order of `expected`; the facts last.

    Memory is bounded by the block (4 MiB), or by the longest record where that is more.

    Raises:
        MissingInput, EmptyInput, HeaderMismatch, UnreadableInput.
    """
    header = read_header(path, delimiter)
    check_header(path, header, expected)
    block = BLOCK_BYTES
    while True:
        reader = _Reader(path, header, expected, delimiter, block)
        try:
            yield from reader.read()
            return
        except pa.ArrowInvalid as error:
            # A record longer than a block; nothing was emitted yet only if it is the first one.
            if "straddling" not in str(error) or reader.emitted or block >= LONGEST_RECORD:
                raise UnreadableInput(
                    f"{path}: after record {reader.count}: {error}. "
                    f"(A record may be at most {LONGEST_RECORD >> 20} MiB.)",
                    path=str(path),
                ) from error
            block = LONGEST_RECORD
        except (OSError, pa.ArrowException) as error:
            raise UnreadableInput(
                f"{path}: after record {reader.count}: {error}", path=str(path)
            ) from error


class _Reader:
    def __init__(
        self, path: Path, header: list[str], expected: Sequence[str], delimiter: str, block: int
    ) -> None:
        self.path, self.header, self.expected = path, header, expected
        self.delimiter, self.block = delimiter, block
        self.rejected: deque[Unparsable] = deque()
        self.count = 0
        self.bad = 0
        self.emitted = False

    def _reject(self, row: Any) -> str:
        reason = f"found {row.actual_columns} fields, expected {row.expected_columns}"
        if row.text.count('"') % 2:
            reason += "; a quote is not closed"
        # Arrow counts the header as row 1.
        self.rejected.append(Unparsable(row.number - 1, row.text, reason))
        return "skip"

    def read(self) -> Iterator[Records | Unparsable | FileFacts]:
        raw, stream = open_text(self.path)
        with raw.file:
            reader = pacsv.open_csv(
                stream,
                read_options=pacsv.ReadOptions(use_threads=False, block_size=self.block),
                parse_options=pacsv.ParseOptions(
                    delimiter=self.delimiter,
                    newlines_in_values=True,
                    invalid_row_handler=self._reject,
                ),
                convert_options=pacsv.ConvertOptions(
                    column_types={name: pa.binary() for name in self.header},
                    include_columns=list(self.expected),
                    strings_can_be_null=False,
                ),
            )
            for batch in reader:
                yield from self._emit(batch)
            yield from self._emit(None)
            while raw.read(1 << 20):
                pass
        yield FileFacts(raw.size, raw.digest.hexdigest(), self.count, self.bad)

    def _emit(self, batch: pa.RecordBatch | None) -> Iterator[Records | Unparsable]:
        """Number the batch's records: those that Arrow skipped took numbers of their own."""
        good = batch.num_rows if batch is not None else 0
        # Arrow parses ahead: take only the rejects that stand among or right after these records.
        taken: list[Unparsable] = []
        while self.rejected and self.rejected[0].number - self.count - 1 - len(taken) <= good:
            taken.append(self.rejected.popleft())
        slots = np.ones(good + len(taken), dtype=bool)
        slots[[reject.number - self.count - 1 for reject in taken]] = False
        numbers = np.flatnonzero(slots) + 1 + self.count
        self.count += len(slots)
        self.bad += len(taken)
        self.emitted = self.emitted or len(slots) > 0
        yield from taken
        if batch is not None and good:
            yield from self._decoded(numbers, batch)

    def _decoded(
        self, numbers: np.ndarray[Any, np.dtype[np.int64]], batch: pa.RecordBatch
    ) -> Iterator[Records | Unparsable]:
        try:
            yield Records(numbers, [column.cast(pa.string()) for column in batch.columns])
            return
        except pa.ArrowInvalid:
            pass  # some value is not UTF-8: find the records
        valid = np.ones(batch.num_rows, dtype=bool)
        for i, column in enumerate(batch.columns):
            for row, value in enumerate(column.to_pylist()):
                if valid[row] and not _is_utf8(value):
                    valid[row] = False
                    text = self.delimiter.join(
                        c[row].as_py().decode("utf-8", "backslashreplace") for c in batch.columns
                    )
                    self.bad += 1
                    reason = f"column '{batch.schema.names[i]}' is not UTF-8"
                    yield Unparsable(int(numbers[row]), text, reason)
        kept = batch.filter(pa.array(valid))
        yield Records(numbers[valid], [column.cast(pa.string()) for column in kept.columns])


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
