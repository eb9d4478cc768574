"""What a run may be asked for: typed parameters, from which a task's arguments are made.

A value from a trigger is data. It is checked here, and again by the job that it is handed to as one
argument of its own; none is ever part of a shell line, of SQL or of a path.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from nightjar.core.errors import UsageError, near
from nightjar.core.plan import Plan
from nightjar.orchestration.tasks import EDITED, Task

RELEASE = r"^r[0-9]{6,}-[0-9]{4}(-[0-9]{2}){2}-[0-9a-f]{8}$"
ROWS_FILE = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,150}\.(csv|parquet)$"

Stage = Literal["ingest", "clean", "validate", "features", "score", "audit", "publish"]
Day = date | None


class NotAsked(Exception):
    """The run was not asked to do this task; the message says why."""


class Asked(BaseModel):
    """Frozen, and refuses parameters that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dry_run: bool = Field(default=False, description="Show what would run; run nothing.")

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Self:
        """The request that a run's parameters make.

        Raises:
            UsageError: a parameter is unknown or is not what it must be.
        """
        try:
            return cls.model_validate(dict(params))
        except ValidationError as error:
            shown = "; ".join(map(cls._fault, error.errors()))
            raise UsageError(f"the run cannot be done as asked: {shown}") from error

    @classmethod
    def _fault(cls, error: Any) -> str:
        kind, at = error["type"], ".".join(map(str, error["loc"]))
        if kind == "extra_forbidden":
            return f"no parameter {at!r}; {near(at, cls.model_fields)}"
        if kind == "missing":
            return f"{at} is missing"
        if kind == "value_error":
            return str(error["ctx"]["error"])
        expected = f"{error['msg'][0].lower()}{error['msg'][1:]}"
        if kind.startswith("date"):
            expected = "expected a day of the calendar, YYYY-MM-DD"
        elif kind == "string_pattern_mismatch":
            expected = f"it must match {error['ctx']['pattern']}"
        return f"{at}: {expected} (found {error['input']!r})"

    @classmethod
    def schemas(cls, plan: Plan) -> dict[str, dict[str, Any]]:
        """The JSON schema of each parameter; a form can be drawn from it.

        It holds the default too, unless the parameter must be said. What every run may be asked
        for comes last.
        """
        schema = cls.model_json_schema()
        found = {}
        for name, declared in schema["properties"].items():
            options = declared.pop("anyOf", [])
            for option in options:  # Airflow's form knows lists of types, not alternatives
                kind = option.pop("type")
                declared.update(option)
                declared["type"] = [*declared.get("type", []), kind]
            if "enum" in declared and "null" in declared["type"]:
                declared["enum"] = [*declared["enum"], None]
            found[name] = {k: v for k, v in declared.items() if k != "title"}
        return dict(sorted(found.items(), key=lambda item: item[0] in Request.model_fields))


class Request(Asked):
    """What steps may be asked for, of a night or of a training."""

    force: bool = Field(default=False, description="Do finished steps again.")


class NightRequest(Request):
    """What a night may be asked for."""

    ds: Day = Field(
        default=None, description="The night. Empty: the day on which the data interval begins."
    )
    only: Stage | None = Field(default=None, description="Run one stage of the night alone.")
    model: Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,8}$")] | None = Field(
        default=None, description="Score with this version of the model. Empty: the champion."
    )

    def night(self, interval: tuple[date, date] | None) -> date:
        """The night's date; `interval` is the run's data interval.

        Raises:
            UsageError: neither says a night.
        """
        if self.ds is not None:
            return self.ds
        if interval is None:
            raise UsageError("the run has neither a parameter ds nor a data interval: say a night")
        return interval[0]

    def arguments(self, task: Task, interval: tuple[date, date] | None) -> list[str]:
        """What the task's job is called with after the pipeline's name.

        Raises:
            NotAsked: the run is for another stage alone.
        """
        if self.only not in (None, task.job) and task.job != "night":
            raise NotAsked(f"only {self.only} was asked for")
        given = ["--ds", self.night(interval).isoformat()]
        if task.source:
            given += ["--source", task.source]
        if self.model and task.job in ("score", "night"):
            given += ["--model", self.model]
        return given + (["--force"] if self.force else [])

    def job(self, task: Task) -> str:
        """The entry point to run: of a night in one task, a stage alone has its own."""
        return self.only if self.only and task.job == "night" else task.job


class TrainRequest(Request):
    """What a training may be asked for."""

    as_of: Day = Field(
        default=None,
        description="The day of training. Empty: the day on which the data interval ends.",
    )
    load_first: Day = Field(default=None, description="First night to load before.")
    load_last: Day = Field(default=None, description="Last night to load before.")
    candidates: list[str] = Field(
        default=[],
        description="Train these candidates. Empty: all.",
        json_schema_extra={"uniqueItems": True},
    )

    @model_validator(mode="after")
    def _range(self) -> Self:
        if (self.load_first is None) != (self.load_last is None):
            raise ValueError("load_first and load_last are said together")
        if self.load_first and self.load_last and self.load_last < self.load_first:
            raise ValueError(f"load_first {self.load_first} is after load_last {self.load_last}")
        return self

    def night(self, interval: tuple[date, date] | None) -> date:
        """The day of training; `interval` is the run's data interval.

        Raises:
            UsageError: neither says a day.
        """
        if self.as_of is not None:
            return self.as_of
        if interval is None:
            raise UsageError("the run has neither a parameter as_of nor a data interval: say a day")
        return interval[1]

    def arguments(self, task: Task, interval: tuple[date, date] | None) -> list[str]:
        """What the task's job is called with after the pipeline's name.

        Raises:
            NotAsked: no history is to be loaded, or other candidates are to be trained.
        """
        # What was tried again is decided on again, without force.
        force = ["--force"] if self.force and task.job != "promote" else []
        if task.job == "load":
            if self.load_first is None or self.load_last is None:
                raise NotAsked("no history is to be loaded")
            return ["--ds", str(self.load_first), "--to", str(self.load_last), *force]
        names = self.candidates
        if task.candidate:
            if names and task.candidate not in names:
                raise NotAsked(f"only {', '.join(names)} was asked for")
            names = [task.candidate]
        chosen = [part for name in names for part in ("--candidate", name)]
        return ["--ds", self.night(interval).isoformat(), *chosen, *force]

    def job(self, task: Task) -> str:
        return task.job

    @classmethod
    def schemas(cls, plan: Plan) -> dict[str, dict[str, Any]]:
        found = super().schemas(plan)
        names = list(plan.spec.candidates)
        found["candidates"]["items"] = {"type": "string", "enum": names}
        found["candidates"]["examples"] = names  # what the form offers
        return found


class RepairRequest(Asked):
    """What a repair may be asked for."""

    what: Literal["replay", "rollback", "pin", "unpin"] = Field(
        description="replay: a night's rows from clean on, with what was mended since. rollback: "
        "readers see `release`. pin: `release` is kept, whatever the retention says; unpin: no "
        "longer.",
        json_schema_extra={
            "values_display": {
                "replay": "replay a night's rows",
                "rollback": "roll back to a release",
                "pin": "pin a release",
                "unpin": "unpin a release",
            }
        },
    )
    release: Annotated[str, StringConstraints(pattern=RELEASE)] | None = Field(
        default=None, description="For rollback, pin and unpin: a release's id."
    )
    ds: Day = Field(default=None, description="For replay: the night.")
    dataset: str | None = Field(
        default=None, description="For replay of mended rows: the source that they belong to."
    )
    rows: Annotated[str, StringConstraints(pattern=ROWS_FILE)] | None = Field(
        default=None,
        description=f"For replay of mended rows: the file's name in {EDITED}/ of the warehouse. "
        "Empty: the night itself, as contract and cleaning are now.",
    )
    reason: Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{0,500}$")] = Field(
        default="", description="Why; it is logged."
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        given = {n for n in ("release", "ds", "dataset", "rows") if getattr(self, n) is not None}
        wanted = {"ds"} if self.what == "replay" else {"release"}
        known = {"ds", "dataset", "rows"} if self.what == "replay" else wanted
        if wanted - given:
            raise ValueError(f"{self.what} needs {', '.join(wanted)}")
        if given - known:
            raise ValueError(f"{self.what} takes no {', '.join(sorted(given - known))}")
        if (self.dataset is None) != (self.rows is None):
            raise ValueError("dataset and rows are said together")
        return self

    def night(self, interval: tuple[date, date] | None) -> date:
        """The night of a replay.

        Raises:
            UsageError: the repair is of another kind.
        """
        if self.ds is None:
            raise UsageError(f"{self.what} is not about a night")
        return self.ds

    def arguments(self, task: Task, interval: tuple[date, date] | None) -> list[str]:
        """What the replay's job is called with after the pipeline's name, but for the rows.

        Raises:
            NotAsked: another kind of repair was asked for.
        """
        self.require(task.job)
        # With `=`, a reason that begins with a hyphen is a reason still.
        given = ["--ds", self.night(interval).isoformat(), f"--reason={self.reason}"]
        return given + ([f"--dataset={self.dataset}"] if self.dataset else [])

    def require(self, job: str) -> None:
        """Raises NotAsked where this kind of repair is not done by `job`."""
        if job != ("replay" if self.what == "replay" else "change_release"):
            raise NotAsked(f"{self.what} was asked for")

    def file(self, warehouse: Path) -> Path | None:
        """The file of mended rows; None where the night itself is replayed.

        Raises:
            UsageError: it is not there, or a link leads out of the folder.
        """
        if self.rows is None:
            return None
        folder = (warehouse / EDITED).resolve()
        path = (folder / self.rows).resolve()
        if path.parent != folder or not path.is_file():
            there = [p.name for p in folder.glob("*") if p.is_file() and not p.is_symlink()]
            raise UsageError(f"no file {self.rows!r} in {folder}; {near(self.rows, there)}")
        return path

    def job(self, task: Task) -> str:
        return task.job

    @classmethod
    def schemas(cls, plan: Plan) -> dict[str, dict[str, Any]]:
        found = super().schemas(plan)
        found["dataset"]["enum"] = [*plan.spec.sources, None]
        return found


REQUESTS: dict[str, type[NightRequest] | type[TrainRequest] | type[RepairRequest]] = {
    "nightly": NightRequest,
    "train": TrainRequest,
    "repair": RepairRequest,
}
