"""Any probabilistic classifier of pyspark.ml, by its class name; one PipelineModel as artefact."""

from __future__ import annotations

import inspect
import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

from pyspark.ml import Estimator, Pipeline, PipelineModel, Transformer
from pyspark.ml.classification import (
    ProbabilisticClassifier,
    _JavaProbabilisticClassifier,
)
from pyspark.ml.feature import (
    Imputer,
    OneHotEncoder,
    StandardScaler,
    StringIndexer,
    VectorAssembler,
)
from pyspark.ml.functions import vector_to_array
from pyspark.ml.param import Param
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nightjar.core.documents import Location
from nightjar.core.errors import UntrustedModel, near
from nightjar.core.pipeline import Features, MllibCandidate
from nightjar.engine.trainers import SCORE, TrainingSet, Wrong

TOLERANCE = 1e-9

_LOADABLE = re.compile(
    r"(org\.apache\.spark|pyspark)\.ml\.((pipeline\.)?PipelineModel|(classification|regression)\.\w+"
    r"|feature\.(ImputerModel|StringIndexerModel|OneHotEncoderModel|VectorAssembler"
    r"|StandardScalerModel))"
)


def faults(candidate: MllibCandidate, weighted: bool) -> list[Wrong]:
    cls = _estimator_class(candidate.estimator)
    if cls is None:
        known = _known_estimators()
        found = candidate.estimator
        return [
            (
                ("estimator",),
                f"pyspark.ml has no classifier {found!r} that gives probabilities",
                near(found, known),
            )
        ]
    wrong: list[Wrong] = []
    params = _params(cls)
    if weighted and "weightCol" not in params:
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
    del spark, candidate  # any session will do


def fit(training: TrainingSet, candidate: MllibCandidate) -> PipelineModel:
    features = training.features
    cls = _estimator_class(candidate.estimator)
    assert cls is not None, "faults() is asked first"
    columns = {"featuresCol": "_features", "labelCol": training.label}
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
    return Pipeline(stages=stages).fit(training.rows)


def score(model: PipelineModel, rows: DataFrame) -> DataFrame:
    names = rows.columns
    scored = model.transform(rows)
    return scored.select(*names, vector_to_array(F.col("probability"))[1].alias(SCORE))


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


def _estimator_class(name: str) -> Any:
    module, _, cls_name = name.rpartition(".")
    if module != "pyspark.ml.classification" or cls_name.startswith("_"):
        return None
    cls = getattr(import_module(module), cls_name, None)
    if not inspect.isclass(cls) or inspect.isabstract(cls):
        return None
    is_classifier = issubclass(cls, ProbabilisticClassifier) and issubclass(cls, Estimator)
    return cls if is_classifier and cls is not _JavaProbabilisticClassifier else None


def _known_estimators() -> list[str]:
    module = import_module("pyspark.ml.classification")
    names = (f"pyspark.ml.classification.{name}" for name in dir(module))
    return [name for name in names if _estimator_class(name) is not None]


def _params(cls: type) -> dict[str, Param[Any]]:
    found = {name: getattr(cls, name, None) for name in dir(cls) if not name.startswith("_")}
    return {name: value for name, value in found.items() if isinstance(value, Param)}
