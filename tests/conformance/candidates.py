"""A small candidate of each trainer."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
from pydantic import TypeAdapter

from nightjar.core.pipeline import Candidate

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
needs_deep = pytest.mark.skipif(
    find_spec("horovod") is None,
    reason="TensorFlow and Horovod are not installed: make deep (needs a C++ compiler and make)",
)


def candidate(name: str, **more: Any) -> Any:
    found: Any = TypeAdapter(Candidate).validate_python({**CANDIDATES[name], **more})
    return found
