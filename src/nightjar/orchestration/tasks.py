"""Neutral records of what a scheduler runs: no scheduler is named here.

A pipeline gives three schedules: its nights, its training, and repairs by hand. Each is a list of
tasks; a task is one spark-submit of an entry point in jobs/, or a change to the log of releases.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from nightjar.core.pipeline import METRIC_NAMES
from nightjar.core.plan import Plan

STAGES = ("ingest", "clean", "validate", "features", "score", "audit", "publish")
BY_SOURCE = ("ingest", "clean", "validate")
EDITED = "edited"  # the folder of the warehouse where mended rows are put for a replay
WHAT_STAGES_DO = {
    "ingest": "Reads the delivered file; keeps every record as text, with its file and number.",
    "clean": "Casts, cleans and splits: every record ends as silver, quarantine or duplicate.",
    "validate": "Holds silver against the contract; a failed critical check stops the night.",
    "features": "One row for each base row, of what was known at its as-of time.",
    "score": "The champion's score for each row, once it gives its golden scores again.",
    "audit": "Opens the scores again and holds them against their contract.",
    "publish": "Makes the night visible to readers in one atomic step.",
    "night": "Every stage of the night in one Spark session.",
    "load": "Ingests, cleans and validates a range of nights as history to learn from.",
    "prepare": "Puts the rows together: to learn from, and, of later days, to test on.",
    "trial": "Trains a candidate on those rows and measures it on those that none has seen.",
    "promote": "Makes the best candidate champion, if the gate lets it.",
    "replay": "Puts mended rows, or a changed contract or cleaning, into their night; releases it.",
    "change_release": "Rolls back to a release, or pins or unpins it. Nothing is copied.",
}


@dataclass(frozen=True)
class Task:
    """One spark-submit, or less. `after` names the schedule's tasks that must succeed first.

    With `candidates` it is one for each of them, side by side, of which each has its `candidate`.
    """

    job: str
    source: str = ""
    after: tuple[str, ...] = ()
    candidates: tuple[str, ...] = ()
    candidate: str = ""

    @property
    def id(self) -> str:
        """The task's name: SOURCE.JOB where it is about one source."""
        return f"{self.source}.{self.job}" if self.source else self.job

    @property
    def releases(self) -> bool:
        """Whether a release is there once the task is done."""
        return self.job in ("publish", "night", "replay", "change_release")

    @property
    def submitted(self) -> bool:
        """Whether Spark does it; what only changes the log of releases needs none."""
        return self.job != "change_release"

    @property
    def records(self) -> tuple[str, ...]:
        """The steps whose records tell what the task did, as patterns of their names."""
        if self.job in ("night", "replay"):
            return tuple(f"{stage}*" for stage in STAGES)
        of_training = {
            "prepare": "train.rows",
            "trial": f"train.trial.{self.candidate}",
            "promote": "train",
        }
        named = f"{self.job}.{self.source}" if self.source else f"{self.job}*"
        return (of_training.get(self.job, named),)

    @property
    def doc(self) -> str:
        return WHAT_STAGES_DO[self.job]


@dataclass(frozen=True)
class Schedule:
    """Tasks that run together at the times of a cron line (UTC); None is by hand only."""

    id: str
    kind: str
    cron: str | None
    start: date
    end: date | None
    tasks: tuple[Task, ...]
    doc: str


def nightly(plan: Plan) -> Schedule:
    """The nights of a pipeline, cut as finely as its file says."""
    spec = plan.spec
    tasks = {
        "datasets": tuple(_by_dataset(plan)),
        "stages": tuple(_in_a_row(STAGES)),
        "night": (Task("night"),),
    }[spec.orchestration.tasks]
    return _schedule(plan, "nightly", spec.schedule, tasks)


def training(plan: Plan) -> Schedule:
    """History loaded where a run asks for it, then the candidates tried and the best promoted."""
    tasks = (
        Task("load"),
        Task("prepare", after=("load",)),
        Task("trial", after=("prepare",), candidates=tuple(plan.spec.candidates)),
        Task("promote", after=("trial",)),
    )
    return _schedule(plan, "train", plan.spec.orchestration.training, tasks)


def repairs(plan: Plan) -> Schedule:
    """What an engineer mends, by hand only: a run does one of these tasks."""
    return _schedule(plan, "repair", None, (Task("change_release"), Task("replay")))


def _schedule(plan: Plan, kind: str, cron: str | None, tasks: tuple[Task, ...]) -> Schedule:
    settings = plan.spec.orchestration
    name = f"{plan.spec.name}_{kind}"
    return Schedule(name, kind, cron, settings.start, settings.end, tasks, describe(plan, kind))


def _in_a_row(jobs: tuple[str, ...]) -> Iterator[Task]:
    before: tuple[str, ...] = ()
    for job in jobs:
        yield Task(job, after=before)
        before = (job,)


def _by_dataset(plan: Plan) -> Iterator[Task]:
    last: tuple[str, ...] = ()
    for source in plan.spec.sources:
        before: tuple[str, ...] = ()
        for job in BY_SOURCE:
            task = Task(job, source, before)
            yield task
            before = (task.id,)
        last += before
    first, *others = _in_a_row(STAGES[len(BY_SOURCE) :])
    yield Task(first.job, after=last)
    yield from others


def describe(plan: Plan, kind: str) -> str:
    """A schedule's documentation in Markdown, from the pipeline and its contracts."""
    spec, scores = plan.spec, plan.scores
    lines = [spec.description, ""]
    if kind == "nightly":
        lines += ["| dataset | file | format | contract |", "|---|---|---|---|"]
        for name, source in spec.sources.items():
            contract = plan.contract_of(name)
            columns = f"{contract.dataset} {contract.version}, {len(contract.columns)} columns"
            lines.append(f"| {name} | `{source.path}` | {source.format} | {columns} |")
        names = ", ".join(f"`{name}`" for name in scores.names)
        lines += ["", f"**Publishes** `{scores.dataset}`: {names}."]
        lines += [
            "",
            "A run is one night, `ds`: the day on which its data interval begins. Run it again as "
            "often as you like: a step whose inputs did not change is not done again, and the "
            "same night gives the same release. `only` runs one stage, `force` does finished "
            "steps again, `model` scores with another version than the champion, `dry_run` "
            "shows what would run.",
        ]
    elif kind == "repair":
        lines += [
            "By hand only; a run does one thing, `what`. A replay and a pin log their `reason`.",
            "",
            "- **replay**: `ds`, and for mended rows `dataset` and `rows`, a file in the "
            f"warehouse's folder `{EDITED}/` (`nightjar quarantine export {spec.name} --ds DATE "
            f"--dataset NAME --to warehouse/{EDITED}/NAME.csv`). The night is cleaned, judged, "
            "scored and released again; readers keep what they have if its gate refuses it.",
            f"- **rollback**, **pin**, **unpin**: `release`, as `nightjar releases {spec.name}` "
            "lists them.",
        ]
    else:
        lines += ["| candidate | trainer | estimator |", "|---|---|---|"]
        for name, candidate in spec.candidates.items():
            lines.append(f"| {name} | {candidate.trainer} | `{candidate.estimator}` |")
        gate = spec.gate
        lines += [
            "",
            f"**Gate:** {METRIC_NAMES[gate.metric]} at {'least' if gate.larger else 'most'} "
            f"{gate.bound:g} on the last "
            f"{spec.split.test.days} days, which no candidate saw.",
            "",
            "Trains as of the day on which the run's data interval ends. `load_first` and "
            "`load_last` load a range of nights before.",
        ]
    return "\n".join(lines)


def describe_task(plan: Plan, task: Task) -> str:
    """A task's documentation in Markdown: what it does, and the contract that it works to."""
    lines = [task.doc]
    if task.submitted:
        lines += ["", f"`spark-submit jobs/{task.job}.py {plan.spec.name}`"]
    if task.source:
        contract = plan.contract_of(task.source)
        lines += ["", f"### {contract.dataset} {contract.version}", "", "| column | type | |"]
        lines.append("|---|---|---|")
        for column in contract.columns:
            told = (column.description or "").replace("|", "\\|").replace("\n", " ")
            lines.append(f"| {column.name} | {column.type} | {told} |")
    return "\n".join(lines)
