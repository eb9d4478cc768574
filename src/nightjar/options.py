"""Arguments and options that commands share."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated

import typer

from nightjar.core.errors import UsageError
from nightjar.core.project import parse_ds


def as_date(text: str) -> date:
    """A date from the command line."""
    try:
        return parse_ds(text)
    except UsageError as error:
        raise typer.BadParameter(error.message) from error


Ds = Annotated[
    date, typer.Option("--ds", parser=as_date, metavar="YYYY-MM-DD", help="The night's date.")
]
MaybeDs = Annotated[
    date | None, typer.Option("--ds", parser=as_date, metavar="YYYY-MM-DD", help="One night alone.")
]
Profile = Annotated[
    str, typer.Option("--profile", help="Where to run: a file of spark-conf/, without .conf.")
]
PipelineName = Annotated[str, typer.Argument(help="A pipeline: the name of a file in pipelines/.")]
ProjectFolder = Annotated[
    Path | None, typer.Option("--project", help="The project's folder. Default: here or above.")
]
Warehouse = Annotated[
    Path | None,
    typer.Option(
        "--warehouse",
        help="Where data is kept. Default: $NIGHTJAR_WAREHOUSE, or warehouse/ in the project.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Answer in JSON on standard output.")]
