"""Delimited text, read strictly: bound by header name, every record accounted for.

Records come as text, unchanged. A record of the wrong length, with an unclosed quote, with text
after a closing quote, with a NUL or with bytes that are no text of the encoding is not dropped and
not guessed at: it is returned as unparsable, with its text. No Spark here, so that executors can
run it anywhere.

Format: RFC 4180; quotes are doubled inside quotes; lines end in LF, CRLF or CR; blank lines hold
no record.
"""

from __future__ import annotations

import csv
import io
import re
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from nightjar.core.contract import Contract
from nightjar.core.errors import EmptyInput, HeaderMismatch, OversizedInput
from nightjar.core.pipeline import Source
from nightjar.engine.delivered import FileFacts, Item, Records, Unparsable, check_columns
from nightjar.engine.textfile import AFTER_QUOTE, NO_TEXT, TextFile, shown, unreadable, visible

BLOCK_BYTES = 4 << 20
LONGEST_HEADER = 1 << 20

_DAMAGE = f"[\\x00{AFTER_QUOTE}{NO_TEXT.pattern[1:]}"


def look(path: Path, contract: Contract, source: Source) -> None:
    """As of Reader.

    Raises:
        as `read_header` and `check_columns`.
    """
    check_columns(path, read_header(path, source), contract.delivered_names)


def read(path: Path, contract: Contract, source: Source) -> Iterator[Item]:
    """As of Reader."""
    return read_records(path, contract.delivered_names, source)


def read_header(path: Path, source: Source) -> list[str]:
    """The column names in the file's first record.

    Raises:
        MissingInput, EmptyInput, UnreadableInput: the file is not there, holds nothing, or does
            not begin with text.
    """
    text = TextFile(path, source)
    head = b""
    try:
        while len(head) < LONGEST_HEADER and (chunk := text.read()):
            head += chunk
            end = _end_of_line(head.lstrip(b"\r\n"), source.quote)
            if end >= 0:
                break
    finally:
        text.close()
    head = head.lstrip(b"\r\n")
    if not head.strip():
        raise EmptyInput(f"{path} holds no text; expected at least a header line", path=str(path))
    end = _end_of_line(head, source.quote)
    line = (head if end < 0 else head[:end]).decode()
    if "\0" in line:
        raise unreadable(
            path,
            "has NUL bytes in its first line: it is no UTF-8 text (UTF-16 without a byte order "
            "mark, or a binary file?). Declare its encoding, or convert it to UTF-8.",
        )
    if NO_TEXT.search(line):
        raise unreadable(
            path, f"has a header that is not {text.encoding}: {shown(line)[:200]}. Convert it."
        )
    try:
        return next(csv.reader([line], **_dialect(source)), [])
    except csv.Error as error:
        raise unreadable(path, f"has a header that cannot be read: {error}") from error


def _dialect(source: Source) -> dict[str, Any]:
    quoting = csv.QUOTE_MINIMAL if source.quote else csv.QUOTE_NONE
    return {"delimiter": source.delimiter, "quotechar": source.quote or None, "quoting": quoting}


def _end_of_line(head: bytes, quote: str) -> int:
    """Where the first line ends that is not inside quotes; -1 where it does not."""
    quoted = False
    for mark in re.finditer(b"[" + re.escape(quote).encode() + rb"\r\n]", head):
        if mark[0] not in b"\r\n":
            quoted = not quoted
        elif not quoted:
            return mark.start()
    return -1


def read_records(path: Path, expected: Sequence[str], source: Source) -> Iterator[Item]:
    """Every record of the file, as text, columns in the order of `expected`; the facts last.

    Memory is bounded by the block (4 MiB), or by the source's largest record where one is longer.

    Raises:
        MissingInput, EmptyInput, HeaderMismatch, UnreadableInput, OversizedInput, UnsettledInput.
    """
    header = read_header(path, source)
    check_columns(path, header, expected)
    done = 0
    longest = source.limits.record
    for block in sorted({min(BLOCK_BYTES, longest), longest}):
        reader = _Reader(path, header, expected, source, block)
        try:
            for item in reader.read():
                yield from _after(done, item)
            return
        except pa.ArrowInvalid as error:
            # A record or the header may be longer than a block: go on with longer ones.
            if block == longest:
                raise _too_long(path, reader.count, longest, error) from error
            done = reader.count
        except (OSError, pa.ArrowException) as error:
            raise unreadable(path, f"after record {reader.count}: {error}") from error


def _too_long(path: Path, count: int, longest: int, error: Exception) -> Exception:
    if "straddling" not in str(error):
        return unreadable(path, f"after record {count}: {error}")
    return _oversized(path, f"record {count + 1} or one soon after it", longest)


def _oversized(path: Path, record: str, longest: int) -> OversizedInput:
    return OversizedInput(
        f"{path}: {record} is longer than {longest:,} bytes, the source's limit. (Is a quote not "
        "closed?) If the file is right, raise limits: record.",
        path=str(path),
    )


def _after(done: int, item: Item) -> Iterator[Item]:
    """What is left of `item` when the first `done` records are known already."""
    if isinstance(item, Records) and len(item.numbers) and item.numbers[0] <= done:
        first = int(np.searchsorted(item.numbers, done, side="right"))
        item = Records(item.numbers[first:], [column[first:] for column in item.columns])
    known = isinstance(item, Unparsable) and item.number <= done
    if not known and not (isinstance(item, Records) and not len(item.numbers)):
        yield item


class Quoting:
    """Marks each quoted field that goes on after its closing quote, which readers let pass.

    Block by block. A block in which every quote opens at a field's begin and closes at its end, or
    is doubled, is known by arithmetic alone; any other is walked through, field by field, with the
    states of Arrow's parser.
    """

    def __init__(self, quote: str, delimiter: str) -> None:
        self.quote = quote.encode()
        self.structural = np.zeros(256, dtype=bool)
        self.structural[list(f"{delimiter}\r\n".encode())] = True
        self.structural[ord(quote)] = True
        q, part = re.escape(self.quote), re.escape(delimiter.encode()) + rb"\r\n"
        closed = rb"[^%b]*+(?:%b%b[^%b]*+)*+%b" % (q, q, q, q, q)
        self.rest_of_quoted = re.compile(closed)
        self.unquoted = re.compile(rb"[^%b]*+" % part)
        self.good = re.compile(
            rb"(?>[^%b%b][^%b]*+|%b%b(?=[%b]|\Z)|[%b]++)*+" % (q, part, part, q, closed, part, part)
        )
        self.inside = False
        self.last = ord("\n")
        self.held = b""

    def mark(self, block: bytes, final: bool) -> bytes:
        block = self.held + block
        self.held = b""
        if not final:  # what follows a quote must be known
            whole = len(block.rstrip(self.quote))
            block, self.held = block[:whole], block[whole:]
        if self.quote in block and not self._strict(block):
            block = self._walk(block)
        if block:
            self.last = block[-1]
        return block

    def _strict(self, block: bytes) -> bool:
        # A delimiter and a quote are one byte of ASCII, which no longer character holds.
        data = np.frombuffer(block, dtype=np.uint8)
        places = np.flatnonzero(data == self.quote[0])
        opening, closing = places[self.inside :: 2], places[not self.inside :: 2]
        before = data[opening - 1]
        if len(opening) and opening[0] == 0:
            before[0] = self.last
        after = data[np.minimum(closing + 1, len(data) - 1)]
        if not (self.structural[before].all() and self.structural[after].all()):
            return False
        self.inside ^= bool(len(places) % 2)
        return True

    def _walk(self, block: bytes) -> bytes:
        parts: list[bytes] = []
        at = done = 0
        if self.inside:
            at = self._close(block, 0)
        elif not self.structural[self.last]:
            at = self._end(self.unquoted, block, 0)
        while True:
            if self.inside:
                if at < 0:
                    break
                self.inside = False
                if at < len(block) and not self.structural[block[at]]:
                    parts += [block[done:at], AFTER_QUOTE.encode()]
                    done, at = at, self._end(self.unquoted, block, at)
            at = self._end(self.good, block, at)
            if at == len(block):
                break
            self.inside, at = True, self._close(block, at + 1)
        return b"".join([*parts, block[done:]])

    def _close(self, block: bytes, at: int) -> int:
        found = self.rest_of_quoted.match(block, at)
        return found.end() if found else -1

    @staticmethod
    def _end(pattern: re.Pattern[bytes], block: bytes, at: int) -> int:
        found = pattern.match(block, at)
        assert found
        return found.end()


class Ended(io.RawIOBase):
    """A stream of text as Arrow needs it: marked by Quoting, and with a last line after its end.

    The last line tells a quote that is still open at the end: it becomes part of the last record.
    """

    def __init__(self, text: TextFile, last_line: str, quoting: Quoting | None) -> None:
        self.text = text
        self.last_line = f"\n{last_line}\n".encode()
        self.quoting = quoting
        self.damaged = False
        self.pending = b""
        self.ended = False

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        parts, length = [self.pending], len(self.pending)
        while length < size and not self.ended:
            chunk = self._next()
            parts.append(chunk)
            length += len(chunk)
        text = b"".join(parts)
        count = min(size, length)
        if count > 1 and text[count - 1 : count] == b"\r":
            count -= 1  # between blocks Arrow makes CRLF one CR, also inside quotes
        self.pending = text[count:]
        return text[:count]

    def _next(self) -> bytes:
        chunk = self.text.read()
        self.ended = not chunk
        if self.quoting:
            plain = len(chunk) + len(self.quoting.held)
            chunk = self.quoting.mark(chunk, self.ended)
            self.damaged = self.damaged or len(chunk) + len(self.quoting.held) > plain
        self.damaged = self.damaged or self.text.damaged
        return chunk + self.last_line if self.ended else chunk


class _Reader:
    def __init__(
        self, path: Path, header: list[str], expected: Sequence[str], source: Source, block: int
    ) -> None:
        self.path, self.header, self.expected = path, header, expected
        self.delimiter, self.quote, self.source = source.delimiter, source.quote, source
        self.block = block
        self.rejected: deque[Unparsable] = deque()
        self.count = 0
        self.bad = 0
        self.damaged = False
        self.encoding = "utf-8"
        self.last_line = uuid.uuid4().hex
        self.names = pa.array([mark + name for name in header for mark in ("", "\ufeff")])

    def _reject(self, row: Any) -> str:
        reason = f"found {row.actual_columns} fields, expected {row.expected_columns}"
        text = row.text
        if self.last_line in text:
            text = text[: text.index(self.last_line)].rsplit("\n", 1)[0]
            reason += "; a quote is not closed"
        # Arrow counts the header as row 1.
        self.rejected.append(Unparsable(row.number - 1, shown(text), reason))
        return "skip"

    def read(self) -> Iterator[Item]:
        text = TextFile(self.path, self.source)
        self.encoding = text.encoding
        quoting = Quoting(self.quote, self.delimiter) if self.quote else None
        ended = Ended(text, self.delimiter.join([self.last_line] * len(self.header)), quoting)
        try:
            reader = pacsv.open_csv(
                pa.PythonFile(ended, mode="r"),
                read_options=pacsv.ReadOptions(use_threads=False, block_size=self.block),
                parse_options=pacsv.ParseOptions(
                    delimiter=self.delimiter,
                    quote_char=self.quote or False,
                    newlines_in_values=bool(self.quote),
                    invalid_row_handler=self._reject,
                ),
                convert_options=pacsv.ConvertOptions(
                    column_types={name: pa.string() for name in self.header},
                    include_columns=list(self.expected),
                    strings_can_be_null=False,
                ),
            )
            for batch in reader:
                self.damaged = ended.damaged
                yield from self._emit(batch)
            yield from self._emit(None)
            size, digest = text.facts()
        finally:
            text.close()
        yield FileFacts(size, digest, self.count, self.bad, text.encoding)

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
        if 2 * self.block > self.source.limits.record:  # as long a record may have got through
            self._refuse_long(numbers, batch, taken)
        self.count += len(slots)
        self.bad += len(taken)
        yield from taken
        if batch is not None and good:
            yield from self._judged(numbers, batch)

    def _refuse_long(
        self,
        numbers: np.ndarray[Any, np.dtype[np.int64]],
        batch: pa.RecordBatch | None,
        taken: Sequence[Unparsable],
    ) -> None:
        longest = self.source.limits.record
        long = [reject.number for reject in taken if len(reject.text) > longest]
        if batch is not None and len(numbers):
            lengths = np.sum([np.asarray(pc.binary_length(c)) for c in batch.columns], axis=0)
            long += numbers[lengths > longest].tolist()
        if long:
            raise _oversized(self.path, f"record {min(long)}", longest)

    def _ends(self, batch: pa.RecordBatch) -> bool:
        """Whether the batch's last record holds the line that was put after the file's end."""
        last = batch.column(self.header[-1])
        return len(last) > 0 and self.last_line in last[-1].as_py()

    def _emit_last(self, batch: pa.RecordBatch) -> Iterator[Records | Unparsable]:
        values = self._values(batch, -1)
        yield from self._emit(batch.slice(0, batch.num_rows - 1))
        if values != [self.last_line] * len(values):
            self.count += 1
            self.bad += 1
            open_value = values[-1][: values[-1].index(self.last_line)].rsplit("\n", 1)[0]
            text = self.delimiter.join([*map(self._quoted, values[:-1]), self.quote + open_value])
            yield Unparsable(self.count, shown(text), "a quote is not closed")

    def _judged(
        self, numbers: np.ndarray[Any, np.dtype[np.int64]], batch: pa.RecordBatch
    ) -> Iterator[Records | Unparsable]:
        """The batch's records, and those apart that hold what no record may."""
        wrong = dict(self._headers(batch, numbers))
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if not self.damaged:
                break
            for row in np.flatnonzero(np.asarray(pc.match_substring_regex(column, _DAMAGE))):
                wrong.setdefault(int(row), f"column '{name}' {self._damage(column[row].as_py())}")
        for place, reason in sorted(wrong.items()):
            self.bad += 1
            text = self.delimiter.join(map(self._quoted, self._values(batch, place)))
            yield Unparsable(int(numbers[place]), shown(text), reason)
        valid = np.ones(batch.num_rows, dtype=bool)
        valid[list(wrong)] = False
        if valid.any():
            kept = batch if not wrong else batch.filter(pa.array(valid))
            yield Records(numbers[valid], kept.columns)

    def _damage(self, value: str) -> str:
        if NO_TEXT.search(value):
            return f"is not {self.encoding.upper()}"
        return "holds a NUL" if "\0" in value else "goes on after its closing quote"

    def _headers(
        self, batch: pa.RecordBatch, numbers: np.ndarray[Any, np.dtype[np.int64]]
    ) -> Iterator[tuple[int, str]]:
        """Rows that are the header once more, as where files were put together.

        Raises:
            HeaderMismatch: there the columns stand in another order.
        """
        first = batch.column(self.header[0])
        for row in np.flatnonzero(np.asarray(pc.is_in(first, value_set=self.names))):
            values = self._values(batch, int(row))
            values[0] = values[0].removeprefix("\ufeff")
            if values == self.header:
                yield int(row), "the header stands here once more"
            elif sorted(values) == sorted(self.header):
                order = ", ".join(map(visible, values))
                raise HeaderMismatch(
                    f"{self.path}: record {numbers[row]} is another header, with the columns in "
                    f"another order ({order}): files of different layouts were put together. "
                    "Have them delivered apart.",
                    path=str(self.path),
                )

    def _values(self, batch: pa.RecordBatch, row: int) -> list[str]:
        """The values of one record in the file's order."""
        return [batch.column(name)[row].as_py() for name in self.header]

    def _quoted(self, value: str) -> str:
        """A value as it may have stood in the file."""
        quote = self.quote
        if not quote or not any(mark in value for mark in (quote, self.delimiter, "\r", "\n")):
            return value if AFTER_QUOTE not in value else self._resumed(value)
        return self._resumed(value)

    def _resumed(self, value: str) -> str:
        quote = self.quote
        inner, _, outer = value.partition(AFTER_QUOTE)
        return quote + inner.replace(quote, quote * 2) + quote + outer
