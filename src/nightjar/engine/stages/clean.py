"""Clean: bronze to silver and quarantine. Every record ends as exactly one of three outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from nightjar.core.checks import Castable
from nightjar.core.contract import Contract
from nightjar.core.errors import AccountingError
from nightjar.core.pipeline import CleanStep
from nightjar.core.plan import TEXT_STEPS
from nightjar.core.records import Record
from nightjar.engine.lake import count_rows, read
from nightjar.engine.quality.predicates import REASONS, broken_rules
from nightjar.engine.quality.types import cast, text_schema, typed_schema
from nightjar.engine.stages.ingest import LINEAGE, PARSED, UNPARSABLE, bronze_schema
from nightjar.engine.work import Work, blank_record

SILVER, QUARANTINE, DUPLICATE = "silver", "quarantine", "duplicate"
OUTCOMES = (SILVER, QUARANTINE, DUPLICATE)


def silver_schema(contract: Contract) -> StructType:
    """Typed columns of the contract, then where each row came from."""
    return StructType([*typed_schema(contract).fields, *LINEAGE])


def quarantine_schema(contract: Contract) -> StructType:
    """Lineage, why the row was refused, and the row as it was delivered."""
    return StructType(
        [
            *LINEAGE,
            StructField("_broken", REASONS),
            StructField("_original", text_schema(contract)),
            StructField("_text", StringType()),
        ]
    )


def run(work: Work, source: str) -> dict[date, Record]:
    """Cast, clean and split the bronze rows of one source.

    Raises:
        AccountingError: rows read are not silver + quarantined + deduplicated.
    """
    spec, contract = work.plan.spec, work.plan.contract_of(source)
    steps = spec.clean.get(source, ())
    nulls = spec.sources[source].null_values
    ingested = {ds: work.require(ds, f"ingest.{source}") for ds in work.nights_of(source)}
    inputs: dict[date, object] = {
        ds: [
            contract.digest,
            [s.model_dump(mode="json") for s in steps],
            nulls,
            [f["sha256"] for f in record.details["files"]],
            record.counts,
        ]
        for ds, record in ingested.items()
    }

    def do(pending: Sequence[date], attempt: str) -> dict[date, Record]:
        def folders(kind: str) -> list[Path]:
            return [p for ds in pending for p in work.outputs(ingested[ds], kind)]

        schema = bronze_schema(contract)
        cleaned = clean(read(work.spark, schema, folders(PARSED)), contract, steps, nulls)
        if any(ingested[ds].counts["unparsable"] for ds in pending):
            refused = read(work.spark, schema, folders(UNPARSABLE))
            cleaned = cleaned.unionByName(refuse_unparsable(refused, contract))
        folder = work.folder("cleaned", f"{spec.name}.{source}", attempt)
        rows = cleaned.withColumn("ds", F.col("_ds")).hint("rebalance", "ds", "outcome")
        writer = rows.write.mode("error").partitionBy("ds", "outcome")
        writer.option("compression", "zstd").parquet(str(folder))
        records = {ds: _record(work, folder / f"ds={ds}", ingested[ds], source) for ds in pending}
        if any(r.counts["quarantined"] for r in records.values()):
            records = _with_reasons(work, records, contract)
        return records

    return work.once(f"clean.{source}", inputs, do)


def clean(
    bronze: DataFrame, contract: Contract, steps: Sequence[CleanStep], null_values: Sequence[str]
) -> DataFrame:
    """Rows with an `outcome`: typed columns for silver, the original text and reasons for others.

    `bronze` has the bronze schema; the result has typed columns, lineage, `_broken`, `_original`,
    `_text` and `outcome`. Each row of `bronze` gives exactly one.
    """
    delivered = {c.name: F.col(c.name) for c in contract.columns}
    texts = {
        name: F.when(~text.isin(*null_values), text) if null_values else text
        for name, text in delivered.items()
    }
    for step in steps:
        if step.kind in TEXT_STEPS:
            texts.update({name: _text_step(step, name, texts[name]) for name in step.columns})
    prepared = bronze.select(
        *[texts[name].alias(f"_t_{name}") for name in contract.names],
        *[F.col(f.name) for f in LINEAGE],
        F.struct(*delivered.values()).alias("_original"),
    )
    texts = {name: F.col(f"_t_{name}") for name in contract.names}
    casts = {r.column: r.check for r in contract.row_rules if isinstance(r.check, Castable)}
    values = {n: cast(t, casts[n]) if n in casts else t for n, t in texts.items()}
    for step in steps:
        if step.kind not in TEXT_STEPS and step.kind != "deduplicate":
            values.update({name: _value_step(step, name, values[name]) for name in step.columns})
    typed = prepared.select(
        "*",
        *[
            v.cast(f.dataType).alias(f.name)
            for f, v in zip(typed_schema(contract), values.values(), strict=True)
        ],
    )
    judged = typed.withColumn(
        "_broken",
        broken_rules(contract.row_rules, {n: F.col(n) for n in contract.names}, texts),
    )
    good = F.size("_broken") == 0
    outcome = F.when(good, F.lit(SILVER)).otherwise(F.lit(QUARANTINE))
    keep = next((s.deduplicate.keep for s in steps if s.deduplicate), None)
    if keep:
        order = [F.col("_file"), F.col("_record")]
        window = Window.partitionBy(F.col("_ds"), good, *contract.primary_key).orderBy(
            *[c.desc() if keep == "last" else c.asc() for c in order]
        )
        again = F.row_number().over(window) > 1
        outcome = F.when(good & again, F.lit(DUPLICATE)).otherwise(outcome)
    kept = F.col("outcome") == SILVER
    return (
        judged.withColumn("outcome", outcome)
        .withColumn("_original", F.when(~kept, F.col("_original")))
        .withColumn("_text", F.lit(None).cast("string"))
        .select(
            *contract.names, *[f.name for f in LINEAGE], "_broken", "_original", "_text", "outcome"
        )
    )


def refuse_unparsable(bronze: DataFrame, contract: Contract) -> DataFrame:
    """Unparsable records as quarantined rows of the shape that `clean` gives."""
    reason = F.struct(
        F.lit(f"{contract.dataset}.unparsable").alias("rule"),
        F.lit(None).cast("string").alias("column"),
        F.col("_reason").alias("found"),
        F.lit(f"{len(contract.columns)} fields of UTF-8 text").alias("expected"),
    )
    return bronze.select(
        *[F.lit(None).cast(f.dataType).alias(f.name) for f in typed_schema(contract)],
        *[F.col(f.name) for f in LINEAGE],
        F.array(reason).alias("_broken"),
        F.lit(None).cast(text_schema(contract)).alias("_original"),
        F.col("_text"),
        F.lit(QUARANTINE).alias("outcome"),
    )


def _text_step(step: CleanStep, name: str, text: Column) -> Column:
    match step:
        case CleanStep(trim=tuple()):
            trimmed = F.trim(text)
            return F.when(trimmed != "", trimmed)
        case CleanStep(upper=tuple()):
            return F.upper(text)
        case CleanStep(lower=tuple()):
            return F.lower(text)
        case CleanStep(replace=dict() as replace):
            result = text
            for old, new in replace[name].items():
                result = F.when(text == old, F.lit(new)).otherwise(result)
            return result
    raise TypeError(step.kind)


def _value_step(step: CleanStep, name: str, value: Column) -> Column:
    match step:
        case CleanStep(scale=dict() as scale):
            return value * F.lit(scale[name])
        case CleanStep(blank_outside=dict() as limits):
            return F.when(value.between(*limits[name]), value)
        case CleanStep(fill=dict() as fill):
            return F.coalesce(value, F.lit(fill[name]))
    raise TypeError(step.kind)


def _record(work: Work, folder: Path, ingested: Record, source: str) -> Record:
    counts = {outcome: count_rows([folder / f"outcome={outcome}"]) for outcome in OUTCOMES}
    read_rows = ingested.counts["read"]
    if sum(counts.values()) != read_rows:
        raise AccountingError(
            f"{source} {folder.name}: {read_rows} rows were read, but "
            + " + ".join(f"{n} {o}" for o, n in counts.items())
            + f" = {sum(counts.values())} came out. Nothing was kept; report this as a defect.",
            read=read_rows,
            **counts,
        )
    return blank_record(
        outputs={
            o: [work.project.relative(folder / f"outcome={o}")] for o, n in counts.items() if n
        },
        counts={
            "read": read_rows,
            "clean": counts[SILVER],
            "quarantined": counts[QUARANTINE],
            "deduplicated": counts[DUPLICATE],
        },
    )


def _with_reasons(
    work: Work, records: dict[date, Record], contract: Contract
) -> dict[date, Record]:
    """Each record with how many quarantined rows broke each rule."""
    folders = [p for r in records.values() for p in work.outputs(r, QUARANTINE)]
    rows = read(work.spark, quarantine_schema(contract), folders)
    counted = rows.select("_ds", F.explode("_broken.rule").alias("rule")).groupBy("_ds", "rule")
    reasons: dict[date, dict[str, int]] = {ds: {} for ds in records}
    for row in counted.count().collect():
        reasons[row["_ds"]][row["rule"]] = row["count"]
    return {
        ds: blank_record(outputs=r.outputs, counts=r.counts, details={"rules_broken": reasons[ds]})
        for ds, r in records.items()
    }
