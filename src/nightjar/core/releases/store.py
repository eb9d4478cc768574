"""Where releases live: the few operations that the protocol needs, and how POSIX gives them.

Keys are relative paths with `/`. Everything but a pointer is written once, whole and durable
before its name exists, and never again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import uuid
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

BLOCK = 1 << 20
PUBLISHED = "NIGHTJAR_PUBLISHED"


@dataclass(frozen=True)
class Digest:
    """What is stored under a key: how many bytes, and their SHA-256 in hexadecimal."""

    bytes: int
    sha256: str


class Store(Protocol):
    """One pipeline's published files.

    Missing keys raise FileNotFoundError; every other fault of the medium is an OSError.
    """

    def names(self, folder: str) -> list[str]:
        """The names directly in a folder, without those in the making; none where it is missing."""

    def read(self, key: str) -> bytes: ...

    def digest(self, key: str) -> Digest:
        """Re-open what is stored and read all of it."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Store durably under a free key, in one step; False where the key is taken by others."""

    def receive(self, folder: str, files: Mapping[str, Path]) -> None:
        """Copy local files into a new folder that appears whole and durable."""

    def expose(self, release: str, nights: Mapping[str, str]) -> None:
        """Give readers without a manifest a folder of the release: `ds=DATE` by night's folder."""

    def point(self, release: str) -> None:
        """Let the readers' pointers name this release. A convenience: the log is the truth."""

    def location(self, key: str) -> str:
        """What a reader opens."""

    def age(self, key: str) -> float:
        """Seconds since the key was stored, both by the store's own clock."""

    def remains(self) -> list[str]:
        """What writers left in the making."""

    def trash(self, key: str, label: str) -> None:
        """Move into `trash/LABEL/`; nothing where the key is gone already."""

    def remove(self, key: str) -> None:
        """Delete a file or a folder; nothing where the key is gone already."""


def open_store(warehouse: Path, pipeline: str) -> Store:
    """The store of a pipeline: `$NIGHTJAR_PUBLISHED/PIPELINE` or `WAREHOUSE/published/PIPELINE`."""
    place = os.environ.get(PUBLISHED, "")
    if "://" in place and not place.startswith("file://"):
        from nightjar.core.releases.objects import ObjectStore

        return ObjectStore(f"{place.rstrip('/')}/{pipeline}")
    folder = Path(place.removeprefix("file://")) if place else warehouse / "published"
    return PosixStore(folder / pipeline)


class System:
    """The file-system calls of PosixStore, one method each, so that a test can fail any of them."""

    def mkdir(self, path: Path) -> None:
        os.mkdir(path)  # noqa: PTH102

    def listdir(self, path: Path) -> list[str]:
        return os.listdir(path)

    def open(self, path: Path) -> int:
        return os.open(path, os.O_RDONLY)

    def create(self, path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)

    def read(self, handle: int) -> bytes:
        return os.read(handle, BLOCK)

    def write(self, handle: int, data: bytes) -> int:
        return os.write(handle, data)

    def fsync(self, handle: int) -> None:
        os.fsync(handle)

    def freeze(self, handle: int) -> None:
        os.fchmod(handle, 0o444)

    def close(self, handle: int) -> None:
        os.close(handle)

    def link(self, source: Path, target: Path) -> None:
        os.link(source, target)

    def symlink(self, to: str, path: str | Path) -> None:
        os.symlink(to, path)  # noqa: PTH211

    def rename(self, source: Path, target: Path) -> None:
        os.rename(source, target)  # noqa: PTH104

    def replace(self, source: Path, target: Path) -> None:
        os.replace(source, target)

    def unlink(self, path: Path) -> None:
        os.unlink(path)  # noqa: PTH108

    def rmdir(self, path: Path) -> None:
        os.rmdir(path)  # noqa: PTH106

    def stat(self, path: Path) -> os.stat_result:
        return os.lstat(path)


def _making(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp")


class PosixStore:
    """A folder of a POSIX file system: link() is the one step that puts if absent."""

    def __init__(self, root: Path, system: System | None = None) -> None:
        self.root = root
        self.system = system or System()

    # -- reading -------------------------------------------------------------------------------

    def names(self, folder: str) -> list[str]:
        try:
            found = self.system.listdir(self.root / folder)
        except FileNotFoundError:
            return []
        return sorted(name for name in found if not _making(name))

    def read(self, key: str) -> bytes:
        return b"".join(self._blocks(self.root / key))

    def digest(self, key: str) -> Digest:
        size, digest = 0, hashlib.sha256()
        for block in self._blocks(self.root / key):
            size += len(block)
            digest.update(block)
        return Digest(size, digest.hexdigest())

    def location(self, key: str) -> str:
        return str(self.root / key)

    def age(self, key: str) -> float:
        probe = self._making(self.root / "log" / "clock")
        self._folder(probe.parent)
        self.system.close(self.system.create(probe))
        try:
            present = self.system.stat(probe).st_mtime
        finally:
            self._forget(probe)
        return present - self.system.stat(self.root / key).st_mtime

    def remains(self) -> list[str]:
        return [
            f"{folder}{name}"
            for folder in ("", "log/", "releases/", *self._nights())
            for name in self._listed(folder)
            if _making(name)
        ]

    # -- writing -------------------------------------------------------------------------------

    def put_if_absent(self, key: str, data: bytes) -> bool:
        target = self.root / key
        self._folder(target.parent)
        finished = self._making(target)
        try:
            self._write(finished, [data])
            try:
                self.system.link(finished, target)
            except FileExistsError:
                # A file server may have done what it then reports as already done.
                return self.read(key) == data
        finally:
            self._forget(finished)
        self._settle(target.parent)
        return True

    def receive(self, folder: str, files: Mapping[str, Path]) -> None:
        def fill(making: Path) -> None:
            for name, source in files.items():
                with contextlib.closing(self._blocks(source)) as blocks:
                    self._write(making / name, blocks)

        self._appear(folder, fill)

    def expose(self, release: str, nights: Mapping[str, str]) -> None:
        def fill(making: Path) -> None:
            for ds, folder in nights.items():
                # The one loop whose length is the table's age: no Path for each night.
                self.system.symlink(f"../../{folder}", f"{making}/ds={ds}")

        self._appear(f"releases/{release}", fill)

    def point(self, release: str) -> None:
        for name, to in (
            ("current", f"releases/{release}"),
            ("current.json", f"releases/{release}.json"),
        ):
            making = self._making(self.root / name)
            try:
                self.system.symlink(to, making)
                self.system.replace(making, self.root / name)
            except OSError:
                self._forget(making)
                raise
        self._settle(self.root)

    def trash(self, key: str, label: str) -> None:
        target = self.root / "trash" / label / key.replace("/", "~")
        self._folder(target.parent)
        with contextlib.suppress(FileNotFoundError):
            self.system.rename(self.root / key, target)

    def remove(self, key: str) -> None:
        self._delete(self.root / key)

    # -- how -----------------------------------------------------------------------------------

    def _blocks(self, path: Path) -> Generator[bytes, None, None]:
        handle = self.system.open(path)
        try:
            while block := self.system.read(handle):
                yield block
        finally:
            self.system.close(handle)

    def _write(self, path: Path, blocks: Iterable[bytes]) -> None:
        handle = self.system.create(path)
        try:
            for block in blocks:
                rest = block
                while rest:
                    rest = rest[self.system.write(handle, rest) :]
            self.system.freeze(handle)
            self.system.fsync(handle)
        finally:
            self.system.close(handle)

    def _appear(self, folder: str, fill: Callable[[Path], None]) -> None:
        target = self.root / folder
        self._folder(target.parent)
        making = self._making(target)
        self.system.mkdir(making)
        try:
            fill(making)
            self._sync(making)
            self.system.rename(making, target)
        except OSError:
            with contextlib.suppress(OSError):  # ours alone, and nothing names it
                self._delete(making)
            raise
        self._settle(target.parent)

    def _making(self, target: Path) -> Path:
        return target.parent / f".{target.name}.{uuid.uuid4().hex[:12]}.tmp"

    def _folder(self, path: Path) -> None:
        if path == self.root.parent:
            path.mkdir(parents=True, exist_ok=True)
            return
        try:
            self.system.mkdir(path)
        except FileExistsError:
            return
        except FileNotFoundError:
            self._folder(path.parent)
            with contextlib.suppress(FileExistsError):
                self.system.mkdir(path)

    def _settle(self, folder: Path) -> None:
        """Make names durable: the folder's, and those of the folders that lead to it."""
        while folder != self.root.parent:
            self._sync(folder)
            folder = folder.parent
        self._sync(folder)

    def _sync(self, path: Path) -> None:
        handle = self.system.open(path)
        try:
            self.system.fsync(handle)
        finally:
            self.system.close(handle)

    def _forget(self, path: Path) -> None:
        with contextlib.suppress(OSError):  # what stays is collected by vacuum
            self.system.unlink(path)

    def _delete(self, path: Path) -> None:
        try:
            folder = stat.S_ISDIR(self.system.stat(path).st_mode)
            if folder:
                for name in self.system.listdir(path):
                    self._delete(path / name)
                self.system.rmdir(path)
            else:
                self.system.unlink(path)
        except FileNotFoundError:
            return

    def _listed(self, folder: str) -> list[str]:
        try:
            return self.system.listdir(self.root / folder)
        except FileNotFoundError:
            return []

    def _nights(self) -> list[str]:
        return [f"nights/{name}/" for name in self.names("nights")]
