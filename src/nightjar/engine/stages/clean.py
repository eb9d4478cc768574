"""Clean: bronze to silver and quarantine. Every record ends as exactly one of three outcomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, IntegralType, StringType, StructField, StructType

from nightjar.core.checks import Castable
from nightjar.core.contract import Contract
from nightjar.core.errors import AccountingError
from nightjar.core.pipeline import CleanStep
from nightjar.core.plan import TEXT_STEPS, VALUE_STEPS
from nightjar.core.records import Record
from nightjar.engine.lake import count_by_night, read_folder, read_nights
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
        taken = {ds: ingested[ds] for ds in pending}

        def bronze(kind: str) -> DataFrame:
            schema = bronze_schema(contract)
            return read_nights(work.spark, work.project.warehouse, schema, taken, kind)

        cleaned = clean(bronze(PARSED), contract, steps, nulls)
        if any(record.counts["unparsable"] for record in taken.values()):
            cleaned = cleaned.unionByName(refuse_unparsable(bronze(UNPARSABLE), contract))
        folder = work.folder("cleaned", f"{spec.name}.{source}", attempt)
        rows = cleaned.hint("rebalance", "outcome", "_ds")
        rows.write.mode("error").partitionBy("outcome").parquet(str(folder))
        return _records(work, folder, taken, contract)

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
    prepared = prepared.select(
        "*",
        *[(cast(t, casts[n]) if n in casts else t).alias(f"_v_{n}") for n, t in texts.items()],
    )
    values = {name: F.col(f"_v_{name}") for name in contract.names}
    # A text that is no value, and a value that does not fit its column once it is scaled.
    misfits = {name: texts[name].isNotNull() & values[name].isNull() for name in casts}
    types = {f.name: f.dataType for f in typed_schema(contract)}
    for step in steps:
        if step.kind in VALUE_STEPS:
            for name in step.columns:
                before, values[name] = values[name], _value_step(step, name, values[name], types)
                if step.scale:
                    misfits[name] |= before.isNotNull() & values[name].isNull()
    typed = prepared.select(
        "*",
        *[value.alias(name) for name, value in values.items()],
        *[misfit.alias(f"_misfit_{name}") for name, misfit in misfits.items()],
    )
    judged = typed.withColumn(
        "_broken",
        broken_rules(
            contract.row_rules,
            {n: F.col(n) for n in contract.names},
            texts,
            {n: F.col(f"_misfit_{n}") for n in casts},
        ),
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


def _value_step(step: CleanStep, name: str, value: Column, types: Mapping[str, DataType]) -> Column:
    match step:
        case CleanStep(scale=dict() as scale):
            factor = F.lit(scale[name])
            if isinstance(types[name], IntegralType):
                product = F.try_multiply(value.cast("bigint"), factor.try_cast("bigint"))
                return product.try_cast(types[name])
            product = (value * factor).try_cast(types[name])
            return F.when(F.abs(product) < float("inf"), product)
        case CleanStep(blank_outside=dict() as limits):
            return F.when(value.between(*limits[name]), value)
        case CleanStep(fill=dict() as fill):
            return F.coalesce(value, F.lit(fill[name]).cast(types[name]))
    raise TypeError(step.kind)


def _records(
    work: Work, folder: Path, ingested: dict[date, Record], contract: Contract
) -> dict[date, Record]:
    """A record for each night, once every row that was read has come out."""
    counts = {
        outcome: count_by_night(work.spark, folder / f"outcome={outcome}", ingested)
        for outcome in OUTCOMES
    }
    outputs = {
        outcome: work.project.relative(folder / f"outcome={outcome}")
        for outcome in OUTCOMES
        if (folder / f"outcome={outcome}").is_dir()
    }
    reasons = _reasons(work, folder / f"outcome={QUARANTINE}", contract)
    records = {}
    for ds, record in ingested.items():
        read, found = record.counts["read"], {o: counts[o][ds] for o in OUTCOMES}
        if sum(found.values()) != read:
            raise AccountingError(
                f"{contract.dataset} {ds}: {read} rows were read, but "
                + " + ".join(f"{n} {o}" for o, n in found.items())
                + f" = {sum(found.values())} came out. Nothing was kept; report this as a defect.",
                read=read,
                **found,
            )
        records[ds] = blank_record(
            outputs=outputs,
            counts={
                "read": read,
                "clean": found[SILVER],
                "quarantined": found[QUARANTINE],
                "deduplicated": found[DUPLICATE],
            },
            details={"rules_broken": reasons[ds]} if ds in reasons else {},
        )
    return records


def _reasons(work: Work, folder: Path, contract: Contract) -> dict[date, dict[str, int]]:
    """How many quarantined rows broke each rule, by night; a row counts for all that it broke."""
    if not folder.is_dir():
        return {}
    rows = read_folder(work.spark, quarantine_schema(contract), folder)
    counted = rows.select("_ds", F.explode("_broken.rule").alias("rule")).groupBy("_ds", "rule")
    reasons: dict[date, dict[str, int]] = {}
    for row in counted.count().orderBy("_ds", "rule").collect():
        reasons.setdefault(row["_ds"], {})[row["rule"]] = row["count"]
    return reasons
