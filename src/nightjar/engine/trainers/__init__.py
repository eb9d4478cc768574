"""Trainers: each turns feature rows into a model that scores feature rows.

A new trainer is a module here with the functions of `Trainer`, its name in TRAINERS and its
candidate in `nightjar.core.pipeline`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, Self, cast

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nightjar.core.documents import Location
from nightjar.core.errors import EnvironmentFault, Fault, TrainingRefused
from nightjar.core.pipeline import Features
from nightjar.core.plan import Plan

SCORE = "_score"
TRAINERS = {
    "mllib": "nightjar.engine.trainers.mllib",
    "xgboost": "nightjar.engine.trainers.xgboost",
    "sklearn": "nightjar.engine.trainers.sklearn",
    "horovod_keras": "nightjar.engine.trainers.horovod_keras",
}

Wrong = tuple[Location, str, str]


@dataclass(frozen=True)
class TrainingSet:
    """Rows to learn from, which hold both classes and a value of every feature.

    `key` tells the rows apart. `folder` is storage that every executor sees; what a trainer leaves
    there is still there when the same training is tried again. `say` shows a line of progress.
    """

    rows: DataFrame
    features: Features
    label: str
    key: tuple[str, ...]
    folder: Path
    count: int
    positives: int
    weight: str | None = None
    say: Callable[[str], None] = field(default=lambda line: None)

    @classmethod
    def of(
        cls,
        rows: DataFrame,
        features: Features,
        label: str,
        key: tuple[str, ...],
        folder: Path,
        weight: str | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> Self:
        """Look at the rows, once for all trainers.

        Raises:
            TrainingRefused: a label is neither 0 nor 1, there is one class alone, a feature has no
                value in any row, or a weight is missing, negative or infinite.
        """
        names = [*features.numeric, *features.categorical]
        y = F.col(label)
        bad_label = y.isNull() | ~y.isin(0.0, 1.0)
        w = F.col(weight) if weight else F.lit(1.0)
        bad_weight = w.isNull() | F.isnan(w) | (w < 0) | (w == float("inf"))
        row = rows.agg(
            F.count(F.lit(1)).alias("rows"),
            F.coalesce(F.sum(F.when(y == 1, 1)), F.lit(0)).alias("positives"),
            F.count_if(bad_label).alias("labels"),
            F.count_if(bad_weight).alias("weights"),
            *[F.count(name).alias(f"has_{name}") for name in names],
            *[(F.min(name) == F.max(name)).alias(f"same_{name}") for name in names],
        ).collect()[0]
        count, positives = int(row["rows"]), int(row["positives"])
        if row["labels"]:
            raise TrainingRefused(
                f"{row['labels']} of {count} labels are neither 0 nor 1; label '{label}' must be "
                "true or false: a model here gives one probability",
                labels=int(row["labels"]),
            )
        if positives in (0, count):
            raise TrainingRefused(
                f"the {count} training rows hold {positives} positives: both classes are needed",
                train=count,
                train_positives=positives,
            )
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
        return cls(rows, features, label, key, folder, count, positives, weight, say)

    def in_fixed_order(self, partitions: int) -> DataFrame:
        """The rows in partitions and an order that the rows alone decide.

        Sampling and sums follow them, so that the same rows give the same model on any cluster.
        """
        return self.rows.repartition(partitions, *self.key).sortWithinPartitions(*self.key)


class Trainer(Protocol):
    """What a trainer can do. Models are opaque to everything else."""

    TOLERANCE: float
    """By how much a score may differ when the model is loaded elsewhere."""

    def faults(self, candidate: Any, weighted: bool) -> list[Wrong]:
        """What is wrong with a candidate: where in it, what, and a suggestion. Starts no Spark.

        `weighted` says whether training rows have a weight.
        """

    def require(self, spark: SparkSession, candidate: Any) -> None:
        """Raises EnvironmentFault where this session cannot train the candidate."""

    def fit(self, training: TrainingSet, candidate: Any) -> Any:
        """A model learnt from the rows, transforms of features included."""

    def score(self, model: Any, rows: DataFrame) -> DataFrame:
        """`rows` with a column SCORE: the probability of the label, in [0, 1]."""

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
    weighted = plan.spec.label.weight is not None
    for name, candidate in plan.spec.candidates.items():
        for at, problem, suggestion in trainer(candidate.trainer).faults(candidate, weighted):
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
