"""Readers in a loop against writers: every answer is one whole release, and none is an error."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from forge import PIPELINE, Batch

from nightjar.core.errors import Conflict, NotThereYet
from nightjar.core.releases import ReleaseLog
from nightjar.core.releases.vacuum import Retention, vacuum

READERS = ("duckdb", "pandas", "polars")
LOOP = Path(__file__).with_name("reader_loop.py")
Batches = dict[tuple[int, str], Batch]


def loop(kind: str, warehouse: Path, seconds: float, quota: int = 0) -> dict[str, Any]:
    answer = subprocess.run(
        [sys.executable, str(LOOP), kind, str(warehouse), str(seconds), str(quota)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
    found: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return found


def write(warehouse: Path, batches: Batches, stop: threading.Event, pause: float, seed: int,
          others: bool) -> int:  # fmt: skip
    """Release every `pause` seconds; with `others`, roll back and vacuum now and then."""
    log, chance, count = ReleaseLog(warehouse, PIPELINE), random.Random(seed), 0
    while not stop.is_set():
        batch = batches[chance.randrange(6), chance.choice("abc")]
        try:
            batch.publish(log, again=True)
            count += 1
            if others and count % 5 == 0:
                log.rollback(chance.choice(log.all()).id)
            if others and count % 7 == 0:
                vacuum(log, Retention(releases=5, grace=timedelta(seconds=60)))
        except (Conflict, NotThereYet):
            continue
        stop.wait(pause)
    return count


def contend(
    warehouse: Path, batches: Batches, kinds: tuple[str, ...], seconds: float, pause: float,
    writers: int,
    quotas: dict[str, int] | None = None,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    quotas = quotas or {}
    for night in range(6):
        batches[night, "a"].publish(ReleaseLog(warehouse, PIPELINE))
    stop = threading.Event()
    with ThreadPoolExecutor(len(kinds) + writers) as pool:
        written = [
            pool.submit(write, warehouse, batches, stop, pause, i, writers > 1)
            for i in range(writers)
        ]
        reading = {k: pool.submit(loop, k, warehouse, seconds, quotas.get(k, 0)) for k in kinds}
        try:
            answers = {kind: future.result() for kind, future in reading.items()}
        finally:
            stop.set()
        answers["writers"] = {"releases": sum(f.result() for f in written)}
    for kind in kinds:
        assert answers[kind]["wrong"] == [], kind
        assert answers[kind]["errors"] == [], kind
    return answers


def test_readers_against_two_writers_rollback_and_vacuum(place: Path, batches: Batches) -> None:
    answers = contend(place, batches, (*READERS, "catalog"), 4, 0.2, 2)
    assert all(answers[kind]["reads"] > 20 for kind in READERS)
    assert answers["writers"]["releases"] > 5


QUOTAS = {"duckdb": 32_000, "pandas": 15_000, "polars": 20_000, "arrow": 33_000, "spark": 500}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("writers", [1, 2])
def test_readers_for_two_minutes(place: Path, batches: Batches, writers: int) -> None:
    """At least two minutes, and until each has its share of 100,000 reads, 500 of them Spark's."""
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java")
    answers = contend(place, batches, (*QUOTAS, "catalog"), 120, 1, writers, QUOTAS)
    print("\n", answers)
    assert sum(v.get("reads", 0) for v in answers.values()) >= 100_000


def test_a_glob_of_the_stable_path_is_one_release_or_an_error(
    place: Path, batches: Batches
) -> None:
    """While at most one release lands within a read; of more, nothing is promised (releases.md)."""
    for night in range(3):
        batches[night, "a"].publish(ReleaseLog(place, PIPELINE))
    stop = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        writing = pool.submit(write, place, batches, stop, 0.0, 3, False)
        try:
            time.sleep(0.1)
            found = loop("unresolved", place, 3)
        finally:
            stop.set()
        assert writing.result() > 5
    assert found["wrong"] == []
    assert found["reads"] > 20
