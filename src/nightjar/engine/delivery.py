"""Delivered files, looked at before any work begins. Starts no Spark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

from nightjar.core.contract import Contract
from nightjar.core.errors import NightjarError, UnreadableInput
from nightjar.core.plan import Plan
from nightjar.core.project import Project
from nightjar.engine import delimited


def look_at_delivery(project: Project, plan: Plan, nights: Sequence[date]) -> None:
    """Look at every file that the nights need, so that a fault is said before a JVM starts.

    Raises:
        as `look_at_files`.
    """
    for name, source in plan.spec.sources.items():
        wanted = nights if source.nightly else nights[-1:]
        files = {ds: project.warehouse / source.file(ds) for ds in wanted}
        look_at_files(files, plan.contract_of(name), source.delimiter)


def look_at_files(files: Mapping[date, Path], contract: Contract, delimiter: str) -> None:
    """Look at the first bytes of every file; report all that is wrong at once.

    Raises:
        MissingInput, EmptyInput, HeaderMismatch, UnreadableInput: the kind that all faults are of,
            else UnreadableInput.
    """
    wrong: list[NightjarError] = []
    for path in files.values():
        try:
            header = delimited.read_header(path, delimiter)
            delimited.check_header(path, header, contract.names)
        except NightjarError as error:
            wrong.append(error)
    if len(wrong) == 1:
        raise wrong[0]
    if wrong:
        shown = "\n".join(f"- {e.message}" for e in wrong[:10])
        more = f"\n- and {len(wrong) - 10} more" if len(wrong) > 10 else ""
        kinds = {type(e) for e in wrong}
        kind = kinds.pop() if len(kinds) == 1 else UnreadableInput
        raise kind(f"{len(wrong)} of {len(files)} files cannot be read:\n{shown}{more}")
