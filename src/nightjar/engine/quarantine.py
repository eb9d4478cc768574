"""The quarantine as it is now: rows with reasons, the table for analysts, and exports for repair.

The rows lie in the attempts of the clean step. The table is their one current state:
quarantine/pipeline=P/dataset=S/ds=DATE/rows.parquet, one file for each night and dataset, replaced
in one step, absent where nothing is quarantined, personal data masked.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from nightjar.contracts import own_contract
from nightjar.core.contract import MASK, Contract
from nightjar.core.errors import AccountingError
from nightjar.core.project import Project
from nightjar.core.records import Record
from nightjar.engine.lake import parquet_files
from nightjar.engine.repairs import Key, Repair

QUARANTINE = "quarantine"
_ATTEMPT = b"nightjar.attempt"
_ARROW = {"string": pa.string(), "bigint": pa.int64(), "int": pa.int32(), "boolean": pa.bool_()}
_BATCH = 10_000


@dataclass(frozen=True)
class Refused:
    """One record in quarantine: what it breaks, and its texts, or its text if it has no columns.

    `broken` has, for each rule, rule, column, found and expected.
    """

    file: str
    record: int
    broken: tuple[Mapping[str, str | None], ...]
    values: Mapping[str, str | None] | None
    text: str | None

    @property
    def key(self) -> Key:
        return self.file, self.record

    @property
    def rules(self) -> tuple[str, ...]:
        return tuple(str(reason["rule"]) for reason in self.broken)

    def masked(self, pii: Collection[str]) -> Refused:
        """The record with personal data hidden; a text that could not be parsed is all hidden."""
        if not pii:
            return self
        return replace(
            self,
            broken=tuple(
                {**b, "found": hidden(b["found"])} if b["column"] in pii else b for b in self.broken
            ),
            values=self.values and masked(self.values, pii),
            text=hidden(self.text),
        )


def hidden(value: str | None) -> str | None:
    return None if value is None else MASK


def masked(values: Mapping[str, str | None], pii: Collection[str]) -> dict[str, str | None]:
    """The values with those of the columns `pii` hidden; where there is none, none is shown."""
    return {name: hidden(v) if name in pii else v for name, v in values.items()}


def refused(
    project: Project, cleaned: Record, kind: str = QUARANTINE, rule: str | None = None
) -> Iterator[Refused]:
    """The records of one night that its clean step called `kind`, unmasked, in no order.

    With `rule`, those that break it. Memory is bounded by a batch.
    """
    folder = project.warehouse / cleaned.outputs[kind] if kind in cleaned.outputs else None
    files = parquet_files(folder) if folder else []
    if not files:
        return
    night = pads.field("_ds") == pa.scalar(date.fromisoformat(cleaned.ds))
    wanted = ["_file", "_record", "_broken", "_original", "_text"]
    scanned = pads.dataset(files, format="parquet").to_batches(columns=wanted, filter=night)
    for batch in scanned:
        for row in batch.to_pylist():
            found = Refused(
                row["_file"], row["_record"], tuple(row["_broken"]), row["_original"], row["_text"]
            )
            if rule is None or rule in found.rules:
                yield found


# -- the table ------------------------------------------------------------------------------------


def table_file(project: Project, pipeline: str, source: str, ds: date) -> Path:
    folder = project.warehouse / "quarantine" / f"pipeline={pipeline}" / f"dataset={source}"
    return folder / f"ds={ds}" / "rows.parquet"


def show_state(
    project: Project,
    pipeline: str,
    source: str,
    contract: Contract,
    cleaned: Mapping[date, Record],
    repaired: Mapping[date, Mapping[Key, Repair]],
) -> None:
    """Let the table say what the records say; nights that it shows already are left alone.

    Raises:
        AccountingError: a night's rows are not as many as were counted.
    """
    for ds, record in cleaned.items():
        path = table_file(project, pipeline, source, ds)
        if not record.counts["quarantined"]:
            path.unlink(missing_ok=True)
        elif not path.exists() or _attempt_of(path) != record.attempt:
            _write(path, project, record, contract, repaired[ds])


def _attempt_of(path: Path) -> str:
    known = pq.read_metadata(path).metadata or {}
    return bytes(known.get(_ATTEMPT, b"")).decode()


def table_schema() -> pa.Schema:
    """The table's columns, as its contract says."""
    contract = own_contract(QUARANTINE)
    return pa.schema(
        [pa.field(c.name, _ARROW[c.type.name], nullable=not c.required) for c in contract.columns]
    )


def _write(
    path: Path,
    project: Project,
    record: Record,
    contract: Contract,
    repaired: Mapping[Key, Repair],
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    making = path.with_name(f".{uuid.uuid4().hex}.tmp")
    schema = table_schema().with_metadata({_ATTEMPT: record.attempt.encode()})
    digests = {f["file"]: f["sha256"] for f in record.details["files"]}
    written = 0
    try:
        with pq.ParquetWriter(
            making, schema, compression="zstd", write_page_checksum=True
        ) as writer:
            rows = refused(project, record)
            while batch := list(islice(rows, _BATCH)):
                written += len(batch)
                lines = [
                    line
                    for row in batch
                    for line in _lines(row, contract.pii, digests[row.file], repaired.get(row.key))
                ]
                writer.write_table(pa.Table.from_pylist(lines, schema))
        if written != record.counts["quarantined"]:
            raise AccountingError(
                f"{contract.dataset} {record.ds}: {record.counts['quarantined']} rows are in "
                f"quarantine, but {written} were found there; run the night again with --force",
                expected=record.counts["quarantined"],
                found=written,
            )
        os.replace(making, path)
    finally:
        making.unlink(missing_ok=True)


def _lines(
    row: Refused, pii: Collection[str], sha256: str, repair: Repair | None
) -> Iterator[dict[str, Any]]:
    """One record as rows of the table."""
    shown = row.masked(pii)
    for nth, reason in enumerate(shown.broken, start=1):
        yield {
            "file": shown.file,
            "record": shown.record,
            "nth": nth,
            "rule": reason["rule"],
            "column_name": reason["column"],
            "found": reason["found"],
            "expected": reason["expected"],
            "original": shown.values and json.dumps(shown.values, ensure_ascii=False),
            "text": shown.text,
            "masked": shown != row,
            "sha256": sha256,
            "replay": repair and repair.replay,
        }


def in_order(rows: Iterable[Refused]) -> list[Refused]:
    return sorted(rows, key=lambda row: row.key)
