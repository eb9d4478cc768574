"""From a contract: Spark's schemas, and text cast to typed values without a guess."""

from __future__ import annotations

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql.types import (
    BooleanType,
    DataType,
    DateType,
    DecimalType,
    DoubleType,
    FloatType,
    IntegerType,
    LongType,
    ShortType,
    StringType,
    StructField,
    StructType,
    TimestampType,
)

from nightjar.core.checks import Castable
from nightjar.core.checks import DataType as NeutralType
from nightjar.core.contract import Contract

_PLAIN: dict[str, DataType] = {
    "string": StringType(),
    "boolean": BooleanType(),
    "smallint": ShortType(),
    "int": IntegerType(),
    "bigint": LongType(),
    "float": FloatType(),
    "double": DoubleType(),
    "date": DateType(),
    "timestamp": TimestampType(),
}
# Java's `$` also stands before a newline at the end; `\z` does not.
_INTEGER = r"^[+-]?[0-9]+\z"
_NUMBER = r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?\z"
_DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}\z"
_TIME = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?"
_OFFSET = r"(Z|[+-][0-9]{2}:[0-9]{2})"


def spark_type(kind: NeutralType) -> DataType:
    return DecimalType(kind.precision, kind.scale) if kind.precision else _PLAIN[kind.name]


def text_schema(contract: Contract) -> StructType:
    """The contract's columns as they are delivered: all text."""
    return StructType([StructField(c.name, StringType()) for c in contract.columns])


def typed_schema(contract: Contract) -> StructType:
    """The contract's columns as they are kept."""
    return StructType([StructField(c.name, spark_type(c.type)) for c in contract.columns])


def cast(text: Column, check: Castable) -> Column:
    """`text` as the check's type; null where it is not, completely, a value of that type."""
    name = check.type.name
    if name in ("smallint", "int", "bigint"):
        return F.when(text.rlike(_INTEGER), text.try_cast(_PLAIN[name]))
    if name in ("float", "double"):
        value = F.when(text.rlike(_NUMBER), text.try_cast(_PLAIN[name]))
        return F.when((F.abs(value) < float("inf")) & _precise(text, value, name), value)
    if name == "decimal":
        exact = text.rlike(_NUMBER) & (_fraction_digits(text) <= check.type.scale)
        return F.when(exact, text.try_cast(spark_type(check.type)))
    if name == "boolean":
        return F.when(F.lower(text).isin("true", "false"), text.try_cast(BooleanType()))
    if name == "date":
        if check.pattern:
            return _in_calendar(F.try_to_timestamp(text, F.lit(check.pattern)).cast("date"))
        return _in_calendar(F.when(text.rlike(_DATE), text.try_cast(DateType())))
    return _timestamp(text, check)


def _timestamp(text: Column, check: Castable) -> Column:
    if check.pattern:
        value = F.try_to_timestamp(text, F.lit(check.pattern))
    else:
        shape = _TIME + (_OFFSET if check.zone is None else "") + r"\z"
        value = F.when(text.rlike(shape), text.try_cast(TimestampType()))
    if check.zone in (None, "UTC"):
        return _in_calendar(value)
    # The session is pinned to UTC: a time without offset was read as UTC. An hour that the clocks
    # skip does not come back. Of an hour that they repeat, the first instant is found; the second
    # is the one by the offset of a day later, if it shows the same time on the clock.
    first = F.to_utc_timestamp(value, check.zone)
    first = F.when(F.from_utc_timestamp(first, check.zone) == value, first)
    day = F.expr("interval 1 day")
    second = F.to_utc_timestamp(value + day, check.zone) - day
    repeats = (second > first) & (F.from_utc_timestamp(second, check.zone) == value)
    if check.repeated == "first":
        return _in_calendar(first)
    if check.repeated == "second":
        return _in_calendar(F.when(repeats, second).otherwise(first))
    return _in_calendar(F.when(~F.coalesce(repeats, F.lit(False)), first))


def _in_calendar(value: Column) -> Column:
    """Dates and times of the years 1 to 9999; null for the others, which Python cannot hold."""
    return F.when(F.year(value).between(1, 9999), value)


def _precise(text: Column, number: Column, name: str) -> Column:
    """Whether a float or double tells a decimal text from the texts beside it.

    A double keeps any 15 digits, and no number needs more than 17 to be named (a float: 6 and 9).
    A whole number whose every digit cannot be kept must be the very one.
    """
    always, ever = (6, 9) if name == "float" else (15, 17)
    digits = F.regexp_replace(F.regexp_replace(text, "[eE].*", ""), r"^[+-]?0*\.?0*|\.", "")
    significant = F.char_length(F.regexp_replace(digits, r"0*\z", ""))
    whole = F.when(text.rlike(_INTEGER), text.try_cast("decimal(38,0)"))
    same = F.coalesce(whole == number.cast("double").try_cast("decimal(38,0)"), F.lit(True))
    return F.when(F.char_length(text) <= always, True).otherwise((significant <= ever) & same)


def _fraction_digits(number: Column) -> Column:
    """How many digits after the point the value of a decimal text needs; zero needs none.

    Null where the exponent is no int.
    """
    mantissa = F.regexp_replace(number, "[eE].*", "")
    digits = F.regexp_replace(mantissa, "[^0-9]", "")
    written = F.char_length(F.regexp_extract(mantissa, r"\.([0-9]*)", 1))
    zeros = F.char_length(F.regexp_extract(digits, r"(0*)\z", 1))
    exponent = F.regexp_replace(number, "^[^eE]*[eE]?", "")
    shift = F.when(exponent == "", 0).otherwise(exponent.try_cast("int"))
    return F.when(zeros == F.char_length(digits), 0).otherwise(written - zeros - shift)
