"""Clean: bronze to silver and quarantine. Every record ends as exactly one of four outcomes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, IntegralType, StringType, StructField, StructType

from nightjar.core.checks import Castable, DependsOn
from nightjar.core.contract import UNPARSABLE as UNPARSABLE_RULE
from nightjar.core.contract import Contract
from nightjar.core.errors import AccountingError
from nightjar.core.pipeline import CleanStep
from nightjar.core.plan import TEXT_STEPS, VALUE_STEPS
from nightjar.core.records import Record
from nightjar.engine.lake import count_by_file, read_folder, read_nights
from nightjar.engine.quality.predicates import REASONS, add_dissent, broken_rules
from nightjar.engine.quality.types import cast, text_schema, typed_schema
from nightjar.engine.quarantine import QUARANTINE, show_state
from nightjar.engine.repairs import DISCARD, Repair, RepairLog, digest_of
from nightjar.engine.stages.ingest import LINEAGE, PARSED, UNPARSABLE, bronze_schema
from nightjar.engine.work import Work, blank_record

SILVER, DUPLICATE, DISCARDED = "silver", "duplicate", "discarded"
OUTCOMES = (SILVER, QUARANTINE, DUPLICATE, DISCARDED)
COUNTED = {
    SILVER: "clean",
    QUARANTINE: "quarantined",
    DUPLICATE: "deduplicated",
    DISCARDED: "discarded",
}
_ORIGIN = ["_ds", "_file", "_record"]


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
    """Cast, clean and split the bronze rows of one source, those repaired since included.

    Raises:
        AccountingError: rows read are not silver + quarantined + deduplicated + discarded.
    """
    spec, contract = work.plan.spec, work.plan.contract_of(source)
    steps = spec.clean.get(source, ())
    nulls = spec.sources[source].null_values
    ingested = {ds: work.require(ds, f"ingest.{source}") for ds in work.nights_of(source)}
    log = RepairLog(work.project.warehouse, spec.name, source)
    repaired = {ds: log.effective(ds, digests(record)) for ds, record in ingested.items()}
    inputs: dict[date, object] = {
        ds: [
            contract.digest,
            [s.model_dump(mode="json") for s in steps],
            nulls,
            [f["sha256"] for f in record.details["files"]],
            record.counts,
            digest_of(repaired[ds].values()),
        ]
        for ds, record in ingested.items()
    }

    def do(pending: Sequence[date], attempt: str) -> dict[date, Record]:
        taken = {ds: ingested[ds] for ds in pending}

        def bronze(kind: str) -> DataFrame:
            schema = bronze_schema(contract)
            return read_nights(work.spark, work.project.warehouse, schema, taken, kind)

        parsed, unparsable = bronze(PARSED), bronze(UNPARSABLE)
        repairs = [(ds, repair) for ds in pending for repair in repaired[ds].values()]
        if repairs:
            replaced = repaired_rows(work.spark, contract, repairs, discarded=False)
            origins = _origins(work.spark, repairs)
            parsed = parsed.join(origins, _ORIGIN, "left_anti").unionByName(replaced)
            unparsable = unparsable.join(origins, _ORIGIN, "left_anti")
        cleaned = clean(parsed, contract, steps, nulls)
        if any(record.counts["unparsable"] for record in taken.values()):
            cleaned = cleaned.unionByName(refuse_unparsable(unparsable, contract))
        if any(repair.action == DISCARD for _, repair in repairs):
            discarded = repaired_rows(work.spark, contract, repairs, discarded=True)
            cleaned = cleaned.unionByName(discard(discarded, contract))
        folder = work.folder("cleaned", f"{spec.name}.{source}", attempt)
        rows = cleaned.hint("rebalance", "outcome", "_ds")
        rows.write.mode("error").partitionBy("outcome").parquet(str(folder))
        return _records(work, folder, taken, contract)

    done = work.once(f"clean.{source}", inputs, do)
    show_state(work.project, spec.name, source, contract, done, repaired)
    return done


def digests(ingested: Record) -> dict[str, str]:
    """The SHA-256 of each delivered file of a night, by name."""
    return {file["file"]: file["sha256"] for file in ingested.details["files"]}


def repaired_rows(
    spark: SparkSession,
    contract: Contract,
    repairs: Iterable[tuple[date, Repair]],
    *,
    discarded: bool,
) -> DataFrame:
    """Bronze rows of the records that repairs replaced, or of those that they discarded.

    Of a discarded one `_reason` says why.
    """
    schema = bronze_schema(contract)
    rows = [
        {**repair.values, "_ds": ds, "_file": repair.file, "_record": repair.record,
         "_reason": repair.reason}
        for ds, repair in repairs
        if (repair.action == DISCARD) == discarded
    ]  # fmt: skip
    return spark.createDataFrame([tuple(r.get(n) for n in schema.names) for r in rows], schema)


def _origins(spark: SparkSession, repairs: Iterable[tuple[date, Repair]]) -> DataFrame:
    return spark.createDataFrame([(ds, *repair.key) for ds, repair in repairs], StructType(LINEAGE))


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
    dissents = {}
    for rule in contract.row_rules:
        if isinstance(rule.check, DependsOn):
            typed = add_dissent(typed, rule.check, f"_dissent_{rule.id}", ["_ds"])
            dissents[rule.id] = F.col(f"`_dissent_{rule.id}`")
    judged = typed.withColumn(
        "_broken",
        broken_rules(
            contract.row_rules,
            {n: F.col(n) for n in contract.names},
            texts,
            {n: F.col(f"_misfit_{n}") for n in casts},
            dissents,
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
    expected = f"{len(contract.columns)} fields of UTF-8 text"
    original = F.lit(None).cast(text_schema(contract))
    return _set_aside(bronze, contract, UNPARSABLE_RULE, expected, original, QUARANTINE)


def discard(bronze: DataFrame, contract: Contract) -> DataFrame:
    """Records that somebody discarded, as rows of the shape that `clean` gives."""
    original = F.struct(*contract.names)
    expected = "a row that was worth repairing"
    return _set_aside(bronze, contract, DISCARDED, expected, original, DISCARDED)


def _set_aside(
    bronze: DataFrame, contract: Contract, rule: str, expected: str, original: Column, outcome: str
) -> DataFrame:
    reason = F.struct(
        F.lit(f"{contract.dataset}.{rule}").alias("rule"),
        F.lit(None).cast("string").alias("column"),
        F.col("_reason").alias("found"),
        F.lit(expected).alias("expected"),
    )
    return bronze.select(
        *[F.lit(None).cast(f.dataType).alias(f.name) for f in typed_schema(contract)],
        *[F.col(f.name) for f in LINEAGE],
        F.array(reason).alias("_broken"),
        original.alias("_original"),
        F.col("_text"),
        F.lit(outcome).alias("outcome"),
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
    """A record for each night, once every row of every file has come out."""
    names = {ds: list(digests(record)) for ds, record in ingested.items()}
    counts = {
        outcome: count_by_file(work.spark, folder / f"outcome={outcome}", names)
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
        files = []
        for delivered in record.details["files"]:
            key = (ds, delivered["file"])
            found = {COUNTED[o]: counts[o][key] for o in OUTCOMES}
            _require_all(contract.dataset, ds, delivered, found)
            files.append({"file": key[1], "sha256": delivered["sha256"], **found})
        total = {kind: sum(f[kind] for f in files) for kind in COUNTED.values()}
        if not total["discarded"]:
            del total["discarded"]  # the rule; a line for each step that says so says nothing
        records[ds] = blank_record(
            outputs=outputs,
            counts={"read": record.counts["read"], **total},
            details={"files": files, **reasons.get(ds, {})},
        )
    return records


def _require_all(
    dataset: str, ds: date, delivered: Mapping[str, Any], found: Mapping[str, int]
) -> None:
    read = delivered["records"]
    if sum(found.values()) != read:
        raise AccountingError(
            f"{dataset} {ds}: {read} rows of {delivered['file']} were read, but "
            + " + ".join(f"{n} {kind}" for kind, n in found.items())
            + f" = {sum(found.values())} came out. Nothing was kept; report this as a defect.",
            file=delivered["file"],
            read=read,
            **found,
        )


def _reasons(work: Work, folder: Path, contract: Contract) -> dict[date, dict[str, Any]]:
    """What the quarantined rows of each night broke: rows by rule (a row counts for all of its
    rules), and how many line ends stand inside records that could not be parsed."""
    if not folder.is_dir():
        return {}
    rows = read_folder(work.spark, quarantine_schema(contract), folder)
    lines = F.length("_text") - F.length(F.replace("_text", F.lit("\n"), F.lit("")))
    counted = (
        rows.select("_ds", F.explode("_broken.rule").alias("rule"), lines.alias("lines"))
        .groupBy("_ds", "rule")
        .agg(F.count(F.lit(1)).alias("rows"), F.sum("lines").alias("lines"))
    )
    reasons: dict[date, dict[str, Any]] = {}
    for row in counted.orderBy("_ds", "rule").collect():
        night = reasons.setdefault(row["_ds"], {"rules_broken": {}})
        night["rules_broken"][row["rule"]] = row["rows"]
        if row["lines"]:
            night["lines_in_unparsable"] = row["lines"]
    return reasons
