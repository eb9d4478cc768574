"""A release as a version of a Delta table that shares its data files: nothing is copied.

The table lies in `PUBLISHED/PIPELINE/delta`, with hard links to the night's files, so that whoever
vacuums it as a Delta table removes links and no released file.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nightjar.core.errors import EnvironmentFault, StorageFault
from nightjar.core.releases import PosixStore, Release, ReleaseLog
from nightjar.core.releases.log import nights_of

MARK = "nightjar.release"


def export_delta(log: ReleaseLog, release: Release) -> tuple[Path, int]:
    """Make the release the newest version of its Delta table; the table's folder and the version.

    Exporting the release that the newest version shows already does nothing.

    Raises:
        EnvironmentFault: deltalake is not installed.
        StorageFault: the releases are not on a file system.
    """
    try:
        from deltalake import CommitProperties, DeltaTable, Field, Schema
        from deltalake.transaction import AddAction, RemoveAction
    except ModuleNotFoundError as error:
        raise EnvironmentFault("the export needs the package deltalake (group: job)") from error
    if not isinstance(log.store, PosixStore):
        raise StorageFault("a Delta export shares files by hard links: it needs a file system")
    table = log.store.root / "delta"
    listed = nights_of(release)
    actions: list[AddAction | RemoveAction] = []
    schema: pa.Schema | None = None
    for ds, night in listed.items():
        folder = table / f"ds={ds}"
        folder.mkdir(parents=True, exist_ok=True)
        for name, size in night["files"].items():
            origin = log.store.root / night["folder"] / name
            _link(origin, folder / name)
            footer = pq.read_metadata(origin)
            schema = schema or footer.schema.to_arrow_schema()
            actions.append(
                AddAction(
                    path=f"ds={ds}/{name}",
                    size=size,
                    partition_values={"ds": ds},
                    modification_time=int(origin.stat().st_mtime * 1000),
                    data_change=True,
                    stats=json.dumps({"numRecords": footer.num_rows}),
                )
            )
    assert schema is not None, "a release has files"
    found = DeltaTable(table) if DeltaTable.is_deltatable(str(table)) else None
    if found and found.history(1)[0].get(MARK) == release.id:
        return table, found.version()
    if found is None:
        delta = Schema.from_arrow(_nullable(schema).append(pa.field("ds", pa.date32())))
        found = DeltaTable.create(
            table,
            Schema([Field(f.name, f.type, nullable=True) for f in delta.fields]),
            partition_by=["ds"],
            name=release.dataset,
        )
    found.create_write_transaction(
        actions,
        mode="overwrite",
        schema=found.schema(),
        partition_by=["ds"],
        commit_properties=CommitProperties(custom_metadata={MARK: release.id}),
    )
    return table, DeltaTable(table).version()


def _nullable(schema: pa.Schema) -> pa.Schema:
    return pa.schema([pa.field(f.name, f.type, True) for f in schema])


def _link(origin: Path, target: Path) -> None:
    try:
        os.link(origin, target)
    except FileExistsError:
        if not os.path.samefile(origin, target):  # noqa: PTH121
            raise
