"""What the spark-submit entry points share: the same arguments as the command line's, one stage."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from nightjar.core.errors import NightjarError, UsageError, near
from nightjar.core.plan import load_plan
from nightjar.core.project import Project, nights_between, parse_ds
from nightjar.engine.open import open_work
from nightjar.engine.work import Work


def run_job(do: Callable[[Work], object], arguments: Sequence[str] | None = None) -> None:
    """Run `do` on the pipeline and night that the arguments name, and exit as the command would."""
    run_given(do, job_parser().parse_args(arguments))


def job_parser() -> argparse.ArgumentParser:
    """The arguments that every job takes.

    PIPELINE --ds YYYY-MM-DD [--to YYYY-MM-DD] [--project P] [--warehouse W]
    [--source S ...] [--candidate C ...] [--model VERSION] [--force] [--profile NAME]. The profile
    is for `python jobs/x.py` alone; under spark-submit the launcher decides.
    """
    parser = argparse.ArgumentParser(description="One stage of a night, for spark-submit.")
    parser.add_argument("pipeline")
    parser.add_argument("--ds", required=True)
    parser.add_argument("--to", help="last night of a range, for loads of history")
    parser.add_argument("--project", type=Path)
    parser.add_argument("--warehouse", type=Path)
    parser.add_argument("--source", action="append", default=[], help="this source alone")
    parser.add_argument("--candidate", action="append", default=[], help="this candidate alone")
    parser.add_argument("--model", help="score with this version, not with the champion")
    parser.add_argument("--profile", default="local")
    parser.add_argument("--force", action="store_true")
    return parser


def run_given(do: Callable[[Work], object], given: argparse.Namespace) -> None:
    """Run `do` on what the parsed arguments name, and exit as the command would."""
    try:
        first = parse_ds(given.ds)
        last = parse_ds(given.to) if given.to else first
        project = Project.find(given.project, given.warehouse)
        plan = load_plan(project, given.pipeline)
        chosen = _known_sources(given.source, plan.spec.sources)
        if given.candidate:
            plan = plan.with_candidates(given.candidate)
        nights = nights_between(first, last)
        with open_work(
            project, plan, nights, given.profile, _say, given.force, chosen, given.model
        ) as work:
            do(work)
    except NightjarError as error:
        print(f"nightjar: {error}", file=sys.stderr, flush=True)  # noqa: T201
        sys.exit(error.exit_status)


def _known_sources(given: Sequence[str], known: Collection[str]) -> tuple[str, ...]:
    """The names that were given, each once; refuses one that is not known."""
    for name in given:
        if name not in known:
            raise UsageError(f"no source is called {name!r}; {near(name, known)}", found=name)
    return tuple(dict.fromkeys(given))


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201
