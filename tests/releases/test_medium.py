"""A full disk, permission lost, and what publishing costs as the table and its history grow."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest
from forge import PIPELINE, Batch, FailingSystem, failing_log, shown

from nightjar.core.errors import StorageFault
from nightjar.core.releases import ReleaseLog
from nightjar.core.releases.verify import verify

Batches = dict[tuple[int, str], Batch]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip(f"mount is not allowed here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_said_and_spoils_nothing(small_disk: Path, batches: Batches) -> None:
    log = ReleaseLog(small_disk, PIPELINE)
    first, _ = batches[0, "a"].publish(log)
    filler = small_disk / "filler"
    filler.write_bytes(b"")
    failures = 0
    for free in range(0, 60_000, 4096):
        space = os.statvfs(small_disk)
        with filler.open("ab") as file:
            left = space.f_bavail * space.f_frsize - free
            if left > 0:
                file.write(bytes(left))
        try:
            batches[1, "a"].publish(log)
        except StorageFault:
            failures += 1
            assert shown(log) in (
                {"2013-01-01": "2013-01-01/a"},
                {"2013-01-01": "2013-01-01/a", "2013-01-02": "2013-01-02/a"},
            )
        verify(log, first)
        filler.write_bytes(b"")
    assert failures > 2
    batches[1, "a"].publish(log)
    assert len(shown(log)) == 2
    verify(log, log.require())


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root; see test_crash EACCES")
def test_permission_lost_is_said(log: ReleaseLog, batches: Batches) -> None:
    release, _ = batches[0, "a"].publish(log)
    place = log.folder(release).parent.parent / "log"
    place.chmod(0o555)
    try:
        with pytest.raises(StorageFault):
            batches[1, "a"].publish(log)
        assert log.current() == release
    finally:
        place.chmod(0o755)
    assert batches[1, "a"].publish(log)[1]


class Night:
    """One tiny file for any date."""

    def __init__(self, root: Path) -> None:
        import hashlib

        self.folder = root
        root.mkdir()
        (root / "a").write_bytes(b"PAR1")
        digest = hashlib.sha256(b"PAR1").hexdigest()
        self.partition = {"files": {"a": {"rows": 1, "bytes": 4, "sha256": digest}}}

    def publish(self, log: ReleaseLog, i: int) -> None:
        ds = date(2010, 1, 1) + timedelta(days=i)
        log.publish("scores", ds, f"run {i}", self.folder, self.partition)


def median_seconds(work: list[float]) -> float:
    return sorted(work)[len(work) // 2]


def grow(place: Path, nights: int, every: int) -> dict[int, tuple[float, float, int]]:
    """By number of nights: median seconds of a publish and of `current`, and the syncs of one."""
    log = ReleaseLog(place / "w", PIPELINE)
    place.mkdir(exist_ok=True)
    night = Night(place / "in")
    found: dict[int, tuple[float, float, int]] = {}
    spent: list[float] = []
    for i in range(nights):
        started = time.process_time()
        night.publish(log, i)
        spent.append(time.process_time() - started)
        if (i + 1) % every == 0:
            looks = []
            for _ in range(9):
                started = time.process_time()
                assert log.current()
                looks.append(time.process_time() - started)
            counted = FailingSystem()
            night.publish(failing_log(place / "w", counted), i)  # recognised: no copy
            found[i + 1] = (median_seconds(spent[-9:]), median_seconds(looks), len(counted.calls))
    return found


@pytest.mark.parametrize("nights", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_cost_of_many_nights_and_many_releases(place: Path, nights: int) -> None:
    found = grow(place, nights, nights // 10)
    print("\n", {n: [round(v * 1000, 2) for v in f[:2]] for n, f in found.items()})
    assert found[nights][1] < 0.05, "current() must resolve in milliseconds"
    assert found[nights][0] < 10 * found[nights // 10][0] + 0.05


def test_only_the_links_grow_with_the_nights(place: Path) -> None:
    """Copies, syncs and renames of a publish do not depend on how many nights there are."""

    place.mkdir()
    night = Night(place / "in")
    log = ReleaseLog(place / "w", PIPELINE)
    counts = []
    for i in range(60):
        if i in (5, 55):
            system = FailingSystem()
            night.publish(failing_log(place / "w", system), i)
            counts.append(
                {
                    c: system.calls.count(c)
                    for c in ("create", "write", "fsync", "rename", "mkdir", "link", "symlink")
                }
            )
        else:
            night.publish(log, i)
    assert counts[1]["symlink"] - counts[0]["symlink"] == 50
    assert {**counts[0], "symlink": 0} == {**counts[1], "symlink": 0}
