"""Files of the right size for scanning: few, sorted, compressed, with statistics and page index."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nightjar.engine.lake import parquet_files

FILE_BYTES = 256 << 20
GROUP_ROWS = 122_880 * 4  # a multiple of what DuckDB gives to one thread
GROUP_BYTES = 64 << 20


def compact(
    source: Path, target: Path, sort: Sequence[str] = (), file_bytes: int = FILE_BYTES
) -> list[Path]:
    """Rewrite the Parquet files of `source`, each sorted and in order of names, into a new folder.

    Rows keep their order: where Spark wrote a global sort, files stay disjoint ranges of it and
    `sort` is noted in their metadata. New files hold about `file_bytes`, zstd, with statistics,
    page index and page checksums. The folder appears whole or not at all.

    Raises:
        FileExistsError: `target` is there already.
    """
    files = parquet_files(source)
    making = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.tmp")
    making.mkdir(parents=True)
    try:
        for i, group in enumerate(_groups(files, file_bytes)):
            _merge(group, making / f"part-{i:05d}.parquet", sort)
        if target.exists():
            raise FileExistsError(target)
        making.rename(target)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    return parquet_files(target)


def _groups(files: Sequence[Path], file_bytes: int) -> Iterator[list[Path]]:
    """Neighbours that together are no larger than one file should be."""
    group: list[Path] = []
    size = 0
    for file in files:
        more = file.stat().st_size
        if group and size + more > file_bytes:
            yield group
            group, size = [], 0
        group.append(file)
        size += more
    if group:
        yield group


def _merge(files: Sequence[Path], target: Path, sort: Sequence[str]) -> None:
    schema = pq.read_schema(files[0])
    order = [
        pq.SortingColumn(schema.get_field_index(name)) for name in sort if name in schema.names
    ]
    with pq.ParquetWriter(
        target,
        schema,
        compression="zstd",
        write_statistics=True,
        write_page_index=True,
        write_page_checksum=True,
        use_dictionary=True,
        sorting_columns=order or None,
        store_schema=False,
    ) as writer:
        for table in _row_groups(files):
            writer.write_table(table, row_group_size=GROUP_ROWS)


def _row_groups(files: Sequence[Path]) -> Iterator[pa.Table]:
    """The rows of the files in order, as tables that make good row groups; bounded memory."""
    batches: list[pa.RecordBatch] = []
    rows = size = 0
    for file in files:
        with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
            for batch in parquet.iter_batches(batch_size=65_536):
                batches.append(batch)
                rows += batch.num_rows
                size += batch.nbytes
                if rows >= GROUP_ROWS or size >= GROUP_BYTES:
                    yield pa.Table.from_batches(batches)
                    batches, rows, size = [], 0, 0
    if batches:
        yield pa.Table.from_batches(batches)
    elif files:
        yield pq.read_table(files[0]).slice(0, 0)
