"""Validate: the gate between silver and everything that stands on it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date

from nightjar.core.records import Record
from nightjar.engine.lake import read_nights
from nightjar.engine.quality.gate import judge, refuse_if_critical
from nightjar.engine.quarantine import QUARANTINE
from nightjar.engine.stages.clean import SILVER, quarantine_schema, silver_schema
from nightjar.engine.work import Work, blank_record


def run(work: Work, source: str) -> dict[date, Record]:
    """Judge one source's silver rows of the run's nights, together.

    Raises:
        GateFailed: a critical rule of the contract does not hold.
    """
    contract = work.plan.contract_of(source)
    cleaned = {ds: work.require(ds, f"clean.{source}") for ds in work.nights_of(source)}
    inputs: dict[date, object] = {ds: r.fingerprint for ds, r in cleaned.items()}

    def do(pending: Sequence[date], attempt: str) -> dict[date, Record]:
        judged = {ds: cleaned[ds] for ds in pending}
        silver = read_nights(
            work.spark, work.project.warehouse, silver_schema(contract), judged, SILVER
        )
        label = pending[0].isoformat() if len(pending) == 1 else f"{pending[0]}_to_{pending[-1]}"
        docs = work.project.warehouse / "docs" / work.plan.spec.name / label
        verdicts = judge(
            silver,
            contract,
            night=pending[-1],
            read=sum(cleaned[ds].counts["read"] for ds in pending),
            quarantined=sum(cleaned[ds].counts["quarantined"] for ds in pending),
            docs=docs,
            run_name=f"{label} {attempt}",
            broken=_broken(judged.values()),
        )
        schema = quarantine_schema(contract)
        refused = read_nights(work.spark, work.project.warehouse, schema, judged, QUARANTINE)
        name = f"{work.plan.spec.name} {label}, {source}"
        refuse_if_critical(verdicts, silver, contract, name, docs, refused)
        for verdict in verdicts:
            if not verdict.passed:
                work.say(
                    f"  warning: {verdict.rule}: found {verdict.found}; expected {verdict.expected}"
                )
        record = blank_record(
            counts={},
            details={
                "nights": [str(ds) for ds in pending],
                "checks": [v.as_dict() for v in verdicts],
                "docs": work.project.relative(docs / "index.html"),
            },
        )
        return dict.fromkeys(pending, record)

    return work.once(f"validate.{source}", inputs, do)


def _broken(cleaned: Iterable[Record]) -> dict[str, int]:
    """How many rows broke each rule, over all the nights."""
    found: dict[str, int] = {}
    for record in cleaned:
        for rule, rows in record.details.get("rules_broken", {}).items():
            found[rule] = found.get(rule, 0) + rows
    return found
