"""Runs a command so that nothing of it outlives the process that started this one (Linux).

    python -I launch.py PARENT_PID COMMAND ...

A task may die at any moment, by SIGKILL too; then the kernel tells this process, and it ends the
command with everything that the command started: spark-submit's JVM, the Python driver under it
and the workers under that, also those that have lost their parent or left their group. The same
happens when the command ends by itself. The exit status is the command's.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

GRACE = 5.0  # seconds between SIGTERM and SIGKILL
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def launch(parent: int, command: Sequence[str]) -> int:
    """Run `command` until it or the process `parent` ends; returns an exit status."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _stop)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # orphans below become our children
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        return 128 + signal.SIGTERM  # it died before the kernel was asked
    try:
        # Should this process be killed itself, the JVM at least goes with it.
        process = subprocess.Popen(
            command,
            preexec_fn=lambda: _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),
        )
        status = process.wait()
        return status if status >= 0 else 128 - status
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        _end_descendants()


def _stop(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _end_descendants() -> None:
    """SIGTERM, then SIGKILL, to everything below this process, until nothing is."""
    deadline = time.monotonic() + GRACE
    number = signal.SIGTERM
    told: set[int] = set()
    while below := _descendants():
        if number is signal.SIGTERM and time.monotonic() > deadline:
            number, told = signal.SIGKILL, set()
        for pid in below - told:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        told |= below
        _reap()
        time.sleep(0.05)


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _descendants() -> set[int]:
    """Every living process below this one."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                # The name in brackets may hold anything: what counts stands after it.
                state, above = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if state != "Z" or int(above) == os.getpid():
                children.setdefault(int(above), []).append(int(folder.name))
    found: set[int] = set()
    front = [os.getpid()]
    while front:
        below = children.get(front.pop(), [])
        found.update(below)
        front += below
    return found


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(launch(int(sys.argv[1]), sys.argv[2:]))
