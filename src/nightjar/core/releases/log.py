"""The log of one pipeline's releases: an append-only chain that decides what readers see.

    log/0000000007.json        the truth: entry 7 names the release that is visible from then on
    releases/ID.json           a release's manifest: its nights, each with folder, files, digest
    releases/ID/ds=DATE        the same as a folder, for readers that take a path (POSIX)
    nights/ds=DATE/NIGHT/      one night's data files, shared by every release that holds them
    nights/ds=DATE/NIGHT.json  what is known of the night: lineage, checks, rows, digests
    current, current.json      pointers to the newest entry's release, healed from the log

Everything is durable before an entry names it. An entry appears in one step under the next free
number, so whoever loses that number has seen an old log and starts over. Pins, rollbacks and
vacuums are entries too: what is kept and what is taken have one order, that of the numbers.
"""

from __future__ import annotations

import functools
import hashlib
import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from nightjar.core.errors import (
    Conflict,
    DamagedRelease,
    GateFailed,
    NotThereYet,
    StorageFault,
    Withdrawn,
    near,
)
from nightjar.core.records import now
from nightjar.core.releases.store import PosixStore, Store, open_store

_ATTEMPTS = 50


@dataclass(frozen=True)
class Entry:
    """One step of the log, and the state after it.

    `release` is what readers see; `pins` notes by pinned release; `withdrawn` holds, by night, the
    run keys that a rollback took away; `parent` is the digest of the entry before.
    """

    version: int
    action: str
    token: str
    created: str
    parent: str
    release: str | None
    pins: Mapping[str, str] = field(default_factory=dict)
    withdrawn: Mapping[str, list[str]] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


BEGINNING = Entry(0, "begin", "", "", "", None)


@dataclass(frozen=True)
class Release:
    """One immutable snapshot of a dataset.

    `partitions` is, by night: run key, files (rows, bytes, sha256), model, inputs, checks and
    whatever else its publisher said; it is read, and held against its digests, when looked at.
    """

    version: int
    id: str
    parent: str | None
    created: str
    pipeline: str
    dataset: str
    ds: str
    run_key: str
    rows: int
    bytes: int
    nights: int
    manifest: str
    partitions: Mapping[str, Mapping[str, Any]] = field(compare=False, repr=False)


class Partitions(Mapping[str, Mapping[str, Any]]):
    """The nights of a release, read from its manifest at first sight."""

    def __init__(self, store: Store, release: str, digest: str) -> None:
        self._store, self._release, self._digest = store, release, digest

    @functools.cached_property
    def listed(self) -> dict[str, dict[str, Any]]:
        """What the manifest itself says of each night: folder, run key, file sizes, digest.

        Raises:
            DamagedRelease: the manifest is missing or is not what the log says.
        """
        found = read_exactly(self._store, f"releases/{self._release}.json", self._digest)
        return {night["ds"]: night for night in found["nights"]}

    def __getitem__(self, ds: str) -> Mapping[str, Any]:
        night = self.listed[ds]
        return {
            **read_exactly(self._store, night["folder"] + ".json", night["sha256"]),
            "run_key": night["run_key"],
        }

    def __iter__(self) -> Iterator[str]:
        return iter(self.listed)

    def __len__(self) -> int:
        return len(self.listed)

    def __contains__(self, ds: object) -> bool:
        return ds in self.listed


class ReleaseLog:
    """The releases of one pipeline. Reading needs no engine."""

    def __init__(self, warehouse: Path, pipeline: str, store: Store | None = None) -> None:
        self.pipeline = pipeline
        self.store = store or open_store(warehouse, pipeline)

    # -- reading -------------------------------------------------------------------------------

    def head(self) -> Entry:
        """The newest entry; BEGINNING before the first.

        Raises:
            DamagedRelease: the entry cannot be read.
        """
        newest = self._newest()
        return self.entry(newest) if newest else BEGINNING

    def versions(self) -> list[int]:
        return [v for name in self.store.names("log") if (v := _version(name))]

    def entry(self, version: int) -> Entry:
        key = entry_key(version)
        try:
            return Entry(**json.loads(self.store.read(key)))
        except (ValueError, TypeError) as error:
            raise DamagedRelease(f"{self.store.location(key)} is damaged: {error}") from error

    def entries(self) -> list[Entry]:
        """Every entry, oldest first."""
        return [self.entry(version) for version in self.versions()]

    def all(self) -> list[Release]:
        """Every release that is kept, oldest first."""
        return self.kept(self.entries())

    def kept(self, entries: list[Entry]) -> list[Release]:
        """Of these entries' releases, those that no vacuum let expire."""
        gone = {r for e in entries if e.action == "vacuum" for r in e.details["expired"]}
        return [release for release in self.published(entries) if release.id not in gone]

    def published(self, entries: list[Entry]) -> list[Release]:
        """The releases that these entries made, kept or not."""
        return [self._release(entry) for entry in entries if entry.action == "publish"]

    def current(self) -> Release | None:
        """What readers see; None before the first release."""
        return self._visible(self.head())

    def require(self, release: str | None = None) -> Release:
        """The release with this id, or the current one.

        Raises:
            NotThereYet: there is none.
        """
        if release is None:
            found = self.current()
            if found is not None:
                return found
            raise NotThereYet(
                f"pipeline '{self.pipeline}' has no release yet; publish a night: "
                f"nightjar run {self.pipeline} --ds YYYY-MM-DD",
                pipeline=self.pipeline,
            )
        kept = self.all()
        for one in kept:
            if one.id == release:
                return one
        raise NotThereYet(
            f"pipeline '{self.pipeline}' has no release {release!r} (any more); "
            f"{near(release, [r.id for r in kept])}",
            pipeline=self.pipeline,
        )

    def folder(self, release: Release) -> Path:
        """The folder of a release that lies on a file system."""
        if not isinstance(self.store, PosixStore):
            raise StorageFault(f"release {release.id} lies in an object store: it has no folder")
        return self.store.root / "releases" / release.id

    def files(self, release: Release) -> list[str]:
        """Where each data file of a release lies, in order of nights; works in every store."""
        return [
            self.store.location(f"{night['folder']}/{name}")
            for night in nights_of(release).values()
            for name in night["files"]
        ]

    # -- writing -------------------------------------------------------------------------------

    def publish(
        self,
        dataset: str,
        ds: date,
        run_key: str,
        source: Path,
        partition: Mapping[str, Any],
        *,
        base: int | None = None,
        again: bool = False,
    ) -> tuple[Release, bool]:
        """Make the files of `source` the night `ds` of a new release of `dataset`.

        `partition["files"]` is what the audit saw: by name, rows, bytes and SHA-256. `base` is the
        version of the log when the caller decided what to publish: a run that changed the same
        night after it wins. Returns the release, and False where this run key had landed before.
        Other nights are those of the release that it follows; where something else lands in
        between, it is built again on that.

        Raises:
            GateFailed: the files are not those that the audit saw.
            Conflict: another run changed this night, a file is gone, or others always came first.
            Withdrawn: a rollback took away this very result, and not `again`.
            StorageFault: the medium failed. What was visible still is; running again is enough.
        """
        night = ds.isoformat()
        with self.faults():
            if base is None:
                base = self.head().version
            brought: tuple[str, dict[str, Any]] | None = None
            at = base
            for _ in range(_ATTEMPTS):
                head = self.head()
                parent = self._visible(head)
                if parent and self._landed(parent, night, run_key, base):
                    self._heal()
                    return parent, False
                self._refuse_withdrawn(head, night, run_key, again)
                if brought and self._vacuumed(at, head.version):
                    brought = None  # it may have been taken for an orphan
                at = head.version
                brought = brought or self._bring(dataset, night, run_key, source, partition)
                entry = self._build(head, parent, dataset, night, run_key, brought)
                if self.append(entry):
                    self._heal()
                    return self._release(entry), True
                self._discard(entry)
        raise Conflict(f"{self.pipeline} {ds}: {_ATTEMPTS} others came first; run again")

    def rollback(self, release: str) -> Release:
        """Make a kept release what readers see again, in one step and without copying.

        Raises:
            NotThereYet: no such release is kept.
        """

        def step(head: Entry) -> Entry | None:
            target = self.require(release)
            if head.release == release:
                return None
            return follow(
                head,
                "rollback",
                release=release,
                withdrawn=_withdrawn(head, self._visible(head), target),
                details={"from": head.release},
            )

        with self.faults():
            self.advance(step)
            return self.require(release)

    def pin(self, release: str, note: str = "") -> None:
        """Keep a release whatever the retention says.

        Raises:
            NotThereYet: no such release is kept.
        """

        def step(head: Entry) -> Entry | None:
            self.require(release)
            if head.pins.get(release) == note:
                return None
            return follow(
                head, "pin", pins={**head.pins, release: note}, details={"pinned": release}
            )

        self.advance(step)

    def unpin(self, release: str) -> None:
        """Leave a release to the retention again.

        Raises:
            NotThereYet: it is not pinned.
        """

        def step(head: Entry) -> Entry | None:
            if release not in head.pins:
                raise NotThereYet(f"{release!r} is not pinned; {near(release, head.pins)}")
            pins = {r: note for r, note in head.pins.items() if r != release}
            return follow(head, "unpin", pins=pins, details={"unpinned": release})

        self.advance(step)

    def advance(self, step: Callable[[Entry], Entry | None]) -> Entry:
        """Append what `step` makes of the newest entry, again until it lands or it makes None.

        Raises:
            Conflict: others always came first.
        """
        with self.faults():
            for _ in range(_ATTEMPTS):
                head = self.head()
                entry = step(head)
                if entry is None or self.append(entry):
                    self._heal()
                    return entry or head
        raise Conflict(f"{self.pipeline}: {_ATTEMPTS} others came first; run again")

    def append(self, entry: Entry) -> bool:
        """Put an entry if its number is free: the one step that changes what is visible."""
        return self.store.put_if_absent(entry_key(entry.version), _bytes(asdict(entry)))

    # -- how -----------------------------------------------------------------------------------

    def _newest(self) -> int:
        return next((v for n in reversed(self.store.names("log")) if (v := _version(n))), 0)

    def _landed(self, parent: Release, night: str, run_key: str, base: int) -> bool:
        known = nights_of(parent).get(night)
        if known is None:
            return False
        if known["run_key"] == run_key:
            return True
        if known["version"] > base:
            raise Conflict(
                f"{self.pipeline} {night}: another run published this night as release "
                f"{parent.id} in the meantime; nothing was changed",
                release=parent.id,
            )
        return False

    def _refuse_withdrawn(self, head: Entry, night: str, run_key: str, again: bool) -> None:
        if not again and run_key in head.withdrawn.get(night, []):
            raise Withdrawn(
                f"{self.pipeline} {night}: this very result was released and then rolled back. "
                "To show it again: nightjar rollback to the release that held it, or run the "
                "night with --force",
                ds=night,
            )

    def _vacuumed(self, since: int, until: int) -> bool:
        return any(self.entry(v).action == "vacuum" for v in range(since + 1, until + 1))

    def _bring(
        self, dataset: str, night: str, run_key: str, source: Path, partition: Mapping[str, Any]
    ) -> tuple[str, dict[str, Any]]:
        """Copy the night's files in, re-open them and hold them against the audit."""
        token = uuid.uuid4().hex[:12]
        folder = f"nights/ds={night}/{token}"
        names = {name: f"part-{i:04d}-{token}.parquet" for i, name in enumerate(partition["files"])}
        try:
            self.store.receive(folder, {new: source / old for old, new in names.items()})
        except FileNotFoundError as error:
            raise Conflict(f"{error.filename} is gone; run the night again") from error
        files = {}
        for old, new in names.items():
            expected = partition["files"][old]
            found = self.store.digest(f"{folder}/{new}")
            if (found.bytes, found.sha256) != (expected["bytes"], expected["sha256"]):
                raise GateFailed(
                    f"{source / old} is not what the audit saw: {found.bytes} bytes, expected "
                    f"{expected['bytes']}, or other content. Nothing was published; run again "
                    "with --force"
                )
            files[new] = {**expected, "from": old}
        facts = {**partition, "dataset": dataset, "ds": night, "run_key": run_key, "files": files}
        self.store.put_if_absent(folder + ".json", _bytes(facts))
        return folder, facts

    def _build(
        self,
        head: Entry,
        parent: Release | None,
        dataset: str,
        night: str,
        run_key: str,
        brought: tuple[str, dict[str, Any]],
    ) -> Entry:
        folder, facts = brought
        version = head.version + 1
        nights = dict(nights_of(parent)) if parent else {}
        nights[night] = {
            "ds": night,
            "folder": folder,
            "run_key": run_key,
            "version": version,
            "rows": sum(int(f["rows"]) for f in facts["files"].values()),
            "bytes": sum(int(f["bytes"]) for f in facts["files"].values()),
            "files": {name: int(f["bytes"]) for name, f in facts["files"].items()},
            "sha256": hashlib.sha256(_bytes(facts)).hexdigest(),
        }
        listed = [nights[ds] for ds in sorted(nights)]
        release = f"r{version:06d}-{night}-{uuid.uuid4().hex[:8]}"
        manifest = _bytes({"release": release, "dataset": dataset, "nights": listed})
        self.store.put_if_absent(f"releases/{release}.json", manifest)
        self.store.expose(release, {n["ds"]: n["folder"] for n in listed})
        return follow(
            head,
            "publish",
            release=release,
            withdrawn={
                ds: keys
                for ds, found in head.withdrawn.items()
                if (keys := [k for k in found if (ds, k) != (night, run_key)])
            },
            details={
                "pipeline": self.pipeline,
                "dataset": dataset,
                "ds": night,
                "run_key": run_key,
                "on": parent.id if parent else None,
                "rows": sum(n["rows"] for n in listed),
                "bytes": sum(n["bytes"] for n in listed),
                "nights": len(listed),
                "manifest": hashlib.sha256(manifest).hexdigest(),
            },
        )

    def _discard(self, lost: Entry) -> None:
        # The number went to somebody else for certain: nothing will ever name these.
        self.store.remove(f"releases/{lost.release}")
        self.store.remove(f"releases/{lost.release}.json")

    def _heal(self) -> None:
        """Let the pointers name the visible release; whoever comes last leaves the newest."""
        while True:
            head = self.head()
            if head.release is None:
                return
            self.store.point(head.release)
            if self._newest() == head.version:
                return

    def _visible(self, head: Entry) -> Release | None:
        if head.release is None:
            return None
        # A release's id begins with the version of the entry that published it.
        return self._release(self.entry(int(head.release.partition("-")[0][1:])))

    def _release(self, entry: Entry) -> Release:
        facts, identity = entry.details, str(entry.release)
        return Release(
            version=entry.version,
            id=identity,
            parent=facts["on"],
            created=entry.created,
            pipeline=facts["pipeline"],
            dataset=facts["dataset"],
            ds=facts["ds"],
            run_key=facts["run_key"],
            rows=facts["rows"],
            bytes=facts["bytes"],
            nights=facts["nights"],
            manifest=facts["manifest"],
            partitions=Partitions(self.store, identity, facts["manifest"]),
        )

    @contextmanager
    def faults(self) -> Iterator[None]:
        """Faults of the medium, said in the terms of releases."""
        try:
            yield
        except OSError as error:
            raise StorageFault(
                f"{self.pipeline}: {error}. What readers saw they still see; mend the cause and "
                "run again, nothing needs cleaning up",
                errno=error.errno,
            ) from error


def entry_key(version: int) -> str:
    return f"log/{version:010d}.json"


def _version(name: str) -> int:
    """The number of an entry's file; 0 for any other file. Names sort as their numbers do."""
    number, _, suffix = name.partition(".")
    return int(number) if suffix == "json" and len(number) == 10 and number.isdecimal() else 0


def follow(head: Entry, action: str, **changed: Any) -> Entry:
    """The entry after `head`: its state, but for what `action` changes."""
    state = {"release": head.release, "pins": head.pins, "withdrawn": head.withdrawn}
    parent = hashlib.sha256(_bytes(asdict(head))).hexdigest()
    return Entry(head.version + 1, action, uuid.uuid4().hex, now(), parent, **{**state, **changed})


def digest_of(entry: Entry) -> str:
    """The digest by which the next entry names this one."""
    return hashlib.sha256(_bytes(asdict(entry))).hexdigest()


def read_exactly(store: Store, key: str, digest: str) -> Any:
    """A JSON file whose bytes must have this digest.

    Raises:
        DamagedRelease: it is missing or has other bytes.
    """
    try:
        data = store.read(key)
    except FileNotFoundError as error:
        raise DamagedRelease(f"{store.location(key)} is missing") from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise DamagedRelease(f"{store.location(key)} was altered: its SHA-256 is not the log's")
    return json.loads(data)


def nights_of(release: Release) -> dict[str, dict[str, Any]]:
    """By night, what the manifest lists: folder, run key, rows, bytes, files, digest of facts."""
    assert isinstance(release.partitions, Partitions), "made by a ReleaseLog"
    return release.partitions.listed


def _withdrawn(head: Entry, before: Release | None, after: Release) -> dict[str, list[str]]:
    """By night, the run keys that going from one release to another takes away from readers."""
    found = {ds: set(keys) for ds, keys in head.withdrawn.items()}
    kept = nights_of(after)
    for ds, night in (nights_of(before) if before else {}).items():
        found.setdefault(ds, set()).add(night["run_key"])
    for ds, night in kept.items():
        found.get(ds, set()).discard(night["run_key"])
    return {ds: sorted(keys) for ds, keys in found.items() if keys}


def _bytes(value: Any) -> bytes:
    return (json.dumps(value, sort_keys=True) + "\n").encode()
