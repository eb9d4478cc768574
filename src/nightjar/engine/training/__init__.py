"""Training: candidates learn from the same rows, and the best one is promoted on evidence.

Three steps, in one session or in several: the rows (rows.py), a trial of each candidate
(trials.py), and the decision (promotion.py). Each leaves a record of the day of training, so that
what is done is not done again: a training that is tried again goes on with what is missing.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import date

from nightjar.core.records import Record
from nightjar.engine.training import rows, trials
from nightjar.engine.training.promotion import decide
from nightjar.engine.work import Work

STEP = "train"


def prepare(work: Work, as_of: date) -> Record:
    """Put the rows together that are known on the day `as_of`, to learn from and to test on.

    They are those of the loaded nights of the split's history whose labels are known by then.

    Raises:
        SpecError: a candidate's estimator or parameters are wrong.
        NotThereYet: no night that can be learnt from is loaded.
        TrainingRefused: the rows cannot give a model that means anything.
    """
    trials.require_right(work)
    return rows.prepare(work, as_of)


def try_candidates(work: Work, as_of: date) -> None:
    """Train and measure the run's candidates on the prepared rows.

    Raises:
        SpecError, NotThereYet, TrainingRefused: as `prepare` does.
        EnvironmentFault: a candidate needs what this session or this machine does not have.
        TrainingFailed: a candidate's training broke off.
    """
    trials.require_right(work)
    with rows.opened(work, as_of) as opened:
        for name in work.plan.spec.candidates:
            trials.run(work, opened, name)


def train(work: Work, as_of: date) -> Record:
    """Prepare, try all candidates, and promote the best, if the gate lets it.

    Raises:
        SpecError, NotThereYet, TrainingRefused, EnvironmentFault, TrainingFailed: as the steps do.
    """
    trials.require_right(work)
    inputs: dict[date, object] = {
        as_of: [rows.inputs(work, as_of), work.plan.spec.candidates, work.plan.spec.gate]
    }

    def do(pending: Sequence[date], attempt: str) -> dict[date, Record]:
        with rows.opened(work, as_of) as opened:
            found = {n: trials.run(work, opened, n) for n in work.plan.spec.candidates}
            record = decide(work, opened, found)
        shutil.rmtree(opened.folder)
        return {as_of: record}

    return work.once(STEP, inputs, do, stale=_with_newer_trials(work, as_of))[as_of]


def _with_newer_trials(work: Work, as_of: date) -> list[date]:
    """The day, where a candidate was tried again after the decision."""
    decided = work.book.get(as_of, STEP)
    if decided is None:
        return []
    for name in work.plan.spec.candidates:
        tried = work.book.get(as_of, trials.step(name))
        if tried and tried.details["run"] != decided.details["candidates"].get(name, {}).get("run"):
            return [as_of]
    return []
