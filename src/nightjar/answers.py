"""How a command answers: text or JSON on standard output, errors of ours as one message."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from nightjar.core.errors import NightjarError


@contextmanager
def errors(as_json: bool) -> Iterator[None]:
    """Errors of ours as one message and their exit status; a defect keeps its traceback."""
    try:
        yield
    except NightjarError as error:
        if as_json:
            typer.echo(json.dumps({"error": error.as_dict()}, indent=1, default=str))
        typer.echo(f"nightjar: {error}", err=True)
        sys.exit(error.exit_status)


def answer(as_json: bool, data: dict[str, Any], text: str) -> None:
    """The answer of a command: `data` as JSON where asked, else `text`; nothing where empty."""
    if as_json:
        typer.echo(json.dumps(data, indent=1, default=str))
    elif text:
        typer.echo(text)
