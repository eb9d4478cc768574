"""Ingest: delivered files to bronze, every record as text, each with its file and number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import (
    DateType,
    LongType,
    StringType,
    StructField,
    StructType,
)

from nightjar.core.contract import Contract
from nightjar.core.errors import AccountingError, UnreadableInput
from nightjar.core.pipeline import Source
from nightjar.core.records import Record
from nightjar.engine import delimited
from nightjar.engine.delivery import look_at_files
from nightjar.engine.lake import count_by_night, parquet_files
from nightjar.engine.work import Work, blank_record

PARSED, UNPARSABLE, FILE = "parsed", "unparsable", "file"
LINEAGE = [
    StructField("_ds", DateType()),
    StructField("_file", StringType()),
    StructField("_record", LongType()),
]
_FACTS = [
    StructField("_text", StringType()),
    StructField("_reason", StringType()),
    StructField("_bytes", LongType()),
    StructField("_sha256", StringType()),
    StructField("_records", LongType()),
    StructField("_unparsable", LongType()),
]
_KIND = StructField("kind", StringType())


def bronze_schema(contract: Contract) -> StructType:
    """Text columns of the contract, then lineage; unparsable records have their text instead."""
    columns = [StructField(c.name, StringType()) for c in contract.columns]
    return StructType(columns + LINEAGE + _FACTS)


def run(work: Work, source: str) -> dict[date, Record]:
    """Read one source's files for the nights of the run.

    Raises:
        MissingInput, EmptyInput, HeaderMismatch, UnreadableInput: a file cannot be taken; then
            none of the run's files is.
    """
    spec = work.plan.spec.sources[source]
    contract = work.plan.contract_of(source)
    files = {ds: work.project.warehouse / spec.file(ds) for ds in work.nights_of(source)}
    look_at_files(files, contract, spec.delimiter)
    inputs: dict[date, object] = {
        ds: [source, spec, contract.digest, path.name, *_stamp(path)] for ds, path in files.items()
    }

    def do(pending: Sequence[date], attempt: str) -> dict[date, Record]:
        folder = work.folder("bronze", f"{work.plan.spec.name}.{source}", attempt)
        chosen = {ds: files[ds] for ds in pending}
        sizes = {ds: _stamp(path)[0] for ds, path in chosen.items()}
        frame = read_files(work.spark, chosen, work.project.warehouse, contract, spec)
        frame.write.mode("error").partitionBy("kind").parquet(str(folder))
        return _records(work, folder, sizes)

    return work.once(f"ingest.{source}", inputs, do)


def read_files(
    spark: SparkSession,
    files: dict[date, Path],
    warehouse: Path,
    contract: Contract,
    source: Source,
) -> DataFrame:
    """The records of `files`, read on the executors, with their `kind` to partition by."""
    names, delimiter = contract.names, source.delimiter
    schema = StructType([*bronze_schema(contract).fields, _KIND])
    root = str(warehouse)

    def read(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for row in batch.to_pylist():
                yield from file_batches(Path(root), row["path"], row["ds"], names, delimiter)

    listed = [(ds, path.relative_to(warehouse).as_posix()) for ds, path in files.items()]
    slots = max(1, min(len(listed), 2 * spark.sparkContext.defaultParallelism))
    paths = spark.createDataFrame(listed, "ds date, path string").repartition(slots)
    return paths.mapInArrow(read, schema)


def file_batches(
    root: Path, name: str, ds: date, columns: Sequence[str], delimiter: str
) -> Iterator[pa.RecordBatch]:
    """One file as Arrow batches of the bronze schema; the last one holds the file's facts."""
    for item in delimited.read_records(root / name, columns, delimiter):
        match item:
            case delimited.Records(numbers, values):
                yield _batch(columns, len(numbers), PARSED, ds, name, numbers, values)
            case delimited.Unparsable(number, text, reason):
                yield _batch(columns, 1, UNPARSABLE, ds, name, [number], None, text, reason)
            case delimited.FileFacts() as facts:
                yield _batch(columns, 1, FILE, ds, name, [0], None, facts=facts)


def _batch(
    columns: Sequence[str],
    rows: int,
    kind: str,
    ds: date,
    name: str,
    numbers: object,
    values: Sequence[pa.StringArray] | None,
    text: str | None = None,
    reason: str | None = None,
    facts: delimited.FileFacts | None = None,
) -> pa.RecordBatch:
    empty = pa.nulls(rows, pa.string())

    def column(value: object, type_: pa.DataType) -> pa.Array:
        return pa.array([value] * rows, type_)

    arrays = list(values) if values is not None else [empty] * len(columns)
    arrays += [
        column(ds, pa.date32()),
        column(name, pa.string()),
        pa.array(numbers, pa.int64()),
        column(text, pa.string()),
        column(reason, pa.string()),
        column(facts and facts.bytes, pa.int64()),
        column(facts and facts.sha256, pa.string()),
        column(facts and facts.records, pa.int64()),
        column(facts and facts.unparsable, pa.int64()),
        column(kind, pa.string()),
    ]
    tail = ["_ds", "_file", "_record", "_text", "_reason", "_bytes", "_sha256", "_records"]
    return pa.RecordBatch.from_arrays(arrays, [*columns, *tail, "_unparsable", "kind"])


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _records(work: Work, folder: Path, sizes: dict[date, int]) -> dict[date, Record]:
    """A record for each night, once what was written is what was read."""
    facts = {
        row["_ds"]: row
        for file in parquet_files(folder / f"kind={FILE}")
        for row in pq.ParquetFile(file).read().to_pylist()
    }
    parsed = count_by_night(work.spark, folder / f"kind={PARSED}", sizes)
    unparsable = count_by_night(work.spark, folder / f"kind={UNPARSABLE}", sizes)
    outputs = {
        kind: work.project.relative(folder / f"kind={kind}")
        for kind in (PARSED, UNPARSABLE)
        if (folder / f"kind={kind}").is_dir()
    }
    records = {}
    for ds, size in sizes.items():
        row = facts[ds]
        if parsed[ds] + unparsable[ds] != row["_records"] or unparsable[ds] != row["_unparsable"]:
            raise AccountingError(
                f"{row['_file']}: {row['_records']} records were read, {row['_unparsable']} of "
                f"them unparsable, but {parsed[ds]} and {unparsable[ds]} were written"
            )
        if row["_bytes"] != size:
            raise UnreadableInput(
                f"{row['_file']} had {size} bytes when the run began and {row['_bytes']} when it "
                "was read: it was still being written. Run again.",
                path=row["_file"],
            )
        file = {
            "file": row["_file"],
            "bytes": row["_bytes"],
            "sha256": row["_sha256"],
            "records": row["_records"],
            "unparsable": row["_unparsable"],
        }
        records[ds] = blank_record(
            outputs=outputs,
            counts={"read": row["_records"], "unparsable": row["_unparsable"]},
            details={"files": [file]},
        )
    return records
