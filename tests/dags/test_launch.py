"""Nothing that the launcher started outlives the process that asked for it. Real processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nightjar.orchestration import launch

# A "driver" under the command: in a session of its own, deaf to SIGTERM, parent gone.
STUBBORN = """
import os, signal, sys, time
if os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open(sys.argv[1], "w").write(str(os.getpid()))
    time.sleep(600)
"""
# What stands for a task's process: it launches, and waits.
TASK = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-I", sys.argv[1], str(os.getpid()), *sys.argv[2:]],
                         start_new_session=True)
print(child.pid, flush=True)
child.wait()
"""


def run(*command: str) -> int:
    """The launcher's exit status, with this process as the one that asks."""
    done = subprocess.run(
        [sys.executable, "-I", launch.__file__, str(os.getpid()), *command],
        check=False,
        timeout=60,
    )
    return done.returncode


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)


@pytest.mark.parametrize("status", [0, 1, 3])
def test_the_exit_status_is_the_commands(status: int) -> None:
    assert run(sys.executable, "-c", f"raise SystemExit({status})") == status


def test_a_signal_becomes_an_exit_status() -> None:
    killed = run(sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert killed == 128 + signal.SIGKILL


def test_what_the_command_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    wait = (
        "import pathlib, sys, time\nwhile not pathlib.Path(sys.argv[1]).exists(): time.sleep(.01)"
    )
    assert run(sys.executable, "-c", STUBBORN + wait, str(note)) == 0
    assert not alive(int(note.read_text()))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_everything_ends_with_the_task(tmp_path: Path, how: signal.Signals) -> None:
    note = tmp_path / "pid"
    script = STUBBORN + "time.sleep(600)\n"
    command = [sys.executable, "-c", TASK, launch.__file__, sys.executable, "-c", script, str(note)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as task:
        assert task.stdout
        launcher = int(task.stdout.readline())
        wait_until(lambda: note.exists() and note.read_text())
        stubborn = int(note.read_text())
        below = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
        assert alive(stubborn)
        assert below
        task.send_signal(how)
    wait_until(lambda: not alive(launcher))
    assert [pid for pid in (stubborn, *map(int, below)) if alive(pid)] == []


def test_a_task_that_died_before_the_launcher_began_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    done = subprocess.run(
        [sys.executable, "-I", launch.__file__, "1", "touch", str(mark)], check=False, timeout=60
    )
    assert done.returncode == 128 + signal.SIGTERM
    assert not mark.exists()
