"""Feature rows: what could be known about each base row at its as-of time."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from pyspark.errors import AnalysisException, ParseException
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.types import (
    DateType,
    DoubleType,
    StringType,
    StructField,
    StructType,
    TimestampType,
)

from nightjar.core.errors import SpecError
from nightjar.core.pipeline import Join, Label
from nightjar.core.plan import Plan
from nightjar.engine.quality.types import typed_schema

AS_OF = "_as_of"
WEIGHT = "_weight"


def _derived(plan: Plan, rows: DataFrame, name: str, text: str) -> DataFrame:
    """`rows` with a derived column; what Spark refuses is a fault of the pipeline file."""
    try:
        return rows.withColumn(name, F.expr(text))
    except (AnalysisException, ParseException) as error:
        problem = f"'{name}' is no expression that Spark knows: {str(error).splitlines()[0]}"
        fault = plan.document.fault(("features", "derive", name), problem)
        raise SpecError(faults=[fault]) from error


def build(plan: Plan, silver: Mapping[str, DataFrame]) -> DataFrame:
    """One row for each base row: key, published columns, features, `_ds`, `_as_of` and label.

    Where the label has a weight, it stands in `_weight`.

    `silver` holds the silver rows of every source. The label is null where the event has none.
    Columns that are known only after the event are gone before any feature is derived.
    """
    spec = plan.spec
    base = plan.contract_of(spec.features.base)
    rows = silver[spec.features.base].withColumn("_label", _label(spec.label))
    if spec.label.weight is not None:
        rows = rows.withColumn(WEIGHT, F.expr(spec.label.weight).cast("double"))
    rows = rows.drop(*base.after_event)
    rows = rows.drop("_file", "_record")
    for name, text in plan.derive_before:
        rows = _derived(plan, rows, name, text)
    rows = rows.withColumn(AS_OF, F.expr(spec.features.as_of).cast("timestamp"))
    for join in spec.features.joins:
        other = silver[join.source].drop(*plan.contract_of(join.source).after_event)
        rows = as_of_join(rows, other, join) if join.at else key_join(rows, other, join)
    for name, text in plan.derive_after:
        rows = _derived(plan, rows, name, text)
    numeric, categorical = spec.features.numeric, spec.features.categorical
    kept = [n for n in kept_columns(plan) if n not in (*numeric, *categorical)]
    return rows.select(
        "_ds",
        AS_OF,
        *kept,
        *[F.col(n).cast("double").alias(n) for n in numeric],
        *[F.col(n).cast("string").alias(n) for n in categorical],
        *([WEIGHT] if spec.label.weight is not None else []),
        F.col("_label").alias(spec.label.name),
    )


def _label(label: Label) -> Column:
    """The label as a number, as `Label` says."""
    value = F.expr(label.expr)
    if not label.classes:
        return value.cast("double")
    text = value.cast("string")
    known = F.array(*[F.lit(name) for name in label.classes])
    # Null where the label is: array_position gives 0 for what is not there.
    return (F.array_position(known, text) - 1).cast("double")


def kept_columns(plan: Plan) -> list[str]:
    """Columns of a feature row that are no features: what is published, and what splits."""
    names = [*plan.contract_of(plan.spec.features.base).primary_key, *plan.published_columns]
    return list(dict.fromkeys([*names, plan.spec.split.by]))


def schema(plan: Plan) -> StructType:
    """The schema of the rows that `build` gives."""
    published = {f.name: f for f in typed_schema(plan.scores)}
    numeric, categorical = plan.spec.features.numeric, plan.spec.features.categorical
    features = (*numeric, *categorical)
    base = {f.name: f for f in typed_schema(plan.contract_of(plan.spec.features.base))}
    return StructType(
        [
            StructField("_ds", DateType()),
            StructField(AS_OF, TimestampType()),
            *[
                published.get(n) or base.get(n) or StructField(n, TimestampType())
                for n in kept_columns(plan)
                if n not in features
            ],
            *[StructField(n, DoubleType()) for n in numeric],
            *[StructField(n, StringType()) for n in categorical],
            *([StructField(WEIGHT, DoubleType())] if plan.spec.label.weight is not None else []),
            StructField(plan.spec.label.name, DoubleType()),
        ]
    )


def key_join(left: DataFrame, right: DataFrame, join: Join) -> DataFrame:
    """`left` with the columns of the one row of `right` that has its key, else nulls."""
    wanted = [F.col(old).alias(new) for old, new in join.columns.items()]
    return left.join(right.select(*join.on, *wanted), list(join.on), "left")


def as_of_join(left: DataFrame, right: DataFrame, join: Join) -> DataFrame:
    """`left` with the columns of the latest row of `right` at or before `_as_of`, else nulls.

    A row of `right` counts while `_as_of - within <= at <= _as_of` and its key has no null; of
    rows with one key and one time, that with the greatest values. Both sides are cut into
    buckets of length `within`, so that one busy key is no single partition: one shuffle, and a
    window over each bucket, in which a row of `right` also stands in the bucket after its own.
    """
    assert join.at is not None
    assert join.within is not None
    seconds = max(1, int(join.within / timedelta(seconds=1)))
    keys = [*join.on, "_bucket"]

    def bucket(column: str) -> Column:
        return F.floor(F.unix_micros(F.col(column)) / (seconds * 1_000_000))

    found = F.struct(
        F.col(join.at).alias("_at"),
        *[F.col(old).alias(new) for old, new in join.columns.items()],
    )
    rights = right.dropna(subset=[*join.on, join.at]).select(
        *join.on,
        F.explode(F.array(bucket(join.at), bucket(join.at) + 1)).alias("_bucket"),
        F.col(join.at).alias("_time"),
        F.lit(0).alias("_side"),
        found.alias("_right"),
    )
    lefts = left.select(
        *join.on,
        bucket(AS_OF).alias("_bucket"),
        F.col(AS_OF).alias("_time"),
        F.lit(1).alias("_side"),
        F.struct(*[F.col(name) for name in left.columns]).alias("_left"),
    )
    window = (
        Window.partitionBy(*keys)
        .orderBy("_time", "_side", "_right")
        .rowsBetween(Window.unboundedPreceding, Window.currentRow)
    )
    both = lefts.unionByName(rights, allowMissingColumns=True)
    latest = F.last("_right", ignorenulls=True).over(window)
    matched = both.withColumn("_latest", latest).where(F.col("_side") == 1)
    young = F.col("_latest._at") >= F.col("_time") - F.make_interval(secs=F.lit(seconds))
    return matched.select(
        "_left.*",
        *[F.when(young, F.col(f"_latest.{new}")).alias(new) for new in join.columns.values()],
    )
