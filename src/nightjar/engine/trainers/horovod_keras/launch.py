"""Ranks on Spark's executors, and an end of the training within a bounded time, come what may.

Every rank has a guard (guard.py), which ends it when it is frozen, stalls or waits too long. The
driver reads what the guards and the ranks report, and looks after the guards themselves.
"""

from __future__ import annotations

import contextlib
import json
import logging
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any, TextIO

from pyspark.sql import SparkSession

from nightjar.core.errors import TrainingFailed
from nightjar.engine.trainers.horovod_keras.job import Job
from nightjar.engine.trainers.horovod_keras.rank import START_SECONDS

SILENT_SECONDS = 45.0  # a guard that says nothing for so long is gone, and its machine with it
GRACE_SECONDS = 2.0  # for Horovod to end the other ranks after one has failed
ENDING_SECONDS = 20.0  # for the guards to do it
_FAULTS = {
    "frozen": "was frozen: the system had stopped its process for {idle:.0f} s",
    "stalled": "made no progress in code of its own for {idle:.0f} s",
    "waiting": "waited for another rank for {idle:.0f} s",
    "not started": "did not make its first step within {idle:.0f} s",
    "died": "ended without a word: its process was killed (out of memory?)",
    "silent": "and its guard have not been heard of for {idle:.0f} s: its machine is gone",
    "driver gone": "heard nothing of the driver any more",
    "error": "failed: {message}",
    "aborted": "was ended because another failed",
}
# What stands first is the cause of what stands behind it.
_RANKING = (
    *("died", "frozen", "silent", "stalled", "error"),
    *("not started", "waiting", "driver gone", "aborted"),
)
_ECHOES = ("HorovodInternalError", "Horovod has been shut down")


def run(spark: SparkSession, job: Job, timed: bool = False) -> list[dict[str, Any]]:
    """What each rank returns, in their order.

    Raises:
        TrainingFailed: a rank failed; says which, and why.
    """
    import horovod.spark

    shared = Path(job.folder) / job.run
    shared.mkdir(parents=True)
    guard = resources.files(__package__).joinpath("guard.py").read_text()
    ended = threading.Event()
    watch = threading.Thread(
        target=_look_after, args=(spark, shared, job.candidate.workers, ended), daemon=True
    )
    found: list[dict[str, Any]] = []
    failed: BaseException | None = None
    with (shared / "out.log").open("w") as out, _quietly(out):
        watch.start()
        try:
            found = horovod.spark.run(
                _rank_function(job, guard, timed),
                num_proc=job.candidate.workers,
                start_timeout=START_SECONDS,
                use_gloo=True,
                env=_environment(),
                stdout=out,
                stderr=out,
                verbose=0,
                executable=spark.sparkContext.pythonExec,  # else the driver's path to Python
            )
        except Exception as error:
            failed = error
        finally:
            (shared / "abort").touch()  # for guards that are still there
            ended.set()
            watch.join()
    blamed = _cause(shared)
    if blamed is None and failed is None:
        return found
    raise _failure(shared, blamed, failed)


def _look_after(spark: SparkSession, shared: Path, workers: int, ended: threading.Event) -> None:
    """Until the training has ended: look after the guards, and end all ranks when one fails."""
    heard: dict[int, tuple[str, float]] = {}
    failed_at = None
    beats = 0
    while not ended.wait(0.5):
        now = time.monotonic()
        beats += 1
        (shared / "driver.alive").write_text(str(beats))
        for rank in range(workers):
            with contextlib.suppress(OSError):
                text = (shared / f"rank-{rank}.alive").read_text()
                if heard.get(rank, ("", 0.0))[0] != text:
                    heard[rank] = (text, now)
            if rank in heard and not (shared / f"rank-{rank}.done").exists():
                idle = now - heard[rank][1]
                report = shared / f"rank-{rank}.report"
                if idle > SILENT_SECONDS and not report.exists():
                    silent = {"rank": rank, "fault": "silent", "idle": idle, "epoch": 0}
                    report.write_text(json.dumps(silent))
        if failed_at is None and _cause(shared) is not None:
            failed_at = now
        if failed_at is not None and now - failed_at > GRACE_SECONDS:
            (shared / "abort").touch()
        if failed_at is not None and now - failed_at > ENDING_SECONDS:
            spark.sparkContext.cancelAllJobs()  # what no guard could reach
            failed_at = now


def _cause(shared: Path) -> dict[str, Any] | None:
    """Of all reports, that of the rank which failed first by itself."""
    reports = []
    for path in shared.glob("rank-*.report"):
        with contextlib.suppress(ValueError, OSError):
            reports.append(json.loads(path.read_text()))
    return min(reports, key=lambda r: (_rank_of(r), r["rank"]), default=None)


def _rank_of(report: dict[str, Any]) -> int:
    # A rank that waited for one that is gone fails too, with an error of the collective.
    is_echo = any(word in report.get("message", "") for word in _ECHOES)
    return len(_RANKING) if is_echo else _RANKING.index(report["fault"])


def _failure(
    shared: Path, blamed: dict[str, Any] | None, error: BaseException | None
) -> TrainingFailed:
    log = shared / "out.log"
    tail = log.read_text(errors="replace")[-2000:] if log.exists() else ""
    if blamed is None:
        return TrainingFailed(f"the ranks did not run: {error}", log=tail)
    said = _FAULTS[blamed["fault"]].format(**blamed)
    where = f" on {blamed['host']}" if "host" in blamed else ""
    return TrainingFailed(
        f"rank {blamed['rank']}{where} {said} (epoch {blamed['epoch'] + 1}). Train again: it goes "
        "on after the last whole epoch.",
        rank=blamed["rank"],
        fault=blamed["fault"],
        idle=blamed["idle"],
        log=tail,
    )


def _rank_function(job: Job, guard: str, timed: bool) -> Any:
    # A rank is a process of its own and finds Nightjar only after it has looked where Spark put the
    # archives of --py-files. So the function travels by value (it is nested), and what it is given
    # as bytes, which it opens then.
    given = pickle.dumps((job, guard, timed))

    def rank() -> Any:
        import os
        import pickle
        import sys
        from pathlib import Path

        work = Path(os.environ.get("HOROVOD_SPARK_WORK_DIR", "."))
        sys.path[:0] = [str(path) for path in sorted(work.glob("*.zip"))]
        from nightjar.engine.trainers.horovod_keras.rank import learn

        return learn(*pickle.loads(given))  # noqa: S301

    return rank


def _environment() -> dict[str, str]:
    return {
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "HOROVOD_GLOO_TIMEOUT_SECONDS": "300",  # the guards are quicker
        "OMP_NUM_THREADS": "1",
    }


@contextlib.contextmanager
def _quietly(log: TextIO) -> Iterator[None]:
    """Horovod's words, and those of its threads, go to the log; its signal handlers go again."""
    level, hook = logging.root.manager.disable, threading.excepthook
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    logging.disable(logging.INFO)
    threading.excepthook = lambda args: log.write(f"{args.exc_type.__name__}: {args.exc_value}\n")
    try:
        yield
    finally:
        logging.disable(level)
        threading.excepthook = hook
        for number, handler in handlers.items():
            signal.signal(number, handler)
