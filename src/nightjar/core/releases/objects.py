"""Releases in an object store, through fsspec: the store's own conditional put is the one step.

An object appears whole or not at all, and is durable when its put returns, so there is no staging
and nothing to sync. There are no links either: readers take the files that the log lists.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from nightjar.core.errors import EnvironmentFault
from nightjar.core.releases.store import BLOCK, Digest

# Where fsspec's mode="create" is one atomic request (If-None-Match: * or its like). Elsewhere it
# asks whether the key is there and then writes, and two publishers could both win.
CONDITIONAL = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"}
_TAKEN = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")


class ObjectStore:
    """A prefix of a bucket."""

    def __init__(self, url: str, files: Any = None) -> None:
        """Raises EnvironmentFault where the store has no conditional put, or its client is missing.

        Credentials, region and endpoint are the client's own: for S3 the AWS_* variables.
        """
        protocol, _, path = url.partition("://")
        if protocol not in CONDITIONAL:
            raise EnvironmentFault(
                f"{url}: no put-if-absent is known for '{protocol}://'; releases need one. "
                f"Known: {', '.join(sorted(CONDITIONAL))}"
            )
        if files is None:
            try:
                import fsspec

                # Listings must be as new as the store's own.
                files = fsspec.filesystem(protocol, use_listings_cache=False)
            except ImportError as error:
                raise EnvironmentFault(
                    f"{url} needs fsspec's client for '{protocol}://' (for S3: s3fs): {error}"
                ) from error
        self.files = files
        self.url, self.prefix = url.rstrip("/"), path.rstrip("/")

    def names(self, folder: str) -> list[str]:
        place = f"{self.prefix}/{folder}"
        try:
            found = self.files.ls(place, detail=False, refresh=True)
        except FileNotFoundError:
            return []
        return sorted(p.rstrip("/").rpartition("/")[2] for p in found if p.rstrip("/") != place)

    def read(self, key: str) -> bytes:
        data: bytes = self.files.cat_file(self._place(key))
        return data

    def digest(self, key: str) -> Digest:
        size, digest = 0, hashlib.sha256()
        with self.files.open(self._place(key), "rb", cache_type="readahead") as file:
            while block := file.read(BLOCK):
                size += len(block)
                digest.update(block)
        return Digest(size, digest.hexdigest())

    def put_if_absent(self, key: str, data: bytes) -> bool:
        try:
            self.files.pipe_file(self._place(key), data, mode="create")
        except FileExistsError:
            pass
        except OSError as error:
            if not any(sign in f"{error} {error.__cause__}" for sign in _TAKEN):
                raise
        else:
            return True
        # The client may have repeated a put that had been done.
        return self.read(key) == data

    def receive(self, folder: str, files: Mapping[str, Path]) -> None:
        for name, source in files.items():
            self.files.put_file(str(source), self._place(f"{folder}/{name}"))

    def expose(self, release: str, nights: Mapping[str, str]) -> None:
        """There are no links here; readers ask the log for the files."""

    def point(self, release: str) -> None:
        self.files.pipe_file(self._place("current.json"), json.dumps({"release": release}).encode())

    def location(self, key: str) -> str:
        return f"{self.url}/{key}"

    def age(self, key: str) -> float:
        return self._now() - self._stored(key)

    def remains(self) -> list[str]:
        return []

    def trash(self, key: str, label: str) -> None:
        target = f"trash/{label}/{key.replace('/', '~')}"
        for place in self._under(key):
            rest = place.removeprefix(self._place(key))
            self.files.copy(place, self._place(target) + rest)
        self.remove(key)

    def remove(self, key: str) -> None:
        for place in self._under(key):
            try:
                self.files.rm_file(place)
            except FileNotFoundError:
                continue

    # -- how -----------------------------------------------------------------------------------

    def _place(self, key: str) -> str:
        return f"{self.prefix}/{key}"

    def _under(self, key: str) -> list[str]:
        self.files.invalidate_cache()
        try:
            found: list[str] = self.files.find(self._place(key))
        except FileNotFoundError:
            return []
        return found

    def _stored(self, key: str) -> float:
        """When the newest object under a key was stored, by the store's clock."""
        self.files.invalidate_cache()
        found = self.files.find(self._place(key), detail=True)
        if not found:
            raise FileNotFoundError(key)
        return max(_time(facts) for facts in found.values())

    def _now(self) -> float:
        probe = self._place(f"clock/{uuid.uuid4().hex}")
        self.files.pipe_file(probe, b"")
        try:
            return _time(self.files.info(probe, refresh=True))
        finally:
            self.files.rm_file(probe)


def _time(facts: Mapping[str, Any]) -> float:
    stored = facts.get("LastModified") or facts.get("updated") or facts.get("last_modified")
    return stored.timestamp() if isinstance(stored, datetime) else time.time()
