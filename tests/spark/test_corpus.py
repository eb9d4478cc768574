"""Every case of the corpus ends as it promises, through the real ingest and clean."""

from __future__ import annotations

import pytest
from pyspark.sql import SparkSession
from tests.corpus.cases import Case, cases
from tests.corpus.run import Outcome, run

CASES = cases()


@pytest.fixture(scope="module")
def outcomes(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    return run(spark, CASES, tmp_path_factory.mktemp("corpus"))


@pytest.mark.parametrize("number", range(len(CASES)), ids=[f"{c.group}-{c.name}" for c in CASES])
def test_the_promise_is_kept(outcomes: list[Outcome], number: int) -> None:
    case: Case = CASES[number]
    found = outcomes[number]
    assert (found.code, found.message) == (case.code, found.message if case.code else "")
    assert sorted(found.rows, key=str) == sorted(case.rows, key=str)
    assert found.bad.keys() == case.bad.keys()
    for record, reason in case.bad.items():
        assert reason in found.bad[record]
    if not case.code:
        assert found.records == len(found.rows) + len(found.bad)
