"""Every command and snippet that the README shows does what it says."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.e2e.project import AS_OF, HISTORY, NIGHT, ROOT, Shell

from nightjar.core.project import Project
from nightjar.demo import PIPELINE, Span, run_demo

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_commands(released: Path) -> None:
    shell = Shell(released)
    commands = [
        shlex.split(line, comments=True)
        for block in blocks("bash")
        for line in block.splitlines()
        if line.strip()
    ]
    assert {c[1] for c in commands} >= {"check", "load", "train", "run", "releases", "query"}
    for program, *arguments in commands:
        assert program == "nightjar"
        shell.nightjar(*arguments)


@pytest.mark.parametrize("snippet", blocks("python"))
def test_snippets(released: Path, snippet: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", snippet],
        cwd=released,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 1


def test_make_targets_and_files_exist() -> None:
    shown = set(re.findall(r"\bmake ([a-z]+)", README))
    listed = subprocess.run(
        ["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert shown - set(re.findall(r"make ([a-z]+)", listed)) == set()
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link
    for path in re.findall(r"(?:jobs|spark-conf)/[\w./]+\w", README):
        assert (ROOT / path).exists(), path


def test_the_demo_counts_what_it_shows(
    copy_of_trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = Project.find(copy_of_trained)
    span = Span(history=HISTORY, as_of=AS_OF, nights=(NIGHT,))
    summary = run_demo(project, span=span)
    shown = capsys.readouterr().out
    landing = project.warehouse / "landing"

    def lines(source: str, month: str) -> int:
        files = (landing / source).glob(f"{month}.csv")
        return sum(len(path.read_text().splitlines()) - 1 for path in files)

    loaded = {r["dataset"]: r for r in summary["rows"] if r["night"].startswith("Sep")}
    for source in ("flights", "weather"):
        expected = sum(lines(source, f"2013-{month}-*") for month in ("09", "10", "11"))
        assert loaded[source]["read"] == expected
        assert f"{expected:,}" in shown
    tonight = {r["dataset"]: r for r in summary["rows"] if r["night"] == str(NIGHT)}
    flights = lines("flights", str(NIGHT))
    assert tonight["flights"]["read"] == tonight["flight_delay_scores"]["rows"] == flights
    assert sum(int(row[2]) for row in summary["answer"]["rows"]) == flights
    assert summary["training"]["base_rate"]["roc_auc"] == 0.5
    for candidate in summary["training"]["candidates"].values():
        assert f"{candidate['metrics']['roc_auc']:.4f}" in shown
    assert (project.warehouse / "published" / PIPELINE / "current").resolve() == Path(
        summary["release"]["folder"]
    )
    assert Path(summary["picture"]).read_bytes().startswith(b"\x89PNG")
    assert (Path(summary["docs"]) / str(NIGHT) / "index.html").is_file()


def test_what_is_missing_is_said_with_the_command_to_get_it(tmp_path: Path) -> None:
    """A machine with a shell, coreutils and nothing else."""
    for tool in ("bash", "sed", "head", "env", "dirname"):
        found = shutil.which(tool)
        assert found
        (tmp_path / tool).symlink_to(found)
    refused = subprocess.run(
        [str(tmp_path / "bash"), str(ROOT / ".ci" / "prerequisites")],
        cwd=ROOT,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 1
    assert "Java 17 or newer (found: none)" in refused.stderr
    assert "apt-get install openjdk-17-jre-headless" in refused.stderr
    assert "Python 3.11 or 3.12" in refused.stderr
    assert refused.stdout == ""
