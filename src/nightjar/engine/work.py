"""What every stage is given, and how a step is done at most once for the same inputs."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

from pyspark.sql import SparkSession

from nightjar.core.errors import Conflict, NotThereYet
from nightjar.core.plan import Plan
from nightjar.core.project import Project
from nightjar.core.records import Record, RecordBook, code_digest, fingerprint, now
from nightjar.engine.lake import new_attempt


@dataclass(frozen=True)
class Work:
    """One run over some nights of a pipeline.

    `nights` is one date for a nightly run and a range for a load of history. `say` shows a line
    of progress. With `force` every step runs again, whatever its record says. `chosen` narrows the
    stages that go source by source to some of them; `model` is the version to score with, where
    that is not the champion.
    """

    project: Project
    plan: Plan
    nights: tuple[date, ...]
    spark: SparkSession
    say: Callable[[str], None] = field(default=lambda line: None)
    force: bool = False
    chosen: tuple[str, ...] = ()
    model: str | None = None

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources of this run."""
        return self.chosen or tuple(self.plan.spec.sources)

    @property
    def book(self) -> RecordBook:
        return RecordBook(self.project.warehouse, self.plan.spec.name)

    @property
    def night(self) -> date:
        """The (last) night; the one whose snapshots are used."""
        return self.nights[-1]

    def nights_of(self, source: str) -> tuple[date, ...]:
        """The nights for which a source is read: a snapshot is read once."""
        return self.nights if self.plan.spec.sources[source].nightly else (self.night,)

    def folder(self, layer: str, name: str, attempt: str) -> Path:
        return self.project.warehouse / layer / name / attempt

    def require(self, ds: date, step: str) -> Record:
        """The record of a step that this one stands on.

        Raises:
            NotThereYet: the step did not finish.
        """
        record = self.book.get(ds, step)
        if record is None:
            raise NotThereYet(
                f"step '{step}' of {self.plan.spec.name} {ds} has not finished; run it first: "
                f"nightjar run {self.plan.spec.name} --ds {ds}",
                step=step,
                ds=str(ds),
            )
        return record

    def output(self, record: Record, kind: str) -> Path:
        return self.project.warehouse / record.outputs[kind]

    def once(
        self,
        step: str,
        inputs: dict[date, object],
        do: Callable[[Sequence[date], str], dict[date, Record]],
        stale: Collection[date] = (),
    ) -> dict[date, Record]:
        """Do a step for the nights whose inputs changed since their record; skip the others.

        `inputs` is, for each night, everything that decides the step's output. `do` is given the
        nights to do and the name of the attempt, and returns a record for each. Nights in `stale`
        are done whatever their record says.

        Raises:
            Conflict: another run began the step later and goes on with it.
        """
        prints = {
            ds: fingerprint(step=step, code=code_digest(), of=of) for ds, of in inputs.items()
        }
        finished = {ds: self.book.get(ds, step) for ds in prints}
        done: dict[date, Record] = {}
        for ds, record in finished.items():
            if record and record.fingerprint == prints[ds] and self._present(record):
                done[ds] = record
        pending = [ds for ds in prints if self.force or ds in stale or ds not in done]
        label = _label(sorted(prints))
        if not pending:
            self.say(f"{step:<18} {label}  already done")
            return done
        started = time.monotonic()
        attempt = new_attempt()
        for ds in pending:
            self.book.claim(ds, step, attempt)
        for ds, record in do(pending, attempt).items():
            done[ds] = replace(
                record,
                step=step,
                ds=ds.isoformat(),
                fingerprint=prints[ds],
                attempt=attempt,
                span=len(pending),
                seconds=round(time.monotonic() - started, 3),
                finished=now(),
                spark_application=self.spark.sparkContext.applicationId,
            )
            done[ds] = self._put(done[ds])
        counts: dict[str, int] = {}
        for ds in pending:
            for name, count in done[ds].counts.items():
                counts[name] = counts.get(name, 0) + count
        shown = ", ".join(f"{count:,} {name}" for name, count in counts.items())
        seconds = time.monotonic() - started
        self.say(
            "  ".join(filter(None, (f"{step:<18} {_label(pending)}", shown, f"({seconds:.1f} s)")))
        )
        return done

    def _put(self, record: Record) -> Record:
        """Put a record; where a later run has done the same from the same, its record stays."""
        try:
            self.book.put(record)
        except Conflict:
            theirs = self.book.get(date.fromisoformat(record.ds), record.step)
            if theirs is None or theirs.fingerprint != record.fingerprint:
                raise
            return theirs
        return record

    def _present(self, record: Record) -> bool:
        return all((self.project.warehouse / path).is_dir() for path in record.outputs.values())


def blank_record(**parts: object) -> Record:
    """A record whose step, night and fingerprint `Work.once` fills in."""
    return Record(step="", ds="", fingerprint="", attempt="", **parts)  # type: ignore[arg-type]


def _label(nights: Sequence[date]) -> str:
    return str(nights[0]) if len(nights) == 1 else f"{nights[0]} to {nights[-1]}"
