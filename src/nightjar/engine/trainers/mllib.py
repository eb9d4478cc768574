"""Any probabilistic classifier or regressor of pyspark.ml; one PipelineModel as artefact."""

from __future__ import annotations

import inspect
import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

from pyspark.errors import IllegalArgumentException
from pyspark.ml import Estimator, Pipeline, PipelineModel, Transformer
from pyspark.ml.classification import ProbabilisticClassificationModel, ProbabilisticClassifier
from pyspark.ml.feature import (
    Imputer,
    OneHotEncoder,
    StandardScaler,
    StringIndexer,
    VectorAssembler,
)
from pyspark.ml.functions import vector_to_array
from pyspark.ml.param import Param
from pyspark.ml.regression import Regressor
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nightjar.core.documents import Location
from nightjar.core.errors import TrainingRefused, UntrustedModel, UsageError, near
from nightjar.core.pipeline import Features, Label, MllibCandidate
from nightjar.engine.trainers import SCORE, TrainingSet, Wrong

TOLERANCE = 1e-9

_TWO_CLASSES = ("GBTClassifier", "FMClassifier")
_LOADABLE = re.compile(
    r"(org\.apache\.spark|pyspark)\.ml\.((pipeline\.)?PipelineModel|(classification|regression)\.\w+"
    r"|feature\.(ImputerModel|StringIndexerModel|OneHotEncoderModel|VectorAssembler"
    r"|StandardScalerModel))"
)


def faults(candidate: MllibCandidate, label: Label) -> list[Wrong]:
    module = _module(label)
    cls = _estimator_class(module, candidate.estimator)
    if cls is None:
        found = candidate.estimator
        what = "classifier {!r} that gives probabilities" if label.codes else "regressor {!r}"
        problem = f"pyspark.ml has no {what.format(found)}"
        return [(("estimator",), problem, near(found, _known_estimators(module)))]
    wrong: list[Wrong] = []
    params = _params(cls)
    if label.kind == "multiclass" and cls.__name__ in _TWO_CLASSES:
        wrong.append((("estimator",), f"{cls.__name__} learns two classes alone", ""))
    if label.weight is not None and "weightCol" not in params:
        problem = f"{cls.__name__} takes no weights, and the label has one"
        wrong.append((("estimator",), problem, ""))
    for name, value in candidate.params.items():
        at: Location = ("params", name)
        if name.endswith("Col"):  # a column: the trainer makes them
            wrong.append((at, f"'{name}' is set by the trainer", "remove it"))
        elif name not in params:
            wrong.append((at, f"{cls.__name__} has no parameter '{name}'", near(name, params)))
        else:
            try:
                params[name].typeConverter(value)
            except (TypeError, ValueError) as error:
                wrong.append(
                    (at, f"parameter '{name}' of {cls.__name__}: {error}", params[name].doc)
                )
    return wrong


def require(spark: SparkSession, candidate: MllibCandidate) -> None:
    module, _, name = candidate.estimator.rpartition(".")
    estimator = getattr(import_module(module), name)(**candidate.params)
    try:
        estimator._transfer_params_to_java()  # the ranges of parameters are known to the JVM alone
    except IllegalArgumentException as error:
        _, _, said = str(error).partition(" ")
        given = next((n for n in candidate.params if f"parameter {n} " in said), "")
        doc = f": {estimator.getParam(given).doc}" if given else ""
        raise UsageError(f"{name}: {said.rstrip('.')}{doc}") from error


def fit(training: TrainingSet, candidate: MllibCandidate) -> PipelineModel:
    features = training.features
    cls = _estimator_class(_module(training.label), candidate.estimator)
    assert cls is not None, "faults() is asked first"
    columns = {"featuresCol": "_features", "labelCol": training.label.name}
    if training.weight:
        columns["weightCol"] = training.weight
    estimator = cls(**columns, **candidate.params)
    stages: list[Estimator[Any] | Transformer] = []
    inputs: list[str] = []
    if features.numeric:
        filled = [f"_filled_{n}" for n in features.numeric]
        stages.append(
            Imputer(strategy="median", inputCols=list(features.numeric), outputCols=filled)
        )
        inputs += filled
    if features.categorical:
        encoders, encoded = _encoders(features, candidate)
        stages += encoders
        inputs += encoded
    assembled = "_assembled" if candidate.standardize else "_features"
    stages.append(VectorAssembler(inputCols=inputs, outputCol=assembled))
    if candidate.standardize:
        stages.append(StandardScaler(inputCol=assembled, outputCol="_features"))
    stages.append(estimator)
    try:
        return Pipeline(stages=stages).fit(training.rows)
    except IllegalArgumentException as error:  # parameters that these rows do not fit
        said = str(error).splitlines()[0].removeprefix("requirement failed: ")
        names = ", ".join([*features.numeric, *features.categorical])
        raise TrainingRefused(
            f"{cls.__name__} cannot learn these rows: {said} (features, the first is 0: {names})"
        ) from error


def score(model: PipelineModel, rows: DataFrame) -> DataFrame:
    learnt: Any = model.stages[-1]
    found = F.col(learnt.getPredictionCol())
    if isinstance(learnt, ProbabilisticClassificationModel):
        found = vector_to_array(F.col(learnt.getProbabilityCol()))
        found = found[1] if learnt.numClasses == 2 else found
    return model.transform(rows).select(*rows.columns, found.alias(SCORE))


def save(model: PipelineModel, folder: Path) -> None:
    model.write().save(str(folder))


def load(spark: SparkSession, folder: Path) -> PipelineModel:
    del spark  # PipelineModel reads through the active session
    _require_own_classes(folder)
    return PipelineModel.load(str(folder))


def notes(model: PipelineModel) -> dict[str, Any]:
    del model
    return {}


def _require_own_classes(folder: Path) -> None:
    """Spark imports whatever class a model's metadata names: only those that `fit` uses may stand.

    Raises:
        UntrustedModel: another is named, or the metadata cannot be read.
    """
    files = sorted(folder.rglob("metadata/part-*"))
    for path in files:
        try:
            named = str(json.loads(path.read_text().splitlines()[0])["class"])
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise UntrustedModel(f"{path} is no metadata of a Spark model") from error
        if not _LOADABLE.fullmatch(named):
            raise UntrustedModel(
                f"{path} names the class {named!r}, which no trainer here writes; nothing was "
                "loaded. Train and promote again, and find out who wrote this file.",
                found=named,
            )
    if not files:
        raise UntrustedModel(f"{folder} holds no Spark model")


def _encoders(
    features: Features, candidate: MllibCandidate
) -> tuple[list[Estimator[Any] | Transformer], list[str]]:
    indexed = [f"_index_{n}" for n in features.categorical]
    encoded = [f"_encoded_{n}" for n in features.categorical]
    # 'keep': a missing or unseen category is a category of its own.
    indexer = StringIndexer(
        inputCols=list(features.categorical),
        outputCols=indexed,
        handleInvalid="keep",
        stringOrderType="frequencyDesc",
    )
    if candidate.categorical == "index":
        return [indexer], indexed
    return [indexer, OneHotEncoder(inputCols=indexed, outputCols=encoded)], encoded


def _module(label: Label) -> str:
    return "pyspark.ml.classification" if label.codes else "pyspark.ml.regression"


def _estimator_class(module: str, name: str) -> Any:
    """The public estimator of this full name in `module`, or None."""
    found, _, cls_name = name.rpartition(".")
    if found != module or cls_name.startswith("_"):
        return None
    cls = getattr(import_module(module), cls_name, None)
    if not inspect.isclass(cls) or inspect.isabstract(cls) or "censorCol" in _params(cls):
        return None
    kinds = (ProbabilisticClassifier, Regressor)
    return cls if issubclass(cls, kinds) and cls.__module__ == module else None


def _known_estimators(module: str) -> list[str]:
    names = (f"{module}.{name}" for name in dir(import_module(module)))
    return [name for name in names if _estimator_class(module, name) is not None]


def _params(cls: type) -> dict[str, Param[Any]]:
    found = {name: getattr(cls, name, None) for name in dir(cls) if not name.startswith("_")}
    return {name: value for name, value in found.items() if isinstance(value, Param)}
