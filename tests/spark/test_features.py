"""Feature rows: joins against plain Python, and nothing from after the event."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession

from nightjar.core.errors import SpecError
from nightjar.core.pipeline import Join
from nightjar.engine import features
from nightjar.engine.features import AS_OF, as_of_join, build, key_join
from nightjar.engine.stages.clean import silver_schema

NOON = datetime(2024, 3, 1, 12)
HOUR, SECOND, MICRO = timedelta(hours=1), timedelta(seconds=1), timedelta(microseconds=1)
LATEST = Join(source="r", on=("k", "j"), at="t", within=6 * HOUR, columns={"x": "x", "y": "why"})

Left = tuple[int, str | None, int | None, datetime | None]
Right = tuple[str | None, int | None, datetime | None, float | None, str | None]


def left_frame(spark: SparkSession, rows: Sequence[Left]) -> DataFrame:
    return spark.createDataFrame(rows, f"id int, k string, j int, {AS_OF} timestamp")


def right_frame(spark: SparkSession, rows: Sequence[Right]) -> DataFrame:
    return spark.createDataFrame(rows, "k string, j int, t timestamp, x double, y string")


def oracle(left: Sequence[Left], right: Sequence[Right], within: timedelta) -> dict[int, Any]:
    """For each left row, x and y of the latest right row in its window; of equals the greatest."""
    found = {}
    for number, k, j, at in left:
        inside = [
            (t, (x is not None, x or 0.0), (y is not None, y or ""), (x, y))
            for rk, rj, t, x, y in right
            if None not in (k, j, at, t) and (rk, rj) == (k, j) and at - within <= t <= at  # type: ignore[operator]
        ]
        found[number] = max(inside)[-1] if inside else (None, None)
    return found


def joined(spark: SparkSession, left: Sequence[Left], right: Sequence[Right]) -> dict[int, Any]:
    rows = as_of_join(left_frame(spark, left), right_frame(spark, right), LATEST).collect()
    assert len(rows) == len(left)
    assert len({r["id"] for r in rows}) == len(left)
    return {r["id"]: (r["x"], r["why"]) for r in rows}


# A right row at this distance before the as-of time counts, or does not.
EDGES = {
    "at the same time": (timedelta(0), True),
    "a microsecond later": (-MICRO, False),
    "a microsecond before": (MICRO, True),
    "exactly within": (6 * HOUR, True),
    "a microsecond too old": (6 * HOUR + MICRO, False),
    "two windows old": (12 * HOUR, False),
}


def test_the_edges_of_the_window(spark: SparkSession) -> None:
    # At every place in a bucket: its first and last microsecond, and between.
    starts = [NOON, NOON - MICRO, NOON + MICRO, NOON + 3 * HOUR]
    left: list[Left] = []
    right: list[Right] = []
    wanted = {}
    for start in starts:
        for age, counts in EDGES.values():
            i = len(left)
            left.append((i, f"k{i}", 1, start))
            right.append((f"k{i}", 1, start - age, float(i), None))
            wanted[i] = (float(i), None) if counts else (None, None)
    assert joined(spark, left, right) == wanted


def test_a_null_in_a_key_joins_nothing(spark: SparkSession) -> None:
    left: list[Left] = [(1, None, 1, NOON), (2, "a", None, NOON), (3, "a", 1, None)]
    right: list[Right] = [(None, 1, NOON, 1.0, "n"), ("a", None, NOON, 2.0, "n")]
    right += [("a", 1, None, 3.0, "n")]
    assert joined(spark, left, right) == dict.fromkeys((1, 2, 3), (None, None))


def test_a_null_value_of_the_latest_row_is_not_filled_from_an_older_one(
    spark: SparkSession,
) -> None:
    right: list[Right] = [("a", 1, NOON - HOUR, 1.0, "old"), ("a", 1, NOON, None, None)]
    assert joined(spark, [(1, "a", 1, NOON)], right) == {1: (None, None)}


def test_no_right_rows_at_all(spark: SparkSession) -> None:
    assert joined(spark, [(1, "a", 1, NOON)], []) == {1: (None, None)}


@pytest.mark.parametrize("seed", [1, 2])
def test_random_rows_join_as_by_brute_force(spark: SparkSession, seed: int) -> None:
    chance = random.Random(seed)

    def moment() -> datetime | None:
        if chance.random() < 0.03:
            return None
        # Whole hours, so that ties, equal times and exact edges are common.
        extra = chance.choice([timedelta(0)] * 6 + [MICRO, -MICRO, SECOND])
        return NOON + chance.randrange(-48, 48) * HOUR + extra

    def key() -> tuple[str | None, int | None]:
        return chance.choice(["a", "a", "b", None]), chance.choice([1, 1, 1, 2, None])

    left: list[Left] = [(i, *key(), moment()) for i in range(600)]
    left += [(1000 + i, "nobody", 1, moment()) for i in range(5)]
    right: list[Right] = [
        (*key(), moment(), chance.choice([None, 1.0, 2.0, -3.0]), chance.choice([None, "p", "q"]))
        for _ in range(400)
    ]
    wanted = oracle(left, right, 6 * HOUR)
    assert 100 < sum(found != (None, None) for found in wanted.values()) < 500
    assert joined(spark, left, right) == wanted


def test_key_join(spark: SparkSession) -> None:
    left = spark.createDataFrame([(1, "a"), (2, "b"), (3, None)], "id int, k string")
    right = spark.createDataFrame([("a", 10), ("c", 30), (None, 40)], "k string, size int")
    found = key_join(left, right, Join(source="r", on=("k",), columns={"size": "its_size"}))
    assert found.columns == ["k", "id", "its_size"]
    assert {r["id"]: r["its_size"] for r in found.collect()} == {1: 10, 2: None, 3: None}


# -- build ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def project(new_parcels: Any) -> Any:
    return new_parcels()


@pytest.fixture(scope="module")
def silver(spark: SparkSession, project: Any) -> dict[str, DataFrame]:
    line = (NOON.date(), "f.csv", 1)
    rows = {
        "parcels": [
            ("p1", NOON, "north", 30.0, 6.0, *line),
            ("p2", NOON, "south", 10.0, 4.9, *line),
            ("p3", NOON, "west", None, None, *line),
        ],
        "traffic": [
            ("north", NOON - HOUR, 5.0, *line),
            ("north", NOON, 99.0, *line),
            ("south", NOON - 8 * HOUR, 7.0, *line),
        ],
        "depots": [("north", 100, *line), ("south", 200, *line)],
    }
    schemas = {name: silver_schema(project.plan.contract_of(name)) for name in rows}
    return {name: spark.createDataFrame(found, schemas[name]) for name, found in rows.items()}


def test_build(project: Any, silver: dict[str, DataFrame]) -> None:
    built = build(project.plan, silver)
    rows = {r["parcel"]: r.asDict() for r in built.collect()}
    common = {"_ds": NOON.date(), "sent_at": NOON, AS_OF: NOON - HOUR}
    assert rows == {
        "p1": common
        | {"parcel": "p1", "depot": "north", "weight": 30.0, "heavy": 1.0}
        | {"jam": 5.0, "pressure": 0.05, "late": 1.0},
        "p2": common
        | {"parcel": "p2", "depot": "south", "weight": 10.0, "heavy": 0.0}
        | {"jam": None, "pressure": None, "late": 0.0},
        "p3": common
        | {"parcel": "p3", "depot": "west", "weight": None, "heavy": None}
        | {"jam": None, "pressure": None, "late": None},
    }
    assert built.schema.simpleString() == features.schema(project.plan).simpleString()


def test_what_is_known_after_the_event_is_not_in_the_result(
    project: Any, silver: dict[str, DataFrame]
) -> None:
    assert project.plan.contract_of("parcels").after_event == {"hours_late"}
    assert "hours_late" not in build(project.plan, silver).columns


@pytest.mark.parametrize("when", ["derive_before", "derive_after"])
def test_a_planted_leak_cannot_be_built(
    project: Any, silver: dict[str, DataFrame], when: str
) -> None:
    derived = (*getattr(project.plan, when), ("leak", "hours_late * 2"))
    plan = replace(project.plan, **{when: derived})
    with pytest.raises(SpecError, match="name `hours_late` cannot be resolved"):
        build(plan, silver)


def test_a_leak_through_a_join_cannot_be_built(project: Any, silver: dict[str, DataFrame]) -> None:
    plan = project.plan
    leak = Join(source="parcels", on=("parcel",), columns={"hours_late": "leak"})
    joins = (*plan.spec.features.joins, leak)
    spec = plan.spec.model_copy(
        update={"features": plan.spec.features.model_copy(update={"joins": joins})}
    )
    with pytest.raises(AnalysisException, match="name `hours_late` cannot be resolved"):
        build(replace(plan, spec=spec), silver)


LEAKS: dict[str, dict[str, Any]] = {
    "as a feature": {"numeric": ["hours_late"]},
    "in a derived column": {"derive": {"leak": "hours_late * 2"}, "numeric": ["leak"]},
    "as the time of prediction": {"as_of": "sent_at + make_interval(0, 0, 0, 0, 0, hours_late, 0)"},
    "through a join": {
        "joins": [{"source": "parcels", "on": ["parcel"], "columns": {"hours_late": "leak"}}],
        "numeric": ["leak"],
    },
}


@pytest.mark.parametrize("change", LEAKS.values(), ids=LEAKS)
def test_a_leak_in_a_pipeline_file_is_a_fault(new_parcels: Any, change: dict[str, Any]) -> None:
    made = new_parcels()
    simple = {"base": "parcels", "as_of": "sent_at", "categorical": ["depot"]}
    made.write_spec(features={**simple, **change})
    with pytest.raises(SpecError) as caught:
        _ = made.plan
    assert any("known only after the event" in f.problem for f in caught.value.faults)
