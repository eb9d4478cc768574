"""A small candidate of each trainer for each kind of label that it learns."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
from pydantic import TypeAdapter

from nightjar.core.pipeline import Candidate, Label

CANDIDATES: dict[str, dict[str, Any]] = {
    "mllib": {
        "trainer": "mllib",
        "estimator": "pyspark.ml.classification.LogisticRegression",
        "params": {"maxIter": 20, "regParam": 0.001},
    },
    "xgboost": {
        "trainer": "xgboost",
        "workers": 2,
        "params": {"n_estimators": 20, "max_depth": 3, "min_child_weight": 0.1},
    },
    "sklearn": {
        "trainer": "sklearn",
        "estimator": "sklearn.ensemble.HistGradientBoostingClassifier",
        "params": {"max_iter": 20, "min_samples_leaf": 2},
        "categorical": "index",
    },
    "sklearn-calibrated": {
        "trainer": "sklearn",
        "estimator": "sklearn.calibration.CalibratedClassifierCV",
        "params": {
            "cv": 2,
            "method": "sigmoid",
            "estimator": {
                "class": "sklearn.linear_model.LogisticRegression",
                "params": {"C": 10.0},
            },
        },
        "standardize": True,
    },
    "mllib, multiclass": {
        "trainer": "mllib",
        "estimator": "pyspark.ml.classification.RandomForestClassifier",
        "params": {"numTrees": 10, "seed": 1},
        "categorical": "index",
    },
    "mllib, regression": {
        "trainer": "mllib",
        "estimator": "pyspark.ml.regression.LinearRegression",
        "params": {"maxIter": 20},
    },
    "xgboost, multiclass": {
        "trainer": "xgboost",
        "workers": 2,
        "params": {"n_estimators": 20, "max_depth": 3, "min_child_weight": 0.1},
    },
    "xgboost, regression": {
        "trainer": "xgboost",
        "params": {"n_estimators": 20, "max_depth": 3, "min_child_weight": 0.1},
    },
    "sklearn, multiclass": {
        "trainer": "sklearn",
        "estimator": "sklearn.linear_model.LogisticRegression",
        "params": {"C": 10.0},
        "standardize": True,
    },
    "sklearn, regression": {
        "trainer": "sklearn",
        "estimator": "sklearn.ensemble.HistGradientBoostingRegressor",
        "params": {"max_iter": 20, "min_samples_leaf": 2},
        "categorical": "index",
    },
    "horovod_keras": {
        "trainer": "horovod_keras",
        "workers": 2,
        "network": {"layers": [{"dense": 16}, {"normalization": "layer"}]},
        "epochs": 16,
        "batch_size": 16,
        "learning_rate": 0.02,
        "validation": 0,
    },
}
CLASSES = ("early", "late", "lost")
LABELS = {
    kind: Label.model_validate(
        {
            "name": "y",
            "expr": "y",
            "known_after": "1 day",
            "kind": kind,
            "classes": CLASSES if kind == "multiclass" else (),
        }
    )
    for kind in ("binary", "multiclass", "regression")
}


def kind_of(name: str) -> str:
    return name.partition(", ")[2] or "binary"


def label_of(name: str) -> Label:
    return LABELS[kind_of(name)]


needs_deep = pytest.mark.skipif(
    find_spec("horovod") is None,
    reason="TensorFlow and Horovod are not installed: make deep (needs a C++ compiler and make)",
)


def candidate(name: str, **more: Any) -> Any:
    found: Any = TypeAdapter(Candidate).validate_python({**CANDIDATES[name], **more})
    return found
