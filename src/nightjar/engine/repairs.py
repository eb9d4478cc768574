"""The log of repairs: which records of a night were replaced or discarded, by whom, and why.

Layout: repairs/PIPELINE/dataset=SOURCE/ds=DATE/NNNNNN.parquet, one file for each replay, numbered
and never changed. A record is named by its file and number, and its repair holds for the delivery
whose SHA-256 it names: when the file is delivered again, the repair no longer applies. The files
hold the repaired values as they are, personal data included: as private as bronze.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nightjar.core.errors import Conflict
from nightjar.core.records import fingerprint

REPLACE, DISCARD = "replace", "discard"
Key = tuple[str, int]
_SCHEMA = pa.schema(
    [
        pa.field("replay", pa.int32(), nullable=False),
        pa.field("at", pa.string(), nullable=False),
        pa.field("by", pa.string(), nullable=False),
        pa.field("action", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("record", pa.int64(), nullable=False),
        pa.field("rules", pa.list_(pa.string()), nullable=False),
        pa.field("changed", pa.list_(pa.string()), nullable=False),
        pa.field("columns", pa.list_(pa.string()), nullable=False),
        pa.field("values", pa.list_(pa.string()), nullable=False),
    ]
)


@dataclass(frozen=True)
class Repair:
    """What a replay does with one record.

    `values` are the texts that stand for the record from then on, by column; `rules` those that
    it broke before, and `changed` the columns whose text is another one.
    """

    replay: int
    at: str
    by: str
    action: str
    reason: str
    file: str
    sha256: str
    record: int
    rules: tuple[str, ...]
    changed: tuple[str, ...]
    values: Mapping[str, str | None]

    @property
    def key(self) -> Key:
        return self.file, self.record


class RepairLog:
    """The repairs of one source of a pipeline."""

    def __init__(self, warehouse: Path, pipeline: str, source: str) -> None:
        self.folder = warehouse / "repairs" / pipeline / f"dataset={source}"

    def nights(self) -> list[date]:
        """Every night that has repairs, in order."""
        return sorted(date.fromisoformat(p.name[3:]) for p in self.folder.glob("ds=*"))

    def entries(self, ds: date) -> list[Repair]:
        """Every repair of a night, oldest first."""
        return [_read(row) for file in self._files(ds) for row in pq.read_table(file).to_pylist()]

    def effective(self, ds: date, digests: Mapping[str, str]) -> dict[Key, Repair]:
        """The newest repair of each record, of the deliveries that `digests` names by file."""
        found = {r.key: r for r in self.entries(ds)}
        return {key: r for key, r in found.items() if digests.get(r.file) == r.sha256}

    def last(self, ds: date) -> int:
        """The number of the newest replay; 0 before the first."""
        files = self._files(ds)
        return int(files[-1].stem) if files else 0

    def append(self, ds: date, repairs: Sequence[Repair]) -> None:
        """Add the repairs of one replay, all or none of them.

        Raises:
            Conflict: another replay took this number first.
        """
        (number,) = {r.replay for r in repairs}
        folder = self.folder / f"ds={ds}"
        folder.mkdir(parents=True, exist_ok=True)
        making = folder / f".{uuid.uuid4().hex}.tmp"
        rows = [_written(r) for r in repairs]
        try:
            pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), making, write_page_checksum=True)
            with making.open("rb") as file:
                os.fsync(file.fileno())
            os.link(making, folder / f"{number:06d}.parquet")  # put if absent
        except FileExistsError as error:
            raise Conflict(
                f"another replay of {ds} came first as number {number}; replay again", ds=str(ds)
            ) from error
        finally:
            making.unlink(missing_ok=True)

    def _files(self, ds: date) -> list[Path]:
        return sorted((self.folder / f"ds={ds}").glob("[0-9]*.parquet"))


def digest_of(repairs: Iterable[Repair]) -> str:
    """A digest of what the repairs do, whoever made them and when; empty for none."""
    parts = sorted([r.file, r.record, r.action, sorted(r.values.items())] for r in repairs)
    return fingerprint(repairs=parts) if parts else ""


def _written(repair: Repair) -> dict[str, Any]:
    columns, values = list(repair.values), list(repair.values.values())
    return {**asdict(repair), "columns": columns, "values": values}


def _read(row: dict[str, Any]) -> Repair:
    values = dict(zip(row.pop("columns"), row.pop("values"), strict=True))
    rules, changed = tuple(row.pop("rules")), tuple(row.pop("changed"))
    return Repair(**row, rules=rules, changed=changed, values=values)
