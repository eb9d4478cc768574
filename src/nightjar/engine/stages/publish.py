"""Publish: audited scores become part of a release, in one atomic step."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import nightjar
from nightjar.core.errors import GateFailed
from nightjar.core.plan import Plan
from nightjar.core.records import Record, code_digest, fingerprint
from nightjar.core.releases import PosixStore, ReleaseLog
from nightjar.core.releases.views import build_catalog
from nightjar.engine.lake import parquet_files
from nightjar.engine.stages.score import SCORES
from nightjar.engine.work import Work, blank_record


def run(work: Work) -> dict[date, Record]:
    """Release the night.

    Raises:
        GateFailed: the files are not those that the audit saw.
        Conflict: other publishers kept coming first.
        Withdrawn: this very result was rolled back, and the run does not force it.
    """
    spec, ds = work.plan.spec, work.night
    log = ReleaseLog(work.project.warehouse, spec.name)
    base = log.head().version  # before the records are read: a run that lands later wins
    audited, scored = work.require(ds, "audit"), work.require(ds, "score")
    run_key = fingerprint(audit=audited.fingerprint)
    current = log.current()
    visible = current.partitions.get(ds.isoformat(), {}) if current else {}
    hidden = () if visible.get("run_key") == run_key else (ds,)

    def do(pending: Sequence[date], attempt: str) -> dict[date, Record]:
        folder = work.output(scored, SCORES)
        files = audited.details["files"]
        found = {p.name for p in parquet_files(folder)}
        if found != set(files):  # their bytes are held against the audit as they are copied
            raise GateFailed(
                f"{folder}: the files are not those that were audited; nothing was published. "
                f"Run again with --force. (found {sorted(found)}, audited {sorted(files)})"
            )
        release, landed = log.publish(
            work.plan.scores.dataset,
            ds,
            run_key,
            folder,
            _partition(work, audited, scored),
            base=base,
            again=work.force,
        )
        rows = sum(int(f["rows"]) for f in files.values())
        if isinstance(log.store, PosixStore):
            build_catalog(work.project, fresh=False)
        return {
            ds: blank_record(
                counts={"rows": rows},
                details={
                    "release": release.id,
                    "landed_before": not landed,
                    "folder": log.store.location(f"releases/{release.id}"),
                },
            )
        }

    return work.once("publish", {ds: run_key}, do, stale=hidden)


def _partition(work: Work, audited: Record, scored: Record) -> dict[str, object]:
    """What the manifest says of one night: from which data, by which model, how checked."""
    plan = work.plan
    ingested = {s: work.require(_night_of(work, s), f"ingest.{s}") for s in plan.spec.sources}
    gates = [work.require(_night_of(work, s), f"validate.{s}") for s in plan.spec.sources]
    checks = [c for r in (*gates, audited) for c in r.details["checks"]]
    return {
        "files": audited.details["files"],
        "model": {
            "version": scored.details["model"],
            "sha256": scored.details["model_sha256"],
            "mlflow_run": scored.details["model_run"],
        },
        "inputs": {s: r.details["files"] for s, r in ingested.items()},
        "rows": {
            s: dict(work.require(_night_of(work, s), f"clean.{s}").counts)
            for s in plan.spec.sources
        },
        "contracts": {
            c.dataset: {"version": c.version, "sha256": c.digest}
            for c in (*plan.contracts.values(), plan.scores)
        },
        "columns": _columns(plan),
        "checks": {
            "passed": sum(c["passed"] for c in checks),
            "total": len(checks),
            "warnings": sorted(c["rule"] for c in checks if not c["passed"]),
            "report": checks,
        },
        "code": {"version": nightjar.__version__, "digest": code_digest()},
        "spec": fingerprint(spec=plan.spec),
    }


def _columns(plan: Plan) -> list[dict[str, object]]:
    """What readers are told of the columns, whatever the contract says by then."""
    scores = plan.scores
    return [
        {
            "name": column.name,
            "description": column.description,
            "pii": column.pii,
            "key": column.name in scores.primary_key,
            "score": column.name == plan.spec.publish.score,
        }
        for column in scores.columns
    ]


def _night_of(work: Work, source: str) -> date:
    return work.nights_of(source)[-1]
