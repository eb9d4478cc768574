"""Releases: immutable snapshots of a published dataset, and the log that says which one is seen."""

from nightjar.core.releases.log import Entry, Release, ReleaseLog
from nightjar.core.releases.store import PosixStore, Store, System, open_store

__all__ = ["Entry", "PosixStore", "Release", "ReleaseLog", "Store", "System", "open_store"]
