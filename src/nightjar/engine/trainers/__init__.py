"""Trainers: each turns feature rows into a model that scores feature rows.

A new trainer is a module here with the functions of `Trainer`, and its name in TRAINERS.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from pyspark.sql import DataFrame, SparkSession

from nightjar.core.documents import Location
from nightjar.core.errors import Fault
from nightjar.core.pipeline import Candidate, Features
from nightjar.core.plan import Plan

SCORE = "_score"
TRAINERS = {"mllib": "nightjar.engine.trainers.mllib"}


class Trainer(Protocol):
    """What a trainer can do. Models are opaque to everything else."""

    def faults(self, candidate: Candidate) -> list[tuple[Location, str, str]]:
        """What is wrong with a candidate: where in it, what, and a suggestion. Starts no Spark."""

    def fit(self, rows: DataFrame, features: Features, label: str, candidate: Candidate) -> Any:
        """A model learnt from `rows`, transforms of features included."""

    def score(self, model: Any, rows: DataFrame) -> DataFrame:
        """`rows` with a column SCORE: the probability of the label, in [0, 1]."""

    def save(self, model: Any, folder: Path) -> None:
        """Write the model to `folder`, which every executor can read."""

    def load(self, spark: SparkSession, folder: Path) -> Any:
        """The model that `save` wrote."""


def trainer(name: str) -> Trainer:
    """The trainer of this name; its engine is imported only now."""
    return cast(Trainer, import_module(TRAINERS[name]))


def candidate_faults(plan: Plan) -> list[Fault]:
    """Everything wrong with the estimators and parameters of a plan's candidates."""
    faults = []
    for name, candidate in plan.spec.candidates.items():
        for at, problem, suggestion in trainer(candidate.trainer).faults(candidate):
            where: Location = ("candidates", name, *at)
            faults.append(plan.document.fault(where, f"candidate '{name}': {problem}", suggestion))
    return faults
