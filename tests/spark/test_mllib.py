"""The trainer of pyspark.ml: what it refuses, what it learns, what it gives back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pyspark.ml.feature import ImputerModel
from pyspark.sql import DataFrame, SparkSession
from tests.conformance.candidates import LABELS

from nightjar.core.errors import TrainingRefused
from nightjar.core.pipeline import Features, MllibCandidate
from nightjar.engine.trainers import SCORE, TrainingSet, mllib

PACKAGE = "pyspark.ml.classification."
FEATURES = Features(base="b", as_of="t", numeric=("n", "m"), categorical=("c",))


def candidate(estimator: str = "LogisticRegression", **more: Any) -> MllibCandidate:
    return MllibCandidate(trainer="mllib", estimator=PACKAGE + estimator, **more)


# -- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        (
            PACKAGE + "LogisticRegresion",
            "did you mean 'pyspark.ml.classification.LogisticRegression'?",
        ),
        (PACKAGE + "GBTClasifier", "did you mean 'pyspark.ml.classification.GBTClassifier'?"),
        (PACKAGE + "LinearSVC", ""),
        (PACKAGE + "LogisticRegressionModel", ""),
        (PACKAGE + "ProbabilisticClassifier", ""),
        (PACKAGE + "_JavaProbabilisticClassifier", ""),
        ("pyspark.ml.regression.LinearRegression", ""),
        ("os.system", ""),
        ("LogisticRegression", ""),
        ("", ""),
    ],
)
def test_a_class_that_is_no_probabilistic_classifier(name: str, hint: str) -> None:
    ((at, problem, suggestion),) = mllib.faults(
        MllibCandidate(trainer="mllib", estimator=name), LABELS["binary"]
    )
    assert at == ("estimator",)
    assert repr(name) in problem
    assert suggestion == hint or not hint


PARAMS: dict[str, tuple[str, Any, str, str]] = {
    "a near name": ("maxIterr", 5, "no parameter 'maxIterr'", "did you mean 'maxIter'?"),
    "a wrong type": ("maxIter", "ten", "Could not convert ten to int", "iterations"),
    "a fraction for a whole number": ("maxIter", 1.5, "Could not convert 1.5 to int", ""),
    "a truth for a number": ("maxIter", True, "Could not convert True to int", ""),
    "a number for a text": ("family", 3, "string type", ""),
    "the features": ("featuresCol", "x", "set by the trainer", "remove it"),
    "the label": ("labelCol", "x", "set by the trainer", "remove it"),
    "a weight": ("weightCol", "x", "set by the trainer", "remove it"),
    "a method": ("setMaxIter", 5, "no parameter 'setMaxIter'", ""),
}


@pytest.mark.parametrize(("name", "value", "problem", "hint"), PARAMS.values(), ids=PARAMS)
def test_a_wrong_parameter(name: str, value: Any, problem: str, hint: str) -> None:
    ((at, found, suggestion),) = mllib.faults(candidate(params={name: value}), LABELS["binary"])
    assert at == ("params", name)
    assert problem in found
    assert hint in suggestion


def test_all_wrong_parameters_are_listed() -> None:
    wrong = mllib.faults(
        candidate(params={"maxIter": "x", "labelCol": "y", "tol": 0.1, "zz": 1}), LABELS["binary"]
    )
    assert [at for at, _, _ in wrong] == [("params", n) for n in ("maxIter", "labelCol", "zz")]


@pytest.mark.parametrize("estimator", ["LogisticRegression", "GBTClassifier", "NaiveBayes"])
def test_a_right_candidate_has_no_faults(estimator: str) -> None:
    assert mllib.faults(candidate(estimator), LABELS["binary"]) == []
    assert (
        mllib.faults(candidate(params={"regParam": 1, "maxIter": 5, "tol": 1e-4}), LABELS["binary"])
        == []
    )


# -- models ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows(spark: SparkSession) -> DataFrame:
    made = [
        (i, float(i % 17) if i % 5 else None, float(i % 3), "abc"[i % 3], float(i % 17 > 8))
        for i in range(200)
    ]
    return spark.createDataFrame(made, "id int, n double, m double, c string, y double").coalesce(1)


def training(rows: DataFrame) -> TrainingSet:
    return TrainingSet.of(rows, FEATURES, LABELS["binary"], ("id",), Path("unused"))


def scores(frame: DataFrame) -> list[float]:
    return [r[SCORE] for r in frame.orderBy("id").collect()]


CANDIDATES = {
    "onehot": candidate(params={"maxIter": 5}, standardize=True),
    "index": candidate("DecisionTreeClassifier", params={"maxDepth": 2}, categorical="index"),
}


@pytest.mark.parametrize("given", CANDIDATES.values(), ids=CANDIDATES)
def test_a_saved_model_gives_the_same_scores(
    spark: SparkSession, rows: DataFrame, tmp_path: Path, given: MllibCandidate
) -> None:
    model = mllib.fit(training(rows), given)
    scored = mllib.score(model, rows)
    assert scored.columns == [*rows.columns, SCORE]
    before = scores(scored)
    assert all(0 <= s <= 1 for s in before)
    late = [s for s, r in zip(before, rows.collect(), strict=True) if r["y"] == 1 and r["n"]]
    assert sum(late) / len(late) > 0.7
    mllib.save(model, tmp_path / "model")
    assert scores(mllib.score(mllib.load(spark, tmp_path / "model"), rows)) == before


@pytest.fixture(scope="module")
def model(rows: DataFrame) -> Any:
    return mllib.fit(training(rows), CANDIDATES["onehot"])


def test_rows_of_any_kind_are_scored(spark: SparkSession, model: Any) -> None:
    odd = [
        (1, None, None, "a"),
        (2, 1.0, 1.0, "never seen"),
        (3, 1.0, 1.0, None),
        (4, None, None, None),
        (5, 1e300, -1e300, ""),
    ]
    found = scores(
        mllib.score(model, spark.createDataFrame(odd, "id int, n double, m double, c string"))
    )
    assert len(found) == 5
    assert all(0 <= s <= 1 for s in found)
    # What was never seen and what is missing are one category.
    assert found[1] == found[2]


def test_a_missing_number_is_the_median_of_the_training_rows(
    spark: SparkSession, rows: DataFrame, model: Any
) -> None:
    (imputer,) = [s for s in model.stages if isinstance(s, ImputerModel)]
    medians = imputer.surrogateDF.first().asDict()
    seen = sorted(r["n"] for r in rows.collect() if r["n"] is not None)
    assert medians["n"] in (seen[len(seen) // 2 - 1], seen[len(seen) // 2])
    schema = "id int, n double, m double, c string"
    pair = spark.createDataFrame([(1, None, 1.0, "a"), (2, medians["n"], 1.0, "a")], schema)
    missing, filled = scores(mllib.score(model, pair))
    assert missing == filled


def test_parameters_that_the_rows_do_not_fit_are_refused(rows: DataFrame) -> None:
    given = candidate("DecisionTreeClassifier", params={"maxBins": 2}, categorical="index")
    with pytest.raises(TrainingRefused, match=r"(?s)DecisionTreeClassifier.*maxBins.*: n, m, c\)"):
        mllib.fit(training(rows), given)
