"""Audit: the scores as they lie on disk, re-opened and held against their own contract."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import pyarrow.parquet as pq
from pyspark.sql import DataFrame

from nightjar.core.errors import AccountingError, GateFailed
from nightjar.core.records import Record
from nightjar.engine.lake import count_rows, parquet_files, read_folder, read_nights
from nightjar.engine.quality.gate import judge, refuse_if_critical
from nightjar.engine.quality.types import typed_schema
from nightjar.engine.stages.clean import SILVER, silver_schema
from nightjar.engine.stages.score import SCORES
from nightjar.engine.work import Work, blank_record


def run(work: Work) -> dict[date, Record]:
    """Hold the night's scores against the contract that `publish` names.

    Raises:
        GateFailed: a critical rule fails, or the files' schema is not the contract's.
        AccountingError: the scores are not one for each base row of the night.
    """
    spec, ds, contract = work.plan.spec, work.night, work.plan.scores
    scored = work.require(ds, "score")
    base = work.require(ds, f"clean.{spec.features.base}")
    inputs: dict[date, object] = {ds: [scored.fingerprint, contract.digest, base.fingerprint]}

    def do(pending: Sequence[date], attempt: str) -> dict[date, Record]:
        folder = work.output(scored, SCORES)
        _require_schema(work, folder)
        scores = read_folder(work.spark, typed_schema(contract), folder)
        rows = count_rows(folder)
        docs = work.project.warehouse / "docs" / spec.name / ds.isoformat()
        verdicts = judge(
            scores,
            contract,
            night=ds,
            read=rows,
            quarantined=0,
            docs=docs,
            run_name=f"audit {ds} {attempt}",
        )
        refuse_if_critical(verdicts, scores, contract, f"{spec.name} {ds}, scores", docs)
        schema = silver_schema(work.plan.contract_of(spec.features.base))
        rows_to_score = read_nights(work.spark, work.project.warehouse, schema, {ds: base}, SILVER)
        _require_same_keys(scores, rows_to_score, contract.primary_key, rows, base.counts["clean"])
        return {
            ds: blank_record(
                counts={"scores": rows},
                details={
                    "checks": [v.as_dict() for v in verdicts],
                    "files": {p.name: file_facts(p) for p in parquet_files(folder)},
                    "docs": work.project.relative(docs / "index.html"),
                },
            )
        }

    return work.once("audit", inputs, do)


def file_facts(path: Path) -> dict[str, int | str]:
    """What a manifest says of a data file: rows, bytes and SHA-256 of what is on disk."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return {
        "rows": pq.read_metadata(path).num_rows,
        "bytes": path.stat().st_size,
        "sha256": digest.hexdigest(),
    }


def _require_schema(work: Work, folder: Path) -> None:
    expected = [(f.name, f.dataType) for f in typed_schema(work.plan.scores)]
    for path in parquet_files(folder):
        found = work.spark.read.parquet(str(path)).schema
        if [(f.name, f.dataType) for f in found] != expected:
            raise GateFailed(
                f"{path.name} has columns {found.simpleString()}; the contract of the scores "
                f"says {typed_schema(work.plan.scores).simpleString()}"
            )


def _require_same_keys(
    scores: DataFrame, base: DataFrame, key: tuple[str, ...], rows: int, expected: int
) -> None:
    unscored = base.join(scores, list(key), "left_anti").count()
    if rows != expected or unscored:
        raise AccountingError(
            f"{expected} rows were to be scored and {rows} scores were written; {unscored} rows "
            "have none. Nothing was published.",
            expected=expected,
            scores=rows,
            unscored=unscored,
        )
