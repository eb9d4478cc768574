"""Metrics against scikit-learn, by slice, and their intervals."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession
from sklearn.metrics import (
    accuracy_score,
    brier_score_loss,
    log_loss,
    mean_absolute_error,
    precision_score,
    r2_score,
    recall_score,
    roc_auc_score,
    root_mean_squared_error,
)

from nightjar.core.pipeline import Label
from nightjar.engine.training.evaluation import (
    BINS,
    Counts,
    Metrics,
    evaluate,
    measure,
    roc_auc,
)
from nightjar.engine.training.report import behind

LABEL = Label.model_validate({"name": "y", "expr": "y", "known_after": "1 day"})
CLASSES = ("a", "b", "c")
CLASS = LABEL.model_copy(update={"kind": "multiclass", "classes": CLASSES})
NUMBER = LABEL.model_copy(update={"kind": "regression"})


def drawn(rows: int, seed: int = 0) -> tuple[Any, Any]:
    """Scores of every kind, ties and both ends among them, and labels that go with them."""
    generator = np.random.default_rng(seed)
    scores = generator.beta(2, 4, rows)
    scores[::7] = np.round(scores[::7], 1)
    scores = np.clip(scores, 0.001, 0.999)
    return scores, (generator.random(rows) < scores).astype(float)


def binned(scores: Any, labels: Any) -> Counts:
    counts = np.zeros((BINS + 1, 2), dtype=np.int64)
    np.add.at(counts, (np.round(scores * BINS).astype(int), labels.astype(int)), 1)
    return counts


def test_metrics_are_those_of_scikit_learn(spark: SparkSession) -> None:
    scores, labels = drawn(6000)
    rows = [*zip(scores.tolist(), labels.tolist(), strict=True), (0.5, None)]
    found, _ = evaluate(spark.createDataFrame(rows, "s double, y double"), "s", LABEL)
    assert (found.rows, found["positives"]) == (6000, int(labels.sum()))
    assert found["roc_auc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-4)
    assert found["log_loss"] == pytest.approx(log_loss(labels, scores), abs=1e-4)
    assert found["brier"] == pytest.approx(brier_score_loss(labels, scores), abs=1e-4)


def test_slices_are_measured_alone(spark: SparkSession) -> None:
    scores, labels = drawn(900)
    places = np.array(["a", "b", None])[np.arange(900) % 3]
    sizes = np.array(["x", "y"])[np.arange(900) % 2]
    columns = (scores.tolist(), labels.tolist(), places.tolist(), sizes.tolist())
    frame = spark.createDataFrame(
        list(zip(*columns, strict=True)), "s double, y double, place string, size string"
    )
    whole, slices = evaluate(frame, "s", LABEL, ["place", "size"])
    assert whole.rows == 900
    assert {s: list(found) for s, found in slices.items()} == {
        "place": ["(missing)", "a", "b"],
        "size": ["x", "y"],
    }
    for values, found in ((places, slices["place"]), (sizes, slices["size"])):
        for value, metrics in found.items():
            mine = np.array([v == (None if value == "(missing)" else value) for v in values])
            assert metrics.rows == mine.sum()
            assert metrics["positives"] == labels[mine].sum()
            due = roc_auc_score(labels[mine], scores[mine])
            assert metrics["roc_auc"] == pytest.approx(due, abs=2e-4)


def test_a_tie_counts_one_half() -> None:
    constant = measure(binned(np.full(10, 0.3), np.array([1.0] * 4 + [0.0] * 6)))
    assert (constant["roc_auc"], constant["roc_auc_low"], constant["roc_auc_high"]) == (
        0.5,
        0.5,
        0.5,
    )
    scores, labels = np.array([0.1, 0.4, 0.4, 0.8]), np.array([0.0, 0.0, 1.0, 1.0])
    assert roc_auc(binned(scores, labels)) == 0.875 == roc_auc_score(labels, scores)


def test_a_perfect_order_and_its_reverse() -> None:
    scores, labels = np.array([0.0, 0.2, 0.7, 1.0]), np.array([0.0, 0.0, 1.0, 1.0])
    assert roc_auc(binned(scores, labels)) == 1.0
    assert roc_auc(binned(1 - scores, labels)) == 0.0


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class_alone_has_no_roc_auc(label: float) -> None:
    found = measure(binned(np.array([0.2, 0.9]), np.array([label, label])))
    assert (found.rows, found["positives"]) == (2, 2 * int(label))
    assert all(map(math.isnan, (found["roc_auc"], found["roc_auc_low"], found["roc_auc_high"])))
    assert found["log_loss"] == pytest.approx(log_loss([label] * 2, [0.2, 0.9], labels=[0, 1]))


def test_no_rows_have_no_roc_auc(spark: SparkSession) -> None:
    found, slices = evaluate(
        spark.createDataFrame([], "s double, y double, p string"), "s", LABEL, ["p"]
    )
    assert found.rows == 0
    assert math.isnan(found["roc_auc"])
    assert slices == {"p": {}}


def test_certain_and_wrong_scores_have_a_finite_loss() -> None:
    found = measure(binned(np.array([0.0, 1.0]), np.array([1.0, 0.0])))
    assert found["brier"] == 1.0
    assert found["log_loss"] == pytest.approx(-math.log(0.5 / BINS))


def test_the_interval_holds_the_estimate_and_narrows_with_the_rows() -> None:
    widths = []
    for rows in (200, 2_000, 20_000):
        found = measure(binned(*drawn(rows)))
        assert found["roc_auc_low"] < found["roc_auc"] < found["roc_auc_high"]
        widths.append(found["roc_auc_high"] - found["roc_auc_low"])
    # As one over the root of n.
    assert widths[0] / widths[1] == pytest.approx(math.sqrt(10), rel=0.4)
    assert widths[1] / widths[2] == pytest.approx(math.sqrt(10), rel=0.4)


def test_the_interval_is_the_same_each_time() -> None:
    counts = binned(*drawn(300))
    assert measure(counts).values == measure(counts).values
    assert measure(counts, seed=1)["roc_auc_low"] != measure(counts)["roc_auc_low"]


def test_calibration_has_ten_bins_of_equal_width() -> None:
    scores = np.array([0.0, 0.05, 0.1, 0.95, 1.0, 1.0])
    found = measure(binned(scores, np.array([0.0, 1.0, 1.0, 0.0, 1.0, 1.0]))).picture
    assert [n for n, _, _ in found] == [2, 1, 0, 0, 0, 0, 0, 0, 0, 3]
    assert found[0][1:] == pytest.approx((0.025, 0.5))
    assert found[1][1:] == pytest.approx((0.1, 1.0))
    assert found[9][1:] == pytest.approx((2.95 / 3, 2 / 3))
    assert math.isnan(found[5][1])


# -- several classes ------------------------------------------------------------------------------


def drawn_classes(rows: int) -> tuple[Any, Any]:
    generator = np.random.default_rng(4)
    scores = generator.dirichlet((1, 1, 0.5), rows)
    labels = (scores.cumsum(axis=1) > generator.random((rows, 1))).argmax(axis=1)
    return scores, labels.astype(float)


def test_metrics_of_classes_are_those_of_scikit_learn(spark: SparkSession) -> None:
    scores, labels = drawn_classes(3000)
    frame = spark.createDataFrame(
        [*zip(scores.tolist(), labels.tolist(), strict=True), ([0.2, 0.5, 0.3], None)],
        "s array<double>, y double",
    )
    found, _ = evaluate(frame, "s", CLASS)
    said = scores.argmax(axis=1)
    assert (found.rows, found.is_whole) == (3000, True)
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, said))
    assert found["accuracy_low"] < found["accuracy"] < found["accuracy_high"]
    assert found["log_loss"] == pytest.approx(log_loss(labels, scores), rel=5e-3)
    due = roc_auc_score(labels, scores, multi_class="ovr")
    assert found["roc_auc"] == pytest.approx(due, abs=2e-4)
    precision = precision_score(labels, said, average=None)
    recall = recall_score(labels, said, average=None)
    for code, (rows, share, hit) in enumerate(found.picture):
        assert rows == (labels == code).sum()
        assert (share, hit) == pytest.approx((precision[code], recall[code]))


def test_slices_of_classes_without_every_class_are_not_whole(spark: SparkSession) -> None:
    scores, labels = drawn_classes(300)
    place = np.where(labels == 2, "x", "y")
    columns = (scores.tolist(), labels.tolist(), place.tolist())
    frame = spark.createDataFrame(
        list(zip(*columns, strict=True)), "s array<double>, y double, place string"
    )
    _, slices = evaluate(frame, "s", CLASS, ["place"])
    assert {value: part.is_whole for value, part in slices["place"].items()} == {
        "x": False,
        "y": False,
    }
    assert sum(part.rows for part in slices["place"].values()) == 300


# -- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e9])
def test_metrics_of_numbers_are_those_of_scikit_learn(spark: SparkSession, unit: float) -> None:
    generator = np.random.default_rng(5)
    labels = generator.normal(3, 2, 2000) * unit
    scores = labels + generator.standard_t(3, 2000) * unit
    scores[:5] = labels[:5]
    places = np.array(["a", "b"])[np.arange(2000) % 2]
    columns = (scores.tolist(), labels.tolist(), places.tolist())
    frame = spark.createDataFrame(
        [*zip(*columns, strict=True), (1.0, None, "a")], "s double, y double, place string"
    )
    whole, slices = evaluate(frame, "s", NUMBER, ["place"])
    parts = [(whole, labels == labels)]
    parts += [(slices["place"][name], places == name) for name in ("a", "b")]
    for found, mine in parts:
        y, made = labels[mine], scores[mine]
        assert found.rows == mine.sum()
        assert found["rmse"] == pytest.approx(root_mean_squared_error(y, made))
        assert found["mae"] == pytest.approx(mean_absolute_error(y, made))
        assert found["r2"] == pytest.approx(r2_score(y, made))
        assert found["bias"] == pytest.approx((made - y).mean())
    assert whole["rmse_low"] < whole["rmse"] < whole["rmse_high"]
    errors = np.abs(scores - labels)
    for share, size in whole.picture:
        assert size == pytest.approx(np.quantile(errors, share), rel=0.05, abs=1e-12)


def test_numbers_that_are_all_the_same_have_no_r2(spark: SparkSession) -> None:
    frame = spark.createDataFrame([(1.0, 2.0), (3.0, 2.0)], "s double, y double")
    found, _ = evaluate(frame, "s", NUMBER)
    assert (found["rmse"], found.is_whole, math.isnan(found["r2"])) == (1.0, False, True)


@pytest.mark.parametrize("label", [LABEL, CLASS, NUMBER], ids=lambda label: label.kind)
def test_metrics_come_back_from_a_record(spark: SparkSession, label: Label) -> None:
    kind = "array<double>" if label.classes else "double"
    score = [0.2, 0.5, 0.3] if label.classes else 0.4
    for rows in ([(score, 1.0), (score, 0.0)], []):
        found, _ = evaluate(spark.createDataFrame(rows, f"s {kind}, y double"), "s", label)
        text = json.dumps(found.as_dict())
        assert json.dumps(Metrics.from_dict(json.loads(text)).as_dict()) == text


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"roc_auc": 0.7, "log_loss": 0.4, "brier": 0.1}, ""),
        ({"roc_auc": 0.7, "log_loss": 0.6, "brier": 0.1}, "by log loss"),
        ({"roc_auc": 0.5, "log_loss": 0.5, "brier": 0.2}, "by ROC AUC, log loss, Brier score"),
        ({"roc_auc": math.nan, "log_loss": 0.4, "brier": 0.1}, ""),
    ],
)
def test_a_model_no_better_than_the_base_rate_is_told(found: dict[str, float], said: str) -> None:
    base = Metrics(100, {"roc_auc": 0.5, "log_loss": 0.5, "brier": 0.2, "positives": 20})
    told = behind(Metrics(100, {**found, "positives": 20, "roc_auc_low": 0.1}), base)
    assert told == (said and f"no better than the base rate {said}")
