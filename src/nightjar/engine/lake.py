"""Tables of the warehouse: attempts that become visible by their record, and Parquet footers.

Layout: LAYER/NAME/ATTEMPT/ds=YYYY-MM-DD/.../part-*.parquet. Every run of a step writes into an
attempt folder of its own, so that nothing is ever overwritten; records say which attempt counts.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType


def new_attempt() -> str:
    """A name that no other run has."""
    return uuid.uuid4().hex[:16]


def parquet_files(folder: Path) -> list[Path]:
    """The data files directly in `folder`, by name; none where the folder is missing."""
    return sorted(folder.glob("part-*.parquet"))


def count_rows(folders: Iterable[Path]) -> int:
    """Rows in the Parquet files of `folders`, from their footers alone."""
    files = (file for folder in folders for file in parquet_files(folder))
    return sum(pq.read_metadata(file).num_rows for file in files)


def read(spark: SparkSession, schema: StructType, folders: Sequence[Path]) -> DataFrame:
    """The rows of the Parquet files of `folders`, of exactly this schema; no files, no rows."""
    present = [str(folder) for folder in folders if parquet_files(folder)]
    if not present:
        return spark.createDataFrame([], schema)
    return spark.read.schema(schema).parquet(*present)
