"""The corpus as a table of docs/input.md."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tests.corpus.cases import Case, Row

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "input.md"
BEGIN, END = "<!-- corpus -->\n", "<!-- /corpus -->\n"


def line(case: Case, spark: str) -> str:
    """A line of the table; all of it but the last cell is known without a run."""
    return f"{known(case)} {_cell(spark)} |"


def known(case: Case) -> str:
    return f"| {_cell(case.name)} | {_input(case)} | {_cell(case.promise)} |"


def in_words(found: list[Row] | str, case: Case) -> str:
    """What Spark's reader made of a case, and whether it is what must be."""
    if isinstance(found, str):
        return found
    if not case.code and not case.bad and sorted(found, key=str) == sorted(case.rows, key=str):
        return "the same"
    rows = [tuple(v for v in row if v is not None or len(row) < 5) for row in found[:2]]
    shown = ", ".join("(" + ", ".join(str(v)[:24] for v in row) + ")" for row in rows)
    count = f"{len(found)} row{'s' if len(found) != 1 else ''}"
    return f"**{count}**" + (f": {shown[:80]}" if shown else "")


def section(cases: Sequence[Case], found: Sequence[list[Row] | str]) -> str:
    """The whole section, with its sum."""
    words = [in_words(f, case) for f, case in zip(found, cases, strict=True)]
    same = sum(word == "the same" for word in words)
    errors = sum(word.startswith("error: ") for word in words)
    silent = sum(word.startswith("**") for word in words)
    right = sum(
        word.startswith("error: ") and bool(case.code)
        for word, case in zip(words, cases, strict=True)
    )
    parts = [
        f"Of {len(cases)} cases Spark's own reader, given the schema and what the case declares, "
        f"answers {same} as it must; in {errors} it stops with an error (in {right} of them the "
        f"file is to be refused); in {silent}, in bold, it gives other rows "
        "and says nothing.\n"
    ]
    group = ""
    for case, word in zip(cases, words, strict=True):
        if case.group != group:
            group = case.group
            parts.append(f"\n### {group}\n\n| case | input | what happens | plain Spark |\n")
            parts.append("|---|---|---|---|\n")
        parts.append(line(case, word) + "\n")
    return "".join(parts)


def replaced(document: str, new: str) -> str:
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + new + END + after


def current(document: str) -> str:
    return document.partition(BEGIN)[2].partition(END)[0]


def _input(case: Case) -> str:
    if case.table == "values" or case.arrange:
        return ""
    packed = case.file.endswith((".gz", ".bz2", ".zst")) or case.content[:2] in (b"\x1f\x8b", b"PK")
    if case.format == "parquet" or packed:
        return "(binary)"
    text = case.content.decode("utf-8", "backslashreplace")
    shown = text if len(text) <= 60 else text[:57] + "..."
    return f"`{_plain(shown)}`" if shown else ""


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")


def _plain(text: str) -> str:
    """On one line, with an escape for what cannot be seen or would end a cell."""
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    escaped = escaped.replace("`|`", "`\\|`")
    return re.sub(r"(?<!\\)\|", "\\|", escaped) if "`" not in text else escaped
