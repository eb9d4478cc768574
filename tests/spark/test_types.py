"""Text to typed values: what is a value of which type, and what is not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import (
    BooleanType,
    DateType,
    DecimalType,
    DoubleType,
    FloatType,
    IntegerType,
    LongType,
    ShortType,
    StringType,
    TimestampType,
)

from nightjar.core.checks import Castable, DataType
from nightjar.core.contract import Contract
from nightjar.core.errors import EnvironmentFault
from nightjar.engine.quality.types import cast, text_schema, typed_schema
from nightjar.engine.session import PINNED, start

NEW_YORK = "America/New_York"

# In no type, a value: what a lenient reader would take for one.
NEVER = ("", " ", "x", "1 ", " 1", "1_000", "1,5", "0x10", "NaN", "nan", "Infinity", "-inf", "null")

WHOLE = {
    "7": 7,
    "+7": 7,
    "-7": -7,
    "-0": 0,
    "007": 7,
    "1.5": None,
    "1.0": None,
    "1e3": None,
    "1d": None,
    "1L": None,
    "7\n": None,
    "٧": None,
    "--7": None,
    "+": None,
}
FRACTION = {
    "1": 1.0,
    "-1.5": -1.5,
    "1.": 1.0,
    ".5": 0.5,
    "+.5E-2": pytest.approx(0.005),
    "1e5": 100000.0,
    "1e400": None,
    "-1e400": None,
    "1d": None,
    "1.5f": None,
    "1D": None,
    ".": None,
    "e5": None,
    "1e": None,
    "1.5\n": None,
    "1.5.1": None,
}
# decimal(5,2)
EXACT = {
    "1": "1.00",
    "1.25": "1.25",
    "1.2500": "1.25",
    "1.25000000000000000000": "1.25",
    "-999.99": "-999.99",
    "1e2": "100.00",
    "1.5e-1": "0.15",
    "125e-2": "1.25",
    "12500e-4": "1.25",
    "0.000000": "0.00",
    "0e-9": "0.00",
    ".5": "0.50",
    "1.255": None,
    "1.251": None,
    "1.25000000001": None,
    "1.25000000000000000001": None,
    "1255e-3": None,
    "1e-3": None,
    "1e-400": None,
    "999.995": None,
    "1000": None,
    "1e3": None,
    "1e400": None,
    "1e99999999999": None,
    "1.25d": None,
    "1.25\n": None,
}
BOOLEAN = {
    "true": True,
    "TRUE": True,
    "False": False,
    "t": None,
    "1": None,
    "0": None,
    "yes": None,
    "true\n": None,
    " true": None,
}
DATE = {
    "2024-02-29": date(2024, 2, 29),
    "0001-01-01": date(1, 1, 1),
    "9999-12-31": date(9999, 12, 31),
    "2023-02-29": None,
    "2024-02-30": None,
    "2024-13-01": None,
    "2024": None,
    "2024-01": None,
    "2024-1-1": None,
    "2024-01-01 junk": None,
    "2024-01-01T00:00:00": None,
    "2024-01-01\n": None,
    " 2024-01-01": None,
    "20240101": None,
    "0000-01-01": None,
    "10000-01-01": None,
    "today": None,
    "epoch": None,
}
DATE_BY_PATTERN = {
    "29/02/2024": date(2024, 2, 29),
    "30/02/2024": None,
    "1/2/2024": None,
    "2024-02-29": None,
    "29/02/2024 junk": None,
}


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type,misc]


WITH_OFFSET = {
    "2024-01-01T00:00:00Z": utc(2024, 1, 1),
    "2024-01-01 05:30:00+05:30": utc(2024, 1, 1),
    "2023-12-31T19:00:00-05:00": utc(2024, 1, 1),
    "2024-01-01T00:00:00.123456Z": utc(2024, 1, 1, 0, 0, 0, 123456),
    "2024-01-01T00:00:00": None,
    "2024-01-01": None,
    "2024": None,
    "2024-01-01T00:00:00Z junk": None,
    "2024-01-01T00:00:00Z\n": None,
    "2024-02-30T00:00:00Z": None,
    "2024-01-01T24:00:00Z": None,
    "2024-01-01T23:59:60Z": None,
    "2024-01-01T00:00:00+19:00": None,
    "0001-01-01T00:00:00+05:00": None,
    "9999-12-31T23:59:59-05:00": None,
}
IN_NEW_YORK = {
    "2013-07-01 12:00:00": utc(2013, 7, 1, 16),
    "2013-12-01T12:00:00": utc(2013, 12, 1, 17),
    "2013-03-10T01:59:59": utc(2013, 3, 10, 6, 59, 59),
    "2013-03-10T03:00:00": utc(2013, 3, 10, 7),
    "2013-03-10T02:00:00": None,  # the clocks skip this hour
    "2013-03-10T02:30:00": None,
    "2013-11-03T00:30:00": utc(2013, 11, 3, 4, 30),
    "2013-11-03T00:59:59": utc(2013, 11, 3, 4, 59, 59),
    "2013-11-03T01:00:00": None,  # the clocks show this hour twice
    "2013-11-03T01:30:00": None,
    "2013-11-03T01:59:59": None,
    "2013-11-02T01:30:00": utc(2013, 11, 2, 5, 30),
    "9999-12-31T01:30:00": utc(9999, 12, 31, 6, 30),
    "2013-11-03T02:00:00": utc(2013, 11, 3, 7),
    "2013-07-01 12:00:00Z": None,
    "2013-07-01 12:00:00-04:00": None,
}
FIRST_IN_NEW_YORK = {
    "2013-11-03T01:30:00": utc(2013, 11, 3, 5, 30),
    "2013-11-03T02:00:00": utc(2013, 11, 3, 7),
    "2013-03-10T02:30:00": None,
}
SECOND_IN_NEW_YORK = {
    "2013-11-03T00:30:00": utc(2013, 11, 3, 4, 30),
    "2013-11-03T01:30:00": utc(2013, 11, 3, 6, 30),
    "2013-11-03T02:00:00": utc(2013, 11, 3, 7),
    "2013-03-10T02:30:00": None,
    "2013-07-01T12:00:00": utc(2013, 7, 1, 16),
}
# Half an hour, and in the south.
LORD_HOWE = {
    "2024-04-07T01:29:59": utc(2024, 4, 6, 14, 29, 59),
    "2024-04-07T01:30:00": None,
    "2024-04-07T02:00:00": utc(2024, 4, 6, 15, 30),
    "2024-10-06T02:15:00": None,
}
IN_UTC = {"2013-03-10T02:30:00": utc(2013, 3, 10, 2, 30), "2013-03-10T02:30:00Z": None}
INSTANT_BY_PATTERN = {
    "2013-01-01T05:00:00Z": utc(2013, 1, 1, 5),
    "2013-01-01T05:00:00+01": utc(2013, 1, 1, 4),
    "2013-01-01T05:00:00": None,
    "2013-02-30T05:00:00Z": None,
    "2013-01-01T05:00:00Z junk": None,
}
LOCAL_BY_PATTERN = {
    "01/07/2013 12:00": utc(2013, 7, 1, 16),
    "10/03/2013 02:30": None,
    "31/02/2013 12:00": None,
}
SMALL = {"32767": 32767, "-32768": -32768, "32768": None, "-32769": None}
INT = {"2147483647": 2**31 - 1, "-2147483648": -(2**31), "2147483648": None, "-2147483649": None}
BIG = {"9223372036854775807": 2**63 - 1, "9223372036854775808": None, "-9223372036854775809": None}
FLOAT = {
    "3.4e38": pytest.approx(3.4e38),
    "3.5e38": None,
    "0.25": 0.25,
    "16777216": 16777216.0,
    "16777217": None,
    "0.123456789": pytest.approx(0.123456789),
    "0.1234567891": None,
}
DOUBLE = {
    "1.7e308": 1.7e308,
    "1.8e308": None,
    "0.1": 0.1,
    "0.10000000000000001": 0.1,
    "0.000000000000000000000012345": 1.2345e-23,
    "100000000000000000000": 1e20,
    "9007199254740992": 9007199254740992.0,
    "9007199254740993": None,
    "0.123456789012345678": None,
    "12345678901234567890.0": None,
}
NO_VALUE = dict.fromkeys(NEVER)

CASES = {
    "smallint": (Castable("t", DataType("smallint")), WHOLE | SMALL | NO_VALUE),
    "int": (Castable("t", DataType("int")), WHOLE | INT | NO_VALUE),
    "bigint": (Castable("t", DataType("bigint")), WHOLE | BIG | NO_VALUE),
    "float": (Castable("t", DataType("float")), FRACTION | FLOAT | NO_VALUE),
    "double": (Castable("t", DataType("double")), FRACTION | DOUBLE | NO_VALUE),
    "boolean": (Castable("t", DataType("boolean")), BOOLEAN | NO_VALUE),
    "date": (Castable("t", DataType("date")), DATE | NO_VALUE),
    "date, pattern": (Castable("t", DataType("date"), "dd/MM/yyyy"), DATE_BY_PATTERN | NO_VALUE),
    "timestamp": (Castable("t", DataType("timestamp")), WITH_OFFSET | NO_VALUE),
    "timestamp, zone": (
        Castable("t", DataType("timestamp"), zone=NEW_YORK),
        IN_NEW_YORK | NO_VALUE,
    ),
    "timestamp, first of two": (
        Castable("t", DataType("timestamp"), zone=NEW_YORK, repeated="first"),
        FIRST_IN_NEW_YORK,
    ),
    "timestamp, second of two": (
        Castable("t", DataType("timestamp"), zone=NEW_YORK, repeated="second"),
        SECOND_IN_NEW_YORK,
    ),
    "timestamp, Lord Howe": (
        Castable("t", DataType("timestamp"), zone="Australia/Lord_Howe"),
        LORD_HOWE,
    ),
    "timestamp, UTC": (Castable("t", DataType("timestamp"), zone="UTC"), IN_UTC | NO_VALUE),
    "timestamp, pattern": (
        Castable("t", DataType("timestamp"), "yyyy-MM-dd'T'HH:mm:ssX"),
        INSTANT_BY_PATTERN | NO_VALUE,
    ),
    "timestamp, pattern, zone": (
        Castable("t", DataType("timestamp"), "dd/MM/yyyy HH:mm", NEW_YORK),
        LOCAL_BY_PATTERN | NO_VALUE,
    ),
    "decimal(5,2)": (
        Castable("t", DataType("decimal", 5, 2)),
        {t: v and Decimal(v) for t, v in EXACT.items()} | NO_VALUE,
    ),
    "decimal(38,0)": (
        Castable("t", DataType("decimal", 38, 0)),
        {
            "12345678901234567890123456789012345678": Decimal(
                "12345678901234567890123456789012345678"
            ),
            "123456789012345678901234567890123456789": None,
            "1.5": None,
            "100e-2": Decimal(1),
        },
    ),
    "decimal(38,38)": (
        Castable("t", DataType("decimal", 38, 38)),
        {"0.1": Decimal("0.1"), "1": None, "1e-38": Decimal("1e-38"), "1e-39": None},
    ),
}


def cast_all(spark: SparkSession, check: Castable, texts: list[str | None]) -> list[Any]:
    rows = spark.createDataFrame([(t,) for t in texts], "t string")
    value = cast(F.col("t"), check)
    if check.type.name == "timestamp":
        value = F.unix_micros(value)  # an instant, whatever zone Python is in
    return [row["v"] for row in rows.select(value.alias("v")).collect()]


@pytest.mark.parametrize(("check", "expected"), CASES.values(), ids=CASES)
def test_cast(spark: SparkSession, check: Castable, expected: dict[str, Any]) -> None:
    found = dict(zip(expected, cast_all(spark, check, list(expected)), strict=True))
    if check.type.name == "timestamp":
        expected = {
            text: when and round((when - utc(1970, 1, 1)).total_seconds() * 1_000_000)
            for text, when in expected.items()
        }
    assert found == expected


def test_no_text_is_no_value(spark: SparkSession) -> None:
    assert cast_all(spark, Castable("t", DataType("int")), [None, "1"]) == [None, 1]


def test_schemas_are_complete(contract: Callable[..., Contract]) -> None:
    zoned = {"timezone": True}
    made = contract(
        [
            {"name": "s", "logicalType": "string"},
            {"name": "b", "logicalType": "boolean"},
            {"name": "i1", "logicalType": "integer", "physicalType": "smallint"},
            {"name": "i2", "logicalType": "integer", "physicalType": "int"},
            {"name": "i3", "logicalType": "integer"},
            {"name": "f", "logicalType": "number", "physicalType": "float"},
            {"name": "d", "logicalType": "number"},
            {"name": "n", "logicalType": "number", "physicalType": "decimal(10,3)"},
            {"name": "day", "logicalType": "date"},
            {"name": "at", "logicalType": "timestamp", "logicalTypeOptions": zoned},
        ]
    )
    assert {f.name: f.dataType for f in typed_schema(made)} == {
        "s": StringType(),
        "b": BooleanType(),
        "i1": ShortType(),
        "i2": IntegerType(),
        "i3": LongType(),
        "f": FloatType(),
        "d": DoubleType(),
        "n": DecimalType(10, 3),
        "day": DateType(),
        "at": TimestampType(),
    }
    assert {f.dataType for f in text_schema(made)} == {StringType()}
    assert text_schema(made).names == typed_schema(made).names


@pytest.mark.parametrize("setting", sorted(k for k in PINNED if k.startswith("spark.sql.")))
def test_settings_are_pinned(spark: SparkSession, setting: str) -> None:
    assert spark.conf.get(setting) == PINNED[setting]


def test_ansi_is_on_and_times_are_utc(spark: SparkSession) -> None:
    assert spark.conf.get("spark.sql.ansi.enabled") == "true"
    assert spark.conf.get("spark.sql.session.timeZone") == "UTC"


def test_a_profile_that_contradicts_is_refused(tmp_path: Path) -> None:
    profile = tmp_path / "mine.conf"
    profile.write_text("spark.sql.ansi.enabled false\nspark.sql.session.timeZone=Europe/Paris\n")
    with pytest.raises(EnvironmentFault) as caught:
        start("contradiction", profile)
    assert caught.value.details["found"] == {
        "spark.sql.ansi.enabled": "false",
        "spark.sql.session.timeZone": "Europe/Paris",
    }


def test_a_profile_that_says_the_same_is_taken(spark: SparkSession, tmp_path: Path) -> None:
    profile = tmp_path / "mine.conf"
    profile.write_text("spark.sql.ansi.enabled TRUE\n")
    assert start("the same", profile) is spark


@pytest.mark.parametrize("line", ["sparks.master local", "spark.master"])
def test_a_profile_with_a_line_that_is_no_setting_is_refused(tmp_path: Path, line: str) -> None:
    profile = tmp_path / "mine.conf"
    profile.write_text(f"# mine\n{line}\n")
    with pytest.raises(EnvironmentFault, match=r"mine\.conf:2"):
        start("broken", profile)


def test_a_missing_profile_names_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "local.conf").write_text("")
    with pytest.raises(EnvironmentFault, match="did you mean 'local'"):
        start("missing", tmp_path / "locla.conf")
