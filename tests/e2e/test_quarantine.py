"""Every command and snippet of docs/quarantine.md, in its order, on a night of real flights."""

import csv
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tests.e2e.project import NIGHT, ROOT, Shell, relocate

from nightjar.core.releases import ReleaseLog
from nightjar.demo import PIPELINE

DOC = (ROOT / "docs" / "quarantine.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOC, re.MULTILINE | re.DOTALL)


def mend(path: Path) -> int:
    """Move every airport to the middle of the country; returns how many there are."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row |= {"lon": "-98.5", "tz": "-6"}
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return len(rows)


def test_the_commands_mend_a_night(released: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(released, project, symlinks=True)
    relocate(released, project)
    shell = Shell(project)
    log = ReleaseLog(project / "warehouse", PIPELINE)
    before = len(log.all())
    lines = [line for block in blocks("bash") for line in block.splitlines() if line.strip()]
    said: list[str] = []
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "nightjar"
        said.append(shell.nightjar(*arguments).stdout)
        if "export" in arguments:
            assert mend(project / "airports.csv") == 4
    assert len(lines) == 8
    assert "4" in said[1]
    assert said[4].count(": replace lon") == 4  # the dry run
    assert "replay 1, 4 row(s): 4 clean" in said[5]
    assert "no row was changed" in said[7]
    assert len(log.all()) == before + 1
    accounts = shell.answer("accounting", PIPELINE, "--ds", str(NIGHT))["files"]
    airports = next(f for f in accounts if f["dataset"] == "airports")
    assert (airports["read"], airports["clean"], airports["quarantined"]) == (1458, 1458, 0)
    told = shell.answer("quarantine", "history", PIPELINE)["repairs"]
    assert [r["reason"] for r in told] == ["asked the source"] * 4
    # As a job, as the scheduler calls it: there is nothing left to do.
    job = [sys.executable, str(ROOT / "jobs" / "replay.py"), PIPELINE, "--ds", str(NIGHT)]
    rows = ["--dataset", "airports", "--rows", "airports.csv", "--by", "scheduler"]
    done = subprocess.run(
        [*job, *rows],
        cwd=project,
        env=shell.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "no row was changed" in done.stdout
    assert len(log.all()) == before + 1
    record = project / "warehouse" / "runs" / PIPELINE / str(NIGHT) / "clean.airports.json"
    assert json.loads(record.read_text())["counts"]["clean"] == 1458


def test_snippets(released: Path) -> None:
    (snippet,) = blocks("python")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", snippet],
        cwd=released,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "airports.lon.range" in done.stdout
