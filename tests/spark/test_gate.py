"""The gate: each kind of dataset rule holds and fails with exact counts, and says so."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nightjar.core.contract import Contract
from nightjar.core.errors import GateFailed
from nightjar.engine.quality.gate import Verdict, judge, refuse_if_critical

NIGHT = date(2024, 3, 1)
COLUMNS = "id string, code string, place string, n double, at string"


def rule(metric: str, **more: Any) -> dict[str, Any]:
    return {"metric": metric, "severity": "critical", **more}


PROPERTIES = [
    {"name": "id", "logicalType": "string", "primaryKey": True},
    {
        "name": "code",
        "logicalType": "string",
        "unique": True,
        "quality": [
            rule("invalidValues", arguments={"pattern": "[A-Z][0-9]+"}, mustBe=0),
            rule("nullValues", mustBeLessThan=20, unit="percent", severity="warning"),
        ],
    },
    {
        "name": "place",
        "logicalType": "string",
        "quality": [
            rule(
                "invalidValues",
                arguments={"validValues": ["north", "south"]},
                mustBeLessOrEqualTo=10,
                unit="percent",
            )
        ],
    },
    {
        "name": "n",
        "logicalType": "number",
        "logicalTypeOptions": {"minimum": 0},
        "quality": [rule("nullValues", mustBeLessOrEqualTo=1)],
    },
    {"name": "at", "logicalType": "timestamp", "logicalTypeOptions": {"timezone": True}},
]
TABLE = [
    rule("rowCount", mustBeBetween=[5, 10]),
    rule(
        "duplicateValues",
        name="place_and_number",
        arguments={"properties": ["place", "n"]},
        mustBe=0,
        severity="warning",
    ),
    {
        "type": "custom",
        "engine": "nightjar",
        "implementation": "quarantinedRows",
        "mustBeLessThan": 5,
        "unit": "percent",
    },
]
FRESHNESS = {"property": "freshness", "value": 6, "unit": "h", "element": "things.at"}


@pytest.fixture
def things(contract: Callable[..., Contract]) -> Contract:
    return contract(PROPERTIES, TABLE, slaProperties=[FRESHNESS])


@pytest.fixture
def frame(spark: SparkSession) -> Callable[[list[Any]], DataFrame]:
    def make(rows: list[Any]) -> DataFrame:
        texts = spark.createDataFrame(rows, COLUMNS)
        return texts.withColumn("at", F.col("at").cast("timestamp"))

    return make


def verdicts(found: DataFrame, contract: Contract, docs: Path, **more: Any) -> dict[str, Verdict]:
    given = {"night": NIGHT, "read": 100, "quarantined": 0, "run_name": "a test", **more}
    listed = judge(found, contract, docs=docs, **given)
    assert [v.rule for v in listed] == [r.id for r in contract.dataset_rules]
    return {v.rule.removeprefix("things."): v for v in listed}


GOOD = [
    (f"k{i}", f"A{i}", ("north", "south")[i % 2], float(i), "2024-03-01T20:00:00Z")
    for i in range(10)
]
BAD = [
    ("a", "A1", "north", 1.0, "2024-03-01T17:59:59Z"),
    ("a", "A1", "north", 1.0, "2024-03-01T17:00:00Z"),
    ("a", "A1\n", "west", -1.0, None),
    ("b", "b1", "east", -2.0, None),
    ("b", None, "south", None, None),
    ("c", None, "south", None, None),
    ("d", None, None, 3.0, None),
    ("e", "A2", "north", 4.0, None),
    ("f", "A3", "north", 5.0, None),
    ("g", "A4", "north", 6.0, None),
    ("h", "A5", "north", 7.0, None),
]


def test_a_good_frame_passes_every_rule(frame: Any, things: Contract, tmp_path: Path) -> None:
    found = verdicts(frame(GOOD), things, tmp_path, quarantined=4)
    assert {name: (v.passed, v.found) for name, v in found.items()} == {
        "code.unique": (True, "0 of 10 rows (0.00%)"),
        "code.invalidValues": (True, "0 of 10 rows (0.00%)"),
        "code.nullValues": (True, "0 of 10 rows (0.00%)"),
        "place.invalidValues": (True, "0 of 10 rows (0.00%)"),
        "n.nullValues": (True, "0 of 10 rows (0.00%)"),
        "primary_key": (True, "0 of 10 rows (0.00%)"),
        "rowCount": (True, "10 rows"),
        "place_and_number": (True, "0 of 10 rows (0.00%)"),
        "quarantinedRows": (True, "4 of 100 rows quarantined (4.00%)"),
        "at.freshness": (True, "newest 2024-03-01T20:00:00Z"),
        "row_rules": (True, "0 rows that break one"),
    }
    refuse_if_critical(list(found.values()), frame(GOOD), things, "a label", tmp_path)


def test_a_bad_frame_fails_every_rule_with_exact_counts(
    frame: Any, things: Contract, tmp_path: Path
) -> None:
    bad = frame(BAD)
    found = verdicts(bad, things, tmp_path, quarantined=5)
    assert {name: (v.passed, v.found, v.expected) for name, v in found.items()} == {
        "code.unique": (False, "2 of 11 rows (18.18%)", "exactly 0 such rows"),
        "code.invalidValues": (False, "2 of 11 rows (18.18%)", "exactly 0 such rows"),
        "code.nullValues": (False, "3 of 11 rows (27.27%)", "less than 20% such rows"),
        "place.invalidValues": (False, "2 of 11 rows (18.18%)", "at most 10% such rows"),
        "n.nullValues": (False, "2 of 11 rows (18.18%)", "at most 1 such rows"),
        "primary_key": (False, "5 of 11 rows (45.45%)", "exactly 0 such rows"),
        "rowCount": (False, "11 rows", "at least 5 and at most 10"),
        # Both rows of (north, 1); a row with a null in the pair counts as any other.
        "place_and_number": (False, "4 of 11 rows (36.36%)", "exactly 0 such rows"),
        "quarantinedRows": (False, "5 of 100 rows quarantined (5.00%)", "less than 5%"),
        "at.freshness": (
            False,
            "newest 2024-03-01T17:59:59Z",
            "a value of 2024-03-01T18:00:00Z or later",
        ),
        "row_rules": (False, "2 rows that break one", "all 4 row rules hold"),
    }
    with pytest.raises(GateFailed) as caught:
        refuse_if_critical(list(found.values()), bad, things, "parcels 2024-03-01", tmp_path)
    message = caught.value.message
    failed = [f["rule"] for f in caught.value.details["failed"]]
    assert sorted(failed) == sorted(
        f"things.{n}" for n in found if n not in ("code.nullValues", "place_and_number")
    )
    for line in (
        "parcels 2024-03-01: 9 critical check(s) of schemas/things.odcs.yaml failed",
        "- things.primary_key on column id: found 5 of 11 rows (45.45%); "
        "expected exactly 0 such rows",
        "for example id=a, count=3",
        "for example id=b, count=2",
        "- things.code.unique on column code",
        "for example code=A1, count=2",
        "- things.place.invalidValues on column place",
        "for example place=west, count=1",
        "- things.n.nullValues on column n",
        "for example id=b, place=south",
        "- things.at.freshness on column at",
        "for example newest at=2024-03-01 17:59:59",
        "- things.row_rules: found 2 rows that break one",
        "rule=things.n.range",
        f"Report: {tmp_path / 'index.html'}",
    ):
        assert line in message
    assert "code.nullValues" not in message


def test_a_warning_does_not_stop(frame: Any, things: Contract, tmp_path: Path) -> None:
    rows = [(k, None if i < 2 else c, *rest) for i, (k, c, *rest) in enumerate(GOOD)]
    found = verdicts(frame(rows), things, tmp_path)
    # "Less than 20%" does not hold for exactly 20%.
    assert [n for n, v in found.items() if not v.passed] == ["code.nullValues"]
    refuse_if_critical(list(found.values()), frame(rows), things, "a label", tmp_path)


def test_data_docs_name_the_suite_and_the_rules(
    frame: Any, things: Contract, tmp_path: Path
) -> None:
    verdicts(frame(GOOD), things, tmp_path / "docs", run_name="night of the test")
    index = (tmp_path / "docs" / "index.html").read_text()
    assert "things" in index
    assert "night of the test" in index
    pages = [p.read_text() for p in (tmp_path / "docs").rglob("*.html") if p.name != "index.html"]
    assert any("each (id) stands once" in page for page in pages)


def test_an_empty_frame_is_judged(frame: Any, contract: Any, tmp_path: Path) -> None:
    things = contract(PROPERTIES, TABLE)
    found = verdicts(frame([]), things, tmp_path, read=0)
    assert found["rowCount"].found == "0 rows"
    assert [n for n, v in found.items() if not v.passed] == ["rowCount"]


def test_a_kept_row_that_breaks_a_rule_is_caught(frame: Any, contract: Any, tmp_path: Path) -> None:
    things = contract([PROPERTIES[0], PROPERTIES[3] | {"quality": []}])
    n = F.when(F.col("id") == "k3", -0.5).otherwise(F.col("n"))
    rows = frame(GOOD).select("id", n.alias("n"))
    found = verdicts(rows, things, tmp_path)
    assert (found["row_rules"].passed, found["row_rules"].found) == (False, "1 rows that break one")
    with pytest.raises(GateFailed, match=r"rule=things.n.range, column=n, rows=1, found=-0\.5"):
        refuse_if_critical(list(found.values()), rows, things, "a label", tmp_path)


# -- freshness ------------------------------------------------------------------------------------

# Six hours before the end of the night's day, in UTC.
OLDEST = datetime(2024, 3, 1, 18, tzinfo=UTC)
MICRO = timedelta(microseconds=1)


@pytest.fixture(params=["UTC", "America/New_York", "Pacific/Kiritimati"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Run the test as on a machine of this time zone."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


def freshness(spark: SparkSession, contract: Any, docs: Path, kind: str, newest: Any) -> Verdict:
    options = {"timezone": True} if kind == "timestamp" else {}
    things = contract(
        [{"name": "at", "logicalType": kind, "logicalTypeOptions": options}],
        slaProperties=[FRESHNESS],
    )
    rows = spark.createDataFrame([(newest,), ("2023-01-01",), (None,)], "at string")
    rows = rows.select(F.col("at").cast(kind).alias("at"))
    return verdicts(rows, things, docs)["at.freshness"]


@pytest.mark.parametrize(("newest", "passed"), [(OLDEST, True), (OLDEST - MICRO, False)])
def test_the_edge_of_freshness_is_the_same_everywhere(
    spark: SparkSession, contract: Any, tmp_path: Path, zone: str, newest: datetime, passed: bool
) -> None:
    found = freshness(spark, contract, tmp_path, "timestamp", newest.isoformat())
    assert found.passed is passed
    assert found.expected == "a value of 2024-03-01T18:00:00Z or later"
    assert found.found == f"newest {newest.isoformat().replace('+00:00', 'Z')}"


@pytest.mark.parametrize(("newest", "passed"), [("2024-03-02", True), ("2024-03-01", False)])
def test_freshness_of_a_date_is_that_of_its_midnight(
    spark: SparkSession, contract: Any, tmp_path: Path, newest: str, passed: bool
) -> None:
    found = freshness(spark, contract, tmp_path, "date", newest)
    assert (found.passed, found.found) == (passed, f"newest {newest}T00:00:00Z")


def test_no_value_at_all_is_not_fresh(spark: SparkSession, contract: Any, tmp_path: Path) -> None:
    things = contract([{"name": "at", "logicalType": "date"}], slaProperties=[FRESHNESS])
    rows = spark.createDataFrame([(None,)], "at date")
    found = verdicts(rows, things, tmp_path)["at.freshness"]
    assert (found.passed, found.found) == (False, "no value")
