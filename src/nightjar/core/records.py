"""Run records: what each finished step did, from what, and where its output lies.

A record is written when everything it speaks of is on disk; a step without a record did not
happen, whatever files it left. Of several attempts at a step, the one that began last may write
its record, and no other. Paths in records are relative to the warehouse.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import nightjar
from nightjar.core.errors import Conflict


@dataclass(frozen=True)
class Record:
    """One finished step of one night.

    `fingerprint` is a digest of everything that decides the output: inputs, spec, contract, code.
    `outputs` is, by kind, the folder that was written, and `span` how many nights that attempt
    wrote to it; `counts` how many rows of each kind are this night's.
    """

    step: str
    ds: str
    fingerprint: str
    attempt: str
    outputs: Mapping[str, str] = field(default_factory=dict)
    span: int = 1
    counts: Mapping[str, int] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    finished: str = ""
    spark_application: str = ""


class RecordBook:
    """The records of one pipeline."""

    def __init__(self, warehouse: Path, pipeline: str) -> None:
        self.folder = warehouse / "runs" / pipeline

    def get(self, ds: date, step: str) -> Record | None:
        """The record of a step, or None where it did not finish (a torn record counts as none)."""
        try:
            return Record(**json.loads(self._path(ds, step).read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def claim(self, ds: date, step: str, attempt: str) -> None:
        """From now on a record of this step may come from `attempt` alone.

        Whoever claimed it before and still lives (frozen, cut off, given up by its scheduler) can
        not put its record any more.
        """
        mine = self._claim(ds, step, attempt)
        mine.parent.mkdir(parents=True, exist_ok=True)
        mine.touch()
        for other in mine.parent.glob(self._claim(ds, step, "*").name):
            if other != mine:
                other.unlink(missing_ok=True)

    def put(self, record: Record) -> None:
        """Make this the record of its step, in one step.

        Raises:
            Conflict: a later attempt has claimed the step; the record is as it was.
        """
        ds = date.fromisoformat(record.ds)
        claim = self._claim(ds, record.step, record.attempt)
        text = json.dumps(_finite(asdict(record)), indent=1, sort_keys=True, allow_nan=False)
        try:
            with claim.open("r+") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
            # The claim becomes the record: where it was taken away, there is nothing to rename.
            os.replace(claim, self._path(ds, record.step))
        except FileNotFoundError as error:
            raise Conflict(
                f"another run has begun step '{record.step}' of {self.folder.name} {ds} since this "
                "one did, and goes on with it; this one stops and changes nothing",
                step=record.step,
                ds=record.ds,
                attempt=record.attempt,
            ) from error

    def all(self) -> Iterator[Record]:
        """Every record, in the order of nights."""
        for path in sorted(self.folder.glob("*/*.json")):
            record = self.get(date.fromisoformat(path.parent.name), path.stem)
            if record is not None:
                yield record

    def nights(self, step: str) -> list[date]:
        """Every night that has a record of `step`, in order."""
        found = self.folder.glob(f"*/{step}.json")
        return sorted(date.fromisoformat(path.parent.name) for path in found)

    def _path(self, ds: date, step: str) -> Path:
        return self.folder / ds.isoformat() / f"{step}.json"

    def _claim(self, ds: date, step: str, attempt: str) -> Path:
        return self.folder / ds.isoformat() / f".{step}@{attempt}.claim"


def _finite(value: Any) -> Any:
    """The value with None for what JSON has no word for: NaN and infinities."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value


def fingerprint(**parts: Any) -> str:
    """A digest of plain values, the same for the same values on every machine."""
    text = json.dumps(parts, sort_keys=True, default=_canonical)
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def code_digest() -> str:
    """A digest of Nightjar's own source: other code may give another output."""
    digest = hashlib.sha256()
    for name, source in sorted(_sources(resources.files(nightjar), "")):
        digest.update(name.encode())
        digest.update(source)
    return digest.hexdigest()[:16]


def _sources(folder: Traversable, prefix: str) -> Iterator[tuple[str, bytes]]:
    # Through importlib.resources: on a cluster the package may be a zip file.
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _sources(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".py"):
            yield prefix + entry.name, entry.read_bytes()


def now() -> str:
    """The present time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _canonical(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, date | Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no canonical form")
