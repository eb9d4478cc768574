"""Releases: what is visible to readers, as an append-only log of immutable snapshots.

PUBLISHED/PIPELINE/log/0000000001.json, ...2.json, ... are the truth: entry N names the folder
releases/ID, which holds one Parquet folder for each night (`ds=YYYY-MM-DD`). A release shares the
files of unchanged nights with its parent by hard links; nothing that a log entry names is ever
written again. `current` is a symbolic link to the newest release's folder, kept for readers that
take a path; the log heals it.

A release becomes visible by one step: the link of a finished file to the next log number, which
fails where that number is taken.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from nightjar.core.errors import Conflict, NotThereYet
from nightjar.core.records import now

_ENTRY = re.compile(r"(\d{10})\.json")
_ATTEMPTS = 20


@dataclass(frozen=True)
class Release:
    """One log entry. `partitions` is, by night: run key, files (rows, bytes, sha256), lineage."""

    version: int
    id: str
    parent: str | None
    created: str
    pipeline: str
    dataset: str
    ds: str
    run_key: str
    partitions: Mapping[str, Mapping[str, Any]]

    @property
    def rows(self) -> int:
        files = (f for p in self.partitions.values() for f in p["files"].values())
        return sum(int(f["rows"]) for f in files)


class ReleaseLog:
    """The releases of one pipeline. Reading needs no engine."""

    def __init__(self, warehouse: Path, pipeline: str) -> None:
        self.pipeline = pipeline
        self.root = warehouse / "published" / pipeline

    # -- reading -------------------------------------------------------------------------------

    def all(self) -> list[Release]:
        """Every release, oldest first."""
        return [self._read(version) for version in self._versions()]

    def current(self) -> Release | None:
        """The newest release; None before the first."""
        versions = self._versions()
        return self._read(versions[-1]) if versions else None

    def require(self, release: str | None = None) -> Release:
        """The release with this id, or the current one.

        Raises:
            NotThereYet: there is none.
        """
        found = [r for r in self.all() if r.id == release] if release else [self.current()]
        if not found or found[0] is None:
            what = f"release {release!r}" if release else "release"
            raise NotThereYet(
                f"pipeline '{self.pipeline}' has no {what} yet; publish a night: "
                f"nightjar run {self.pipeline} --ds YYYY-MM-DD",
                pipeline=self.pipeline,
            )
        return found[0]

    def folder(self, release: Release) -> Path:
        return self.root / "releases" / release.id

    # -- writing -------------------------------------------------------------------------------

    def publish(
        self, dataset: str, ds: date, run_key: str, source: Path, partition: Mapping[str, Any]
    ) -> tuple[Release, bool]:
        """Make the files of `source` the night `ds` of a new release of `dataset`.

        Returns the release, and False where this run key had landed before. The other nights are
        those of the release that it follows; where another night lands in between, it is built
        again on that one.

        Raises:
            Conflict: other publishers won too often, or `source` lacks a file.
        """
        for _ in range(_ATTEMPTS):
            parent = self.current()
            if parent and parent.partitions.get(ds.isoformat(), {}).get("run_key") == run_key:
                self._heal()
                return parent, False
            release = self._build(parent, dataset, ds, run_key, source, partition)
            if self._append(release):
                self._heal()
                return release, True
            shutil.rmtree(self.folder(release), ignore_errors=True)
        raise Conflict(f"{self.pipeline} {ds}: {_ATTEMPTS} other releases landed first; run again")

    def _build(
        self,
        parent: Release | None,
        dataset: str,
        ds: date,
        run_key: str,
        source: Path,
        partition: Mapping[str, Any],
    ) -> Release:
        night = ds.isoformat()
        version = parent.version + 1 if parent else 1
        identity = f"r{version:06d}-{night}-{uuid.uuid4().hex[:8]}"
        kept = {d: p for d, p in (parent.partitions if parent else {}).items() if d != night}
        partitions = {**kept, night: {**partition, "run_key": run_key}}
        release = Release(
            version,
            identity,
            parent.id if parent else None,
            now(),
            self.pipeline,
            dataset,
            night,
            run_key,
            dict(sorted(partitions.items())),
        )
        target = self.folder(release)
        target.mkdir(parents=True)
        for day, facts in release.partitions.items():
            origin = source if day == night else self.folder(_some(parent)) / f"ds={day}"
            folder = target / f"ds={day}"
            folder.mkdir()
            for name, expected in facts["files"].items():
                self._link(origin / name, folder / name, int(expected["bytes"]))
                if day == night:
                    _sync(folder / name)
            _sync(folder)
        manifest = json.dumps(asdict(release), indent=1, sort_keys=True) + "\n"
        (target / "manifest.json").write_text(manifest)
        _sync(target / "manifest.json")
        _sync(target)
        _sync(target.parent)
        return release

    def _link(self, origin: Path, target: Path, size: int) -> None:
        try:
            os.link(origin, target)
        except FileNotFoundError as error:
            raise Conflict(f"{origin} is gone; run the night again") from error
        if target.stat().st_size != size:
            raise Conflict(f"{origin} has changed since its audit; run the night again")

    def _append(self, release: Release) -> bool:
        """Put the log entry if its number is free: the one step that makes a release visible."""
        log = self.root / "log"
        log.mkdir(parents=True, exist_ok=True)
        finished = log / f".{release.id}.tmp"
        finished.write_text(json.dumps(asdict(release), sort_keys=True) + "\n")
        _sync(finished)
        try:
            os.link(finished, self._entry(release.version))
        except FileExistsError:
            return False
        finally:
            finished.unlink(missing_ok=True)
        _sync(log)
        return True

    def _heal(self) -> None:
        """Point `current` at the newest release; whoever comes last leaves the newest."""
        while True:
            newest = self.current()
            if newest is None:
                return
            temporary = self.root / f".current-{uuid.uuid4().hex[:8]}"
            temporary.symlink_to(Path("releases") / newest.id)
            os.replace(temporary, self.root / "current")
            if self._versions()[-1] == newest.version:
                return

    def _versions(self) -> list[int]:
        try:
            names = os.listdir(self.root / "log")
        except FileNotFoundError:
            return []
        return sorted(int(m[1]) for name in names if (m := _ENTRY.fullmatch(name)))

    def _read(self, version: int) -> Release:
        return Release(**json.loads(self._entry(version).read_text()))

    def _entry(self, version: int) -> Path:
        return self.root / "log" / f"{version:010d}.json"


def _some(parent: Release | None) -> Release:
    assert parent is not None, "only a parent's nights are kept"
    return parent


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
