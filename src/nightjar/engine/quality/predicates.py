"""Row rules as Spark columns: exact, for every row, with all rules that it breaks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, StringType, StructField, StructType

from nightjar.core.checks import (
    Castable,
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
) -> Column:
    """An array of REASONS: the rules that a row breaks, empty for a good row.

    `values` are typed columns. `texts` are the same columns as delivered, and `misfits` whether
    that text is no value of its column's type; without them the type rules, which a typed value
    cannot break, are left out.
    """
    texts, misfits = texts or {}, misfits or {}
    reasons = []
    for rule in rules:
        if isinstance(rule.check, Castable):
            if rule.column not in misfits:
                continue
            broken, found = misfits[rule.column], texts[rule.column]
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
