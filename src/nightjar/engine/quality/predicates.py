"""Row rules as Spark columns: exact, for every row, with all rules that it breaks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, StringType, StructField, StructType

from nightjar.core.checks import (
    Castable,
    DependsOn,
    InRange,
    LengthWithin,
    Matches,
    NotNull,
    OneOf,
    RowCheck,
    RowRule,
)

# One element for each rule that a row breaks.
REASONS = ArrayType(
    StructType(
        [StructField(name, StringType()) for name in ("rule", "column", "found", "expected")]
    )
)


def broken_rules(
    rules: Iterable[RowRule],
    values: Mapping[str, Column],
    texts: Mapping[str, Column] | None = None,
    misfits: Mapping[str, Column] | None = None,
    dissents: Mapping[str, Column] | None = None,
) -> Column:
    """An array of REASONS: the rules that a row breaks, empty for a good row.

    `values` are typed columns. `texts` are the same columns as delivered, and `misfits` whether
    that text is no value of its column's type; without them the type rules, which a typed value
    cannot break, are left out. `dissents` are, by rule, what `add_dissent` found of dependencies.
    """
    texts, misfits, dissents = texts or {}, misfits or {}, dissents or {}
    reasons = []
    for rule in rules:
        if isinstance(rule.check, Castable):
            if rule.column not in misfits:
                continue
            broken, found = misfits[rule.column], texts[rule.column]
        elif isinstance(rule.check, DependsOn):
            broken, found = dissents[rule.id], values[rule.column].cast("string")
        else:
            value = values[rule.column]
            broken, found = breaks(rule.check, value), value.cast("string")
            if isinstance(rule.check, NotNull) and rule.column in misfits:
                # A text that is no value of its type is one fault, not two.
                broken = broken & ~misfits[rule.column]
        reasons.append(
            F.when(
                broken,
                F.struct(
                    F.lit(rule.id).alias("rule"),
                    F.lit(rule.column).alias("column"),
                    found.alias("found"),
                    F.lit(rule.check.expected).alias("expected"),
                ),
            )
        )
    if not reasons:
        return F.array().cast(REASONS)
    return F.filter(F.array(*reasons), lambda reason: reason.isNotNull())


def add_dissent(frame: DataFrame, check: DependsOn, name: str, within: Sequence[str]) -> DataFrame:
    """`frame` with a column `name`: whether a row has another value than most rows like it.

    Rows are alike that have the same values of `within` and of the columns that the check names;
    a row that misses one of these, or the value, dissents from nobody.
    """
    alike = [*within, *check.on]
    value = F.col(check.column)
    # One shuffle: all three windows are clustered by the first one's keys.
    counted = frame.withColumn("_alike", F.count(value).over(Window.partitionBy(*alike)))
    counted = counted.withColumn(
        "_same", F.count(value).over(Window.partitionBy(*alike, check.column))
    )
    most = F.max("_same").over(Window.partitionBy(*alike))
    known = F.lit(True)
    for column in check.on:
        known = known & F.col(column).isNotNull()
    dissents = value.isNotNull() & known & (2 * most > F.col("_alike"))
    dissents = dissents & (2 * F.col("_same") <= F.col("_alike"))
    return counted.withColumn(name, dissents).drop("_alike", "_same")


def breaks(check: RowCheck, value: Column) -> Column:
    """Whether a typed value breaks the check; never null. Missing values break NotNull alone."""
    if isinstance(check, NotNull):
        return value.isNull()
    return value.isNotNull() & ~F.coalesce(_holds(check, value), F.lit(False))


def _holds(check: RowCheck, value: Column) -> Column:
    if isinstance(check, InRange):
        return _within(value, check)
    if isinstance(check, LengthWithin):
        length = F.char_length(value)
        low = F.lit(True) if check.low is None else length >= check.low
        return low if check.high is None else low & (length <= check.high)
    if isinstance(check, Matches):
        # Java's `$` also stands before a newline at the end; `\z` does not.
        return value.rlike(f"^(?:{check.pattern})\\z")
    if isinstance(check, OneOf):
        return value.isin(*check.values)
    raise TypeError(f"{type(check).__name__} is not a check of typed values")


def _within(value: Column, check: InRange) -> Column:
    holds = F.lit(True)
    if check.low is not None:
        low = _bound(check.low)
        holds = holds & (value > low if check.low_open else value >= low)
    if check.high is not None:
        high = _bound(check.high)
        holds = holds & (value < high if check.high_open else value <= high)
    return holds


def _bound(value: float | str) -> Column:
    # ISO 8601 text compares as the date or timestamp that it names (ANSI casts the literal).
    return F.lit(value)
