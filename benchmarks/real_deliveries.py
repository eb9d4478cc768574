"""Real deliveries, ingested and cleaned whole: every row accounted for, sums to the last digit.

    python benchmarks/real_deliveries.py FOLDER

FOLDER holds `nyc_yellow_taxi/` (36 monthly samples, CSV in gzip, of the New York City Taxi and
Limousine Commission) and `online_retail/by-day.tar.gz` (305 daily files, UCI Online Retail). Each
is read by the strict ingest, cleaned by a contract written here, and compared with an independent
count by Python's csv and decimal modules. Prints rows, sums, reasons of what was refused, seconds.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import shutil
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml
from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

from nightjar.core.contract import Contract, load_contract
from nightjar.core.pipeline import Source
from nightjar.core.project import Project
from nightjar.engine.delivery import find_files, look_at_files
from nightjar.engine.lake import read_folder
from nightjar.engine.session import start
from nightjar.engine.stages.clean import QUARANTINE, SILVER, clean, refuse_unparsable
from nightjar.engine.stages.ingest import (
    PARSED,
    UNPARSABLE,
    accounted,
    bronze_schema,
    write_files,
)

MONEY = "decimal(10,2)"
# What the city's own dictionary of the data says: local times; a code where there is one.
TAXI = {
    "vendor_id": "int",
    "pickup_datetime": "local",
    "dropoff_datetime": "local",
    "passenger_count": "int",
    "trip_distance": "double",
    "rate_code_id": "int",
    "store_and_fwd_flag": "string",
    "pickup_location_id": "int",
    "dropoff_location_id": "int",
    "payment_type": "int",
    **dict.fromkeys(
        ("fare_amount", "extra", "mta_tax", "tip_amount", "tolls_amount"), "decimal(12,4)"
    ),
    **dict.fromkeys(
        ("improvement_surcharge", "total_amount", "congestion_surcharge"), "decimal(12,4)"
    ),
}
RETAIL = {
    "invoice_no": "string",
    "stock_code": "string",
    "description": "string",
    "quantity": "int",
    "invoice_date": "utc",
    "unit_price": "decimal(12,4)",
    "customer_id": "double",
    "country": "string",
}
DELIVERED = {
    name: "".join(part.title() for part in name.split("_")).replace("Id", "ID") for name in RETAIL
}


def contract(
    name: str, columns: dict[str, str], folder: Path, delivered: dict[str, str]
) -> Contract:
    zones = {"local": "America/New_York", "utc": "UTC"}
    properties: list[dict[str, Any]] = []
    for column, kind in columns.items():
        about: dict[str, Any] = {"name": column}
        if column in delivered:
            about["physicalName"] = delivered[column]
        if kind in zones:
            about["logicalType"] = "timestamp"
            about["logicalTypeOptions"] = {
                "defaultTimezone": zones[kind],
                "format": "yyyy-MM-dd HH:mm:ss",
            }
            if kind == "local":
                about["customProperties"] = [{"property": "repeatedHour", "value": "first"}]
        elif kind == "string":
            about["logicalType"] = "string"
        else:
            about["logicalType"] = "integer" if kind == "int" else "number"
            about["physicalType"] = kind
        properties.append(about)
    path = folder / f"{name}.odcs.yaml"
    head = {"apiVersion": "v3.1.0", "kind": "DataContract", "id": name, "version": "1.0.0"}
    schema = [{"name": name, "properties": properties}]
    path.write_text(yaml.safe_dump({**head, "status": "active", "schema": schema}))
    return load_contract(path)


def independent(files: Iterator[Path]) -> Iterator[dict[str, str]]:
    """Every record by Python's csv, strictly."""
    for path in files:
        unpacked = gzip.open if path.suffix == ".gz" else open
        with unpacked(path, "rt", newline="") as text:
            yield from csv.DictReader(text, strict=True)


def run(
    spark: SparkSession, warehouse: Path, nights: list[date], source: Source, agreed: Contract
) -> tuple[Any, Any]:
    """The clean and the quarantined rows, once each file's count is exact."""
    started = time.monotonic()
    files = find_files(warehouse, source, nights)
    look_at_files(warehouse, files, agreed, source)
    folder = warehouse / "bronze" / agreed.dataset
    write_files(spark, files, warehouse, agreed, source, folder)
    facts = accounted(folder, files)
    took = time.monotonic() - started
    read = sum(row["_records"] for row in facts.values())
    unparsable = sum(row["_unparsable"] for row in facts.values())
    print(f"{agreed.dataset}: {len(facts)} files, {read:,} records, {unparsable:,} unparsable")
    print(f"  ingested in {took:.1f} s")
    started = time.monotonic()
    schema = bronze_schema(agreed)
    parsed = read_folder(spark, schema, folder / f"kind={PARSED}")
    refused = read_folder(spark, schema, folder / f"kind={UNPARSABLE}")
    cleaned = clean(parsed, agreed, (), ("",)).unionByName(refuse_unparsable(refused, agreed))
    out = str(warehouse / "clean" / agreed.dataset)
    cleaned.write.partitionBy("outcome").parquet(out)
    whole = spark.read.parquet(out)
    counts = {row["outcome"]: row["count"] for row in whole.groupBy("outcome").count().collect()}
    assert sum(counts.values()) == read, (counts, read)
    print(f"  read = clean + quarantined: {read:,} = {counts}, {time.monotonic() - started:.1f} s")
    broken = whole.where(F.col("outcome") == QUARANTINE)
    reasons = broken.select(F.explode("_broken").alias("b")).groupBy("b.rule", "b.found").count()
    for row in reasons.orderBy(F.desc("count")).limit(20).collect():
        print(f"  {row['count']:>8,} x {row['rule']}: found {row['found']!r}")
    return whole.where(F.col("outcome") == SILVER), broken


def compare(label: str, ours: Any, other: Any) -> None:
    assert ours == other, f"{label}: {ours} here, {other} by an independent count"
    print(f"  {label}: {ours:,}, as an independent count says")


def total(rows: Any, *columns: Column) -> tuple[Any, ...]:
    return tuple(rows.agg(*columns).first())


def taxi(spark: SparkSession, given: Path, scratch: Path) -> None:
    landing = scratch / "landing" / "taxi"
    landing.mkdir(parents=True)
    nights = []
    for path in sorted(given.glob("*.csv.gz")):
        month = date.fromisoformat(path.name.removesuffix(".csv.gz")[-7:] + "-01")
        shutil.copy(path, landing / f"{month}.csv.gz")
        nights.append(month)
    source = Source(contract="taxi", format="csv", path="landing/taxi/{ds}.csv.gz")
    agreed = contract("taxi", TAXI, scratch, {})
    clean_rows, broken = run(spark, scratch, nights, source, agreed)
    truth: Counter[str] = Counter()
    money = dict.fromkeys([c for c, kind in TAXI.items() if kind.startswith("decimal")], Decimal(0))
    for row in independent(iter(sorted(landing.iterdir()))):
        truth["rows"] += 1
        for name in money:
            money[name] += Decimal(row[name] or 0)
        truth["negative fares"] += bool(row["fare_amount"]) and Decimal(row["fare_amount"]) < 0
        truth["zero distances"] += bool(row["trip_distance"]) and float(row["trip_distance"]) == 0
        truth["missing surcharges"] += row["congestion_surcharge"] == ""
    original = [F.col("_original")[n].try_cast("decimal(12,4)") for n in money]
    kept = total(clean_rows, *[F.sum(n) for n in money])
    lost = total(broken, *[F.sum(F.coalesce(o, F.lit(0))) for o in original])
    for name, a, b in zip(money, kept, lost, strict=True):
        compare(f"sum of {name}", (a or 0) + (b or 0), money[name])
    zero = F.lit(0)
    found = total(
        clean_rows,
        F.count(F.lit(1)),
        F.count_if(F.col("fare_amount") < zero),
        F.count_if(F.col("trip_distance") == zero),
        F.count_if(F.col("congestion_surcharge").isNull()),
    )
    if broken.isEmpty():
        for label, value in zip(truth, found, strict=True):
            compare(label, value, truth[label])


def retail(spark: SparkSession, given: Path, scratch: Path) -> None:
    landing = scratch / "landing" / "retail"
    with tarfile.open(given / "by-day.tar.gz") as archive:
        archive.extractall(landing, filter="data")
    nights = sorted(date.fromisoformat(p.stem) for p in (landing / "by-day").glob("*.csv"))
    source = Source(contract="retail", format="csv", path="landing/retail/by-day/{ds}.csv")
    agreed = contract("retail", RETAIL, scratch, DELIVERED)
    clean_rows, broken = run(spark, scratch, nights, source, agreed)
    value, truth = Decimal(0), Counter[str]()
    for row in independent(iter(sorted((landing / "by-day").glob("*.csv")))):
        truth["rows"] += 1
        value += Decimal(row["Quantity"]) * Decimal(row["UnitPrice"])
        truth["negative quantities"] += row["Quantity"].startswith("-")
        truth["missing customers"] += row["CustomerID"] == ""
    assert broken.isEmpty()
    amount = F.sum(F.col("quantity") * F.col("unit_price"))
    counts = (
        F.count(F.lit(1)),
        F.count_if(F.col("quantity") < 0),
        F.count_if(F.col("customer_id").isNull()),
    )
    compare("sum of quantity x unit price", total(clean_rows, amount)[0], value)
    for label, found in zip(truth, total(clean_rows, *counts), strict=True):
        compare(label, found, truth[label])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    given = parser.parse_args().folder
    spark = start("real deliveries", Project.find().root / "spark-conf" / "local.conf")
    with tempfile.TemporaryDirectory() as name:
        taxi(spark, given / "nyc_yellow_taxi", Path(name))
        retail(spark, given / "online_retail", Path(name))
    spark.stop()


if __name__ == "__main__":
    main()
