"""A loss of power, simulated: what was not synced may be gone, in any combination."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from pathlib import Path

from nightjar.core.releases import System


class PowerLoss(System):
    """Remembers what is not durable yet; `lose()` takes a random part of it away."""

    def __init__(self, seed: int, sync_files: bool = True, sync_folders: bool = True) -> None:
        self.random = random.Random(seed)
        self.sync_files, self.sync_folders = sync_files, sync_folders
        self.paths: dict[int, Path] = {}
        self.contents: dict[tuple[int, int], Path] = {}  # by inode: a file whose bytes may be lost
        self.names: list[tuple[Path, Path | None]] = []  # a new name, and where it was before

    def open(self, path: Path) -> int:
        return self._know(super().open(path), path)

    def create(self, path: Path) -> int:
        handle = self._know(super().create(path), path)
        self.contents[self._inode(path)] = path
        self.names.append((path, None))
        return handle

    def fsync(self, handle: int) -> None:
        path = self.paths[handle]
        if path.is_dir():
            if self.sync_folders:
                self.names = [(p, o) for p, o in self.names if p.parent != path]
        elif self.sync_files:
            self.contents.pop(self._inode(path), None)

    def mkdir(self, path: Path) -> None:
        super().mkdir(path)
        self.names.append((path, None))

    def link(self, source: Path, target: Path) -> None:
        super().link(source, target)
        self.names.append((target, None))
        if self._inode(target) in self.contents:
            self.contents[self._inode(target)] = target

    def symlink(self, to: str, path: str | Path) -> None:
        super().symlink(to, path)
        self.names.append((Path(path), None))

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self.names = [(self._moved(p, source, target), o) for p, o in self.names if p != source]
        self.contents = {i: self._moved(p, source, target) for i, p in self.contents.items()}
        self.names.append((target, source))

    def lose(self) -> None:
        for path in self.contents.values():
            if self.random.random() < 0.5 and path.exists():
                path.chmod(0o644)
                size = path.stat().st_size
                os.truncate(path, self.random.randint(0, max(0, size - 1)))
        for path, origin in reversed(self.names):
            if self.random.random() < 0.5 and os.path.lexists(path):
                with contextlib.suppress(OSError):
                    if origin is not None:
                        path.rename(origin)
                    elif path.is_dir() and not path.is_symlink():
                        shutil.rmtree(path)
                    else:
                        path.unlink()

    def _know(self, handle: int, path: Path) -> int:
        self.paths[handle] = path
        return handle

    @staticmethod
    def _inode(path: Path) -> tuple[int, int]:
        found = path.stat()
        return found.st_dev, found.st_ino

    @staticmethod
    def _moved(path: Path, source: Path, target: Path) -> Path:
        return target / path.relative_to(source) if path.is_relative_to(source) else path
