"""Replay: repaired rows, or a changed contract or cleaning, go into their night, and no further.

A replay writes its repairs to the log, then runs the night's steps from clean on. Steps whose
inputs are as they were are not done again, so a replay that died is finished by the next one, and
a replay of what is known already does nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from nightjar.core.errors import NotThereYet, UsageError, near
from nightjar.core.plan import Plan
from nightjar.core.project import Project
from nightjar.core.records import Record, RecordBook, now
from nightjar.engine.edits import Known, read_edits, resolve
from nightjar.engine.lake import parquet_files
from nightjar.engine.quarantine import QUARANTINE, Refused, refused
from nightjar.engine.registry import Registry
from nightjar.engine.repairs import DISCARD, Key, Repair, RepairLog
from nightjar.engine.stages import audit, clean, features, ingest, publish, score, validate
from nightjar.engine.work import Work

RELEASING = (features.run, score.run, audit.run, publish.run)


@dataclass(frozen=True)
class Request:
    """What is to be replayed: edited rows of one dataset, or nothing but the night itself.

    `release` says whether the night is scored and released again; None leaves it to what the
    night was: one loaded as history, never released, stays so.
    """

    ds: date
    dataset: str | None = None
    rows: Path | None = None
    by: str = ""
    reason: str = ""
    release: bool | None = None


@dataclass(frozen=True)
class Outcome:
    """What a replay did. `number` is None where no row was changed.

    Of the records that the edited file changed: how many are clean, deduplicated, discarded and
    quarantined still, and the rules that those break. `also` are later nights that looked back at
    this one and were released again.
    """

    pipeline: str
    ds: str
    dataset: str | None
    number: int | None
    changed: int
    outcomes: dict[str, int]
    still_broken: dict[str, int]
    release: str | None
    released: bool
    also: list[str]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        """The outcome for a person."""
        became = ", ".join(f"{n:,} {kind}" for kind, n in self.outcomes.items() if n)
        changed = f"replay {self.number}, {self.changed:,} row(s): {became}"
        lines = [
            f"{self.pipeline} {self.ds}: "
            + ("no row was changed" if self.number is None else changed)
        ]
        lines += [f"  still broken: {rule} ({n:,})" for rule, n in self.still_broken.items()]
        if self.released:
            lines.append(f"  release {self.release}")
        lines += [f"  {night} looked back at it and was released again" for night in self.also]
        return "\n".join(lines)


def prepare(project: Project, plan: Plan, request: Request) -> list[Repair]:
    """What the edited rows ask for, held against the night. Starts no Spark and changes nothing.

    Raises:
        UsageError, RepairRefused: the rows cannot be replayed as they are.
        NotThereYet: the night was not cleaned, or is to be released without a champion.
    """
    spec, book = plan.spec, RecordBook(project.warehouse, plan.spec.name)
    if (request.rows is None) != (request.dataset is None):
        raise UsageError("edited rows need both: --rows FILE and --dataset NAME")
    if request.dataset is not None and request.dataset not in spec.sources:
        raise UsageError(f"no source '{request.dataset}'; {near(request.dataset, spec.sources)}")
    base = spec.features.base if request.dataset is None else request.dataset
    for step in (f"ingest.{base}", f"clean.{base}"):
        if book.get(request.ds, step) is None:
            raise NotThereYet(
                f"step '{step}' of {spec.name} {request.ds} has not finished, so there is nothing "
                f"to replay; run the night first: nightjar run {spec.name} --ds {request.ds}",
                step=step,
            )
    if _releases(book, plan, request):
        Registry(project, spec.name).require_champion()
    if request.rows is None or request.dataset is None:
        return []
    return _repairs(project, plan, book, request, request.dataset, request.rows)


def _repairs(
    project: Project, plan: Plan, book: RecordBook, request: Request, source: str, rows: Path
) -> list[Repair]:
    contract, ds = plan.contract_of(source), request.ds
    ingested, cleaned = book.get(ds, f"ingest.{source}"), book.get(ds, f"clean.{source}")
    assert ingested is not None
    assert cleaned is not None
    edits = read_edits(rows, contract)
    wanted = {edit.key for edit in edits}
    log = RepairLog(project.warehouse, plan.spec.name, source)
    digests = clean.digests(ingested)
    repaired = {k: r for k, r in log.effective(ds, digests).items() if k in wanted}
    known = {key: Known(r.values, r.rules, r) for key, r in repaired.items()}
    for row in refused(project, cleaned):
        if row.key in wanted:
            known[row.key] = Known(row.values or {}, row.rules, repaired.get(row.key))
    return resolve(
        edits,
        known,
        digests,
        contract,
        spreadsheet=rows.suffix == ".csv",
        replay=log.last(ds) + 1,
        at=now(),
        by=request.by,
        reason=request.reason,
    )


def replay(work: Work, request: Request) -> Outcome:
    """Write the repairs to the log and bring the night up to date.

    Raises:
        as `prepare` and the stages do; a repair that was logged stays, and so does the release
            that readers see.
        Conflict: another replay of the night came first.
    """
    spec, ds = work.plan.spec, request.ds
    repairs = prepare(work.project, work.plan, request)
    release = _releases(work.book, work.plan, request)
    sources = [s for s in spec.sources if work.book.get(ds, f"ingest.{s}")]
    for source in sources:
        _require_columns(work, source)
    if repairs and request.dataset is not None:
        RepairLog(work.project.warehouse, spec.name, request.dataset).append(ds, repairs)
    before = _clean_prints(work, sources)
    for stage in (clean.run, validate.run):
        for source in sources:
            stage(work, source)
    moved = {s for s, digest in _clean_prints(work, sources).items() if before[s] != digest}
    seen = work.book.get(ds, "publish")
    also: list[str] = []
    if release and (moved or seen is None):
        for run in RELEASING:
            run(work)
        also = _release_dependents(work, moved)
    landed = work.book.get(ds, "publish")
    outcomes, still = _became(work, request, repairs)
    return Outcome(
        spec.name, str(ds), request.dataset,
        repairs[0].replay if repairs else None, len(repairs), outcomes, still,
        landed.details["release"] if landed else None, landed != seen, also,
    )  # fmt: skip


def _releases(book: RecordBook, plan: Plan, request: Request) -> bool:
    """Whether the night goes on to a release.

    It does where it had one, and where it was a night of its own that was stopped before; nights
    loaded together are history.
    """
    if request.release is not None:
        return request.release
    if book.get(request.ds, "publish"):
        return True
    ingested = book.get(request.ds, f"ingest.{plan.spec.features.base}")
    return ingested is not None and ingested.span == 1


def _clean_prints(work: Work, sources: Sequence[str]) -> dict[str, str]:
    found = {s: work.book.get(work.night, f"clean.{s}") for s in sources}
    return {s: record.fingerprint if record else "" for s, record in found.items()}


def _release_dependents(work: Work, moved: set[str]) -> list[str]:
    """Release again the later nights whose features looked back at a source that changed."""
    joins = work.plan.spec.features.joins
    back = max((j.lookback.days for j in joins if j.at and j.source in moved), default=0)
    also = []
    for days in range(1, back + 1):
        later = work.night + timedelta(days=days)
        if (seen := work.book.get(later, "publish")) is None:
            continue
        there = replace(work, nights=(later,))
        for run in RELEASING:
            run(there)
        if work.book.get(later, "publish") != seen:
            also.append(str(later))
    return also


def _became(
    work: Work, request: Request, repairs: Sequence[Repair]
) -> tuple[dict[str, int], dict[str, int]]:
    """What became of the repaired records, and the rules that the bad ones break."""
    if not repairs or request.dataset is None:
        return {}, {}
    cleaned = work.require(request.ds, f"clean.{request.dataset}")
    keys = {r.key for r in repairs}
    bad = {row.key: row for row in _among(work, cleaned, QUARANTINE, keys)}
    again = len(_among(work, cleaned, clean.DUPLICATE, keys))
    gone = sum(r.action == DISCARD for r in repairs)
    rules = Counter(rule for row in bad.values() for rule in row.rules)
    outcomes = {
        "clean": len(repairs) - len(bad) - again - gone,
        "quarantined": len(bad),
        "deduplicated": again,
        "discarded": gone,
    }
    return outcomes, dict(sorted(rules.items()))


def _among(work: Work, cleaned: Record, kind: str, keys: set[Key]) -> list[Refused]:
    return [row for row in refused(work.project, cleaned, kind) if row.key in keys]


def _require_columns(work: Work, source: str) -> None:
    """The delivered rows were read with the columns that the contract has now.

    Raises:
        NotThereYet: the contract gained or lost a column since.
    """
    ingested = work.require(work.night, f"ingest.{source}")
    if ingest.PARSED not in ingested.outputs:
        return
    files = parquet_files(work.output(ingested, ingest.PARSED))
    names = set(work.plan.contract_of(source).names)
    schema = pq.read_schema(files[0]).names if files else names
    found = {name for name in schema if not name.startswith("_")}
    if found != names:
        raise NotThereYet(
            f"{source} {work.night} was read with other columns than its contract has now "
            f"({', '.join(sorted(found ^ names))}); read it again: nightjar run "
            f"{work.plan.spec.name} --ds {work.night} --only ingest",
            columns=sorted(found ^ names),
        )
