"""Delivered bytes as UTF-8 text: hashed as they pass, unpacked within bounds, decoded.

Bytes that are no text of the file's encoding do not stop the stream, and are not replaced by a
look-alike either: each becomes a mark, a character of a private area, by which the readers know
the record that holds it. Pure functions and streams over a file; no Spark here.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import os
import re
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from nightjar.core.errors import (
    EmptyInput,
    MissingInput,
    OversizedInput,
    UnreadableInput,
    UnsettledInput,
    near,
)
from nightjar.core.pipeline import Limits, Source

CHUNK = 1 << 20
# Small files pack well, and what they unpack to harms nobody: the ratio is asked beyond this.
HARMLESS = 128 << 20

# Marks: for each undecodable byte one, and one for the place where a quoted field goes on.
_BYTE = 0x10FF00
AFTER_QUOTE = "\U0010fe00"
# What marks look like in UTF-8; or a NUL, which no text holds.
MARKS = re.compile(rb"\xf4\x8f|\x00")
NO_TEXT = re.compile("[\U0010ff00-\U0010ffff]")

_PACKED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
_MAGIC = {"gzip": b"\x1f\x8b", "bz2": b"BZh", "zstd": b"\x28\xb5\x2f\xfd"}
_BOMS = {
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
}
_CODECS = {"windows-1252": "cp1252"}


def _mark(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    wrong = error.object[error.start : error.end]
    return "".join(chr(_BYTE + byte) for byte in wrong), error.end


codecs.register_error("nightjar.mark", _mark)


def shown(text: str) -> str:
    """The text with `\\xNN` for each byte that was none."""
    plain = text.replace(AFTER_QUOTE, "")
    return NO_TEXT.sub(lambda byte: f"\\x{ord(byte[0]) - _BYTE:02x}", plain)


def visible(name: str) -> str:
    """A name in quotes; what cannot be seen (zero-width spaces, controls) as an escape."""
    return repr(shown(name)[:120])


class Hashing(io.RawIOBase):
    """A readable file that takes the digest of all that passes."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.size = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        chunk = self.file.read(size)
        self.digest.update(chunk)
        self.size += len(chunk)
        return chunk


class DeliveredFile:
    """One file as it lies, open. Says its size and SHA-256 once it is read to the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.raw = Hashing(_open(path))
        self.stamp = _stamp(self.raw.file)

    def __enter__(self) -> DeliveredFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.raw.file.close()

    def facts(self) -> tuple[int, str]:
        """Size in bytes and SHA-256 of the whole file.

        Raises:
            UnsettledInput: it was written to while it was read.
        """
        while self.raw.read(CHUNK):
            pass
        self.require_unchanged()
        return self.raw.size, self.raw.digest.hexdigest()

    def require_unchanged(self) -> None:
        """Raises UnsettledInput where the file is not what it was when it was opened."""
        if not self.stamp == _stamp(self.raw.file) == _stamp(self.path):
            raise UnsettledInput(
                f"{self.path} changed while it was read: it is still being written. Run again "
                "when it is complete.",
                path=str(self.path),
            )


def _open(path: Path) -> BinaryIO:
    try:
        if path.exists() and not path.is_file():
            what = "a folder" if path.is_dir() else "no plain file (a pipe or device?)"
            raise unreadable(path, f"is {what}; expected a file")
        return path.open("rb", buffering=0)
    except FileNotFoundError as error:
        raise _missing(path) from error
    except OSError as error:
        raise unreadable(
            path, f"cannot be opened: {error.strerror}. Mend its owner or its mode."
        ) from error


def _stamp(file: BinaryIO | Path) -> tuple[int, int, int] | None:
    try:
        stat = file.stat() if isinstance(file, Path) else os.fstat(file.fileno())
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def _missing(path: Path) -> MissingInput:
    folder = path.parent
    others = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    hint = f"nearest there: {near(path.name, others)}" if others else f"{folder} holds nothing"
    return MissingInput(
        f"{path} is not there; {hint[:300]} Deliver the file and run again.", path=str(path)
    )


class Unpacked:
    """The bytes of one delivered file, unpacked if its name's ending says so, within bounds.

    Raises:
        MissingInput, EmptyInput, UnreadableInput: the file is not there, holds nothing, or is not
            packed as its name says.
        OversizedInput: it unpacks to more than `limits` allows.
    """

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path, self.limits = path, limits
        self.size = 0
        self.file = DeliveredFile(path)
        try:
            self.packed = _packing(self.file)
        except BaseException:
            self.close()
            raise
        self._stream: Any = self.file.raw
        if self.packed:
            self._stream = pa.CompressedInputStream(
                pa.PythonFile(self.file.raw, mode="r"), self.packed
            )

    def close(self) -> None:
        self.file.raw.file.close()

    def read(self) -> bytes:
        """The next MiB at the most; nothing at the end."""
        try:
            chunk: bytes = self._stream.read(CHUNK)
        except (OSError, pa.ArrowException) as error:
            # zlib, bzip2 and zstd find truncation and damage by themselves.
            raise unreadable(
                self.path,
                f"cannot be read after {self.size:,} bytes: it is truncated or damaged ({error}). "
                "Have it delivered again.",
            ) from error
        self.size += len(chunk)
        limits, size = self.limits, self.file.raw.size
        bomb = self.size > max(HARMLESS, limits.ratio * size)
        if self.packed and (bomb or self.size > limits.unpacked):
            limit = f"ratio: {limits.ratio}" if bomb else f"unpacked: {limits.unpacked:,} B"
            raise OversizedInput(
                f"{self.path} unpacks to more than {self.size - 1:,} bytes from {size:,}; the "
                f"source's limit is {limit}. If the file is right, raise it under 'limits'.",
                path=str(self.path),
            )
        return chunk


def unreadable(path: Path, problem: str) -> UnreadableInput:
    return UnreadableInput(f"{path} {problem}", path=str(path))


def _packing(file: DeliveredFile) -> str:
    """How the file is packed: as its name's ending says, to which its bytes must agree; or ''."""
    path = file.path
    with path.open("rb", buffering=0) as again:
        head = again.read(4)
    if not head:
        raise EmptyInput(f"{path} is empty (0 bytes)", path=str(path))
    named = _PACKED.get(path.suffix, "")
    found = next((name for name, magic in _MAGIC.items() if head.startswith(magic)), "")
    if head.startswith(b"PK\3\4"):
        raise unreadable(path, "is a zip archive: unpack it, or have it packed by gzip or zstd")
    if named and found != named:
        raise unreadable(
            path,
            f"is named {path.suffix}, but its bytes are not those of {named}"
            + (f"; they are of {found}" if found else ""),
        )
    if found in ("gzip", "zstd") and not named:  # what begins with BZh may be text
        ending = next(ending for ending, kind in _PACKED.items() if kind == found)
        raise unreadable(path, f"is packed by {found}; then its name must end in {ending}")
    return named


class TextFile:
    """The text of one delivered file, as UTF-8 without a byte order mark, in blocks.

    `encoding` is what the text is decoded from; `damaged`, whether a mark or a NUL has passed.

    Raises:
        as Unpacked; and UnreadableInput where the byte order mark contradicts what is declared.
    """

    def __init__(self, path: Path, source: Source) -> None:
        self.path = path
        self.damaged = False
        declared: str | None = source.encoding
        if declared == "detect":
            declared = _detected(path, source.limits)
        self.unpacked = Unpacked(path, source.limits)
        try:
            self._pending = self.unpacked.read()
            while 0 < len(self._pending) < 4 and (more := self.unpacked.read()):
                self._pending += more
            self.encoding = self._encoding(declared)
        except BaseException:
            self.close()
            raise
        self._pending = self._pending.removeprefix(_BOMS.get(self.encoding, b"\0" * 5))
        codec = _CODECS.get(self.encoding, self.encoding)
        self._decoder = codecs.getincrementaldecoder(codec)("nightjar.mark")

    def _encoding(self, declared: str | None) -> str:
        """What is declared, held against the file's byte order mark, if it has one."""
        head = self._pending
        if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
            raise unreadable(self.path, "is UTF-32, which is not read: convert it to UTF-8")
        found = next((name for name, mark in _BOMS.items() if head.startswith(mark)), None)
        if declared == "utf-16" and found in (None, "utf-8"):
            raise unreadable(
                self.path, "has no byte order mark of UTF-16: declare utf-16-le or utf-16-be"
            )
        if found and declared not in (None, "utf-16", found):
            raise unreadable(
                self.path, f"has the byte order mark of {found}; declared is {declared}"
            )
        return found or declared or "utf-8"

    def read(self) -> bytes:
        """The next block of text, of about 1 MiB; nothing at the end."""
        while True:
            chunk, self._pending = self._pending or self.unpacked.read(), b""
            text = self._decoded(chunk)
            if text or not chunk:
                self.damaged = self.damaged or MARKS.search(text) is not None
                return text

    def _decoded(self, chunk: bytes) -> bytes:
        if self.encoding == "utf-8" and chunk.isascii() and not self._decoder.getstate()[0]:
            return chunk
        return self._decoder.decode(chunk, final=not chunk).encode()

    def facts(self) -> tuple[int, str]:
        """As of DeliveredFile."""
        return self.unpacked.file.facts()

    def close(self) -> None:
        self.unpacked.close()


def _detected(path: Path, limits: Limits) -> str | None:
    """The encoding of a whole file: UTF-8 if it all is, else one of Western Europe's.

    None where a byte order mark says it. Bytes 0x80 to 0x9F are letters and signs in windows-1252,
    and controls, which no text holds, in latin-1.
    """
    unpacked = Unpacked(path, limits)
    decoder = codecs.getincrementaldecoder("utf-8")()
    utf8, western, first = True, False, True
    try:
        while chunk := unpacked.read():
            if first and chunk.startswith((*_BOMS.values(), codecs.BOM_UTF32_BE)):
                return None
            first = False
            western = western or re.search(rb"[\x80-\x9f]", chunk) is not None
            if utf8:
                try:
                    decoder.decode(chunk)
                except UnicodeDecodeError:
                    utf8 = False
    finally:
        unpacked.close()
    if utf8 and not decoder.getstate()[0]:
        return "utf-8"
    return "windows-1252" if western else "latin-1"
