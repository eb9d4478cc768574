"""Each guard of the protocol taken away in turn: some test must notice.

The tests without the sabotage pass elsewhere in this folder; here the same must fail.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import test_log
import test_power
from forge import FAULTS, PIPELINE, Batch, FailingSystem, failing_log, shown

from nightjar.core.errors import DamagedRelease, NightjarError
from nightjar.core.releases import PosixStore, ReleaseLog
from nightjar.core.releases import log as log_module
from nightjar.core.releases import vacuum as vacuum_module
from nightjar.core.releases import verify as verify_module

Batches = dict[tuple[int, str], Batch]
Check = Callable[[ReleaseLog, Batches, Path], object]


# -- checks that need an arrangement of their own --------------------------------------------------


def two_writers_take_one_number(log: ReleaseLog, batches: Batches, place: Path) -> None:
    """Both have read the same head; the second to append must not hide the first."""
    batches[0, "a"].publish(log)
    slow = ReleaseLog(place, PIPELINE, log.store)
    append = slow.append

    def late(entry: Any) -> bool:
        slow.append = append  # type: ignore[method-assign]
        batches[1, "a"].publish(log)
        return append(entry)

    slow.append = late  # type: ignore[method-assign]
    batches[2, "a"].publish(slow)
    assert list(shown(log)) == ["2013-01-01", "2013-01-02", "2013-01-03"]
    verify_module.verify(log, log.require())


def nothing_half_written_has_a_final_name(log: ReleaseLog, batches: Batches, place: Path) -> None:
    """Whatever file has the name of data is whole, also where the writer died."""
    calls = FailingSystem()
    batches[0, "a"].publish(failing_log(place / "count", calls))
    for at in range(1, len(calls.calls) + 1):
        if calls.calls[at - 1] != "write":
            continue
        target = place / str(at)
        with pytest.raises(BaseException):
            batches[0, "a"].publish(failing_log(target, FailingSystem(at, "die", seed=at)))
        whole = {p.stat().st_size for p in batches[0, "a"].folder.iterdir()}
        found = (target / "published" / PIPELINE).glob("nights/*/[0-9a-f]*/*.parquet")
        assert {p.stat().st_size for p in found} <= whole
        for entry in (target / "published" / PIPELINE / "log").glob("0*.json"):
            assert entry.read_text().endswith("}\n")


def an_error_after_landing_harms_nothing(log: ReleaseLog, batches: Batches, place: Path) -> None:
    """A sync that fails once the entry is linked: landed or not, nothing may be taken back."""
    calls = FailingSystem()
    batches[0, "a"].publish(failing_log(place / "count", calls))
    for at in range(1, len(calls.calls) + 1):
        target = place / str(at)
        system = FailingSystem(at, FAULTS["EIO"])
        try:
            batches[0, "a"].publish(failing_log(target, system))
        except NightjarError:
            well = ReleaseLog(target, PIPELINE)
            if well.current():
                verify_module.verify(well, well.require())


def power_goes(log: ReleaseLog, batches: Batches, place: Path) -> None:
    for seed in range(4):
        test_power.lose_power(batches, place / str(seed), seed)


def the_folder_pointer_follows(log: ReleaseLog, batches: Batches, place: Path) -> None:
    first, _ = batches[0, "a"].publish(log)
    batches[0, "b"].publish(log)
    log.rollback(first.id)
    assert os.path.realpath(place / "published" / PIPELINE / "current") == str(log.folder(first))


def an_altered_manifest_is_refused(log: ReleaseLog, batches: Batches, place: Path) -> None:
    release, _ = batches[0, "a"].publish(log)
    path = place / "published" / PIPELINE / f"releases/{release.id}.json"
    path.chmod(0o644)
    path.write_text(path.read_text().replace('"rows": 40', '"rows": 41'))
    with pytest.raises(DamagedRelease):
        verify_module.verify(log, log.require())


def of_test(test: Callable[..., None], *wanted: str) -> Check:
    def check(log: ReleaseLog, batches: Batches, place: Path) -> None:
        given: dict[str, Any] = {"tmp_path": place}
        with pytest.MonkeyPatch.context() as patch:
            given["monkeypatch"] = patch
            test(
                log,
                *([batches] if "batches" in wanted else []),
                **{k: v for k, v in given.items() if k in wanted},
            )

    return check


# -- the guards, each taken away -------------------------------------------------------------------

Sabotage = Callable[[pytest.MonkeyPatch], None]


def no_sync_of_files(patch: pytest.MonkeyPatch) -> None:
    made = test_power.UntilLoss.__init__
    patch.setattr(
        test_power.UntilLoss,
        "__init__",
        lambda self, seed, at: made(self, seed, at, sync_files=False),
    )


def no_sync_of_folders(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PosixStore, "_sync", lambda self, path: None)


def no_settling_of_names(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PosixStore, "_settle", lambda self, folder: None)


def replace_instead_of_link(patch: pytest.MonkeyPatch) -> None:
    def put(self: PosixStore, key: str, data: bytes) -> bool:
        target = self.root / key
        self._folder(target.parent)
        finished = self._making(target)
        self._write(finished, [data])
        self.system.replace(finished, target)
        return True

    patch.setattr(PosixStore, "put_if_absent", put)


def write_in_place(patch: pytest.MonkeyPatch) -> None:
    def receive(self: PosixStore, folder: str, files: dict[str, Path]) -> None:
        self._folder(self.root / folder)
        for name, source in files.items():
            self._write(self.root / folder / name, self._blocks(source))

    patch.setattr(PosixStore, "receive", receive)


def entry_written_in_place(patch: pytest.MonkeyPatch) -> None:
    def put(self: PosixStore, key: str, data: bytes) -> bool:
        self._folder((self.root / key).parent)
        try:
            self._write(self.root / key, [data])
        except FileExistsError:
            return False
        return True

    patch.setattr(PosixStore, "put_if_absent", put)


def hard_link_of_the_source(patch: pytest.MonkeyPatch) -> None:
    def receive(self: PosixStore, folder: str, files: dict[str, Path]) -> None:
        (self.root / folder).mkdir(parents=True)
        for name, source in files.items():
            os.link(source, self.root / folder / name)

    patch.setattr(PosixStore, "receive", receive)


def no_audit(patch: pytest.MonkeyPatch) -> None:
    class Same(str):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = str.__hash__

    class SameNumber(int):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = int.__hash__

    digest = PosixStore.digest

    def blind(self: PosixStore, key: str) -> Any:
        found = digest(self, key)
        return type(found)(SameNumber(found.bytes), Same(found.sha256))

    patch.setattr(PosixStore, "digest", blind)


def no_parent_check(patch: pytest.MonkeyPatch) -> None:
    def append(self: ReleaseLog, entry: Any) -> bool:
        # The next number that is free, whatever the entry was built on.
        from dataclasses import asdict, replace

        entry = replace(entry, version=self.head().version + 1)
        return self.store.put_if_absent(
            log_module.entry_key(entry.version), log_module._bytes(asdict(entry))
        )

    patch.setattr(ReleaseLog, "append", append)


def landed_is_not_asked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ReleaseLog, "_landed", lambda *a: False)


def later_run_is_not_asked(patch: pytest.MonkeyPatch) -> None:
    landed = ReleaseLog._landed
    patch.setattr(ReleaseLog, "_landed", lambda self, p, n, k, base: landed(self, p, n, k, 10**9))


def withdrawn_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(log_module, "_withdrawn", lambda *a: {})


def no_heal(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ReleaseLog, "_heal", lambda self: None)


def no_digest_of_the_manifest(patch: pytest.MonkeyPatch) -> None:
    import json

    blind = lambda store, key, digest: json.loads(store.read(key))  # noqa: E731
    patch.setattr(log_module, "read_exactly", blind)


def no_trash(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PosixStore, "trash", lambda self, key, label: self.remove(key))


def no_grace(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PosixStore, "age", lambda self, key: 10.0**9)


def vacuum_says_nothing(patch: pytest.MonkeyPatch) -> None:
    # Takes its garbage without an entry that a writer under way would meet.
    def advance(self: ReleaseLog, step: Any) -> Any:
        step(self.head())
        return self.head()

    whole = vacuum_module.vacuum

    def quiet(log: ReleaseLog, *args: Any, **options: Any) -> Any:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(ReleaseLog, "advance", advance)
            return whole(log, *args, **options)

    patch.setattr(test_log, "vacuum", quiet)


def writer_ignores_vacuums(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ReleaseLog, "_vacuumed", lambda self, since, until: False)


def pins_are_ignored(patch: pytest.MonkeyPatch) -> None:
    expiring = vacuum_module._expiring
    from dataclasses import replace

    patch.setattr(
        vacuum_module,
        "_expiring",
        lambda log, kept, head, r: expiring(log, kept, head and replace(head, pins={}), r),
    )


def discard_when_unsure(patch: pytest.MonkeyPatch) -> None:
    append = ReleaseLog.append

    def tidy(self: ReleaseLog, entry: Any) -> bool:
        try:
            return append(self, entry)
        except OSError:
            shutil.rmtree(self.store.root / "releases" / entry.release)
            raise

    patch.setattr(ReleaseLog, "append", tidy)


def names_are_shared(patch: pytest.MonkeyPatch) -> None:
    receive, digest = PosixStore.receive, PosixStore.digest

    def plain(name: str) -> str:
        return name[:9] + ".parquet"

    patch.setattr(
        PosixStore,
        "receive",
        lambda self, folder, files: receive(self, folder, {plain(n): p for n, p in files.items()}),
    )
    patch.setattr(
        PosixStore,
        "digest",
        lambda self, key: digest(
            self, key.rpartition("/")[0] + "/" + plain(key.rpartition("/")[2])
        ),
    )
    patch.setattr(
        ReleaseLog,
        "files",
        lambda self, release: [
            self.store.location(f"{n['folder']}/{plain(name)}")
            for n in log_module.nights_of(release).values()
            for name in n["files"]
        ],
    )


GUARDS: list[tuple[Sabotage, Check]] = [
    (no_sync_of_files, power_goes),
    (no_sync_of_folders, power_goes),
    (no_settling_of_names, power_goes),
    (replace_instead_of_link, two_writers_take_one_number),
    (no_parent_check, two_writers_take_one_number),
    (write_in_place, nothing_half_written_has_a_final_name),
    (entry_written_in_place, nothing_half_written_has_a_final_name),
    (discard_when_unsure, an_error_after_landing_harms_nothing),
    (no_heal, the_folder_pointer_follows),
    (hard_link_of_the_source, of_test(
        test_log.test_a_zombie_that_writes_on_in_its_folder_changes_nothing_visible, "tmp_path")),
    (no_audit, of_test(test_log.test_files_that_the_audit_did_not_see_are_refused, "tmp_path")),
    (landed_is_not_asked, of_test(test_log.test_a_night_that_landed_is_recognised, "batches")),
    (later_run_is_not_asked, of_test(
        test_log.test_a_zombie_does_not_bring_the_older_result_back, "batches")),
    (withdrawn_is_forgotten, of_test(
        test_log.test_what_was_rolled_back_does_not_return_by_itself, "batches")),
    (no_digest_of_the_manifest, an_altered_manifest_is_refused),
    (no_trash, of_test(test_log.test_vacuum_takes_its_time_and_then_everything, "batches")),
    (no_grace, of_test(test_log.test_vacuum_takes_its_time_and_then_everything, "batches")),
    (vacuum_says_nothing, of_test(
        test_log.test_a_vacuum_between_a_writers_copy_and_its_entry_makes_it_copy_again,
        "batches", "monkeypatch")),
    (writer_ignores_vacuums, of_test(
        test_log.test_a_vacuum_between_a_writers_copy_and_its_entry_makes_it_copy_again,
        "batches", "monkeypatch")),
    (pins_are_ignored, of_test(
        test_log.test_retention_by_count_spares_pins_and_the_visible, "batches")),
    (names_are_shared, of_test(
        test_log.test_names_of_data_files_are_never_shared, "batches")),
]  # fmt: skip


@pytest.mark.parametrize(("sabotage", "check"), GUARDS, ids=[s.__name__ for s, _ in GUARDS])
def test_a_missing_guard_is_noticed(
    sabotage: Sabotage, check: Check, batches: Batches, place: Path
) -> None:
    check(ReleaseLog(place / "whole", PIPELINE), batches, place / "whole")
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises((AssertionError, NightjarError, OSError, pytest.fail.Exception)),
    ):
        sabotage(patch)
        check(ReleaseLog(place / "sabotaged", PIPELINE), batches, place / "sabotaged")
