"""Delivered files: found, admitted, and looked at before any work begins. Starts no Spark."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path, PurePosixPath

from nightjar.core.contract import Contract
from nightjar.core.errors import (
    ForeignInput,
    MissingInput,
    NightjarError,
    UnsettledInput,
    combined,
)
from nightjar.core.pipeline import Source
from nightjar.core.plan import Plan
from nightjar.core.project import Project
from nightjar.engine import columnar, delimited, jsonlines
from nightjar.engine.delivered import Reader
from nightjar.engine.textfile import unreadable, visible

READERS: dict[str, Reader] = {"csv": delimited, "jsonl": jsonlines, "parquet": columnar}
# The executors look at every file again; the driver, at as many as a moment allows.
LOOKED_AT = 500


def look_at_delivery(project: Project, plan: Plan, nights: Sequence[date]) -> None:
    """Look at the files that the nights need, so that a fault is said before a JVM starts.

    Raises:
        as `find_files` and `look_at_files`.
    """
    for name, source in plan.spec.sources.items():
        wanted = nights if source.nightly else nights[-1:]
        files = find_files(project.warehouse, source, wanted)
        look_at_files(project.warehouse, files, plan.contract_of(name), source)


def find_files(
    warehouse: Path, source: Source, nights: Sequence[date]
) -> dict[date, tuple[str, ...]]:
    """The files of each night, by name, relative to the warehouse; nothing is left out by its name.

    Raises:
        MissingInput: no file's name matches.
        UnreadableInput: a matching name is no text.
    """
    found: dict[date, tuple[str, ...]] = {}
    for ds in nights:
        path = PurePosixPath(source.file(ds))
        if not source.many:
            found[ds] = (path.as_posix(),)
            continue
        folder, (begin, *middle, end) = path.parent, path.name.split("*")
        here = warehouse / folder
        names = sorted(p.name for p in here.iterdir()) if here.is_dir() else []
        matching = [n for n in names if _matches(n, begin, middle, end)]
        if not matching:
            others = f"{len(names)} others, like {visible(names[0])}" if names else "nothing"
            raise MissingInput(
                f"{here}: no file is called {path.name}; there is {others} there. Deliver the "
                "files and run again.",
                path=str(here / path.name),
            )
        for name in matching:
            if not name.isprintable() and "\udc80" <= max(name) <= "\udcff":
                raise unreadable(here, f"holds {name!a}: a name that is no UTF-8. Rename it.")
        found[ds] = tuple((folder / name).as_posix() for name in matching)
    return found


def _matches(name: str, begin: str, middle: Sequence[str], end: str) -> bool:
    """Whether the parts stand in the name in this order; any text may be between them."""
    if not name.startswith(begin) or not name.endswith(end) or len(name) < len(begin) + len(end):
        return False
    at, last = len(begin), len(name) - len(end)
    for part in middle:
        place = name.find(part, at, last)
        if place < 0:
            return False
        at = place + len(part)
    return True


def look_at_files(
    warehouse: Path, files: Mapping[date, Sequence[str]], contract: Contract, source: Source
) -> None:
    """Look at the first bytes of the files; report all that is wrong at once.

    Raises:
        MissingInput, EmptyInput, HeaderMismatch, UnreadableInput, OversizedInput, ForeignInput,
        UnsettledInput: the kind that all faults are of, else UnreadableInput.
    """
    names = [name for night in files.values() for name in night]
    wrong: list[NightjarError] = []
    for name in names[:LOOKED_AT]:
        try:
            READERS[source.format].look(admitted(warehouse, name, source), contract, source)
        except NightjarError as error:
            wrong.append(error)
    if wrong:
        raise combined(wrong, len(names))


def admitted(warehouse: Path, name: str, source: Source) -> Path:
    """The path of a delivered file that may be read.

    Raises:
        ForeignInput: a link on the way leads out of the landing folder, which is the first folder
            of the name.
        UnsettledInput: it was written to less than `source.settled` ago.
    """
    path = warehouse / name
    first, *rest = PurePosixPath(name).parts
    landing = (warehouse / first if rest else warehouse).resolve()
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):
        return path  # missing, or a link that leads nowhere: the reader will say it
    if not target.is_relative_to(landing):
        raise ForeignInput(
            f"{path} is a link that leads out of {landing}, to {target}. Deliver the file itself.",
            path=str(path),
        )
    age = timedelta(seconds=time.time() - target.stat().st_mtime)
    if source.settled and age < source.settled:
        raise UnsettledInput(
            f"{path} was written {age.total_seconds():.0f} s ago; the source takes files that have "
            f"lain for {source.settled}. Run again later.",
            path=str(path),
        )
    return path
