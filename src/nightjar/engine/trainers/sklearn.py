"""Any classifier of scikit-learn that gives probabilities, or regressor, learnt on the driver.

Models are saved by skops, whose files hold no code to run: only types of scikit-learn are loaded.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from nightjar.core.errors import GoldenMismatch, TrainingRefused, near
from nightjar.core.pipeline import Label, SklearnCandidate
from nightjar.engine import encoding
from nightjar.engine.encoding import Encoding, Layout
from nightjar.engine.trainers import TrainingSet, Wrong, portable
from nightjar.engine.trainers.portable import Portable, Predict

TOLERANCE = 1e-6  # the features are float32, and sums follow the processor
FILE = "model.skops"
CLASS = "class"  # the key that makes a parameter an estimator
_OURS = {"categorical_features": "categorical features are known to be such", "n_jobs": "one core"}
_BUCKETS = 1 << 20


def faults(candidate: SklearnCandidate, label: Label) -> list[Wrong]:
    kind = _kind(label)
    wrong = _faults(kind, candidate.estimator, candidate.params, ("estimator",), ("params",))
    if wrong:
        return wrong
    made = _build(candidate.estimator, candidate.params)
    if kind == "classifier" and not hasattr(made, "predict_proba"):
        problem = f"{type(made).__name__} gives no probabilities with these parameters"
        wrong.append((("estimator",), problem, ""))
    if label.kind == "multiclass" and not made.__sklearn_tags__().classifier_tags.multi_class:
        problem = f"{type(made).__name__} learns two classes alone"
        wrong.append((("estimator",), problem, ""))
    if label.weight is not None:
        from sklearn.utils.validation import has_fit_parameter

        if not has_fit_parameter(made, "sample_weight"):
            problem = f"{type(made).__name__} takes no weights, and the label has one"
            wrong.append((("estimator",), problem, ""))
    return wrong


def _kind(label: Label) -> str:
    return "regressor" if label.kind == "regression" else "classifier"


def _faults(
    kind: str, name: str, params: Mapping[str, Any], at: tuple[str, ...], inside: tuple[str, ...]
) -> list[Wrong]:
    """What is wrong with one estimator, a classifier or regressor, and those in its parameters."""
    cls = _class(name)
    if cls is None or not issubclass(cls, _mixin(kind)):
        return [(at, f"scikit-learn has no {kind} {name!r}", near(name, _known(kind)))]
    known = cls._get_param_names()
    wrong: list[Wrong] = []
    for param, value in params.items():
        here = (*inside, param)
        if param in _OURS:
            problem = f"'{param}' is set by the trainer: {_OURS[param]}"
            wrong.append((here, problem, "remove it"))
        elif param not in known:
            problem = f"{cls.__name__} has no parameter '{param}'"
            wrong.append((here, problem, near(param, set(known) - _OURS.keys())))
        elif _is_estimator(value):
            extra = sorted(value.keys() - {CLASS, "params"})
            if extra:
                wrong.append((here, f"unknown key '{extra[0]}'", f"known: {CLASS}, params"))
            else:
                inner = value.get("params") or {}
                below = (*here, "params")
                wrong += _faults(kind, value[CLASS], inner, (*here, CLASS), below)
    if wrong:
        return wrong
    made = _build(name, params)
    try:
        made._validate_params()
    except ValueError as error:  # sklearn's InvalidParameterError names one parameter
        first = str(error).split(". Got")[0]
        param = next((p for p in params if f"'{p}'" in first), "")
        return [((*inside, param) if param else at, str(error), "")]
    return []


def _is_estimator(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get(CLASS), str)


def _build(name: str, params: Mapping[str, Any]) -> Any:
    cls = _class(name)
    assert cls is not None, "faults() is asked first"
    given = {
        param: _build(value[CLASS], value.get("params") or {}) if _is_estimator(value) else value
        for param, value in params.items()
    }
    if "random_state" in cls._get_param_names():
        given.setdefault("random_state", 0)
    return cls(**given)


def _class(name: str) -> Any:
    """The public classifier or regressor class of this full name, or None."""
    module, _, cls_name = name.rpartition(".")
    public = module.startswith("sklearn.") and not any(p.startswith("_") for p in name.split("."))
    return _estimators(module).get(cls_name) if public else None


def _mixin(kind: str) -> Any:
    from sklearn.base import ClassifierMixin, RegressorMixin

    return {"classifier": ClassifierMixin, "regressor": RegressorMixin}[kind]


@cache
def _estimators(module: str) -> dict[str, Any]:
    from sklearn.base import BaseEstimator

    try:
        found = import_module(module)
    except ImportError:
        return {}
    return {
        name: cls
        for name, cls in vars(found).items()
        if inspect.isclass(cls)
        and issubclass(cls, BaseEstimator)
        and issubclass(cls, (_mixin("classifier"), _mixin("regressor")))
        and not inspect.isabstract(cls)
        and cls.__module__.startswith(module)
        and not name.startswith("_")
    }


def _known(kind: str) -> list[str]:
    import sklearn

    return [
        f"{module}.{name}"
        for module in (f"sklearn.{name}" for name in sklearn.__all__)
        for name, cls in _estimators(module).items()
        if issubclass(cls, _mixin(kind))
    ]


def require(spark: SparkSession, candidate: SklearnCandidate) -> None:
    del spark, candidate  # the driver is there


def fit(training: TrainingSet, candidate: SklearnCandidate) -> Portable:
    learnt = encoding.learn(training.rows, training.features)
    estimator = _build(candidate.estimator, candidate.params)
    layout = Layout(
        onehot=candidate.categorical == "onehot",
        impute=not estimator.__sklearn_tags__().input_tags.allow_nan,
        standardize=candidate.standardize,
    )
    _name_categories(estimator, learnt, layout)
    table, count = _sample(training, candidate.sample)
    matrix = np.concatenate([learnt.matrix(batch, layout) for batch in table.to_batches()])
    labels = table.column(training.label.name).to_numpy()
    if training.label.codes:
        labels = labels.astype(np.int64)
    more = {}
    if training.weight:
        more["sample_weight"] = table.column(training.weight).to_numpy()
    if count < training.count:
        training.say(
            f"    {candidate.estimator.rpartition('.')[2]} learns from {count:,} of "
            f"{training.count:,} rows"
            + ", as many of each class as its share"
            * bool(training.classes)
        )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        estimator.fit(matrix, labels, **more)
    said = sorted({str(w.message).splitlines()[0] for w in caught})
    for line in said:
        training.say(f"    scikit-learn: {line}")
    import skops.io

    facts = {"rows": count, "of": training.count, "warnings": said}
    payload = skops.io.dumps(estimator)
    return Portable("sklearn", learnt, layout, training.label.outputs, payload, facts)


def _name_categories(estimator: Any, learnt: Encoding, layout: Layout) -> None:
    """Tell an estimator that splits categories by itself which columns they are."""
    if layout.onehot or not learnt.categories:
        return
    inner = [v for v in estimator.get_params(deep=True).values() if hasattr(v, "get_params")]
    for part in (estimator, *inner):
        if "categorical_features" not in part.get_params(deep=False):
            continue
        most = part.get_params(deep=False).get("max_bins", 255)
        large = [name for name, values in learnt.categories.items() if len(values) >= most]
        if large:
            raise TrainingRefused(
                f"{type(part).__name__} tells at most {most - 1} categories of a feature apart; "
                f"more are in: {', '.join(large)}. Say categorical: onehot, or use XGBoost.",
                features=large,
            )
        numbers = len(learnt.numeric)
        part.set_params(categorical_features=list(range(numbers, numbers + len(learnt.categories))))


def _sample(training: TrainingSet, most: int) -> tuple[pa.Table, int]:
    """At most `most` rows, of each class as many as its share, and the same ones every time.

    Rows are taken in the order of a hash of their key; they come to the driver in no other way.
    """
    label = training.label.name
    names = [*training.features.numeric, *training.features.categorical, label]
    names += [training.weight] if training.weight else []
    place = F.pmod(F.xxhash64(*training.key), F.lit(_BUCKETS)).alias("_place")
    rows = training.rows.select(*dict.fromkeys([*names, *training.key]), place)
    classes = training.classes or (training.count,)
    if training.count > most:
        # A little more than is asked for, so that the exact number can be cut off below.
        share = most / training.count
        spare = 4 * (share / min(classes)) ** 0.5
        rows = rows.where(F.col("_place") < int(_BUCKETS * min(1.0, share + spare)) + 1)
    table = rows.toArrow().sort_by([(n, "ascending") for n in ("_place", *training.key)])
    if training.count > most:
        found = table.column(label).to_numpy() if training.classes else np.zeros(table.num_rows)
        wanted = [max(1, round(most * rows_of / training.count)) for rows_of in classes]
        wanted[int(np.argmax(classes))] += most - sum(wanted)
        chosen = [np.flatnonzero(found == code)[:n] for code, n in enumerate(wanted)]
        table = table.take(pa.array(np.sort(np.concatenate(chosen))))
    return table.select(names), table.num_rows


def decode(payload: bytes, threads: int) -> Predict:
    """Raises GoldenMismatch where the file names a type that is not scikit-learn's."""
    import skops.io
    from threadpoolctl import threadpool_limits

    named = skops.io.get_untrusted_types(data=payload)
    foreign = [name for name in named if not _harmless(name)]
    if foreign:
        raise GoldenMismatch(
            f"the model names types that are not scikit-learn's: {', '.join(foreign)}",
            types=foreign,
        )
    estimator = skops.io.loads(payload, trusted=named)
    threadpool_limits(limits=threads)
    if not hasattr(estimator, "classes_"):
        return estimator.predict  # type: ignore[no-any-return]
    has_two = len(estimator.classes_) == 2

    def predict(matrix: NDArray[np.float32]) -> NDArray[Any]:
        found: NDArray[Any] = estimator.predict_proba(matrix)
        return found[:, 1] if has_two else found

    return predict


def _harmless(name: str) -> bool:
    # A partial's own function is named, and judged, by itself.
    return name.startswith("sklearn.") or name == "functools.partial"


# A portable model is scored and kept in one way, whatever it was learnt by.
score, save, load, notes = portable.score, portable.save, portable.load, portable.notes
