"""A night: its stages in order. Each stands on the records of those before it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

from nightjar.core.errors import UsageError, near
from nightjar.core.records import Record
from nightjar.engine.stages import audit, clean, features, ingest, publish, score, validate
from nightjar.engine.work import Work

Stage = Callable[[Work], None]


def _each_source(run: Callable[[Work, str], dict[date, Record]]) -> Stage:
    def stage(work: Work) -> None:
        for source in work.plan.spec.sources:
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
        UsageError: there is no stage called `only`.
        NightjarError: as the stages do; nothing of the night is visible then.
    """
    if only is not None and only not in STAGES:
        raise UsageError(f"no stage is called '{only}'; {near(only, STAGES)}")
    if only is None or only == "score":
        _need_a_champion(work)
    for name, stage in STAGES.items():
        if only in (None, name):
            stage(work)


def load(work: Work) -> None:
    """Ingest, clean and validate the run's nights together, as history to learn from."""
    for name in LOADING:
        STAGES[name](work)


def _need_a_champion(work: Work) -> None:
    # Said before the work rather than after it.
    from nightjar.engine.registry import Registry

    Registry(work.project, work.plan.spec.name).require_champion()
