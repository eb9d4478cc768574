"""The guard of a rank, which ends it: on a process that does nothing, with short limits."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import nightjar

SOURCE = Path(nightjar.__file__).parent / "engine/trainers/horovod_keras/guard.py"
LIMITS = {"own": 0.6, "others": 1.2, "starting": 2.4}


class Rank:
    """A process to be guarded, its marks, and the guard."""

    def __init__(self, folder: Path, mark: tuple[int, int, int, int]) -> None:
        self.folder, self.marks = folder, folder / "marks"
        self.mark(*mark)
        self.process = subprocess.Popen(["sleep", "60"])
        text = SOURCE.read_text()
        for old, new in (("FROZEN_SECONDS = 10.0", "0.5"), ("DRIVER_SECONDS = 60.0", "3.0")):
            assert old in text
            text = text.replace(old, f"{old.split(' =')[0]} = {new}")
        text = text.replace("POLL_SECONDS = 0.5", "POLL_SECONDS = 0.05")
        limits = [str(limit) for limit in LIMITS.values()]
        command = [sys.executable, "-I", "-S", "-c", text, "3", str(self.process.pid)]
        self.guard = subprocess.Popen([*command, str(self.marks), str(folder), *limits])

    def mark(self, *mark: int) -> None:
        handle = os.open(self.marks, os.O_WRONLY | os.O_CREAT)
        os.pwrite(handle, struct.pack("4q", *mark), 0)
        os.close(handle)

    def report(self) -> dict[str, Any]:
        """What the guard says when it has ended."""
        assert self.guard.wait(timeout=20) == 0
        path = self.folder / "rank-3.report"
        return json.loads(path.read_text()) if path.exists() else {}

    def end(self) -> None:
        for process in (self.guard, self.process):
            process.kill()
            process.wait()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Any]:
    made: list[Rank] = []

    def make(*mark: int) -> Rank:
        made.append(Rank(tmp_path, mark))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for rank in made:
        rank.end()


@pytest.mark.parametrize(
    ("mark", "fault", "limit"),
    [
        ((0, 0, 0, 0), "not started", "starting"),
        ((1, 0, 0, 0), "not started", "starting"),
        ((5, 1, 0, 2), "stalled", "own"),
        ((5, 0, 1, 2), "stalled", "own"),
        ((5, 0, 0, 2), "waiting", "others"),
    ],
    ids=["not started", "first step", "own code", "reading", "waiting for others"],
)
def test_a_rank_without_progress_is_ended(
    guarded: Any, mark: tuple[int, ...], fault: str, limit: str
) -> None:
    rank = guarded(*mark)
    found = rank.report()
    assert (found["rank"], found["fault"], found["epoch"]) == (3, fault, mark[3])
    assert LIMITS[limit] <= found["idle"] < LIMITS[limit] + 1
    assert rank.process.wait(timeout=5) == -signal.SIGKILL


def test_a_frozen_rank_is_ended(guarded: Any) -> None:
    rank = guarded(5, 0, 0, 1)
    os.kill(rank.process.pid, signal.SIGSTOP)
    assert rank.report()["fault"] == "frozen"
    assert rank.process.wait(timeout=5) == -signal.SIGKILL


def test_a_killed_rank_is_reported(guarded: Any) -> None:
    rank = guarded(5, 0, 0, 1)
    rank.process.kill()
    rank.process.wait()
    assert rank.report()["fault"] == "died"


def test_a_rank_that_has_ended_well_is_not(guarded: Any, tmp_path: Path) -> None:
    rank = guarded(5, 0, 0, 1)
    (tmp_path / "rank-3.done").touch()
    rank.process.kill()
    rank.process.wait()
    assert rank.report() == {}


def test_a_rank_that_gets_on_is_left_alone_until_it_is_told_to_end(
    guarded: Any, tmp_path: Path
) -> None:
    rank = guarded(2, 1, 0, 0)
    for count in range(20):
        rank.mark(3 + count, 1, 0, 0)
        time.sleep(0.1)
    assert rank.guard.poll() is None
    (tmp_path / "abort").touch()
    assert rank.report()["fault"] == "aborted"


def test_a_rank_without_a_driver_is_ended(guarded: Any) -> None:
    rank = guarded(2, 1, 0, 0)
    deadline = time.monotonic() + 10
    count = 3
    while rank.guard.poll() is None and time.monotonic() < deadline:
        rank.mark(count := count + 1, 1, 0, 0)
        time.sleep(0.1)
    assert rank.report()["fault"] == "driver gone"
