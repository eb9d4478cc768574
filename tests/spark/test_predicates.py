"""Row rules: each kind of check, and the list of all that a row breaks."""

from __future__ import annotations

from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from nightjar.core.checks import (
    Castable,
    DataType,
    InRange,
    LengthWithin,
    Matches,
    NotNull,
    OneOf,
    RowCheck,
    RowRule,
)
from nightjar.engine.quality.predicates import REASONS, breaks, broken_rules

# check, type, values that hold, values that break
CASES: dict[str, tuple[RowCheck, str, list[Any], list[Any]]] = {
    "required": (NotNull("v"), "string", ["", "x"], [None]),
    "range, closed": (InRange("v", 1, 3), "int", [1, 2, 3, None], [0, 4]),
    "range, open": (InRange("v", 1, 3, True, True), "int", [2, None], [0, 1, 3, 4]),
    "range, low alone": (InRange("v", 0.5, None), "double", [0.5, 1e300, None], [0.49, -1.0]),
    "range, high alone": (InRange("v", None, 0.5), "double", [0.5, -1e300, None], [0.51]),
    "range of whole numbers with a fraction": (InRange("v", 0.5, None), "int", [1, None], [0]),
    "range of decimals": (InRange("v", 1, 2), "decimal(5,2)", ["1.00", "2.00", None], ["2.01"]),
    "range of dates": (
        InRange("v", "2024-01-01", "2024-12-31"),
        "date",
        ["2024-01-01", "2024-12-31", None],
        ["2023-12-31", "2025-01-01"],
    ),
    "range of instants": (
        InRange("v", "2024-01-01T01:00:00+01:00", "2024-01-02T00:00:00Z", False, True),
        "timestamp",
        ["2024-01-01T00:00:00Z", "2024-01-01T23:59:59.999999Z", None],
        ["2023-12-31T23:59:59Z", "2024-01-02T00:00:00Z"],
    ),
    "length": (LengthWithin("v", 2, 3), "string", ["ab", "äö€", None], ["", "a", "abcd"]),
    "length, low alone": (LengthWithin("v", 1, None), "string", ["a", None], [""]),
    "length, high alone": (LengthWithin("v", None, 1), "string", ["", "😀", None], ["ab"]),
    "pattern": (
        Matches("v", "[A-Z]{2}"),
        "string",
        ["AB", None],
        ["", "A", "ABC", "ab", " AB", "AB\n", "AB\r", "AB\r\n", "AB\u2028", "AB\u0085", "X\nAB"],
    ),
    "pattern of alternatives": (Matches("v", "a|bc"), "string", ["a", "bc"], ["abc", "ac", "b"]),
    "pattern with a newline": (Matches("v", "a\\n"), "string", ["a\n"], ["a", "a\n\n"]),
    "allowed": (OneOf("v", ("A", "B")), "string", ["A", "B", None], ["a", "A ", "", "C"]),
    "allowed numbers": (OneOf("v", (1, 2)), "int", [1, 2, None], [0, 3]),
    "allowed booleans": (OneOf("v", (True,)), "boolean", [True, None], [False]),
}


@pytest.mark.parametrize(("check", "kind", "good", "bad"), CASES.values(), ids=CASES)
def test_check(
    spark: SparkSession, check: RowCheck, kind: str, good: list[Any], bad: list[Any]
) -> None:
    values = [*good, *bad]
    textual = kind in ("date", "timestamp") or kind.startswith("decimal")
    rows = spark.createDataFrame([(v,) for v in values], f"v {'string' if textual else kind}")
    found = rows.select(F.col("v").cast(kind).alias("v")).select(breaks(check, F.col("v")))
    assert [row[0] for row in found.collect()] == [False] * len(good) + [True] * len(bad)


RULES = (
    RowRule("t.n.type", Castable("n", DataType("int"))),
    RowRule("t.n.required", NotNull("n")),
    RowRule("t.n.range", InRange("n", 1, 9)),
    RowRule("t.code.length", LengthWithin("code", 2, 2)),
    RowRule("t.code.pattern", Matches("code", "[A-Z]+")),
)


def broken(spark: SparkSession, n: int | None, code: str | None, text: str | None) -> list[Any]:
    rows = spark.createDataFrame([(n, code, text)], "n int, code string, n_text string")
    values = {name: F.col(name) for name in ("n", "code")}
    misfits = {"n": F.col("n_text").isNotNull() & F.col("n").isNull()}
    listed = broken_rules(RULES, values, {"n": F.col("n_text"), "code": F.col("code")}, misfits)
    return [tuple(reason) for reason in rows.select(listed).collect()[0][0]]


def test_a_good_row_breaks_nothing(spark: SparkSession) -> None:
    assert broken(spark, 5, "AB", "5") == []


def test_every_rule_that_a_row_breaks_is_listed(spark: SparkSession) -> None:
    assert broken(spark, 12, "abc", "12") == [
        ("t.n.range", "n", "12", ">= 1 and <= 9"),
        ("t.code.length", "code", "abc", "exactly 2 characters"),
        ("t.code.pattern", "code", "abc", "text matching [A-Z]+"),
    ]


def test_a_text_of_the_wrong_type_is_one_fault_and_shown_as_delivered(spark: SparkSession) -> None:
    assert broken(spark, None, None, "five") == [("t.n.type", "n", "five", "a value of type int")]


def test_a_missing_value_breaks_required_alone(spark: SparkSession) -> None:
    assert broken(spark, None, None, None) == [("t.n.required", "n", None, "a value")]


def test_kept_rows_are_judged_without_their_texts(spark: SparkSession) -> None:
    rows = spark.createDataFrame([(None, "A"), (5, "AB")], "n int, code string")
    listed = broken_rules(RULES, {"n": F.col("n"), "code": F.col("code")})
    found = [[r["rule"] for r in row[0]] for row in rows.select(listed).collect()]
    assert found == [["t.n.required", "t.code.length"], []]


def test_no_rules_give_an_empty_list_of_the_same_type(spark: SparkSession) -> None:
    rows = spark.range(1).select(broken_rules((), {}).alias("b"))
    assert rows.schema["b"].dataType.simpleString() == REASONS.simpleString()
    assert rows.collect()[0]["b"] == []
