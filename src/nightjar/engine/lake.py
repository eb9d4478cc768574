"""Tables of the warehouse: attempts that become visible by their record, and Parquet footers.

Layout: LAYER/PIPELINE.SOURCE/ATTEMPT/KIND/part-*.parquet. Every run of a step writes into an
attempt folder of its own, so that nothing is ever overwritten; records say which attempt counts
for which night. An attempt over a range of nights holds them all in few files, told apart by
the column `_ds`.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path

import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from nightjar.core.records import Record

NIGHT = "_ds"


def new_attempt() -> str:
    """A name that no other run has."""
    return uuid.uuid4().hex[:16]


def parquet_files(folder: Path) -> list[Path]:
    """The data files directly in `folder`, by name; none where the folder is missing."""
    return sorted(folder.glob("part-*.parquet"))


def count_rows(folder: Path) -> int:
    """Rows in the Parquet files of `folder`, from their footers alone."""
    return sum(pq.read_metadata(file).num_rows for file in parquet_files(folder))


def count_by_night(spark: SparkSession, folder: Path, nights: Iterable[date]) -> dict[date, int]:
    """Rows in `folder` for each of `nights`; from the footers where there is but one."""
    counts = dict.fromkeys(nights, 0)
    if not parquet_files(folder):
        return counts
    if len(counts) == 1:
        return {night: count_rows(folder) for night in counts}
    counted = spark.read.parquet(str(folder)).groupBy(NIGHT).count()
    return {**counts, **{row[NIGHT]: row["count"] for row in counted.collect()}}


def count_by_file(
    spark: SparkSession, folder: Path, files: Mapping[date, Iterable[str]]
) -> dict[tuple[date, str], int]:
    """Rows in `folder` by night and delivered file; from the footers where there is but one."""
    counts = {(night, file): 0 for night, names in files.items() for file in names}
    if not parquet_files(folder):
        return counts
    if len(counts) == 1:
        return {key: count_rows(folder) for key in counts}
    counted = spark.read.parquet(str(folder)).groupBy(NIGHT, "_file").count()
    return {**counts, **{(row[NIGHT], row["_file"]): row["count"] for row in counted.collect()}}


def read_folder(spark: SparkSession, schema: StructType, folder: Path) -> DataFrame:
    """The rows of the Parquet files of `folder`, of exactly this schema; no files, no rows."""
    if not parquet_files(folder):
        return spark.createDataFrame([], schema)
    return spark.read.schema(schema).parquet(str(folder))


def read_nights(
    spark: SparkSession,
    warehouse: Path,
    schema: StructType,
    records: Mapping[date, Record],
    kind: str,
) -> DataFrame:
    """The rows that the records call `kind`, each night's from the attempt that counts for it.

    `schema` has the column `_ds`. Attempts of which every night is wanted are read in one scan.
    """
    wanted: dict[str, list[date]] = {}
    spans: dict[str, int] = {}
    for night, record in records.items():
        if kind in record.outputs:
            wanted.setdefault(record.outputs[kind], []).append(night)
            spans[record.outputs[kind]] = record.span
    whole = [path for path, nights in wanted.items() if len(nights) == spans[path]]
    frames = []
    if whole:
        frames.append(spark.read.schema(schema).parquet(*[str(warehouse / p) for p in whole]))
    for path in wanted.keys() - whole:
        rows = spark.read.schema(schema).parquet(str(warehouse / path))
        frames.append(rows.where(F.col(NIGHT).isin(wanted[path])))
    if not frames:
        return spark.createDataFrame([], schema)
    result = frames[0]
    for frame in frames[1:]:
        result = result.unionByName(frame)
    return result
