"""What every format's reader gives, and what each must be able to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from nightjar.core.contract import Contract
from nightjar.core.errors import HeaderMismatch, near
from nightjar.core.pipeline import Source
from nightjar.engine.textfile import visible


@dataclass(frozen=True)
class FileFacts:
    """What was counted while one file was read. `bytes` and `sha256` are of the file as it lies.

    `encoding` is what its text was decoded from; for binary formats, the format.
    """

    bytes: int
    sha256: str
    records: int
    unparsable: int
    encoding: str


@dataclass(frozen=True)
class Records:
    """Some records of a file, as text, in order. Numbers count records from 1, a header apart."""

    numbers: np.ndarray[Any, np.dtype[np.int64]]
    columns: Sequence[pa.StringArray]


@dataclass(frozen=True)
class Unparsable:
    """One record that is not what the format and the contract promise."""

    number: int
    text: str
    reason: str


Item = Records | Unparsable | FileFacts


class Reader(Protocol):
    """One format. Every fault of a file is a NightjarError; a record is never dropped."""

    def look(self, path: Path, contract: Contract, source: Source) -> None:
        """Look at the file's first bytes: can it be read, and has it the contract's columns?"""

    def read(self, path: Path, contract: Contract, source: Source) -> Iterator[Item]:
        """Every record, columns in the contract's order; the facts last, and once."""


def check_columns(path: Path, found: Sequence[str], expected: Sequence[str]) -> None:
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
    parts += [f"column {visible(name)} is not in the contract" for name in extra[:20]]
    parts += [f"{len(extra) - 20} more are not"] if len(extra) > 20 else []
    parts += [f"column {visible(name)} stands twice" for name in twice]
    if parts:
        raise HeaderMismatch(
            f"{path}: {'; '.join(parts)}. Expected, in any order: {', '.join(expected)}. "
            "Have the file delivered again, or change the contract if the source has changed.",
            path=str(path),
            missing=missing,
            extra=extra,
            repeated=twice,
        )
