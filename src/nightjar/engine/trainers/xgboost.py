"""Gradient-boosted trees by xgboost.spark; saved as UBJSON, which holds no code.

Missing numbers stay missing and categories are codes: XGBoost splits both by itself.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from nightjar.core.errors import near
from nightjar.core.pipeline import Label, XGBoostCandidate
from nightjar.engine import encoding
from nightjar.engine.encoding import Layout
from nightjar.engine.trainers import TrainingSet, Wrong, portable, require_slots
from nightjar.engine.trainers.portable import Portable, Predict

TOLERANCE = 1e-6  # scores are float32
FILE = "model.ubj"
LAYOUT = Layout()
# What is the trainer's to say, and why.
_OURS = {
    "objective": "the label's kind says it",
    "n_jobs": "a task has spark.task.cpus threads",
    "nthread": "a task has spark.task.cpus threads",
    "num_workers": "say 'workers' beside 'params'",
    "device": "training is on the CPU",
    "missing": "missing values are null",
    "enable_categorical": "categorical features are known to be such",
    "feature_types": "categorical features are known to be such",
    "early_stopping_rounds": "no rows are held out: say n_estimators",
    "eval_metric": "no rows are held out",
    "callbacks": "a pipeline file holds plain values",
    "validate_parameters": "parameters are always checked",
    "num_class": "the label's kind says it",
}
_ALIASES = ("eta", "lambda", "alpha", "min_split_loss", "seed")


# By kind of label: the estimator of xgboost.spark, the objective, and labels to try values on.
_LEARNERS: dict[str, tuple[str, str, list[float]]] = {
    "binary": ("SparkXGBClassifier", "binary:logistic", [0, 1, 0, 1]),
    "multiclass": ("SparkXGBClassifier", "multi:softprob", [0, 1, 2, 0]),
    "regression": ("SparkXGBRegressor", "reg:squarederror", [0.5, 1, 2, 3]),
}


def faults(candidate: XGBoostCandidate, label: Label) -> list[Wrong]:
    import xgboost

    learner = _LEARNERS[label.kind][0]
    known = {*xgboost.XGBModel().get_params(), *_ALIASES} - _OURS.keys()
    wrong: list[Wrong] = []
    for name, value in candidate.params.items():
        if name in _OURS or name.endswith("_col"):
            reason = _OURS.get(name, "columns are the trainer's to name")
            wrong.append(
                (("params", name), f"'{name}' is set by the trainer: {reason}", "remove it")
            )
        elif name not in known:
            problem = f"{learner} has no parameter '{name}'"
            wrong.append((("params", name), problem, near(name, known)))
        elif problem := _refusal(name, value, label):
            wrong.append((("params", name), f"parameter '{name}': {problem}", ""))
    return wrong


def _refusal(name: str, value: Any, label: Label) -> str:
    """What XGBoost says to this value, on four rows; empty where it takes it."""
    import xgboost

    if name == "n_estimators":
        is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        return "" if is_count else f"{value!r} is no whole number of at least 1"
    if isinstance(value, bool | None):
        return f"{value!r} is no value of it"
    _, objective, labels = _LEARNERS[label.kind]
    rows = xgboost.DMatrix(np.zeros((4, 1)), label=labels)
    params = {"objective": objective, "verbosity": 0, "nthread": 1, name: value}
    if label.kind == "multiclass":
        params["num_class"] = 3
    try:
        xgboost.train(params, rows, 1)
    except (xgboost.core.XGBoostError, ValueError, TypeError) as error:
        return str(error).strip().splitlines()[0].partition("] ")[2] or str(error).splitlines()[0]
    return ""


def require(spark: SparkSession, candidate: XGBoostCandidate) -> None:
    require_slots(spark, candidate.workers, "XGBoost")


def fit(training: TrainingSet, candidate: XGBoostCandidate) -> Portable:
    import xgboost.spark

    label = training.label
    learnt = encoding.learn(training.rows, training.features)
    names = [f"x{i}" for i in range(len(learnt.names(LAYOUT)))]
    kept = [label.name, *([training.weight] if training.weight else [])]
    rows = training.in_fixed_order(candidate.workers)
    learner = getattr(xgboost.spark, _LEARNERS[label.kind][0])(
        features_col=names,
        label_col=label.name,
        weight_col=training.weight,
        num_workers=candidate.workers,
        repartition_random_shuffle=False,
        feature_types=["q"] * len(learnt.numeric) + ["c"] * len(learnt.categories),
        verbose=False,
        **{"random_state": 0, "tree_method": "hist", **candidate.params},
    )
    logging.getLogger("XGBoost-PySpark").setLevel(logging.WARNING)  # it tells its progress
    model = learner.fit(encoding.encoded(rows, learnt, LAYOUT, kept))
    payload = bytes(model.get_booster().save_raw("ubj"))
    facts = {"rows": training.count, "workers": candidate.workers}
    return Portable("xgboost", learnt, LAYOUT, label.outputs, payload, facts)


def decode(payload: bytes, threads: int) -> Predict:
    import xgboost

    booster = xgboost.Booster()
    booster.load_model(bytearray(payload))
    booster.set_param({"nthread": threads})

    def predict(matrix: NDArray[np.float32]) -> NDArray[Any]:
        return np.asarray(booster.inplace_predict(matrix, validate_features=False))

    return predict


# A portable model is scored and kept in one way, whatever it was learnt by.
score, save, load, notes = portable.score, portable.save, portable.load, portable.notes
