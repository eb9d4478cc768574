"""Trainers: each turns feature rows into a model that scores feature rows.

A new trainer is a module here with the functions of `Trainer`, its name in TRAINERS and its
candidate in `nightjar.core.pipeline`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, Self, cast

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from nightjar.core.documents import Location
from nightjar.core.errors import EnvironmentFault, Fault, TrainingRefused
from nightjar.core.pipeline import Features, Label
from nightjar.core.plan import Plan

SCORE = "_score"
TRAINERS = {
    "mllib": "nightjar.engine.trainers.mllib",
    "xgboost": "nightjar.engine.trainers.xgboost",
    "sklearn": "nightjar.engine.trainers.sklearn",
    "horovod_keras": "nightjar.engine.trainers.horovod_keras",
}


def likeliest(scores: str) -> Column:
    """The place (from 0) of the likeliest class in a column of lists; of equal ones the first."""
    return (F.array_position(scores, F.array_max(scores)) - 1).cast("int")


Wrong = tuple[Location, str, str]


@dataclass(frozen=True)
class TrainingSet:
    """Rows to learn from, which hold every class and a value of every feature.

    The column `label.name` is a double, as `Label` says. `key` tells the rows apart. `folder` is
    storage that every executor sees; what a trainer leaves there is still there when the same
    training is tried again. `classes` is the number of rows of each class, in their order. `mean`
    and `deviation` are those of a number that is predicted (0 and 1 for classes), to six digits, so
    that the order of summation does not show. `say` shows a line of progress.
    """

    rows: DataFrame
    features: Features
    label: Label
    key: tuple[str, ...]
    folder: Path
    count: int
    classes: tuple[int, ...]
    mean: float = 0.0
    deviation: float = 1.0
    weight: str | None = None
    say: Callable[[str], None] = field(default=lambda line: None)

    @classmethod
    def of(
        cls,
        rows: DataFrame,
        features: Features,
        label: Label,
        key: tuple[str, ...],
        folder: Path,
        weight: str | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> Self:
        """Look at the rows, once for all trainers.

        Raises:
            TrainingRefused: a label is none of its kind, a class has no row, all numbers to predict
                are the same, a feature has no value in any row, or a weight is missing, negative or
                infinite.
        """
        names = [*features.numeric, *features.categorical]
        y = F.col(label.name)
        codes = range(label.codes)
        is_known = y.isin(*map(float, codes)) if codes else F.abs(y) < float("inf")
        w = F.col(weight) if weight else F.lit(1.0)
        bad_weight = w.isNull() | F.isnan(w) | (w < 0) | (w == float("inf"))
        row = rows.agg(
            F.count(F.lit(1)).alias("rows"),
            F.count_if(y.isNull() | F.isnan(y) | ~is_known).alias("labels"),
            *[F.count_if(y == code).alias(f"class_{code}") for code in codes],
            F.mean(y).alias("mean"),
            F.stddev_pop(y).alias("deviation"),
            F.count_if(bad_weight).alias("weights"),
            *[F.count(name).alias(f"has_{name}") for name in names],
            *[(F.min(name) == F.max(name)).alias(f"same_{name}") for name in names],
        ).collect()[0]
        count = int(row["rows"])
        if row["labels"]:
            expected = {
                "binary": "neither 0 nor 1: it must be true or false, or say another kind",
                "multiclass": f"none of its classes: {', '.join(label.classes)}",
                "regression": "no finite number",
            }[label.kind]
            raise TrainingRefused(
                f"{row['labels']} of {count} labels '{label.name}' are {expected}",
                labels=int(row["labels"]),
            )
        classes = tuple(int(row[f"class_{code}"]) for code in codes)
        _require_variety(label, count, classes, row["deviation"])
        empty = [name for name in names if row[f"has_{name}"] == 0]
        if empty:
            raise TrainingRefused(
                f"no training row has a value for: {', '.join(empty)}. Remove the feature, or see "
                "why its source gives nothing.",
                features=empty,
            )
        if row["weights"]:
            raise TrainingRefused(
                f"the weight of {row['weights']} of {count} training rows is missing, negative or "
                "infinite",
                weights=int(row["weights"]),
            )
        same = [name for name in names if row[f"same_{name}"]]
        if same:
            say(f"  warning: the same in every training row: {', '.join(same)}")
        mean, deviation = (0.0, 1.0) if codes else (_short(row["mean"]), _short(row["deviation"]))
        return cls(rows, features, label, key, folder, count, classes, mean, deviation, weight, say)

    @property
    def prior(self) -> Column:
        """The score of one who knows no feature: the shares of the classes, or the mean."""
        shares = [F.lit(rows / self.count) for rows in self.classes]
        return {
            "binary": lambda: shares[1],
            "multiclass": lambda: F.array(*shares),
            "regression": lambda: F.lit(self.mean),
        }[self.label.kind]()

    def in_fixed_order(self, partitions: int) -> DataFrame:
        """The rows in partitions and an order that the rows alone decide.

        Sampling and sums follow them, so that the same rows give the same model on any cluster.
        """
        return self.rows.repartition(partitions, *self.key).sortWithinPartitions(*self.key)


def _require_variety(label: Label, count: int, classes: Sequence[int], deviation: Any) -> None:
    if label.kind == "binary" and 0 in classes:
        raise TrainingRefused(
            f"the {count} training rows hold {classes[1]} positives: both classes are needed",
            train=count,
            train_positives=classes[1],
        )
    missing = [name for name, rows in zip(label.classes, classes, strict=False) if rows == 0]
    if missing:
        raise TrainingRefused(
            f"none of the {count} training rows is of class: {', '.join(missing)}. Load more "
            f"nights, or remove it from the classes of label '{label.name}'.",
            train=count,
            classes=missing,
        )
    if label.kind == "regression" and not deviation:
        raise TrainingRefused(
            f"all {count} labels '{label.name}' are the same number: nothing can be learnt",
            train=count,
        )


def _short(value: float) -> float:
    return float(f"{value:.6g}")


class Trainer(Protocol):
    """What a trainer can do. Models are opaque to everything else."""

    TOLERANCE: float
    """By how much a score may differ when the model is loaded elsewhere; relative beyond one."""

    def faults(self, candidate: Any, label: Label) -> list[Wrong]:
        """What is wrong with a candidate for this label: where in it, what, and a suggestion.

        Starts no Spark.
        """

    def require(self, spark: SparkSession, candidate: Any) -> None:
        """Look whether the candidate can be trained, before any row is read.

        Raises:
            EnvironmentFault: this session cannot train it.
            UsageError: a parameter is out of its range, where only a session knows that.
        """

    def fit(self, training: TrainingSet, candidate: Any) -> Any:
        """A model learnt from the rows, transforms of features included."""

    def score(self, model: Any, rows: DataFrame) -> DataFrame:
        """`rows` with a column SCORE.

        It is the probability of the label in [0, 1], for more classes an array<double> of the
        probability of each in their order, and for a regression the number, in the label's unit.
        """

    def save(self, model: Any, folder: Path) -> None:
        """Write the model to `folder`, which does not exist yet."""

    def load(self, spark: SparkSession, folder: Path) -> Any:
        """The model that `save` wrote.

        Raises:
            GoldenMismatch: the files are not those that were saved.
        """

    def notes(self, model: Any) -> dict[str, Any]:
        """Plain facts of the training that are worth a record: rows sampled, epochs, workers."""


def trainer(name: str) -> Trainer:
    """The trainer of this name; its engine is imported only now."""
    return cast(Trainer, import_module(TRAINERS[name]))


def candidate_faults(plan: Plan) -> list[Fault]:
    """Everything wrong with the estimators and parameters of a plan's candidates."""
    faults = []
    for name, candidate in plan.spec.candidates.items():
        for at, problem, suggestion in trainer(candidate.trainer).faults(
            candidate, plan.spec.label
        ):
            where: Location = ("candidates", name, *at)
            faults.append(plan.document.fault(where, f"candidate '{name}': {problem}", suggestion))
    return faults


def require_slots(spark: SparkSession, workers: int, what: str) -> None:
    """Demand that `workers` tasks can run at the same time.

    Raises:
        EnvironmentFault: they cannot, or executors come and go.
    """
    context = spark.sparkContext
    if context.getConf().get("spark.dynamicAllocation.enabled", "false") == "true":
        raise EnvironmentFault(
            f"{what} needs its {workers} tasks at the same time, and executors that come and go "
            "cannot promise that: set spark.dynamicAllocation.enabled=false and "
            "spark.executor.instances",
            workers=workers,
        )
    session: Any = spark
    scala = session._jsc.sc()
    slots = int(
        scala.maxNumConcurrentTasks(scala.resourceProfileManager().defaultResourceProfile())
    )
    if slots < workers:
        raise EnvironmentFault(
            f"{what} asks for {workers} tasks at the same time; this session has {slots} slots "
            f"(spark.master is {context.master}). Ask for fewer workers, or for more cores: "
            "local[N], or more executors.",
            workers=workers,
            slots=slots,
        )
