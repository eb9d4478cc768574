"""Random publish, rollback, pin, vacuum, crash and read, held against a model in plain Python."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from forge import PIPELINE, Batch, Dead, FailingSystem, failing_log, shown
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from nightjar.core.errors import NotThereYet, Withdrawn
from nightjar.core.releases import ReleaseLog
from nightjar.core.releases.log import nights_of
from nightjar.core.releases.vacuum import Retention, vacuum

NIGHTS, RUNS = 4, "abc"
AT_ONCE, NEVER = timedelta(seconds=-1), timedelta(days=365)
State = dict[str, str]


class Bytes:
    """A night of one tiny file; the model does not need Parquet."""

    def __init__(self, root: Path, night: int, run: str) -> None:
        batch = Batch(root, night, run)
        self.ds, self.run_key, self.folder = batch.ds, batch.run_key, batch.folder
        self.folder.mkdir()
        (self.folder / "part-0.parquet").write_text(self.run_key)
        import hashlib

        digest = hashlib.sha256(self.run_key.encode()).hexdigest()
        self.partition = {
            "files": {"part-0.parquet": {"rows": 1, "bytes": len(self.run_key), "sha256": digest}}
        }

    def publish(self, log: ReleaseLog, **options: Any) -> Any:
        return log.publish("scores", self.ds, self.run_key, self.folder, self.partition, **options)


class Releases(RuleBasedStateMachine):
    """The model: each kept release is a mapping of nights to run keys; one of them is visible."""

    def __init__(self) -> None:
        super().__init__()
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.root = Path(tempfile.mkdtemp(dir=memory))
        (self.root / "in").mkdir()
        self.batches = {(n, r): Bytes(self.root / "in", n, r) for n in range(NIGHTS) for r in RUNS}
        self.kept: dict[str, State] = {}
        self.ever: list[State] = []
        self.order: list[str] = []
        self.visible: str | None = None
        self.pins: set[str] = set()
        self.withdrawn: dict[str, set[str]] = {}

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    @property
    def log(self) -> ReleaseLog:
        return ReleaseLog(self.root / "w", PIPELINE)

    @property
    def seen(self) -> State:
        return self.kept[self.visible] if self.visible else {}

    # -- the operations, each of which may die on its way --------------------------------------

    def attempt(self, at: int, work: Callable[[ReleaseLog], Any]) -> tuple[bool, Any]:
        """Whether it came to its end, and its answer."""
        log = failing_log(self.root / "w", FailingSystem(at, "die", seed=at))
        try:
            return True, work(log)
        except Dead:
            return False, None

    def settle(self, before: State, after: State) -> bool:
        """After a death: whether the step was taken; nothing else may be seen."""
        state = shown(self.log)
        assert state in (before, after)
        return state == after and before != after

    @rule(
        night=st.integers(0, NIGHTS - 1),
        run=st.sampled_from(RUNS),
        at=st.integers(0, 250),
        again=st.booleans(),
    )
    def publish(self, night: int, run: str, at: int, again: bool) -> None:
        batch = self.batches[night, run]
        ds = str(batch.ds)
        refused = (
            not again
            and batch.run_key in self.withdrawn.get(ds, ())
            and self.seen.get(ds) != batch.run_key
        )
        known = len(self.log.versions())
        try:
            ended, answer = self.attempt(at, lambda log: batch.publish(log, again=again))
        except Withdrawn:
            assert refused
            return
        assert not (refused and ended)
        after = {**self.seen, ds: batch.run_key}
        same = after == self.seen
        if ended:
            assert answer[1] == (not same)
        if not ended and not self.settle(self.seen, after):
            return
        if not same:
            assert len(self.log.versions()) == known + 1
            release = self.log.require()
            self.kept[release.id] = after
            self.ever.append(after)
            self.order.append(release.id)
            self.visible = release.id
            self.withdrawn.get(ds, set()).discard(batch.run_key)

    @precondition(lambda self: self.kept)
    @rule(which=st.integers(0, 10**6), at=st.integers(0, 60))
    def rollback(self, which: int, at: int) -> None:
        target = self.order[which % len(self.order)]
        if target not in self.kept:
            with pytest.raises(NotThereYet):
                self.log.rollback(target)
            return
        ended, _ = self.attempt(at, lambda log: log.rollback(target))
        if not ended:
            now = self.log.require().id
            assert now in (self.visible, target)
            if now != target:
                return
        if target != self.visible:
            for ds, key in self.seen.items():
                self.withdrawn.setdefault(ds, set()).add(key)
            for ds, key in self.kept[target].items():
                self.withdrawn.get(ds, set()).discard(key)
            self.visible = target

    @precondition(lambda self: self.kept)
    @rule(which=st.integers(0, 10**6), at=st.integers(0, 40), off=st.booleans())
    def pin(self, which: int, at: int, off: bool) -> None:
        target = sorted(self.kept)[which % len(self.kept)]
        if off and target not in self.pins:
            with pytest.raises(NotThereYet):
                self.log.unpin(target)
            return
        step = (lambda log: log.unpin(target)) if off else (lambda log: log.pin(target))
        self.attempt(at, step)
        changed = {*self.pins, target} if not off else self.pins - {target}
        assert set(self.log.head().pins) in (self.pins, changed)
        self.pins = set(self.log.head().pins)

    @rule(count=st.integers(1, 4), at=st.integers(0, 200), patient=st.booleans())
    def vacuum(self, count: int, at: int, patient: bool) -> None:
        grace = NEVER if patient else AT_ONCE
        folders = {r.id: self.log.folder(r) for r in self.log.all()}
        ended, _ = self.attempt(at, lambda log: vacuum(log, Retention(count, grace=grace)))
        order = [r for r in self.order if r in self.kept]
        spared = {*order[-count:], *self.pins, self.visible}
        after = {r for r in order if r in spared}
        now = {r.id for r in self.log.all()}
        assert now == after if ended else now in (after, set(order))
        for gone in set(self.kept) - now:
            if patient:  # a reader that had it may go on
                assert self.content(folders[gone]) == self.kept[gone]
            del self.kept[gone]

    # -- what always holds ---------------------------------------------------------------------

    @staticmethod
    def content(folder: Path) -> State:
        return {
            night.name[3:]: "".join(p.read_text() for p in night.iterdir())
            for night in folder.iterdir()
        }

    @invariant()
    def readers_see_exactly_the_model(self) -> None:
        log = self.log
        current = log.current()
        assert (current.id if current else None) == self.visible
        assert [r.id for r in log.all()] == [r for r in self.order if r in self.kept]
        for release in log.all():
            assert self.content(log.folder(release)) == self.kept[release.id]
            assert {d: n["run_key"] for d, n in nights_of(release).items()} == self.kept[release.id]
        link = self.root / "w/published" / PIPELINE / "current"
        if link.exists():  # it may lag after a death, but leads to one whole release
            assert self.content(link) in self.ever


def run(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        Releases,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_model() -> None:
    run(12, 20)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_model_long() -> None:
    run(2000, 50)
