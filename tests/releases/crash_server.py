"""Runs operations on a release log in forked children that may be killed; one JSON line each way.

A process of its own, so that what is forked is small and has one thread.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from forge import Batch, FailingSystem, failing_log

from nightjar.core.errors import NightjarError
from nightjar.core.releases.vacuum import Retention, vacuum


def perform(order: dict[str, Any], system: FailingSystem) -> str:
    log = failing_log(Path(order["warehouse"]), system)
    if order["op"] == "publish":
        _, landed = Batch(Path(order["batches"]), *order["batch"]).publish(log)
        return "landed" if landed else "had landed"
    if order["op"] == "vacuum":
        grace = timedelta(seconds=order.get("grace", -1))
        vacuum(log, Retention(releases=order.get("releases", 2), grace=grace))
        return "done"
    well = failing_log(Path(order["warehouse"]), FailingSystem())
    releases = {r.run_key: r.id for r in well.all()}
    getattr(log, order["op"])(releases[order["release"]])
    return "done"


def child(order: dict[str, Any], out: int) -> None:
    fault = order.get("fault", "")
    system = FailingSystem(
        order.get("at", 0),
        int(fault) if str(fault).isdigit() else fault,
        order.get("persistent", False),
        order.get("seed", 0),
    )
    try:
        answer = perform(order, system)
    except NightjarError as error:
        answer = error.code
    except BaseException as error:
        answer = f"DEFECT {error!r}"
    os.write(out, json.dumps([answer, len(system.calls), system.hit]).encode())
    os._exit(0)


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        outs = []
        for _ in range(order.get("times", 1)):
            back, out = os.pipe()
            pid = os.fork()
            if pid == 0:
                child(order, out)
            os.close(out)
            outs.append((pid, back))
        answers = []
        for pid, back in outs:
            _, status = os.waitpid(pid, 0)
            told = os.read(back, 65536)
            os.close(back)
            killed = os.WIFSIGNALED(status)
            answers.append(["killed", 0, True] if killed else json.loads(told))
        print(json.dumps(answers), flush=True)


if __name__ == "__main__":
    main()
