"""Watches one rank from a process of its own, and ends it when it no longer gets on.

Run by its source text (`python -c`), with the standard library alone: a frozen or stalled process
cannot watch itself. Arguments: the rank's number and process id, the file where it marks its
progress, the folder that all ranks and the driver share, and the seconds that it may take for one
step of its own, for a step of others, and to start.
"""

import json
import os
import signal
import struct
import sys
import time
from pathlib import Path

FROZEN_SECONDS = 10.0
DRIVER_SECONDS = 60.0
POLL_SECONDS = 0.5


def main() -> None:
    rank, pid = int(sys.argv[1]), int(sys.argv[2])
    marks, shared = sys.argv[3], Path(sys.argv[4])
    own, others, starting = (float(a) for a in sys.argv[5:8])
    alive = shared / f"rank-{rank}.alive"
    last_mark, last_time = None, time.monotonic()
    stopped_since = None
    driver_mark, driver_time = "", time.monotonic()
    beats = 0
    while True:
        now = time.monotonic()
        status = process_state(pid)
        if status in ("", "Z", "X"):
            if not (shared / f"rank-{rank}.done").exists():
                report(shared, rank, pid, "died", 0, last_mark)
            return
        mark = struct.unpack("4q", Path(marks).read_bytes())
        if mark != last_mark:
            last_mark, last_time = mark, now
        count, own_code, reading, _ = mark
        idle = now - last_time
        stopped_since = (stopped_since or now) if status in ("T", "t") else None
        beats += 1
        alive.write_text(f"{pid} {beats}")
        driver = text_of(shared / "driver.alive")
        if driver != driver_mark:
            driver_mark, driver_time = driver, now
        fault = ""
        if stopped_since is not None and now - stopped_since > FROZEN_SECONDS:
            fault, idle = "frozen", now - stopped_since
        elif count <= 1:  # the first step builds the graph, which may take long
            fault = "not started" if idle > starting else ""
        elif (own_code or reading) and idle > own:
            fault = "stalled"
        elif idle > others:
            fault = "waiting"
        if not fault and (shared / "abort").exists():
            fault = "aborted"
        if not fault and now - driver_time > DRIVER_SECONDS:
            fault = "driver gone"
        if fault:
            report(shared, rank, pid, fault, idle, mark)
            os.kill(pid, signal.SIGKILL)
            return
        time.sleep(POLL_SECONDS)


def text_of(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def process_state(pid: int) -> str:
    """The letter that Linux gives a process; empty where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def report(shared: Path, rank: int, pid: int, fault: str, idle: float, mark: object) -> None:
    path = shared / f"rank-{rank}.report"
    if path.exists():  # the rank said more itself
        return
    found = {
        "rank": rank,
        "pid": pid,
        "host": os.uname().nodename,
        "fault": fault,
        "idle": round(idle, 1),
        "epoch": mark[3] if isinstance(mark, tuple) else 0,
    }
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(found))
    partial.replace(path)


if __name__ == "__main__":
    main()
