"""What a published release must survive: the loss of power right after, or at any call before."""

from __future__ import annotations

from pathlib import Path

import pytest
from forge import PIPELINE, Batch, failing_log, shown
from power import PowerLoss

from nightjar.core.releases import ReleaseLog
from nightjar.core.releases.verify import verify

Batches = dict[tuple[int, str], Batch]


class Gone(BaseException):
    """The moment of the loss."""


class UntilLoss(PowerLoss):
    """Loses power before the `at`-th call of fsync."""

    def __init__(self, seed: int, at: int, **options: bool) -> None:
        super().__init__(seed, **options)
        self.left, self.gone = at, False

    def fsync(self, handle: int) -> None:
        self.left -= 1
        if self.left == 0:
            self.gone = True
            raise Gone
        super().fsync(handle)


def lose_power(batches: Batches, place: Path, seed: int, at: int = 0, **options: bool) -> bool:
    """Publish two nights, lose power, and hold what is left against the promises."""
    batches[0, "a"].publish(ReleaseLog(place, PIPELINE))
    system = UntilLoss(seed, at, **options)
    published = [{"2013-01-01": "2013-01-01/a"}]
    try:
        batches[1, "a"].publish(failing_log(place, system))
        published.append({**published[0], "2013-01-02": "2013-01-02/a"})
        batches[0, "b"].publish(failing_log(place, system))
        published.append({**published[1], "2013-01-01": "2013-01-01/b"})
    except Gone:
        pass
    system.lose()
    log = ReleaseLog(place, PIPELINE)
    state = shown(log)
    last = {**published[-1], "2013-01-02": "2013-01-02/a"}
    allowed = [published[-1], last, {**last, "2013-01-01": "2013-01-01/b"}]
    assert state in (allowed if system.gone else published[-1:])
    for release in log.all():
        verify(log, release)
    batches[1, "a"].publish(log)
    batches[0, "b"].publish(log)
    assert shown(log) == {"2013-01-01": "2013-01-01/b", "2013-01-02": "2013-01-02/a"}
    verify(log, log.require())
    return system.gone


@pytest.mark.parametrize("seed", range(5))
def test_what_was_published_survives(batches: Batches, place: Path, seed: int) -> None:
    lose_power(batches, place, seed)


def test_power_lost_before_any_sync(batches: Batches, place: Path) -> None:
    at = 1
    while lose_power(batches, place / str(at), seed=at, at=at):
        at += 1
    assert at > 20
