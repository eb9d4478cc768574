"""Verify: every byte of a release held against the log."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from nightjar.core.errors import DamagedRelease
from nightjar.core.releases.log import Release, ReleaseLog, digest_of, nights_of
from nightjar.core.releases.store import PosixStore


def verify(log: ReleaseLog, release: Release) -> int:
    """Re-read a whole release; returns the bytes that were checked.

    Raises:
        DamagedRelease: with everything that is wrong: the log's chain is broken, a manifest or a
            data file is missing or altered, or a reader of the folder would see other files.
    """
    chain = list(_chain(log))
    found: list[str] = []
    checked = 0
    try:
        nights = nights_of(release)
    except DamagedRelease as error:
        raise DamagedRelease("\n".join([*chain, error.message]), release=release.id) from error
    for ds, night in nights.items():
        try:
            facts = release.partitions[ds]
        except DamagedRelease as error:
            found.append(error.message)
            continue
        folder = night["folder"]
        stored = log.store.names(folder)
        found += [
            f"{log.store.location(folder)}/{n} is foreign"
            for n in stored
            if n not in facts["files"]
        ]
        for name, expected in facts["files"].items():
            place = log.store.location(f"{folder}/{name}")
            try:
                digest = log.store.digest(f"{folder}/{name}")
            except FileNotFoundError:
                found.append(f"{place} is missing")
                continue
            except OSError as error:
                found.append(f"{place} cannot be read: {error}")
                continue
            checked += digest.bytes
            if digest.bytes != expected["bytes"]:
                found.append(f"{place} has {digest.bytes} bytes; published {expected['bytes']}")
            elif digest.sha256 != expected["sha256"]:
                found.append(
                    f"{place} was altered: SHA-256 {digest.sha256}, published {expected['sha256']}"
                )
    found += _folder(log, release)
    if found:
        raise DamagedRelease(
            f"release {release.id} is damaged; roll back to one that holds (nightjar verify "
            f"{log.pipeline} --all), or run its nights again with --force:\n"
            + "\n".join([*chain, *found]),
            release=release.id,
            found=[*chain, *found],
        )
    if chain:
        raise DamagedRelease(
            f"the log of releases was altered; restore it from a copy. The files of {release.id} "
            "are those that were published:\n" + "\n".join(chain),
            release=release.id,
            found=chain,
        )
    return checked


def _chain(log: ReleaseLog) -> Iterator[str]:
    entries = log.entries()
    for i, entry in enumerate(entries, start=1):
        if entry.version != i:
            yield f"the log lacks entry {i}"
            return
    for before, entry in itertools.pairwise(entries):
        if entry.parent != digest_of(before):
            yield f"log entry {before.version} was altered: entry {entry.version} names another"


def _folder(log: ReleaseLog, release: Release) -> Iterator[str]:
    """What a reader who takes the release's folder would see besides its nights, or would miss."""
    if not isinstance(log.store, PosixStore):
        return
    folder = log.folder(release)
    expected = {f"ds={ds}": f"../../{n['folder']}" for ds, n in nights_of(release).items()}
    present = set(log.store.names(f"releases/{release.id}"))
    for name in sorted(present - set(expected)):
        yield f"{folder / name} is foreign"
    for name, to in expected.items():
        path = folder / name
        if name not in present:
            yield f"{path} is missing"
        elif not path.is_symlink() or str(path.readlink()) != to:
            yield f"{path} does not lead to {to}"
