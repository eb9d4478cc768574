"""Retention and vacuum: which releases are kept, and how what nobody needs leaves the disk.

A vacuum first appends a log entry that says what expires and what it will take; only then does it
touch a file. A publisher that was under way sees that entry before it can land and brings its
files again, so a vacuum cannot take what a later release names. Each step waits out the grace
period by the store's own clock: from expiry to the trash, and from the trash to deletion.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from nightjar.core.releases.log import (
    Entry,
    Release,
    ReleaseLog,
    entry_key,
    follow,
    nights_of,
)

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Retention:
    """What stays: the newest `releases`, everything younger than `age`, the pinned, the visible.

    Where neither is given everything stays. `grace` is the longest that a reader may take over a
    release that has expired since, and a writer over a release that has not landed yet.
    """

    releases: int | None = None
    age: timedelta | None = None
    grace: timedelta = DAY


@dataclass(frozen=True)
class Vacuumed:
    """What a vacuum did, or would do: releases that expired, keys moved to trash, trash deleted."""

    expired: tuple[str, ...]
    trashed: tuple[str, ...]
    deleted: tuple[str, ...]


def vacuum(log: ReleaseLog, retention: Retention, *, dry_run: bool = False) -> Vacuumed:
    """Let releases expire, trash what nobody needs, and delete what lay in the trash long enough.

    Raises:
        StorageFault: the medium failed; running again takes up where this ended.
        Conflict: others always came first.
    """
    if dry_run:
        expired, garbage = _plan(log, retention)
        return Vacuumed(expired, garbage, tuple(_old_trash(log, retention.grace)))
    planned: list[tuple[tuple[str, ...], tuple[str, ...]]] = []

    def step(head: Entry) -> Entry | None:
        planned.append(_plan(log, retention))
        expired, garbage = planned[-1]
        if not expired and not garbage:
            return None
        return follow(head, "vacuum", details={"expired": list(expired), "trashed": list(garbage)})

    entry = log.advance(step)
    expired, garbage = planned[-1]
    with log.faults():
        deleted = tuple(_old_trash(log, retention.grace))
        for label in deleted:
            log.store.remove(f"trash/{label}")
        for key in garbage:
            log.store.trash(key, f"{entry.version:010d}")
    return Vacuumed(expired, garbage, deleted)


def _plan(log: ReleaseLog, retention: Retention) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Which releases expire now, and which keys nobody needs."""
    entries = log.entries()
    kept = log.kept(entries)
    expiring = _expiring(log, kept, entries[-1] if entries else None, retention)
    grace = retention.grace.total_seconds()
    needed = {r.id: r for r in kept}  # the expiring ones too: their readers have the grace
    lately: set[str] = set()
    taken: set[str] = set()
    for entry in (e for e in entries if e.action == "vacuum"):
        taken.update(entry.details["trashed"])
        if log.store.age(entry_key(entry.version)) <= grace:
            lately.update(entry.details["expired"])
    needed |= {
        r.id: r
        for r in log.published(entries)
        if r.id in lately and f"releases/{r.id}.json" not in taken
    }
    nights = {n["folder"] for r in needed.values() for n in nights_of(r).values()}
    garbage = [key for key in _unneeded(log, set(needed), nights) if _age(log, key) > grace]
    return tuple(r.id for r in expiring), tuple(garbage)


def _expiring(
    log: ReleaseLog, kept: list[Release], head: Entry | None, retention: Retention
) -> list[Release]:
    if head is None or (retention.releases is None and retention.age is None):
        return []
    newest = {r.id for r in kept[-retention.releases :]} if retention.releases else set()
    spared = {*newest, *head.pins, head.release}
    return [r for r in kept if r.id not in spared and not _young(log, r, retention.age)]


def _young(log: ReleaseLog, release: Release, age: timedelta | None) -> bool:
    if age is None:
        return False
    return log.store.age(entry_key(release.version)) <= age.total_seconds()


def _unneeded(log: ReleaseLog, releases: set[str], nights: set[str]) -> Iterator[str]:
    store = log.store
    yield from store.remains()
    for name in store.names("releases"):
        if name.removesuffix(".json") not in releases:
            yield f"releases/{name}"
    for ds in store.names("nights"):
        for name in store.names(f"nights/{ds}"):
            if f"nights/{ds}/{name.removesuffix('.json')}" not in nights:
                yield f"nights/{ds}/{name}"


def _old_trash(log: ReleaseLog, grace: timedelta) -> Iterator[str]:
    for label in log.store.names("trash"):  # the version of the vacuum that filled it
        if _age(log, f"trash/{label}") > grace.total_seconds():
            yield label


def _age(log: ReleaseLog, key: str) -> float:
    """Seconds since the key was stored; less than any where another vacuum took it meanwhile."""
    try:
        return log.store.age(key)
    except FileNotFoundError:
        return -math.inf
