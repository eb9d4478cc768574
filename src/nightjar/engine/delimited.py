"""Delimited text, read strictly: bound by header name, every record accounted for.

Records come as text, unchanged. A record of the wrong length, with an unclosed quote or with
bytes that are not UTF-8 is not dropped and not guessed at: it is returned as unparsable, with its
text. Pure functions over a file; no Spark here, so that executors can run them anywhere.

Format: RFC 4180; quotes are doubled inside quotes; lines end in LF, CRLF or CR; blank lines hold
no record; a byte order mark is skipped; gzip, bz2 and zstd are known by the file's ending.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import re
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from nightjar.core.errors import EmptyInput, HeaderMismatch, MissingInput, UnreadableInput, near

BLOCK_BYTES = 4 << 20
LONGEST_RECORD = 64 << 20

# Bytes that are not UTF-8 travel through Arrow as characters of a private area.
_BYTE = 0x10FF00
_NO_UTF8 = re.compile("[\U0010ff80-\U0010ffff]")


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


class Ended(io.RawIOBase):
    """A stream of text as Arrow needs it: all of it UTF-8, and a last line after its end.

    The last line tells a quote that is still open at the end: it becomes part of the last record.
    """

    def __init__(self, stream: pa.NativeFile, last_line: str) -> None:
        self.stream = stream
        self.last_line = f"\n{last_line}\n".encode()
        self.damaged = False
        self.decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self.pending = b""
        self.ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while len(self.pending) < len(buffer) and not self.ended:
            chunk = self.stream.read(len(buffer))
            self.ended = not chunk
            self.pending += self._utf8(chunk, self.ended)
            if self.ended:
                self.pending += self.last_line
        count = min(len(buffer), len(self.pending))
        if count > 1 and self.pending[count - 1 : count] == b"\r":
            count -= 1  # between blocks Arrow makes CRLF one CR, also inside quotes
        memoryview(buffer)[:count] = self.pending[:count]
        self.pending = self.pending[count:]
        return count

    def _utf8(self, chunk: bytes, final: bool) -> bytes:
        if chunk.isascii() and not self.decoder.getstate()[0]:
            return chunk
        text = self.decoder.decode(chunk, final)
        try:
            return text.encode()
        except UnicodeEncodeError:
            self.damaged = True
        return re.sub(
            "[\udc80-\udcff]", lambda byte: chr(ord(byte[0]) - 0xDC00 + _BYTE), text
        ).encode()


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
    if not head.removeprefix(codecs.BOM_UTF8).strip():
        raise EmptyInput(f"{path} is empty ({raw.size} bytes); expected at least a header line")
    return _parse_header(path, head, delimiter)


def _parse_header(path: Path, head: bytes, delimiter: str) -> list[str]:
    head = head.removeprefix(codecs.BOM_UTF8).lstrip(b"\r\n")
    quoted, end = False, len(head)
    for mark in re.finditer(rb'["\r\n]', head):
        if mark[0] == b'"':
            quoted = not quoted
        elif not quoted:
            end = mark.start()
            break
    if b"\0" in head[:end]:
        raise UnreadableInput(
            f"{path} has NUL bytes in its first line: it is no UTF-8 text (UTF-16, or a binary "
            "file?). Convert it to UTF-8."
        )
    try:
        line = head[:end].decode("utf-8")
    except UnicodeDecodeError as error:
        raise UnreadableInput(
            f"{path}: the header is not UTF-8 (byte {error.start}). Convert the file to UTF-8."
        ) from error
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error as error:
        raise UnreadableInput(f"{path}: the header cannot be read: {error}") from error


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
    done = 0
    for block in (BLOCK_BYTES, LONGEST_RECORD):
        reader = _Reader(path, header, expected, delimiter, block)
        try:
            for item in reader.read():
                yield from _after(done, item)
            return
        except pa.ArrowInvalid as error:
            # A record or the header may be longer than a block: go on with longer ones.
            if block == LONGEST_RECORD:
                raise UnreadableInput(
                    f"{path}: after record {reader.count}: {error}. "
                    f"(A record may be at most {LONGEST_RECORD >> 20} MiB.)",
                    path=str(path),
                ) from error
            done = reader.count
        except (OSError, pa.ArrowException) as error:
            raise UnreadableInput(
                f"{path}: after record {reader.count}: {error}", path=str(path)
            ) from error


def _after(
    done: int, item: Records | Unparsable | FileFacts
) -> Iterator[Records | Unparsable | FileFacts]:
    """What is left of `item` when the first `done` records are known already."""
    if isinstance(item, Records) and len(item.numbers) and item.numbers[0] <= done:
        first = int(np.searchsorted(item.numbers, done, side="right"))
        item = Records(item.numbers[first:], [column[first:] for column in item.columns])
    known = isinstance(item, Unparsable) and item.number <= done
    if not known and not (isinstance(item, Records) and not len(item.numbers)):
        yield item


class _Reader:
    def __init__(
        self, path: Path, header: list[str], expected: Sequence[str], delimiter: str, block: int
    ) -> None:
        self.path, self.header, self.expected = path, header, expected
        self.delimiter, self.block = delimiter, block
        self.rejected: deque[Unparsable] = deque()
        self.count = 0
        self.bad = 0
        self.damaged = False
        self.last_line = uuid.uuid4().hex

    def _reject(self, row: Any) -> str:
        reason = f"found {row.actual_columns} fields, expected {row.expected_columns}"
        text = row.text
        if self.last_line in text:
            text = text[: text.index(self.last_line)].rsplit("\n", 1)[0]
            reason += "; a quote is not closed"
        # Arrow counts the header as row 1.
        self.rejected.append(Unparsable(row.number - 1, _shown(text), reason))
        return "skip"

    def read(self) -> Iterator[Records | Unparsable | FileFacts]:
        raw, stream = open_text(self.path)
        text = Ended(stream, self.delimiter.join([self.last_line] * len(self.header)))
        with raw.file:
            reader = pacsv.open_csv(
                pa.PythonFile(text, mode="r"),
                read_options=pacsv.ReadOptions(use_threads=False, block_size=self.block),
                parse_options=pacsv.ParseOptions(
                    delimiter=self.delimiter,
                    newlines_in_values=True,
                    invalid_row_handler=self._reject,
                ),
                convert_options=pacsv.ConvertOptions(
                    column_types={name: pa.string() for name in self.header},
                    include_columns=list(self.expected),
                    strings_can_be_null=False,
                ),
            )
            for batch in reader:
                self.damaged = text.damaged
                yield from self._emit(batch)
            yield from self._emit(None)
            while raw.read(1 << 20):
                pass
        yield FileFacts(raw.size, raw.digest.hexdigest(), self.count, self.bad)

    def _emit(self, batch: pa.RecordBatch | None) -> Iterator[Records | Unparsable]:
        """Number the batch's records: those that Arrow skipped took numbers of their own."""
        if batch is not None and self._ends(batch):
            yield from self._emit_last(batch)
            return
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
        yield from taken
        if batch is not None and good:
            yield from self._decoded(numbers, batch)

    def _ends(self, batch: pa.RecordBatch) -> bool:
        """Whether the batch's last record holds the line that was put after the file's end."""
        last = batch.column(self.header[-1])
        return len(last) > 0 and self.last_line in last[-1].as_py()

    def _emit_last(self, batch: pa.RecordBatch) -> Iterator[Records | Unparsable]:
        values = [column[-1].as_py() for column in batch.columns]
        yield from self._emit(batch.slice(0, batch.num_rows - 1))
        if values != [self.last_line] * len(values):
            self.count += 1
            self.bad += 1
            end = batch.schema.names.index(self.header[-1])
            values[end] = values[end][: values[end].index(self.last_line)].rsplit("\n", 1)[0]
            yield Unparsable(self.count, self._joined(values), "a quote is not closed")

    def _decoded(
        self, numbers: np.ndarray[Any, np.dtype[np.int64]], batch: pa.RecordBatch
    ) -> Iterator[Records | Unparsable]:
        valid = np.ones(batch.num_rows, dtype=bool)
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if not self.damaged:
                break
            wrong = np.asarray(pc.match_substring_regex(column, _NO_UTF8.pattern)) & valid
            valid &= ~wrong
            for row in np.flatnonzero(wrong):
                self.bad += 1
                text = self._joined([c[int(row)].as_py() for c in batch.columns])
                yield Unparsable(int(numbers[row]), text, f"column '{name}' is not UTF-8")
        if valid.any():
            kept = batch if valid.all() else batch.filter(pa.array(valid))
            yield Records(numbers[valid], kept.columns)

    def _joined(self, values: list[str]) -> str:
        """The values of a record as one text, in the file's order."""
        by_name = dict(zip(self.expected, values, strict=True))
        return _shown(self.delimiter.join(by_name[name] for name in self.header))


def _shown(text: str) -> str:
    return _NO_UTF8.sub(lambda byte: f"\\x{ord(byte[0]) - _BYTE:02x}", text)
