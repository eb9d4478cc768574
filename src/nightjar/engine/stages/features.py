"""Features: silver rows of a night, and what was known two hours before, or whenever, as rows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta

from pyspark.sql import DataFrame

from nightjar.core.errors import AccountingError
from nightjar.core.records import Record
from nightjar.engine import features
from nightjar.engine.lake import count_rows, read_nights
from nightjar.engine.stages.clean import SILVER, silver_schema
from nightjar.engine.work import Work, blank_record

ROWS = "rows"


def run(work: Work) -> dict[date, Record]:
    """Write the feature rows of the run's night.

    Raises:
        NotThereYet: a source of the night has not passed its gate.
        AccountingError: not one row for each silver row of the base.
    """
    spec, ds = work.plan.spec, work.night
    used = {source: silver_records(work, source, [ds]) for source in spec.sources}
    inputs: dict[date, object] = {
        ds: [
            spec.features,
            spec.label,
            spec.split,
            work.plan.scores.digest,
            {s: {str(d): r.fingerprint for d, r in found.items()} for s, found in used.items()},
        ]
    }

    def do(pending: Sequence[date], attempt: str) -> dict[date, Record]:
        folder = work.folder("features", spec.name, attempt)
        rows = features.build(work.plan, silver_frames(work, used))
        rows.write.mode("error").parquet(str(folder))
        written = count_rows(folder)
        expected = used[spec.features.base][ds].counts["clean"]
        if written != expected:
            raise AccountingError(
                f"{spec.name} {ds}: {expected} silver rows of {spec.features.base} gave {written} "
                "feature rows; a join repeated or lost rows",
                silver=expected,
                features=written,
            )
        return {
            ds: blank_record(
                outputs={ROWS: work.project.relative(folder)}, counts={"rows": written}
            )
        }

    return work.once("features", inputs, do)


def silver_records(work: Work, source: str, nights: Sequence[date]) -> dict[date, Record]:
    """The clean records whose silver rows feed the features of `nights`, by night.

    A nightly source is read for each of the nights, and for as many before the first as its join
    looks back, where they were loaded; a snapshot is the last night's.

    Raises:
        NotThereYet: a night was not cleaned, or did not pass its gate.
    """
    last = nights[-1]
    if not work.plan.spec.sources[source].nightly:
        newest = max((d for d in work.book.nights(f"validate.{source}") if d <= last), default=last)
        work.require(newest, f"validate.{source}")
        return {newest: work.require(newest, f"clean.{source}")}
    wanted = list(nights)
    for ds in nights:
        work.require(ds, f"validate.{source}")
    back = max(
        (j.lookback for j in work.plan.spec.features.joins if j.source == source and j.at),
        default=timedelta(0),
    )
    for days in range(1, back.days + 1):
        earlier = nights[0] - timedelta(days=days)
        if work.book.get(earlier, f"validate.{source}"):
            wanted.append(earlier)
    return {ds: work.require(ds, f"clean.{source}") for ds in sorted(wanted)}


def silver_frames(work: Work, used: dict[str, dict[date, Record]]) -> dict[str, DataFrame]:
    """The silver rows behind the records, by source."""
    return {
        source: read_nights(
            work.spark,
            work.project.warehouse,
            silver_schema(work.plan.contract_of(source)),
            found,
            SILVER,
        )
        for source, found in used.items()
    }
