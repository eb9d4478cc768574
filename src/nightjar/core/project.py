"""Where a project and its warehouse are, and what they hold."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from nightjar.core.errors import NotThereYet, UsageError, near

CONTRACT_SUFFIX = ".odcs.yaml"


@dataclass(frozen=True)
class Project:
    """A folder with `pipelines/` and `schemas/`, and the warehouse that its runs write to.

    On a cluster the warehouse must be one file system that the driver and every executor see at
    the same path.
    """

    root: Path
    warehouse: Path

    @classmethod
    def find(cls, root: Path | None = None, warehouse: Path | None = None) -> Project:
        """The project at `root`, else at or above the working folder.

        Raises:
            NotThereYet: no folder up to the root of the file system is a project.
        """
        start = (root or Path.cwd()).resolve()
        places = [start] if root else [start, *start.parents]
        for place in places:
            if (place / "pipelines").is_dir() and (place / "schemas").is_dir():
                given = warehouse or os.environ.get("NIGHTJAR_WAREHOUSE") or place / "warehouse"
                return cls(place, Path(given).resolve())
        raise NotThereYet(
            f"no project here: looked for folders pipelines/ and schemas/ in {places[0]}"
            + ("" if root else " and every folder above it")
            + ". Change to the project's folder or pass --project.",
            searched=[str(p) for p in places],
        )

    def pipeline_names(self) -> list[str]:
        return sorted(p.stem for p in (self.root / "pipelines").glob("*.yaml"))

    def contract_names(self) -> list[str]:
        found = (self.root / "schemas").glob(f"*{CONTRACT_SUFFIX}")
        return sorted(p.name.removesuffix(CONTRACT_SUFFIX) for p in found)

    def pipeline_file(self, name: str) -> Path:
        """Raises UsageError when no pipeline has this name."""
        if name not in self.pipeline_names():
            hint = near(name, self.pipeline_names())
            raise UsageError(f"no pipeline is called {name!r} in pipelines/; {hint}", found=name)
        return self.root / "pipelines" / f"{name}.yaml"

    def contract_file(self, name: str) -> Path:
        return self.root / "schemas" / f"{name}{CONTRACT_SUFFIX}"

    def relative(self, path: Path) -> str:
        """`path` as records write it: relative to the warehouse."""
        return path.relative_to(self.warehouse).as_posix()


def parse_ds(text: str) -> date:
    """A night's logical date.

    Raises:
        UsageError: not a date written YYYY-MM-DD.
    """
    if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
        try:
            return date.fromisoformat(text)
        except ValueError:
            pass
    raise UsageError(f"{text!r} is no date; write it like 2013-12-01", found=text)


def nights_between(first: date, last: date) -> list[date]:
    """Every date from `first` to `last`, both included.

    Raises:
        UsageError: `first` is after `last`.
    """
    if last < first:
        raise UsageError(f"the first night, {first}, is after the last, {last}")
    return [first + timedelta(days=i) for i in range((last - first).days + 1)]
