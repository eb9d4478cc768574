"""Neutral checks: what a contract demands, one class per kind, for any engine to carry out.

Row rules hold or fail for one row; a row that fails one goes to quarantine. Dataset rules hold or
fail for all rows of a dataset together; they are the gate.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum


class Severity(StrEnum):
    """What a failure does: stop the run, quarantine the row, or be reported."""

    CRITICAL = "critical"
    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class DataType:
    """A column's type, named as Spark SQL names it; precision and scale for decimals alone."""

    name: str
    precision: int = 0
    scale: int = 0

    def __str__(self) -> str:
        return f"{self.name}({self.precision},{self.scale})" if self.precision else self.name

    @property
    def is_number(self) -> bool:
        return self.is_whole or self.name in {"float", "double", "decimal"}

    @property
    def is_whole(self) -> bool:
        return self.name in {"smallint", "int", "bigint"}


@dataclass(frozen=True)
class Bounds:
    """An interval; None is unbounded. `unit` is 'rows' or 'percent' (of the rows)."""

    low: float | None = None
    high: float | None = None
    low_open: bool = False
    high_open: bool = False
    unit: str = "rows"

    def hold(self, value: float) -> bool:
        above = self.low is None or (value > self.low if self.low_open else value >= self.low)
        below = self.high is None or (value < self.high if self.high_open else value <= self.high)
        return above and below

    def __str__(self) -> str:
        unit = "%" if self.unit == "percent" else ""
        if self.low == self.high and self.low is not None:
            return f"exactly {self.low:g}{unit}"
        parts = []
        if self.low is not None:
            parts.append(f"{'more than' if self.low_open else 'at least'} {self.low:g}{unit}")
        if self.high is not None:
            parts.append(f"{'less than' if self.high_open else 'at most'} {self.high:g}{unit}")
        return " and ".join(parts)


@dataclass(frozen=True)
class Castable:
    """The delivered text is a value of the column's type, completely and without rounding.

    `pattern` is a java.time pattern for dates and timestamps; None is ISO 8601. `zone` is the zone
    of timestamps that carry no offset; None demands one. `repeated` says which of its two instants
    a local time means that the clocks of that zone repeat: "first", "second", or "refuse".
    """

    column: str
    type: DataType
    pattern: str | None = None
    zone: str | None = None
    repeated: str = "refuse"

    kind = "type"

    @property
    def expected(self) -> str:
        written = f" written {self.pattern}" if self.pattern else ""
        local = self.zone not in (None, "UTC")
        once = f" that the clocks of {self.zone} show once" if local else ""
        return f"a value of type {self.type}{written}{once}"


@dataclass(frozen=True)
class NotNull:
    """The value is there."""

    column: str

    kind = "required"
    expected = "a value"


@dataclass(frozen=True)
class InRange:
    """A number, or a date or timestamp in ISO 8601, lies in an interval."""

    column: str
    low: float | str | None
    high: float | str | None
    low_open: bool = False
    high_open: bool = False

    kind = "range"

    @property
    def expected(self) -> str:
        low = "" if self.low is None else f"{'>' if self.low_open else '>='} {self.low}"
        high = "" if self.high is None else f"{'<' if self.high_open else '<='} {self.high}"
        return " and ".join(part for part in (low, high) if part)


@dataclass(frozen=True)
class LengthWithin:
    """A text has this many characters."""

    column: str
    low: int | None
    high: int | None

    kind = "length"

    @property
    def expected(self) -> str:
        return str(Bounds(self.low, self.high)) + " characters"


@dataclass(frozen=True)
class Matches:
    """The whole text matches a regular expression (the subset that Java and Python share)."""

    column: str
    pattern: str

    kind = "pattern"

    @property
    def expected(self) -> str:
        return f"text matching {self.pattern}"


@dataclass(frozen=True)
class OneOf:
    """The value is one of a list."""

    column: str
    values: tuple[str | int | float | bool, ...]

    kind = "allowed"

    @property
    def expected(self) -> str:
        shown = ", ".join(map(str, self.values[:12]))
        return f"one of {shown}" + (", ..." if len(self.values) > 12 else "")


@dataclass(frozen=True)
class DependsOn:
    """The value is that of most rows of the night with the same values of `on`.

    Where no value has more than half of these rows, nobody knows which is right: all hold.
    """

    column: str
    on: tuple[str, ...]

    kind = "dependency"

    @property
    def expected(self) -> str:
        return f"what most rows with its {', '.join(self.on)} have"


RowCheck = Castable | NotNull | InRange | LengthWithin | Matches | OneOf | DependsOn


@dataclass(frozen=True)
class RowRule:
    """A row check with its stable name: `dataset.column.kind`."""

    id: str
    check: RowCheck

    @property
    def column(self) -> str:
        return self.check.column


@dataclass(frozen=True)
class RowCount:
    """How many rows the dataset has."""

    bounds: Bounds


@dataclass(frozen=True)
class Duplicates:
    """How many rows share their values of `columns` with another row."""

    columns: tuple[str, ...]
    bounds: Bounds


@dataclass(frozen=True)
class Nulls:
    """How many rows have no value in `column`."""

    column: str
    bounds: Bounds


@dataclass(frozen=True)
class Invalid:
    """How many values of a column break a row check (missing values do not count)."""

    check: OneOf | Matches
    bounds: Bounds

    @property
    def column(self) -> str:
        return self.check.column


@dataclass(frozen=True)
class Fresh:
    """The newest value of `column` is at most `age` older than the end of the night's day (UTC)."""

    column: str
    age: timedelta


@dataclass(frozen=True)
class Quarantined:
    """How many of the rows read were quarantined: all of them, or those that broke one rule."""

    bounds: Bounds
    rule: str | None = None


@dataclass(frozen=True)
class RowRulesHold:
    """No kept row breaks any rule about itself: the proof, on what was written, that clean did its
    work. (A dependency is about other rows too: among those that are left it may read otherwise.)
    """

    rules: tuple[RowRule, ...]


DatasetCheck = RowCount | Duplicates | Nulls | Invalid | Fresh | Quarantined | RowRulesHold


@dataclass(frozen=True)
class DatasetRule:
    """A dataset check with its stable name, its severity and the contract's words for it."""

    id: str
    check: DatasetCheck
    severity: Severity
    description: str

    @property
    def columns(self) -> tuple[str, ...]:
        match self.check:
            case Duplicates(columns=columns):
                return columns
            case Nulls(column=column) | Fresh(column=column):
                return (column,)
            case Invalid(check=check):
                return (check.column,)
            case _:
                return ()
