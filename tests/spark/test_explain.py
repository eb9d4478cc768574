"""Reasons of a score: each effect is the difference that its one feature makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from tests.conformance.candidates import LABELS

from nightjar.core.errors import NotThereYet
from nightjar.core.pipeline import Features, MllibCandidate
from nightjar.engine import explain
from nightjar.engine.registry import RegisteredModel
from nightjar.engine.trainers import SCORE, TrainingSet, mllib

FEATURES = Features(base="b", as_of="t", numeric=("n", "m", "flat"), categorical=("c",))
TYPICAL = {"n": 8.0, "m": 1.0, "flat": 3.0, "c": "a"}


@pytest.fixture(scope="module")
def rows(spark: SparkSession) -> DataFrame:
    made = [
        (i, float(i % 17) if i % 5 else None, float(i % 3), 3.0, "aaab"[i % 4], float(i % 17 > 8))
        for i in range(204)
    ]
    return spark.createDataFrame(
        made, "id int, n double, m double, flat double, c string, y double"
    ).coalesce(1)


@pytest.fixture(scope="module")
def model(rows: DataFrame) -> Any:
    estimator = "pyspark.ml.classification.LogisticRegression"
    candidate = MllibCandidate(trainer="mllib", estimator=estimator, params={"maxIter": 10})
    return mllib.fit(
        TrainingSet.of(rows, FEATURES, LABELS["binary"], ("id",), Path("unused")), candidate
    )


def test_typical_is_the_median_and_the_most_frequent(rows: DataFrame) -> None:
    assert explain.typical(rows, FEATURES) == TYPICAL


def test_each_effect_is_the_score_less_that_with_the_typical_value(
    rows: DataFrame, model: Any
) -> None:
    found = explain.with_reasons(mllib, model, rows, ["id"], TYPICAL, 3).orderBy("id").collect()
    scored = {r["id"]: r for r in mllib.score(model, rows).collect()}
    without = {
        name: {
            r["id"]: r[SCORE]
            for r in mllib.score(model, rows.withColumn(name, F.lit(value))).collect()
        }
        for name, value in TYPICAL.items()
    }
    assert [r["id"] for r in found] == sorted(scored)
    seen = set()
    for row in found:
        i = row["id"]
        assert {c: row[c] for c in rows.columns} == {c: scored[i][c] for c in rows.columns}
        assert row[SCORE] == scored[i][SCORE]
        effects = {n: scored[i][SCORE] - without[n][i] for n in TYPICAL}
        expected = sorted(
            (n for n in TYPICAL if abs(effects[n]) > 1e-9), key=lambda n: -abs(effects[n])
        )[:3]
        assert [row[f"reason_{k}"] for k in (1, 2, 3)] == [*expected, None, None, None][:3]
        for k, name in enumerate(expected, 1):
            assert row[f"reason_{k}_effect"] == pytest.approx(effects[name], abs=1e-12)
            value = scored[i][name]
            assert row[f"reason_{k}_value"] == (None if value is None else str(value))
            seen.add(name)
    assert seen == {"n", "m", "c"}, "a constant feature is nobody's reason"


def test_two_rows_of_one_content_stay_two(rows: DataFrame, model: Any) -> None:
    twice = rows.where("id < 20").unionByName(
        rows.where("id < 20").withColumn("id", F.col("id") + 1000)
    )
    found = explain.with_reasons(mllib, model, twice, ["id"], TYPICAL, 1)
    assert found.count() == 40


def test_a_key_with_nulls_is_still_a_key(spark: SparkSession, model: Any) -> None:
    made = spark.createDataFrame(
        [(None, 1.0, 1.0, 3.0, "a"), (2, 16.0, 1.0, 3.0, "b")],
        "id int, n double, m double, flat double, c string",
    )
    assert explain.with_reasons(mllib, model, made, ["id"], TYPICAL, 1).count() == 2


def test_a_model_without_typical_values_says_so(tmp_path: Any) -> None:
    old = RegisteredModel("p", "3", "run", "digest", tmp_path, {})
    with pytest.raises(NotThereYet, match="p/3"):
        explain.typical_of(old)
