"""Compaction and the Delta export: the same rows, in better files or in none of their own."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from forge import ROWS, Batch

from nightjar.core.releases import ReleaseLog
from nightjar.engine.delta import export_delta
from nightjar.engine.layout import compact

Batches = dict[tuple[int, str], Batch]


def small_files(folder: Path, count: int = 20, rows: int = 500) -> pa.Table:
    folder.mkdir()
    table = pa.table(
        {"k": range(count * rows), "v": [i % 7 / 7 for i in range(count * rows)]},
        schema=pa.schema([pa.field("k", pa.int64(), False), ("v", pa.float64())]),
    )
    for i in range(count):
        pq.write_table(table.slice(i * rows, rows), folder / f"part-{i:05d}.parquet")
    return table


def test_compaction_keeps_rows_and_order(tmp_path: Path) -> None:
    table = small_files(tmp_path / "small")
    (file,) = compact(tmp_path / "small", tmp_path / "large", ["k"])
    assert pq.read_table(file).equals(table)
    footer = pq.read_metadata(file)
    column = footer.row_group(0).column(0)
    assert (footer.num_row_groups, column.compression) == (1, "ZSTD")
    assert column.has_column_index
    assert column.has_offset_index
    assert column.statistics.max == table.num_rows - 1
    assert footer.row_group(0).sorting_columns == (pq.SortingColumn(0),)
    with pytest.raises(FileExistsError):
        compact(tmp_path / "small", tmp_path / "large")


def test_compaction_splits_by_size(tmp_path: Path) -> None:
    table = small_files(tmp_path / "small")
    size = sum(p.stat().st_size for p in (tmp_path / "small").iterdir())
    files = compact(tmp_path / "small", tmp_path / "large", file_bytes=size // 4)
    assert 4 <= len(files) <= 6
    assert pa.concat_tables([pq.read_table(f) for f in files]).equals(table)


def test_compaction_keeps_a_night_without_rows(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    pq.write_table(pa.table({"k": pa.array([], pa.int64())}), tmp_path / "small/part-0.parquet")
    (file,) = compact(tmp_path / "small", tmp_path / "large")
    assert pq.read_table(file).schema.names == ["k"]


def test_the_delta_export_copies_nothing_and_follows(log: ReleaseLog, batches: Batches) -> None:
    from deltalake import DeltaTable

    batches[0, "a"].publish(log)
    first, _ = batches[1, "a"].publish(log)
    table, version = export_delta(log, first)
    assert export_delta(log, first) == (table, version)
    batches[0, "b"].publish(log)
    second = log.require()
    assert export_delta(log, second) == (table, version + 1)
    frame = DeltaTable(table).to_pandas()
    assert frame.groupby("run").size().to_dict() == {
        "2013-01-01/b": 2 * ROWS, "2013-01-02/a": 2 * ROWS,
    }  # fmt: skip
    assert set(DeltaTable(table, version).to_pandas()["run"]) == {"2013-01-01/a", "2013-01-02/a"}
    inodes = {p.stat().st_ino for p in table.rglob("*.parquet")}
    assert {Path(f).stat().st_ino for f in [*log.files(first), *log.files(second)]} == inodes
