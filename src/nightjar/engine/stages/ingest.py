"""Ingest: delivered files to bronze, every record as text, each with its file and number."""

from __future__ import annotations

import shutil
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession
from pyspark.sql.types import (
    DateType,
    LongType,
    StringType,
    StructField,
    StructType,
)

from nightjar.core.contract import Contract
from nightjar.core.errors import (
    INPUT_ERRORS,
    AccountingError,
    NightjarError,
    RepeatedInput,
    UnsettledInput,
    combined,
)
from nightjar.core.pipeline import Source
from nightjar.core.records import Record
from nightjar.engine.delivered import FileFacts, Records, Unparsable
from nightjar.engine.delivery import READERS, admitted, find_files, look_at_files
from nightjar.engine.lake import parquet_files
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
_WRITTEN = pa.schema([("kind", pa.string()), ("name", pa.string())])
ROW_GROUP = 64 << 20  # bytes of Arrow's memory

# The row of kind FILE, as a mapping of its columns.
Facts = Mapping[str, Any]


def bronze_schema(contract: Contract) -> StructType:
    """Text columns of the contract, then lineage; unparsable records have their text instead."""
    columns = [StructField(c.name, StringType()) for c in contract.columns]
    return StructType(columns + LINEAGE + _FACTS)


def run(work: Work, source: str) -> dict[date, Record]:
    """Read one source's files for the nights of the run.

    Raises:
        MissingInput, EmptyInput, HeaderMismatch, UnreadableInput, OversizedInput, ForeignInput,
        UnsettledInput, RepeatedInput: a file cannot be taken; then none of the run's files is.
    """
    spec = work.plan.spec.sources[source]
    contract = work.plan.contract_of(source)
    warehouse = work.project.warehouse
    files = find_files(warehouse, spec, work.nights_of(source))
    look_at_files(warehouse, files, contract, spec)
    stamps = {name: _stamp(warehouse / name) for names in files.values() for name in names}
    inputs: dict[date, object] = {
        ds: [source, spec, contract.digest, *([Path(n).name, *stamps[n]] for n in names)]
        for ds, names in files.items()
    }

    def do(pending: Sequence[date], attempt: str) -> dict[date, Record]:
        folder = work.folder("bronze", f"{work.plan.spec.name}.{source}", attempt)
        chosen = {ds: files[ds] for ds in pending}
        write_files(work.spark, chosen, warehouse, contract, spec, folder)
        facts = accounted(folder, chosen)
        _refuse_unsettled(warehouse, facts, stamps)
        if spec.repeats == "refuse":
            _refuse_repeats(facts, _taken_before(work, source, set(pending)))
        return _records(work, folder, facts)

    return work.once(f"ingest.{source}", inputs, do)


def write_files(
    spark: SparkSession,
    files: Mapping[date, Sequence[str]],
    warehouse: Path,
    contract: Contract,
    source: Source,
    folder: Path,
) -> None:
    """Write the records of `files` to `folder/kind=KIND/`, read and written on the executors.

    A file that cannot be taken gives, as its last row, one of kind FILE with the error's code as
    `_reason` and its message as `_text`; every other gives one with its facts. What a task that
    failed has written is not taken: the driver moves the files of those that ended well.
    """
    root, making = str(warehouse), str(folder / "_making")

    def write(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        made = (
            made
            for batch in batches
            for row in batch.to_pylist()
            for made in file_batches(Path(root), row["path"], row["ds"], contract, source)
        )
        written = write_batches(made, Path(making))
        yield pa.RecordBatch.from_pylist(
            [{"kind": kind, "name": name} for kind, name in written.items()], _WRITTEN
        )

    listed = [(ds, name) for ds, names in files.items() for name in names]
    slots = max(1, min(len(listed), 2 * spark.sparkContext.defaultParallelism))
    paths = spark.createDataFrame(listed, "ds date, path string").repartition(slots)
    for row in paths.mapInArrow(write, "kind string, name string").collect():
        target = folder / f"kind={row['kind']}"
        target.mkdir(parents=True, exist_ok=True)
        (folder / "_making" / row["name"]).rename(target / f"part-{row['name']}")
    shutil.rmtree(folder / "_making")


def write_batches(batches: Iterable[pa.RecordBatch], folder: Path) -> dict[str, str]:
    """Write batches of bronze rows, one file a kind; returns each kind's file name.

    At most ROW_GROUP bytes of each kind are held.
    """
    folder.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex
    held: dict[str, list[pa.RecordBatch]] = {}
    sizes: Counter[str] = Counter()
    names: dict[str, str] = {}
    with ExitStack() as files:
        writers: dict[str, pq.ParquetWriter] = {}

        def flush(kind: str) -> None:
            table = pa.Table.from_batches(held.pop(kind))
            if kind not in writers:
                names[kind] = f"{token}-{kind}.parquet"
                writer = pq.ParquetWriter(
                    folder / names[kind],
                    table.schema,
                    compression="zstd",
                    write_page_checksum=True,
                )
                writers[kind] = files.enter_context(writer)
            writers[kind].write_table(table, row_group_size=table.num_rows)
            sizes[kind] = 0

        for batch in batches:
            kind = batch["kind"][0].as_py()
            held.setdefault(kind, []).append(batch.drop_columns(["kind"]))
            sizes[kind] += batch.nbytes
            if sizes[kind] >= ROW_GROUP:
                flush(kind)
        for kind in list(held):
            flush(kind)
    return names


def file_batches(
    root: Path, name: str, ds: date, contract: Contract, source: Source
) -> Iterator[pa.RecordBatch]:
    """One file as Arrow batches of the bronze schema; the last row holds the file's facts."""
    columns = contract.names
    try:
        path = admitted(root, name, source)
        for item in READERS[source.format].read(path, contract, source):
            match item:
                case Records(numbers, values):
                    yield _batch(columns, len(numbers), PARSED, ds, name, numbers, values)
                case Unparsable(number, text, reason):
                    yield _batch(columns, 1, UNPARSABLE, ds, name, [number], None, text, reason)
                case FileFacts() as facts:
                    said = facts.encoding
                    yield _batch(columns, 1, FILE, ds, name, [0], None, said, facts=facts)
    except NightjarError as error:
        yield _batch(columns, 1, FILE, ds, name, [0], None, error.message, error.code)


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
    facts: FileFacts | None = None,
) -> pa.RecordBatch:
    empty = pa.nulls(rows, pa.string())

    def column(value: object, type_: pa.DataType) -> pa.Array:
        return pa.repeat(pa.scalar(value, type_), rows)

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


def accounted(folder: Path, files: Mapping[date, Sequence[str]]) -> dict[tuple[date, str], Facts]:
    """What was read from each of `files`, by night and name, once it is what was written.

    Raises:
        the error that a file gave, or one that says all of them.
        AccountingError: the rows that stand in `folder` are not those that were read.
    """
    facts = {
        (row["_ds"], row["_file"]): row
        for file in parquet_files(folder / f"kind={FILE}")
        for row in pq.ParquetFile(file).read().to_pylist()
    }
    wanted = [(ds, name) for ds, names in files.items() for name in names]
    faults = [
        INPUT_ERRORS[row["_reason"]](row["_text"], path=row["_file"])
        for key in wanted
        if (row := facts.get(key)) and row["_reason"]
    ]
    if faults:
        raise combined(faults, len(wanted))
    parsed = _count_by_file(folder / f"kind={PARSED}")
    unparsable = _count_by_file(folder / f"kind={UNPARSABLE}")
    for key in {*wanted, *facts, *parsed, *unparsable}:
        row = facts.get(key, {"_records": None, "_unparsable": None})
        good, bad = parsed.get(key, 0), unparsable.get(key, 0)
        if good + bad != row["_records"] or bad != row["_unparsable"] or key not in wanted:
            raise AccountingError(
                f"{key[1]}: {row['_records']} records were read, {row['_unparsable']} of "
                f"them unparsable, but {good} and {bad} were written. Nothing was kept; report "
                "this as a defect."
            )
    return {key: facts[key] for key in wanted}


def _count_by_file(folder: Path) -> Counter[tuple[date, str]]:
    counts: Counter[tuple[date, str]] = Counter()
    for file in parquet_files(folder):
        names = pq.ParquetFile(file, read_dictionary=["_file"])
        for i in range(names.num_row_groups):
            table = names.read_row_group(i, columns=["_ds", "_file"])
            grouped = table.group_by(["_ds", "_file"]).aggregate([([], "count_all")])
            for row in grouped.to_pylist():
                counts[row["_ds"], row["_file"]] += row["count_all"]
    return counts


def _refuse_unsettled(
    warehouse: Path,
    facts: Mapping[tuple[date, str], Facts],
    stamps: Mapping[str, tuple[int, int]],
) -> None:
    wrong: list[NightjarError] = []
    for (_, name), row in facts.items():
        path = warehouse / name
        if row["_bytes"] != stamps[name][0] or not path.exists() or _stamp(path) != stamps[name]:
            wrong.append(
                UnsettledInput(
                    f"{name} had {stamps[name][0]} bytes when the run began and {row['_bytes']} "
                    "when it was read, or was written to since: it was still being written. Run "
                    "again.",
                    path=name,
                )
            )
    if wrong:
        raise combined(wrong, len(facts))


def _taken_before(work: Work, source: str, besides: set[date]) -> dict[str, str]:
    """By SHA-256, the files that other nights of the source were made of."""
    if not work.plan.spec.sources[source].nightly:
        return {}
    step = f"ingest.{source}"
    records = [work.book.get(ds, step) for ds in work.book.nights(step) if ds not in besides]
    files = [file for record in records if record for file in record.details["files"]]
    return {file["sha256"]: file["file"] for file in files if file["records"]}


def _refuse_repeats(facts: Mapping[tuple[date, str], Facts], before: dict[str, str]) -> None:
    """Files that hold records hold others than every other file of the source."""
    seen = dict(before)
    wrong: list[NightjarError] = []
    for (_, name), row in facts.items():
        other = seen.setdefault(row["_sha256"], name)
        if other != name and row["_records"]:
            wrong.append(
                RepeatedInput(
                    f"{name} holds the very bytes of {other}: it was delivered twice. Remove one, "
                    "or, where that may be, say 'repeats: allow' for the source.",
                    path=name,
                )
            )
    if wrong:
        raise combined(wrong, len(facts))


def _records(
    work: Work, folder: Path, facts: Mapping[tuple[date, str], Facts]
) -> dict[date, Record]:
    outputs = {
        kind: work.project.relative(folder / f"kind={kind}")
        for kind in (PARSED, UNPARSABLE)
        if (folder / f"kind={kind}").is_dir()
    }
    nights: dict[date, list[Facts]] = {}
    for (ds, _), row in facts.items():
        nights.setdefault(ds, []).append(row)
    return {
        ds: blank_record(
            outputs=outputs,
            counts={
                "read": sum(row["_records"] for row in rows),
                "unparsable": sum(row["_unparsable"] for row in rows),
            },
            details={
                "files": [
                    {
                        "file": row["_file"],
                        "bytes": row["_bytes"],
                        "sha256": row["_sha256"],
                        "records": row["_records"],
                        "unparsable": row["_unparsable"],
                        "encoding": row["_text"],
                    }
                    for row in rows
                ]
            },
        )
        for ds, rows in nights.items()
    }
