"""What became of every delivered file, from the records of a night."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

from nightjar.core.errors import NotThereYet
from nightjar.core.plan import Plan
from nightjar.core.records import Record, RecordBook

OUTCOMES = ("clean", "quarantined", "deduplicated", "discarded")


@dataclass(frozen=True)
class FileAccount:
    """One delivered file of one night: its records, and what became of each.

    `read` is the sum of the OUTCOMES; they are None while the night's rows are not cleaned.
    `unparsable` records are among those read, and in quarantine unless they were repaired.
    """

    dataset: str
    file: str
    bytes: int
    sha256: str
    read: int
    unparsable: int
    clean: int | None = None
    quarantined: int | None = None
    deduplicated: int | None = None
    discarded: int | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Account:
    """One night's files, and what about them could not be counted, in words."""

    ds: date
    files: tuple[FileAccount, ...]
    uncounted: tuple[str, ...]


def account(book: RecordBook, plan: Plan, ds: date) -> Account:
    """The account of one night.

    Raises:
        NotThereYet: nothing was read for this night.
    """
    files: list[FileAccount] = []
    uncounted: list[str] = []
    for source in plan.spec.sources:
        ingested = book.get(ds, f"ingest.{source}")
        if ingested is None:
            uncounted.append(f"{source}: nothing was read for {ds}")
            continue
        cleaned = book.get(ds, f"clean.{source}")
        outcomes = _outcomes(ingested, cleaned)
        for file in ingested.details["files"]:
            became = outcomes.get(file["file"], {})
            files.append(
                FileAccount(
                    source, file["file"], file["bytes"], file["sha256"], file["records"],
                    file["unparsable"], *(became.get(kind) for kind in OUTCOMES),
                )
            )  # fmt: skip
        if not outcomes:
            uncounted.append(f"{source}: its rows were read, and have not been cleaned since")
        elif cleaned and (lines := cleaned.details.get("lines_in_unparsable", 0)):
            uncounted.append(
                f"{source}: {lines:,} line end(s) stand in unparsable records; how many "
                "records were meant there cannot be counted (a quote that is not closed?)"
            )
    if not files:
        raise NotThereYet(
            f"nothing was read for {plan.spec.name} {ds}; nights that were: "
            + (", ".join(map(str, nights_read(book, plan)[-5:])) or "none"),
            ds=str(ds),
        )
    return Account(ds, tuple(files), tuple(uncounted))


def nights_read(book: RecordBook, plan: Plan) -> list[date]:
    """The nights for which any source was read, in order."""
    return sorted({ds for source in plan.spec.sources for ds in book.nights(f"ingest.{source}")})


def _outcomes(ingested: Record, cleaned: Record | None) -> Mapping[str, Mapping[str, int]]:
    """By file, the rows of each outcome; empty where they are of an earlier delivery, or none."""
    if cleaned is None:
        return {}
    counted = {f["file"]: f for f in cleaned.details.get("files", [])}
    for file in ingested.details["files"]:
        if counted.get(file["file"], {}).get("sha256") != file["sha256"]:
            return {}
    return {name: {kind: f[kind] for kind in OUTCOMES} for name, f in counted.items()}
