"""Arguments and options that commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
