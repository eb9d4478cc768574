"""The corpus is whole, and docs/input.md shows all of it and says what is so."""

from __future__ import annotations

import re
from collections import Counter

import yaml
from tests.corpus import table
from tests.corpus.cases import cases

from nightjar.core.errors import INPUT_ERRORS
from nightjar.core.pipeline import Source


def test_there_are_enough_cases_and_each_is_another() -> None:
    found = cases()
    assert len(found) >= 150
    twice = Counter((case.group, case.name) for case in found)
    assert [key for key, count in twice.items() if count > 1] == []


def test_the_table_is_that_of_the_corpus() -> None:
    shown = table.current(table.DOCUMENT.read_text()).splitlines()
    lines = [line for line in shown if line.startswith("| ") and not line.startswith("| case |")]
    assert len(lines) == len(cases()), "run: python -m tests.corpus"
    for line, case in zip(lines, cases(), strict=True):
        assert line.startswith(table.known(case)), "run: python -m tests.corpus"


def test_the_source_that_is_shown_is_one_and_shows_every_key() -> None:
    shown = re.search(r"^```yaml\n(.*?)^```", table.DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    assert shown
    (source,) = yaml.safe_load(shown[1])["sources"].values()
    assert Source.model_validate(source).model_fields_set == set(Source.model_fields)


def test_every_code_is_told() -> None:
    told = re.findall(r"^\| `(INPUT_\w+)` \|", table.DOCUMENT.read_text(), re.MULTILINE)
    assert told == list(INPUT_ERRORS)
    assert {case.code for case in cases()} - {""} <= set(told)
