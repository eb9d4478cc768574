"""Gradient-boosted trees by xgboost.spark; saved as UBJSON, which holds no code.

Missing numbers stay missing and categories are codes: XGBoost splits both by itself.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession

from nightjar.core.errors import near
from nightjar.core.pipeline import XGBoostCandidate
from nightjar.engine import encoding
from nightjar.engine.encoding import Layout
from nightjar.engine.trainers import TrainingSet, Wrong, portable, require_slots
from nightjar.engine.trainers.portable import Portable, Predict

TOLERANCE = 1e-6  # scores are float32
FILE = "model.ubj"
LAYOUT = Layout()
# What is the trainer's to say, and why.
_OURS = {
    "objective": "the label has two classes: it is binary:logistic",
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
    "num_class": "the label has two classes",
}
_ALIASES = ("eta", "lambda", "alpha", "min_split_loss", "seed")


def faults(candidate: XGBoostCandidate, weighted: bool) -> list[Wrong]:
    del weighted  # it takes weights
    import xgboost

    known = {*xgboost.XGBClassifier().get_params(), *_ALIASES} - _OURS.keys()
    wrong: list[Wrong] = []
    for name, value in candidate.params.items():
        if name in _OURS or name.endswith("_col"):
            reason = _OURS.get(name, "columns are the trainer's to name")
            wrong.append(
                (("params", name), f"'{name}' is set by the trainer: {reason}", "remove it")
            )
        elif name not in known:
            problem = f"SparkXGBClassifier has no parameter '{name}'"
            wrong.append((("params", name), problem, near(name, known)))
        elif problem := _refusal(name, value):
            wrong.append((("params", name), f"parameter '{name}': {problem}", ""))
    return wrong


def _refusal(name: str, value: Any) -> str:
    """What XGBoost says to this value, on four rows; empty where it takes it."""
    import xgboost

    if name == "n_estimators":
        is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        return "" if is_count else f"{value!r} is no whole number of at least 1"
    if isinstance(value, bool | None):
        return f"{value!r} is no value of it"
    rows = xgboost.DMatrix(np.zeros((4, 1)), label=[0, 1, 0, 1])
    params = {"objective": "binary:logistic", "verbosity": 0, "nthread": 1, name: value}
    try:
        xgboost.train(params, rows, 1)
    except (xgboost.core.XGBoostError, ValueError, TypeError) as error:
        return str(error).strip().splitlines()[0].partition("] ")[2] or str(error).splitlines()[0]
    return ""


def require(spark: SparkSession, candidate: XGBoostCandidate) -> None:
    require_slots(spark, candidate.workers, "XGBoost")


def fit(training: TrainingSet, candidate: XGBoostCandidate) -> Portable:
    from xgboost.spark import SparkXGBClassifier

    learnt = encoding.learn(training.rows, training.features)
    names = [f"x{i}" for i in range(len(learnt.names(LAYOUT)))]
    kept = [training.label, *([training.weight] if training.weight else [])]
    rows = training.in_fixed_order(candidate.workers)
    learner = SparkXGBClassifier(
        features_col=names,
        label_col=training.label,
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
    notes = {"rows": training.count, "workers": candidate.workers}
    return Portable(__name__, learnt, LAYOUT, payload, notes)


def decode(payload: bytes, threads: int) -> Predict:
    import xgboost

    booster = xgboost.Booster()
    booster.load_model(bytearray(payload))
    booster.set_param({"nthread": threads})

    def predict(matrix: NDArray[np.float32]) -> NDArray[Any]:
        return np.asarray(booster.inplace_predict(matrix, validate_features=False))

    return predict


def score(model: Portable, rows: DataFrame) -> DataFrame:
    return portable.score(model, rows)


def save(model: Portable, folder: Path) -> None:
    portable.save(model, folder, FILE)


def load(spark: SparkSession, folder: Path) -> Portable:
    del spark  # decoded in the Python workers
    return portable.load(folder, FILE, __name__)


def notes(model: Portable) -> dict[str, Any]:
    return model.notes
