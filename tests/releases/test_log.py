"""Publish, rollback, pins, retention, vacuum and verify, one behaviour each."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path

import pytest
from forge import PIPELINE, ROWS, Batch, keys_in, shown

from nightjar.core.errors import Conflict, DamagedRelease, GateFailed, NotThereYet, Withdrawn
from nightjar.core.releases import ReleaseLog
from nightjar.core.releases.log import nights_of
from nightjar.core.releases.vacuum import Retention, vacuum
from nightjar.core.releases.verify import verify

Batches = dict[tuple[int, str], Batch]
AT_ONCE = timedelta(seconds=-1)


def test_a_release_is_its_nights_and_shares_the_unchanged_ones(
    log: ReleaseLog, batches: Batches
) -> None:
    first, landed = batches[0, "a"].publish(log)
    second, _ = batches[1, "a"].publish(log)
    assert landed
    assert (second.parent, second.version, second.nights, second.rows) == (
        first.id,
        2,
        2,
        4 * ROWS,
    )
    assert log.current() == second
    assert log.all() == [first, second]
    assert keys_in(log.folder(first)) == {batches[0, "a"].run_key: 2 * ROWS}
    night = "ds=2013-01-01"
    assert (log.folder(first) / night).resolve() == (log.folder(second) / night).resolve()
    assert os.path.realpath(log.folder(second).parent.parent / "current") == str(log.folder(second))
    assert second.partitions["2013-01-02"]["model"]["version"] == "gbt/1"
    assert len(log.files(second)) == 4


def test_names_of_data_files_are_never_shared(log: ReleaseLog, batches: Batches) -> None:
    for run in "abc":
        batches[0, run].publish(log)
    names = [Path(f).name for release in log.all() for f in log.files(release)]
    assert len(set(names)) == len(names) == 6


def test_a_night_that_landed_is_recognised(log: ReleaseLog, batches: Batches) -> None:
    first, _ = batches[0, "a"].publish(log)
    assert batches[0, "a"].publish(log) == (first, False)
    assert len(log.versions()) == 1


def test_rollback_is_one_entry_and_the_way_back_too(log: ReleaseLog, batches: Batches) -> None:
    first, _ = batches[0, "a"].publish(log)
    second, _ = batches[0, "b"].publish(log)
    log.rollback(first.id)
    assert log.current() == first
    assert shown(log) == {"2013-01-01": "2013-01-01/a"}
    log.rollback(second.id)
    assert log.current() == second
    log.rollback(second.id)  # nothing to do
    assert len(log.versions()) == 4


def test_what_was_rolled_back_does_not_return_by_itself(log: ReleaseLog, batches: Batches) -> None:
    first, _ = batches[0, "a"].publish(log)
    batches[1, "a"].publish(log)
    log.rollback(first.id)
    with pytest.raises(Withdrawn):
        batches[1, "a"].publish(log)
    batches[2, "a"].publish(log)
    assert list(shown(log)) == ["2013-01-01", "2013-01-03"]
    batches[1, "a"].publish(log, again=True)
    assert list(shown(log)) == ["2013-01-01", "2013-01-02", "2013-01-03"]
    assert log.head().withdrawn == {}


def test_a_zombie_does_not_bring_the_older_result_back(log: ReleaseLog, batches: Batches) -> None:
    batches[0, "a"].publish(log)
    base = log.head().version
    batches[0, "c"].publish(log)
    with pytest.raises(Conflict):
        batches[0, "b"].publish(log, base=base)
    assert shown(log) == {"2013-01-01": "2013-01-01/c"}


def test_a_writer_of_another_night_goes_after_the_first(log: ReleaseLog, batches: Batches) -> None:
    base = log.head().version
    batches[0, "a"].publish(log)
    batches[1, "a"].publish(log, base=base)
    assert len(shown(log)) == 2


def test_files_that_the_audit_did_not_see_are_refused(log: ReleaseLog, tmp_path: Path) -> None:
    batch = Batch(tmp_path / "b", 0, "a").write()
    partition = batch.partition
    path = batch.folder / "part-0.parquet"
    path.write_bytes(path.read_bytes()[:-8] + b"mischief")
    with pytest.raises(GateFailed):
        log.publish("scores", batch.ds, "k", batch.folder, partition)
    path.unlink()
    with pytest.raises(Conflict):
        log.publish("scores", batch.ds, "k", batch.folder, partition)
    assert log.current() is None


def test_a_zombie_that_writes_on_in_its_folder_changes_nothing_visible(
    log: ReleaseLog, tmp_path: Path
) -> None:
    batch = Batch(tmp_path / "b", 0, "a").write()
    release, _ = batch.publish(log)
    with (batch.folder / "part-0.parquet").open("r+b") as file:
        file.write(b"still writing")
    verify(log, release)


def test_require_names_what_is_there(log: ReleaseLog, batches: Batches) -> None:
    with pytest.raises(NotThereYet):
        log.require()
    release, _ = batches[0, "a"].publish(log)
    assert log.require(release.id) == release
    with pytest.raises(NotThereYet):
        log.require("r000009-2013-01-01-00000000")


# -- retention and vacuum --------------------------------------------------------------------------


def test_retention_by_count_spares_pins_and_the_visible(log: ReleaseLog, batches: Batches) -> None:
    made = [batches[0, run].publish(log)[0] for run in "abc"]
    made += [batches[1, run].publish(log)[0] for run in "abc"]
    log.pin(made[1].id, "the board's figures")
    log.rollback(made[0].id)
    vacuum(log, Retention(releases=2, grace=AT_ONCE))
    assert log.all() == [made[0], made[1], made[4], made[5]]
    with pytest.raises(NotThereYet):
        log.rollback(made[2].id)
    log.unpin(made[1].id)
    with pytest.raises(NotThereYet):
        log.unpin(made[1].id)


def test_retention_by_age(log: ReleaseLog, batches: Batches) -> None:
    made = [batches[0, run].publish(log)[0] for run in "abc"]
    store = log.folder(made[0]).parent.parent / "log"
    for name in ("0000000001.json", "0000000002.json"):
        os.utime(store / name, (0, 0))
    vacuum(log, Retention(age=timedelta(days=30)))
    assert log.all() == made[2:]
    vacuum(log, Retention(releases=1, age=timedelta(days=30)))
    assert log.all() == made[2:]


def test_vacuum_takes_its_time_and_then_everything(log: ReleaseLog, batches: Batches) -> None:
    old, _ = batches[0, "a"].publish(log)
    batches[1, "a"].publish(log)
    new, _ = batches[0, "b"].publish(log)
    night = (log.folder(old) / "ds=2013-01-01").resolve()
    done = vacuum(log, Retention(releases=1))
    assert old.id in done.expired
    assert keys_in(log.folder(old)), "a reader that began before may go on"
    waiting = vacuum(log, Retention(releases=1))
    assert not waiting.trashed
    now = vacuum(log, Retention(releases=1, grace=AT_ONCE))
    assert f"releases/{old.id}" in now.trashed
    assert not night.exists()
    assert not now.deleted, "trash before delete"
    assert list((log.folder(old).parent.parent / "trash").rglob("*.parquet"))
    assert vacuum(log, Retention(releases=1, grace=AT_ONCE)).deleted
    verify(log, new)
    assert keys_in(log.folder(new)) == {"2013-01-01/b": 2 * ROWS, "2013-01-02/a": 2 * ROWS}
    before = len(log.versions())
    assert vacuum(log, Retention(releases=1, grace=AT_ONCE)) == type(now)((), (), ())
    assert len(log.versions()) == before, "a vacuum with nothing to do leaves no trace"


def test_a_dry_run_touches_nothing(log: ReleaseLog, batches: Batches) -> None:
    for run in "abc":
        batches[0, run].publish(log)
    told = vacuum(log, Retention(releases=1, grace=AT_ONCE), dry_run=True)
    assert len(told.expired) == 2
    assert len(log.all()) == 3


def test_a_vacuum_between_a_writers_copy_and_its_entry_makes_it_copy_again(
    log: ReleaseLog, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches[0, "a"].publish(log)
    batches[0, "b"].publish(log)
    append, other = log.append, ReleaseLog(Path(), PIPELINE, log.store)

    def late(entry: object) -> bool:
        monkeypatch.setattr(log, "append", append)
        vacuum(other, Retention(releases=1, grace=AT_ONCE))
        vacuum(other, Retention(releases=1, grace=AT_ONCE))
        return append(entry)  # type: ignore[arg-type]

    monkeypatch.setattr(log, "append", late)
    release, landed = batches[1, "a"].publish(log)
    assert landed
    verify(log, release)


@pytest.mark.parametrize("what", ["releases/", "trash/"])
def test_two_vacuums_at_one_time_take_each_thing_once(
    log: ReleaseLog, batches: Batches, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """One has listed what the other takes before its age is asked."""
    for run in "abc":
        batches[0, run].publish(log)
    at_once = Retention(releases=1, grace=AT_ONCE)
    vacuum(log, at_once)
    if what == "trash/":
        vacuum(log, at_once)
    age, other, overtaken = log.store.age, ReleaseLog(Path(), PIPELINE, log.store), []

    def late(key: str) -> float:
        if key.startswith(what) and not overtaken:
            overtaken.append(key)
            monkeypatch.setattr(log.store, "age", age)
            vacuum(other, at_once)
            vacuum(other, at_once)
            monkeypatch.setattr(log.store, "age", late)
        return age(key)

    monkeypatch.setattr(log.store, "age", late)
    vacuum(log, at_once)
    assert overtaken
    verify(log, log.require())


def test_without_a_retention_everything_stays(log: ReleaseLog, batches: Batches) -> None:
    for run in "abc":
        batches[0, run].publish(log)
    assert vacuum(log, Retention(grace=AT_ONCE)).expired == ()


# -- verify ----------------------------------------------------------------------------------------


def _damage(path: Path, how: str) -> None:
    path.chmod(0o644)
    data = path.read_bytes()
    if how == "truncated":
        path.write_bytes(data[:-1])
    elif how == "altered":
        path.write_bytes(data[:50] + bytes([data[50] ^ 1]) + data[51:])
    elif how == "missing":
        path.unlink()
    elif how == "foreign":
        (path.parent / "part-9.parquet").write_bytes(data)


@pytest.mark.parametrize("how", ["truncated", "altered", "missing", "foreign"])
@pytest.mark.parametrize("what", ["data", "facts", "manifest"])
def test_verify_notices(log: ReleaseLog, batches: Batches, how: str, what: str) -> None:
    release, _ = batches[0, "a"].publish(log)
    assert verify(log, release) == release.bytes
    night = next(iter(nights_of(release).values()))
    root = log.folder(release).parent.parent
    path = {
        "data": Path(log.files(release)[0]),
        "facts": root / f"{night['folder']}.json",
        "manifest": root / f"releases/{release.id}.json",
    }[what]
    if how == "foreign" and what != "data":
        path = log.folder(release) / "stray"
        path.write_bytes(b"")
    else:
        _damage(path, how)
    with pytest.raises(DamagedRelease):
        verify(log, log.require())


def test_verify_notices_an_altered_log(log: ReleaseLog, batches: Batches) -> None:
    for run in "abc":
        batches[0, run].publish(log)
    path = log.folder(log.require()).parent.parent / "log/0000000002.json"
    path.chmod(0o644)
    entry = json.loads(path.read_text())
    path.write_text(json.dumps({**entry, "created": "yesterday"}))
    with pytest.raises(DamagedRelease, match="the log of releases was altered"):
        verify(log, log.require())


def test_a_damaged_newest_entry_is_said(log: ReleaseLog, batches: Batches) -> None:
    batches[0, "a"].publish(log)
    path = log.folder(log.require()).parent.parent / "log/0000000001.json"
    path.chmod(0o644)
    path.write_text("{")
    with pytest.raises(DamagedRelease):
        log.current()
