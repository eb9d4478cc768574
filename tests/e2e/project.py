"""What the end-to-end tests share: a small copy of the project, and a shell to use it."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from datetime import date
from pathlib import Path

from nightjar.demo import PIPELINE

ROOT = Path(__file__).parents[2]
HISTORY = (date(2013, 9, 1), date(2013, 11, 30))
AS_OF = date(2013, 12, 1)
NIGHT = date(2013, 12, 1)


class Shell:
    """Runs commands as a user would, in a project's folder."""

    def __init__(self, project: Path) -> None:
        self.project = project
        # Short runs: no time to optimise what runs once.
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("NIGHTJAR_")},
            "JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
        }

    def nightjar(self, *arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).parent / "nightjar"), *arguments]
        done = subprocess.run(
            command,
            cwd=self.project,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert done.returncode == expect, f"{command}\n{done.stdout}\n{done.stderr}"
        return done

    def answer(self, *arguments: str) -> dict:
        return json.loads(self.nightjar(*arguments, "--json").stdout)


def copy_project(target: Path) -> None:
    """The project's own files, with a shorter split and fewer trees."""
    for folder in ("schemas", "spark-conf", "pipelines", "jobs"):
        shutil.copytree(ROOT / folder, target / folder)
    spec = target / "pipelines" / f"{PIPELINE}.yaml"
    text = spec.read_text()
    for old, new in (
        ("maxIter: 50", "maxIter: 8"),
        ("maxIter: 30", "maxIter: 3"),
        ("at_least: 0.60", "at_least: 0.52"),
        ("slices: [origin, carrier]", "slices: []"),
    ):
        assert old in text
        text = text.replace(old, new)
    spec.write_text(text)


def relocate(old: Path, new: Path) -> None:
    """MLflow keeps absolute addresses of its artifacts: a copied warehouse needs its own."""
    with sqlite3.connect(new / "warehouse" / "mlflow" / "mlflow.db") as books:
        for table, column in (
            ("experiments", "artifact_location"),
            ("runs", "artifact_uri"),
            ("model_versions", "source"),
        ):
            books.execute(
                f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (str(old), str(new))
            )
    books.close()
