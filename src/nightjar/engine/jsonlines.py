"""JSON lines, read strictly: one object a line, bound by key, every record accounted for.

Values come as text: strings as they are, numbers in the very digits that were delivered, null and
a key that is not there as missing. A line that is no JSON object, has a key twice or one that the
contract does not know, or holds an object or a list, is returned as unparsable. No Spark here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nightjar.core.contract import Contract
from nightjar.core.errors import EmptyInput, OversizedInput
from nightjar.core.pipeline import Source
from nightjar.engine.delivered import FileFacts, Item, Records, Unparsable
from nightjar.engine.textfile import MARKS, NO_TEXT, TextFile, shown, unreadable, visible

BATCH = 10_000
_LINE_END = re.compile(rb"\r\n|\n|\r")
_SURROGATE = re.compile("[\ud800-\udfff]")


class _Refused(ValueError):
    """What is wrong with one record."""


def look(path: Path, contract: Contract, source: Source) -> None:
    """As of Reader. Keys are held against the contract record by record, when it is read.

    Raises:
        MissingInput, EmptyInput, UnreadableInput.
    """
    text = TextFile(path, source)
    try:
        head = text.read()
    finally:
        text.close()
    if not head:
        raise EmptyInput(f"{path} holds no text", path=str(path))
    first = head.lstrip()[:1]
    if first == b"[":
        raise unreadable(
            path, "is one JSON array, not JSON lines: write each record as an object on its line"
        )
    if b"\0" in head[:4]:
        raise unreadable(path, "has NUL bytes in its first line: it is no UTF-8 text")


def read(path: Path, contract: Contract, source: Source) -> Iterator[Item]:
    """As of Reader. Memory is bounded by the source's largest record and a batch of rows.

    Raises:
        as `look`; OversizedInput, UnsettledInput.
    """
    look(path, contract, source)
    names = contract.delivered_names
    decoder = json.JSONDecoder(
        object_pairs_hook=_object, parse_int=str, parse_float=str, parse_constant=_constant
    )
    text = TextFile(path, source)
    number = bad = 0
    numbers: list[int] = []
    rows: list[list[str | None]] = []
    try:
        for line in _lines(text, source.limits.record):
            number += 1
            try:
                rows.append(_values(line, decoder, names))
                numbers.append(number)
            except _Refused as error:
                bad += 1
                yield Unparsable(number, shown(line.decode()), str(error))
            if len(rows) == BATCH:
                yield _records(numbers, rows, len(names))
                numbers, rows = [], []
        if rows:
            yield _records(numbers, rows, len(names))
        size, digest = text.facts()
    finally:
        text.close()
    yield FileFacts(size, digest, number, bad, text.encoding)


def _lines(text: TextFile, longest: int) -> Iterator[bytes]:
    """The lines that hold something; a line ends in LF, CRLF or CR, which no JSON string holds."""
    held: list[bytes] = []
    length = 0
    while chunk := text.read():
        *whole, rest = _LINE_END.split(chunk)
        for piece in whole:
            line = b"".join([*held, piece])
            held, length = [], 0
            if line.strip():
                yield line
        held.append(rest)
        length += len(rest)
        if length > longest:
            raise OversizedInput(
                f"{text.path} has a line longer than {longest:,} bytes, the source's limit. If "
                "the file is right, raise limits: record.",
                path=str(text.path),
            )
    last = b"".join(held)
    if last.strip():
        yield last


def _values(line: bytes, decoder: json.JSONDecoder, names: Sequence[str]) -> list[str | None]:
    if MARKS.search(line):
        if b"\0" in line:
            raise _Refused("holds a NUL")
        if NO_TEXT.search(line.decode()):
            raise _Refused("is no text of the file's encoding")
    text = line.decode().strip(" \t")
    try:
        record = decoder.decode(text)
    except _Refused:
        raise
    except json.JSONDecodeError as error:
        raise _Refused(f"is no JSON: {error.msg} at character {error.pos + 1}") from error
    except RecursionError as error:
        raise _Refused("is nested too deep") from error
    if not isinstance(record, dict):
        raise _Refused(f"is no JSON object: {text[:40]}")
    values = [record.pop(name, None) for name in names]
    if record:
        listed = ", ".join(visible(name) for name in sorted(record)[:5])
        raise _Refused(f"key {listed} is not in the contract")
    if "\\u" in text:  # else no text holds what UTF-8 cannot
        _refuse_halves(names, values)
    return [
        value if value is None or isinstance(value, str) else _text(name, value)
        for name, value in zip(names, values, strict=True)
    ]


def _refuse_halves(names: Sequence[str], values: Sequence[Any]) -> None:
    for name, value in zip(names, values, strict=True):
        if isinstance(value, str) and _SURROGATE.search(value):
            raise _Refused(f"key '{name}' holds half a surrogate pair, which is no character")


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    raise _Refused(f"key '{name}' holds {'an object' if isinstance(value, dict) else 'a list'}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        raise _Refused(f"key {', '.join(map(visible, twice[:5]))} stands twice")
    return record


def _constant(word: str) -> Any:
    raise _Refused(f"{word} is no JSON")


def _records(numbers: list[int], rows: list[list[str | None]], width: int) -> Records:
    columns = zip(*rows, strict=True) if width else ()
    arrays = [pa.array(column, pa.string()) for column in columns]
    return Records(np.array(numbers, dtype=np.int64), arrays)
