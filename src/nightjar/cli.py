"""The `nightjar` command. Imports no engine until a command needs one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from typing import TYPE_CHECKING, Annotated

import typer

from nightjar import quarantine_commands, release_commands
from nightjar.answers import answer, errors
from nightjar.core.errors import SpecError
from nightjar.core.project import Project, nights_between
from nightjar.options import (
    AsJson,
    Ds,
    PipelineName,
    Profile,
    ProjectFolder,
    Warehouse,
    as_date,
)

if TYPE_CHECKING:
    from nightjar.core.plan import Plan
    from nightjar.engine.work import Work

EXIT_CODES = """Exit status: 0 done; 1 a defect of Nightjar; 2 the request, a pipeline, a contract or a setting is wrong; 3 the data was refused; 4 what is needed is not there, or storage failed; 5 another run came first; 6 this very result was released and rolled back."""  # noqa: E501

app = typer.Typer(
    name="nightjar",
    help="From dirty daily files to audited, scored Parquet releases.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


Force = Annotated[bool, typer.Option("--force", help="Run every step, also finished ones.")]


@app.command(epilog=EXIT_CODES)
def check(
    project: ProjectFolder = None,
    as_json: AsJson = False,
) -> None:
    """Check every pipeline and every contract, without starting Spark."""
    from nightjar.core.plan import check_project

    with errors(as_json):
        found = Project.find(project)
        plans, faults = check_project(found)
        try:
            from nightjar.engine.trainers import candidate_faults
        except ModuleNotFoundError as error:
            typer.echo(f"estimators were not checked: {error.name} is not installed", err=True)
        else:
            faults += [fault for plan in plans for fault in candidate_faults(plan)]
        if faults:
            raise SpecError(faults=faults)
        contracts = found.contract_names()
        text = f"{len(plans)} pipeline(s) and {len(contracts)} contract(s) hold"
        answer(as_json, {"pipelines": [p.spec.name for p in plans], "contracts": contracts}, text)


@app.command(epilog=EXIT_CODES)
def run(
    pipeline: PipelineName,
    ds: Ds,
    only: Annotated[str | None, typer.Option(help="Run one stage of the night alone.")] = None,
    force: Force = False,
    project: ProjectFolder = None,
    warehouse: Warehouse = None,
    profile: Profile = "local",
    as_json: AsJson = False,
) -> None:
    """Run a night: ingest, clean, validate, features, score, audit, publish."""
    with errors(as_json):
        from nightjar.core.plan import load_plan
        from nightjar.core.records import RecordBook

        found = Project.find(project, warehouse)
        plan = load_plan(found, pipeline)
        from nightjar.engine.night import preflight, run_night

        preflight(found, plan, [ds], only)  # a fault is said before a JVM starts
        with _work(found, plan, [ds], profile, force, as_json) as work:
            run_night(work, only)
        if only is not None:
            answer(as_json, {"pipeline": pipeline, "ds": str(ds), "stage": only}, "")
            return
        published = RecordBook(found.warehouse, pipeline).get(ds, "publish")
        assert published is not None, "run_night publishes or raises"
        data = {"pipeline": pipeline, "ds": str(ds), **published.details, **published.counts}
        answer(
            as_json,
            data,
            f"{pipeline} {ds}: release {published.details['release']}, "
            f"{published.counts['rows']:,} rows",
        )


@app.command(epilog=EXIT_CODES)
def load(
    pipeline: PipelineName,
    first: Annotated[
        date, typer.Option("--from", parser=as_date, metavar="YYYY-MM-DD", help="First night.")
    ],
    last: Annotated[
        date, typer.Option("--to", parser=as_date, metavar="YYYY-MM-DD", help="Last night.")
    ],
    force: Force = False,
    project: ProjectFolder = None,
    warehouse: Warehouse = None,
    profile: Profile = "local",
    as_json: AsJson = False,
) -> None:
    """Ingest, clean and validate a range of nights at once, as history to learn from."""
    with errors(as_json):
        nights = nights_between(first, last)
        from nightjar.core.plan import load_plan

        found = Project.find(project, warehouse)
        plan = load_plan(found, pipeline)
        from nightjar.engine import night
        from nightjar.engine.delivery import look_at_delivery

        look_at_delivery(found, plan, nights)
        with _work(found, plan, nights, profile, force, as_json) as work:
            night.load(work)
        answer(as_json, {"pipeline": pipeline, "nights": len(nights)}, f"{len(nights)} nights")


@app.command(epilog=EXIT_CODES)
def train(
    pipeline: PipelineName,
    as_of: Annotated[
        date,
        typer.Option(
            "--as-of",
            parser=as_date,
            metavar="YYYY-MM-DD",
            help="The day of training: labels known by then are learnt from.",
        ),
    ],
    candidate: Annotated[
        list[str] | None, typer.Option(help="Train this candidate alone; may be said again.")
    ] = None,
    force: Force = False,
    project: ProjectFolder = None,
    warehouse: Warehouse = None,
    profile: Profile = "local",
    as_json: AsJson = False,
) -> None:
    """Train the candidates on the loaded nights; promote the best if the gate lets it."""
    with errors(as_json):
        from nightjar.core.plan import load_plan

        found = Project.find(project, warehouse)
        plan = load_plan(found, pipeline)
        if candidate:
            plan = plan.with_candidates(candidate)
        with _work(found, plan, [as_of], profile, force, as_json) as work:
            from nightjar.engine.training import train as train_candidates

            record = train_candidates(work, as_of)
        details = dict(record.details)
        verdict = (
            f"champion: {details['champion']}"
            if details["promoted"]
            else f"not promoted: {'; '.join(details['reasons'])}"
        )
        answer(as_json, details, f"{verdict}\nPicture  {found.warehouse / details['report']}")


@app.command(epilog=EXIT_CODES)
def demo(
    project: ProjectFolder = None,
    warehouse: Warehouse = None,
    profile: Profile = "local",
) -> None:
    """Run the whole of pipeline flight_delays on real flights: load, train, three nights."""
    with errors(False):
        from nightjar.demo import run_demo

        run_demo(Project.find(project, warehouse), profile)


release_commands.add_to(app, EXIT_CODES)
quarantine_commands.add_to(app, EXIT_CODES)


def main() -> None:
    """The entry point of the `nightjar` command."""
    app()


@contextmanager
def _work(
    project: Project, plan: Plan, nights: list[date], profile: str, force: bool, as_json: bool
) -> Iterator[Work]:
    """The work of one command; its Spark session is stopped at the end."""
    from nightjar.engine.open import open_work

    say: Callable[[str], None] = lambda line: typer.echo(line, err=as_json)  # noqa: E731
    with open_work(project, plan, nights, profile, say, force) as work:
        yield work


if __name__ == "__main__":
    main()
