"""A night: its stages in order. Each stands on the records of those before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date

from nightjar.core.errors import UsageError, near
from nightjar.core.plan import Plan
from nightjar.core.project import Project
from nightjar.core.records import Record
from nightjar.engine.delivery import look_at_delivery
from nightjar.engine.registry import Registry
from nightjar.engine.stages import audit, clean, features, ingest, publish, score, validate
from nightjar.engine.work import Work

Stage = Callable[[Work], None]


def _each_source(run: Callable[[Work, str], dict[date, Record]]) -> Stage:
    def stage(work: Work) -> None:
        for source in work.sources:
            run(work, source)

    return stage


def _whole(run: Callable[[Work], dict[date, Record]]) -> Stage:
    def stage(work: Work) -> None:
        run(work)

    return stage


STAGES: dict[str, Stage] = {
    "ingest": _each_source(ingest.run),
    "clean": _each_source(clean.run),
    "validate": _each_source(validate.run),
    "features": _whole(features.run),
    "score": _whole(score.run),
    "audit": _whole(audit.run),
    "publish": _whole(publish.run),
}
LOADING = ("ingest", "clean", "validate")


def run_night(work: Work, only: str | None = None) -> None:
    """Run every stage of the night, or `only` one; finished ones with the same inputs are skipped.

    Raises:
        NightjarError: as the stages do; nothing of the night is visible then.
    """
    preflight(work.project, work.plan, work.nights, only)
    for name, stage in STAGES.items():
        if only in (None, name):
            stage(work)


def load(work: Work) -> None:
    """Ingest, clean and validate the run's nights together, as history to learn from."""
    for name in LOADING:
        STAGES[name](work)


def preflight(project: Project, plan: Plan, nights: Sequence[date], only: str | None) -> None:
    """What can be said before Spark starts: is there a champion, are the files there and right.

    Raises:
        UsageError: there is no stage called `only`.
        NotThereYet: the night is to be scored, and no model was promoted.
        MissingInput, EmptyInput, HeaderMismatch, UnreadableInput: as a file is.
    """
    if only is not None and only not in STAGES:
        raise UsageError(f"no stage is called '{only}'; {near(only, STAGES)}")
    if only in (None, "ingest"):
        look_at_delivery(project, plan, nights)
    if only in (None, "score"):
        Registry(project, plan.spec.name).require_champion()
