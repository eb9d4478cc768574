"""What runs left in the warehouse besides their releases: attempts that no record names.

An attempt loses its record when a later one counts for its nights, or never had one because its
run was killed. A step may still read or write it then, so it is marked first, and deleted when the
mark is older than the grace period and nothing was written to it since.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from nightjar.core.records import RecordBook

LAYERS = ("bronze", "cleaned", "features", "scores", "training")
_ATTEMPT = re.compile(r"[0-9a-f]{16}(-\w+)?")
_MARK = ".unneeded"


@dataclass(frozen=True)
class Collected:
    """Attempts, as paths in the warehouse: newly marked, and deleted."""

    marked: tuple[str, ...]
    deleted: tuple[str, ...]


def collect(
    warehouse: Path, pipeline: str, grace: timedelta, *, dry_run: bool = False
) -> Collected:
    """Mark the attempts of a pipeline that no record names; delete those marked long enough ago.

    With `dry_run` nothing is touched.

    Raises:
        OSError: an attempt cannot be marked or deleted; running again takes up where this ended.
    """
    found = list(_attempts(warehouse, pipeline))
    # Read after the listing: what a record names by now was not an orphan then.
    named = {
        tuple(Path(path).parts[:3])
        for record in RecordBook(warehouse, pipeline).all()
        for path in record.outputs.values()
    }
    marked, deleted = [], []
    for attempt in found:
        key = attempt.relative_to(warehouse)
        mark = attempt / _MARK
        with contextlib.suppress(FileNotFoundError):  # another vacuum was quicker
            if key.parts in named:
                if not dry_run:
                    mark.unlink(missing_ok=True)
            elif not mark.exists():
                if not dry_run:
                    mark.touch()
                marked.append(str(key))
            elif _idle(attempt, warehouse) > grace.total_seconds():
                if not dry_run:
                    shutil.rmtree(attempt)
                deleted.append(str(key))
    return Collected(tuple(marked), tuple(deleted))


def _attempts(warehouse: Path, pipeline: str) -> Iterator[Path]:
    for layer in LAYERS:
        for folder in sorted((warehouse / layer).glob("*")):
            if folder.name == pipeline or folder.name.startswith(f"{pipeline}."):
                yield from sorted(p for p in folder.glob("*") if _ATTEMPT.fullmatch(p.name))


def _idle(attempt: Path, warehouse: Path) -> float:
    """Seconds since anything in the attempt was written, by the file system's own clock."""
    probe = warehouse / ".clock"
    probe.touch()
    newest = max(p.lstat().st_mtime for p in (attempt, *attempt.rglob("*")))
    return probe.lstat().st_mtime - newest
