"""The corpus, run: by the real ingest and clean, and by a plain read of Spark's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import yaml
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from tests.corpus.cases import TABLES, Case, Row

from nightjar.core.contract import Contract, load_contract
from nightjar.core.pipeline import Source
from nightjar.engine.lake import parquet_files, read_folder
from nightjar.engine.quality.types import typed_schema
from nightjar.engine.stages.clean import SILVER, clean, refuse_unparsable
from nightjar.engine.stages.ingest import FILE, PARSED, UNPARSABLE, bronze_schema, write_files

FIRST = date(2000, 1, 1)


@dataclass
class Outcome:
    """What became of a case: the error's code, or clean rows and records kept apart."""

    code: str = ""
    message: str = ""
    records: int = 0
    rows: list[Row] = field(default_factory=list)
    bad: dict[int, str] = field(default_factory=dict)


def contract_of(table: str, folder: Path) -> Contract:
    path = folder / f"{table}.odcs.yaml"
    head = {"apiVersion": "v3.1.0", "kind": "DataContract", "version": "1.0.0", "status": "active"}
    described = [{"name": table, "properties": TABLES[table]}]
    path.write_text(yaml.safe_dump({**head, "id": table, "schema": described}))
    return load_contract(path)


def run(spark: SparkSession, cases: Sequence[Case], warehouse: Path) -> list[Outcome]:
    """Deliver the cases into `warehouse`, each as a night of its own; ingest and clean them."""
    outcomes = [Outcome() for _ in cases]
    nights = [FIRST + timedelta(days=i) for i in range(len(cases))]
    for table in TABLES:
        contract = contract_of(table, warehouse)
        sources: dict[str, tuple[Source, dict[date, tuple[str, ...]]]] = {}
        for case, ds in zip(cases, nights, strict=True):
            if case.table != table:
                continue
            path = case.write(warehouse / "landing" / str(ds))
            options = {"contract": table, "format": case.format, "path": "landing/x"}
            source = Source.model_validate({**options, **case.options})
            group = sources.setdefault(json.dumps([case.format, case.options]), (source, {}))
            group[1][ds] = (path.relative_to(warehouse).as_posix(),)
        if not sources:
            continue
        folder = warehouse / "bronze" / table
        for source, files in sources.values():
            write_files(spark, files, warehouse, contract, source, folder)
        _collect(spark, folder, contract, outcomes)
    return outcomes


def _collect(
    spark: SparkSession, folder: Path, contract: Contract, outcomes: list[Outcome]
) -> None:
    schema = bronze_schema(contract)
    for part in parquet_files(folder / f"kind={FILE}"):
        for row in pq.ParquetFile(part).read().to_pylist():
            outcome = outcomes[(row["_ds"] - FIRST).days]
            outcome.records = row["_records"] or 0
            if row["_reason"]:
                outcome.code, outcome.message = row["_reason"], row["_text"]
    parsed = read_folder(spark, schema, folder / f"kind={PARSED}")
    refused = read_folder(spark, schema, folder / f"kind={UNPARSABLE}")
    cleaned = clean(parsed, contract, (), ("",)).unionByName(refuse_unparsable(refused, contract))
    texts = [F.col(name).cast("string").alias(name) for name in contract.names]
    for row in cleaned.select("_ds", "_record", "outcome", "_broken", *texts).collect():
        outcome = outcomes[(row["_ds"] - FIRST).days]
        if outcome.code:
            continue  # what a refused file gave before its fault is not taken
        if row["outcome"] == SILVER:
            outcome.rows.append(tuple(row[name] for name in contract.names))
        else:
            reasons = [f"{broken['rule']}: {broken['found']}" for broken in row["_broken"]]
            outcome.bad[row["_record"]] = "; ".join(reasons)


def plain(spark: SparkSession, case: Case, path: Path, contract: Contract) -> list[Row] | str:
    """The rows of Spark's own reader, given the schema and what the case declares; or its error."""
    schema = typed_schema(contract)
    options = {"sep": case.options.get("delimiter"), "quote": case.options.get("quote")}
    options["encoding"] = case.options.get("encoding")
    reader = spark.read.schema(schema)
    for name, value in options.items():
        if value is not None and value != "detect":
            reader = reader.option(name, value)
    try:
        match case.format:
            case "csv":
                frame = reader.csv(str(path), header=True)
            case "jsonl":
                frame = reader.json(str(path))
            case _:
                frame = reader.parquet(str(path))
        rows = frame.select([F.col(n).cast("string") for n in contract.names]).collect()
    except PySparkException as error:
        return f"error: {error.getCondition() or type(error).__name__}"
    except Exception as error:
        return f"error: {type(error).__name__}"
    return [tuple(row) for row in rows]
