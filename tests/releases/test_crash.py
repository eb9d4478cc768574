"""Killed, refused, out of space, raced: at every file-system call of every operation."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forge import FAULTS, PIPELINE, ROWS, Batch, shown

from nightjar.core.releases import ReleaseLog
from nightjar.core.releases.verify import verify

Batches = dict[tuple[int, str], Batch]
OPERATIONS: dict[str, dict[str, Any]] = {
    "first": {"op": "publish", "batch": [0, "a"], "before": []},
    "add": {"op": "publish", "batch": [2, "a"], "before": [(0, "a"), (1, "a")]},
    "replace": {"op": "publish", "batch": [1, "b"], "before": [(0, "a"), (1, "a")]},
    "rollback": {"op": "rollback", "release": "2013-01-01/a", "before": [(0, "a"), (1, "a")]},
    "pin": {"op": "pin", "release": "2013-01-01/a", "before": [(0, "a")]},
    "vacuum": {"op": "vacuum", "before": [(0, "a"), (0, "b"), (0, "c"), (1, "a")]},
}


class Crasher:
    def __init__(self, batches: Path) -> None:
        self.batches = batches
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("crash_server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, warehouse: Path, operation: dict[str, Any], **options: Any) -> list[Any]:
        order = {k: v for k, v in operation.items() if k != "before"} | options
        order |= {"warehouse": str(warehouse), "batches": str(self.batches)}
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@pytest.fixture(scope="module")
def crasher(batches: Batches) -> Iterator[Crasher]:
    made = Crasher(batches[0, "a"].folder.parent)
    yield made
    made.process.communicate(timeout=20)


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory, batches: Batches) -> dict[str, Path]:
    found = {}
    for name, operation in OPERATIONS.items():
        found[name] = tmp_path_factory.mktemp(name)
        log = ReleaseLog(found[name], PIPELINE)
        for key in operation["before"]:
            batches[key].publish(log)
    return found


def fresh(template: Path, place: Path) -> Path:
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(template, place, symlinks=True)
    return place


# -- readers ---------------------------------------------------------------------------------------


def read_duckdb(folder: str) -> dict[str, list[int]]:
    import duckdb

    rows = duckdb.sql(f"SELECT run, k FROM read_parquet('{folder}/ds=*/*.parquet')").fetchall()
    return by_run(rows)


def read_pandas(folder: str) -> dict[str, list[int]]:
    import pandas as pd

    frame = pd.read_parquet(folder)
    return by_run(zip(frame["run"], frame["k"], strict=True))


def read_polars(folder: str) -> dict[str, list[int]]:
    import polars as pl

    return by_run(pl.read_parquet(f"{folder}/ds=*/*.parquet").select("run", "k").rows())


def by_run(rows: Any) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for run, key in rows:
        found.setdefault(str(run), []).append(int(key))
    return found


READERS = {"duckdb": read_duckdb, "pandas": read_pandas, "polars": read_polars}


def whole(found: dict[str, list[int]], expected: dict[str, str], rows: int = 2 * ROWS) -> None:
    """One release: every row of every night once, and nothing else."""
    assert set(found) == set(expected.values())
    for run, keys in found.items():
        assert sorted(keys) == list(range(rows)), run


def check(
    warehouse: Path,
    allowed: list[dict[str, str]],
    seed: int,
    pointed: list[dict[str, str]] | None = None,
) -> dict[str, str]:
    """Readers see one of the allowed states, whole, whichever way they come.

    `pointed`: what the pointer may name, where it may lag behind the log.
    """
    log = ReleaseLog(warehouse, PIPELINE)
    release = log.current()
    state = shown(log)
    assert state in allowed
    if release is not None:
        names = list(READERS)
        for name in names if seed < 0 else [names[seed % 3]]:
            whole(READERS[name](str(log.folder(release))), state)
        for kept in log.all():
            verify(log, kept)
    link = warehouse / "published" / PIPELINE / "current"
    if link.exists():
        runs = read_duckdb(os.path.realpath(link))
        assert any(set(runs) == set(a.values()) for a in pointed or allowed)
    return state


def expected_states(
    template: Path, crasher: Crasher, operation: dict[str, Any], place: Path
) -> tuple[dict[str, str], dict[str, str], int]:
    """What is seen before and after, and how many file-system calls lie in between."""
    fresh(template, place)
    before = shown(ReleaseLog(place, PIPELINE))
    ((answer, calls, _),) = crasher(place, operation)
    assert answer in ("landed", "done")
    return before, shown(ReleaseLog(place, PIPELINE)), calls


# -- SIGKILL ---------------------------------------------------------------------------------------


def kill_everywhere(
    name: str, seeds: range, stride: int, crasher: Crasher, template: Path, place: Path
) -> tuple[int, int]:
    operation = OPERATIONS[name]
    before, after, calls = expected_states(template, crasher, operation, place)
    cases = 0
    for seed in seeds:
        for at in range(1 + seed % stride, calls + 1, stride):
            fresh(template, place)
            ((answer, _, _),) = crasher(
                place, operation, at=at, fault="kill", seed=seed * 1000 + at
            )
            assert answer == "killed"
            seen = check(place, [before, after], seed + at)
            if seed % 3 == 2:  # dies again on the way back
                crasher(place, operation, at=1 + (at * 7 + seed) % calls, fault="kill", seed=at)
                check(place, [after] if seen == after else [before, after], seed, [before, after])
            ((answer, _, _),) = crasher(place, operation)
            assert answer in ("landed", "had landed", "done"), answer
            check(place, [after], -1 if at % 5 == 0 else seed + at + 1)
            cases += 1
    return calls, cases


@pytest.mark.parametrize("name", OPERATIONS)
def test_killed_at_any_call(
    name: str, crasher: Crasher, templates: dict[str, Path], place: Path
) -> None:
    calls, _ = kill_everywhere(name, range(3), 7, crasher, templates[name], place)
    assert calls >= 20


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", OPERATIONS)
def test_killed_at_every_call_50_times(
    name: str,
    crasher: Crasher,
    templates: dict[str, Path],
    place: Path,
    record_property: Any,
) -> None:
    found = kill_everywhere(name, range(50), 1, crasher, templates[name], place)
    record_property("calls, crashes", found)
    print(f"\n{name}: {found[0]} calls, {found[1]} crashes")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_spark_reads_what_a_crash_leaves(
    crasher: Crasher, templates: dict[str, Path], place: Path
) -> None:
    """Killed at each call of a publish that replaces a night; then Spark reads, in one session."""
    from reader_loop import spark_reader

    operation, template = OPERATIONS["replace"], templates["replace"]
    before, after, calls = expected_states(template, crasher, operation, place / "0")
    read = spark_reader()
    for at in range(1, calls + 1):
        crasher(fresh(template, place / str(at)), operation, at=at, fault="kill", seed=at)
        link = place / str(at) / "published" / PIPELINE / "current"
        found = read(os.path.realpath(link))
        assert set(found) in (set(before.values()), set(after.values()))
        assert set(found.values()) == {2 * ROWS}
    print(f"\nSpark read {calls} crashed warehouses")


# -- errors of the medium --------------------------------------------------------------------------


def fail_everywhere(name: str, stride: int, crasher: Crasher, template: Path, place: Path) -> int:
    operation = OPERATIONS[name]
    before, after, calls = expected_states(template, crasher, operation, place)
    cases = 0
    for i, number in enumerate(FAULTS.values()):
        for persistent in (False, True):
            for at in range(1 + (i * 2 + persistent) % stride, calls + 1, stride):
                fresh(template, place)
                ((answer, _, hit),) = crasher(
                    place, operation, at=at, fault=number, persistent=persistent, seed=at
                )
                assert hit
                # Cleaning up is best effort: only there may an error pass without a word.
                assert answer in ("STORAGE", "landed", "done"), (at, answer)
                check(
                    place, [before, after] if answer == "STORAGE" else [after], at, [before, after]
                )
                ((answer, _, _),) = crasher(place, operation)
                assert answer in ("landed", "had landed", "done"), answer
                check(place, [after], at + 1)
                cases += 1
    return cases


@pytest.mark.parametrize("name", OPERATIONS)
def test_errors_at_any_call(
    name: str, crasher: Crasher, templates: dict[str, Path], place: Path
) -> None:
    assert fail_everywhere(name, 13, crasher, templates[name], place) > 5


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", OPERATIONS)
def test_errors_at_every_call(
    name: str, crasher: Crasher, templates: dict[str, Path], place: Path
) -> None:
    cases = fail_everywhere(name, 1, crasher, templates[name], place)
    print(f"\n{name}: {cases} faults")


# -- races -----------------------------------------------------------------------------------------


def race(rounds: int, crasher: Crasher, batches: Batches, place: Path) -> None:
    log = ReleaseLog(place, PIPELINE)
    for turn in range(rounds):
        night, run = turn % 6, "abc"[turn // 6 % 3]
        before = len(log.versions())
        order = {"op": "publish", "batch": [night, run]}
        answers = [answer for answer, _, _ in crasher(place, order, times=8)]
        assert answers.count("landed") == 1, answers
        assert answers.count("had landed") == 7, answers
        assert len(log.versions()) == before + 1
        assert shown(log)[str(batches[night, run].ds)] == batches[night, run].run_key
        verify(log, log.require())
        link = place / "published" / PIPELINE / "current"
        assert os.path.realpath(link) == str(log.folder(log.require()))


def test_eight_racing_publishers(crasher: Crasher, batches: Batches, place: Path) -> None:
    race(12, crasher, batches, place)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_eight_racing_publishers_200_rounds(
    crasher: Crasher, batches: Batches, place: Path
) -> None:
    race(200, crasher, batches, place)


def test_racing_publishers_of_different_nights_all_land(
    crasher: Crasher, batches: Batches, place: Path
) -> None:
    for turn in range(3):
        servers = [Crasher(crasher.batches) for _ in range(4)]
        for night, server in enumerate(servers):
            assert server.process.stdin
            order = {"op": "publish", "batch": [night, "abc"[turn]], "warehouse": str(place)}
            server.process.stdin.write(json.dumps(order | {"batches": str(crasher.batches)}))
        for server in servers:
            out, _ = server.process.communicate("\n", timeout=60)
            assert json.loads(out)[0][0] == "landed"
        state = shown(ReleaseLog(place, PIPELINE))
        assert state == {
            str(batches[n, "abc"[turn]].ds): f"{batches[n, 'abc'[turn]].run_key}" for n in range(4)
        }
