"""Data contracts: Open Data Contract Standard v3.1 files, compiled to columns and neutral checks.

Every key of a contract is enforced, or is one that only describes; anything else is a fault that
names it. What each severity does: `critical` stops the run, `error` quarantines the row (row
rules alone), `warning` is reported.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import available_timezones

import pydantic
from open_data_contract_standard.model import (
    CustomProperty,
    DataQuality,
    OpenDataContractStandard,
    SchemaObject,
    SchemaProperty,
    ServiceLevelAgreementProperty,
)

from nightjar.core.checks import (
    Bounds,
    Castable,
    DatasetRule,
    DataType,
    DependsOn,
    Duplicates,
    Fresh,
    InRange,
    Invalid,
    LengthWithin,
    Matches,
    NotNull,
    Nulls,
    OneOf,
    Quarantined,
    RowCheck,
    RowCount,
    RowRule,
    RowRulesHold,
    Severity,
)
from nightjar.core.documents import Document, Location, load
from nightjar.core.errors import Fault, SpecError, near

NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
MASK = "***"  # what stands where personal data is not shown
UNPARSABLE = "unparsable"  # the rule that a record breaks which could not be read at all

_TYPES = {
    "string": ("string",),
    "integer": ("bigint", "int", "smallint"),
    "number": ("double", "float", "decimal"),
    "boolean": ("boolean",),
    "date": ("date",),
    "timestamp": ("timestamp",),
}
_OPTIONS = {
    "string": {"minLength", "maxLength", "pattern"},
    "integer": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
    "boolean": set[str](),
    "date": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "format"},
    "timestamp": {
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "format",
        "timezone",
        "defaultTimezone",
    },
}
_DESCRIBING = {"id", "description", "tags", "businessName", "authoritativeDefinitions"}
_READ = {
    OpenDataContractStandard: _DESCRIBING
    | {"version", "kind", "apiVersion", "name", "status", "schema", "domain", "dataProduct"}
    | {"tenant", "team", "support", "slaProperties", "contractCreatedTs"},
    SchemaObject: _DESCRIBING
    | {"name", "physicalType", "logicalType", "physicalName", "properties", "quality"}
    | {"dataGranularityDescription"},
    SchemaProperty: _DESCRIBING
    | {
        "name",
        "physicalName",
        "physicalType",
        "logicalType",
        "logicalTypeOptions",
        "required",
        "unique",
    }
    | {"primaryKey", "primaryKeyPosition", "classification", "criticalDataElement"}
    | {"customProperties", "examples", "quality"},
    DataQuality: _DESCRIBING
    | {"name", "dimension", "businessImpact", "severity", "type", "unit", "metric", "arguments"}
    | {"engine", "implementation", "mustBe", "mustBeGreaterThan", "mustBeGreaterOrEqualTo"}
    | {"mustBeLessThan", "mustBeLessOrEqualTo", "mustBeBetween"},
    ServiceLevelAgreementProperty: {"id", "property", "value", "unit", "element", "description"},
    CustomProperty: {"id", "property", "value", "description"},
}
_ROW_QUALITY = {"invalidValues", "nullValues", "missingValues"}
_THRESHOLDS = (
    ("mustBe", "mustBeGreaterThan", "mustBeGreaterOrEqualTo", "mustBeBetween"),
    ("mustBe", "mustBeLessThan", "mustBeLessOrEqualTo", "mustBeBetween"),
)
_UNUSED = {
    "library": ("engine", "implementation"),
    "custom": ("metric", "arguments"),
    "text": (
        *("metric", "arguments", "unit", "engine", "implementation"),
        *_THRESHOLDS[0],
        *_THRESHOLDS[1][1:3],
    ),
}
_VALUES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "date": str,
    "timestamp": str,
}


@dataclass(frozen=True)
class Column:
    """One column of a dataset. `after_event` marks what is known only once the event is over.

    `delivered` is its name in delivered files, where that is another.
    """

    name: str
    type: DataType
    required: bool = False
    description: str = ""
    pii: bool = False
    after_event: bool = False
    delivered: str = ""


@dataclass(frozen=True)
class Contract:
    """What one dataset must be."""

    dataset: str
    version: str
    digest: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...]
    row_rules: tuple[RowRule, ...]
    dataset_rules: tuple[DatasetRule, ...]
    description: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def delivered_names(self) -> tuple[str, ...]:
        """The columns' names in delivered files (`physicalName`), in the contract's order."""
        return tuple(column.delivered or column.name for column in self.columns)

    @property
    def pii(self) -> frozenset[str]:
        return frozenset(column.name for column in self.columns if column.pii)

    @property
    def after_event(self) -> frozenset[str]:
        return frozenset(column.name for column in self.columns if column.after_event)

    def column(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)


def load_contract(path: Path, shown: str | None = None) -> Contract:
    """Compile the contract at `path`.

    Raises:
        SpecError: with every fault of the file: not ODCS v3.1, an unknown key, or a rule that
            cannot be enforced.
    """
    document = load(path, shown)
    faults = list(_unknown_keys(document, (), document.data, OpenDataContractStandard))
    if faults:
        raise SpecError(faults=faults)
    try:
        model = OpenDataContractStandard.model_validate(document.data)
    except pydantic.ValidationError as error:
        raise SpecError(
            faults=[document.fault(tuple(e["loc"]), e["msg"].lower()) for e in error.errors()]
        ) from error
    compiler = _Compiler(document, model)
    contract = compiler.contract()
    if compiler.faults:
        raise SpecError(faults=compiler.faults)
    return contract


def _unknown_keys(
    document: Document, at: Location, data: Any, model: type[pydantic.BaseModel]
) -> Iterator[Fault]:
    """Keys that ODCS does not have, and keys that it has but nothing here enforces."""
    if not isinstance(data, dict):
        shown = "nothing" if data is None else f"{type(data).__name__} {str(data)[:40]!r}"
        yield document.fault(at, f"found {shown}; expected a mapping of keys to values")
        return
    standard = {f.alias or n: f for n, f in model.model_fields.items()}
    read = _READ.get(model)
    for key, value in data.items():
        here = (*at, key)
        if key not in standard:
            known = read or standard
            yield document.fault(here, f"unknown key '{key}'", near(key, known))
        elif read is not None and key not in read:
            yield document.fault(
                here,
                f"'{key}' is in the standard, but nothing here enforces it",
                "remove it, or say the same with: " + ", ".join(sorted(read - _DESCRIBING)),
            )
        else:
            child = _CHILDREN.get((model, key))
            if child is not None:
                if not isinstance(value, list):
                    yield document.fault(here, f"'{key}' must be a list")
                    continue
                for i, item in enumerate(value):
                    yield from _unknown_keys(document, (*here, i), item, child)


_CHILDREN: dict[tuple[type[pydantic.BaseModel], str], type[pydantic.BaseModel]] = {
    (OpenDataContractStandard, "schema"): SchemaObject,
    (OpenDataContractStandard, "slaProperties"): ServiceLevelAgreementProperty,
    (SchemaObject, "properties"): SchemaProperty,
    (SchemaObject, "quality"): DataQuality,
    (SchemaProperty, "quality"): DataQuality,
    (SchemaProperty, "customProperties"): CustomProperty,
}


class _Compiler:
    """Turns one validated ODCS model into a Contract, collecting faults on the way."""

    def __init__(self, document: Document, model: OpenDataContractStandard) -> None:
        self.document = document
        self.model = model
        self.faults: list[Fault] = []
        self.dataset = ""
        self.row_rules: list[RowRule] = []
        self.dataset_rules: list[DatasetRule] = []

    def fault(self, at: Location, problem: str, suggestion: str = "") -> None:
        self.faults.append(self.document.fault(at, problem, suggestion))

    def contract(self) -> Contract:
        self._header()
        tables = self.model.schema_ or []
        if len(tables) != 1:
            self.fault(("schema",), f"found {len(tables)} tables; a contract describes one")
        table = tables[0] if tables else SchemaObject(name="", properties=[])
        self.dataset = table.name or ""
        if not NAME.fullmatch(self.dataset):
            self.fault(
                ("schema", 0, "name"),
                f"dataset name {self.dataset!r} is not a lower-case word",
                "use letters, digits and '_', beginning with a letter",
            )
        columns = self._columns(table.properties or [])
        keyed = [
            (p.primaryKeyPosition or 0, p.name or "")
            for p in table.properties or []
            if p.primaryKey
        ]
        key = tuple(name for _, name in sorted(keyed, key=lambda pair: pair[0]))
        self._key_positions(table.properties or [])
        if key:
            self._add_dataset(
                "primary_key",
                Duplicates(key, Bounds(0, 0)),
                Severity.CRITICAL,
                f"each ({', '.join(key)}) stands once",
            )
        for i, quality in enumerate(table.quality or []):
            self._quality(("schema", 0, "quality", i), quality, None)
        for i, sla in enumerate(self.model.slaProperties or []):
            self._sla(("slaProperties", i), sla, {c.name: c for c in columns})
        provable = tuple(r for r in self.row_rules if not isinstance(r.check, DependsOn))
        if provable:
            self.dataset_rules.append(
                DatasetRule(
                    f"{self.dataset}.row_rules",
                    RowRulesHold(provable),
                    Severity.CRITICAL,
                    f"no kept row breaks any of the {len(provable)} row rules",
                )
            )
        self._refuse_repeated_ids()
        self._refuse_unknown_rules(table.quality or [])
        return Contract(
            dataset=self.dataset,
            version=self.model.version or "",
            digest=hashlib.sha256(self.document.path.read_bytes()).hexdigest(),
            columns=tuple(columns),
            primary_key=key,
            row_rules=tuple(self.row_rules),
            dataset_rules=tuple(self.dataset_rules),
            description=(table.description or "").strip(),
        )

    def _header(self) -> None:
        if self.model.kind != "DataContract":
            self.fault(("kind",), f"kind is {self.model.kind!r}; expected 'DataContract'")
        if not (self.model.apiVersion or "").startswith("v3.1."):
            found = self.model.apiVersion
            self.fault(("apiVersion",), f"apiVersion is {found!r}; expected 'v3.1.0'")
        for key in ("id", "version", "status"):
            if not getattr(self.model, key):
                self.fault((), f"'{key}' is missing")

    def _key_positions(self, properties: list[SchemaProperty]) -> None:
        keyed = [p.primaryKeyPosition for p in properties if p.primaryKey]
        for i, prop in enumerate(properties):
            at: Location = ("schema", 0, "properties", i, "primaryKeyPosition")
            position = prop.primaryKeyPosition
            if position is not None and not prop.primaryKey:
                self.fault(at, f"column '{prop.name}' has a primaryKeyPosition and no primaryKey")
            elif position is not None and keyed.count(position) > 1:
                self.fault(at, f"column '{prop.name}': primaryKeyPosition {position} stands twice")
            elif position is None and prop.primaryKey and any(p is not None for p in keyed):
                self.fault(at[:-1], f"column '{prop.name}' of the primary key has no position")

    # -- columns -----------------------------------------------------------------------------

    def _columns(self, properties: list[SchemaProperty]) -> list[Column]:
        columns: list[Column] = []
        for i, prop in enumerate(properties):
            at: Location = ("schema", 0, "properties", i)
            name = prop.name or ""
            if not NAME.fullmatch(name):
                self.fault(
                    (*at, "name"),
                    f"column name {name!r} is not a lower-case word",
                    "use letters, digits and '_', beginning with a letter",
                )
            if name in {c.name for c in columns}:
                self.fault((*at, "name"), f"column '{name}' stands twice")
            elif (delivered := prop.physicalName or name) in {
                c.delivered or c.name for c in columns
            }:
                problem = f"two columns are delivered as '{delivered}'"
                self.fault((*at, "physicalName"), problem)
            kind = self._type(at, prop)
            required = bool(prop.required or prop.primaryKey)
            columns.append(
                Column(
                    name,
                    kind,
                    required,
                    (prop.description or "").strip(),
                    pii="pii" in (prop.tags or []) or (prop.classification or "").lower() == "pii",
                    after_event=self._after_event(at, prop),
                    delivered=prop.physicalName or "",
                )
            )
            self._options(at, prop, kind, required)
            if prop.unique:
                self._add_dataset(
                    f"{name}.unique",
                    Duplicates((name,), Bounds(0, 0)),
                    Severity.CRITICAL,
                    f"each {name} stands once",
                )
            for j, quality in enumerate(prop.quality or []):
                self._quality((*at, "quality", j), quality, name)
        if not columns:
            self.fault(("schema", 0), "the table has no properties")
        return columns

    def _type(self, at: Location, prop: SchemaProperty) -> DataType:
        logical = prop.logicalType or ""
        if logical not in _TYPES:
            self.fault(
                (*at, "logicalType"),
                f"column '{prop.name}': logicalType {logical!r} cannot be enforced",
                near(logical, _TYPES),
            )
            return DataType("string")
        allowed = _TYPES[logical]
        written = (prop.physicalType or allowed[0]).strip().lower()
        match = re.fullmatch(r"([a-z]+)(?:\(\s*(\d+)\s*,\s*(\d+)\s*\))?", written)
        name = match[1] if match else written
        name = {"integer": "int", "long": "bigint", "short": "smallint"}.get(name, name)
        if not match or name not in allowed or (name == "decimal") != bool(match[2]):
            shown = [t if t != "decimal" else "decimal(precision,scale)" for t in allowed]
            self.fault(
                (*at, "physicalType"),
                f"column '{prop.name}': {written!r} is no physical type of {logical}",
                "use one of: " + ", ".join(shown),
            )
            return DataType(allowed[0])
        precision, scale = int(match[2] or 0), int(match[3] or 0)
        if name == "decimal" and not (1 <= precision <= 38 and scale <= precision):
            self.fault(
                (*at, "physicalType"),
                f"column '{prop.name}': {written} needs 1 <= precision <= 38, scale <= precision",
            )
            return DataType("double")
        return DataType(name, precision, scale)

    def _after_event(self, at: Location, prop: SchemaProperty) -> bool:
        result = False
        for i, custom in enumerate(prop.customProperties or []):
            here = (*at, "customProperties", i)
            if custom.property not in ("knownAfterEvent", "repeatedHour"):
                self.fault(
                    here,
                    f"custom property '{custom.property}' means nothing here",
                    near(custom.property or "", ["knownAfterEvent", "repeatedHour"]),
                )
            elif custom.property == "knownAfterEvent":
                if not isinstance(custom.value, bool):
                    problem = f"knownAfterEvent is {custom.value!r}; expected true or false"
                    self.fault(here, problem)
                else:
                    result = custom.value
        return result

    def _repeated_hour(self, at: Location, prop: SchemaProperty, zone: str | None) -> str:
        """Which of the two a local time means in the hour that the clocks repeat in autumn."""
        for i, custom in enumerate(prop.customProperties or []):
            if custom.property != "repeatedHour":
                continue
            here = (*at, "customProperties", i)
            if zone is None:
                problem = f"column '{prop.name}': repeatedHour needs a timestamp's defaultTimezone"
                self.fault(here, problem)
            elif custom.value not in ("first", "second", "refuse"):
                problem = f"repeatedHour is {custom.value!r}; expected first, second or refuse"
                self.fault(here, problem)
            else:
                return str(custom.value)
        return "refuse"

    def _options(self, at: Location, prop: SchemaProperty, kind: DataType, required: bool) -> None:
        name, logical = prop.name or "", prop.logicalType or ""
        options = prop.logicalTypeOptions or {}
        if logical not in _TYPES:
            return  # named already; nothing can be said of its options
        for key in options.keys() - _OPTIONS[logical]:
            self.fault(
                (*at, "logicalTypeOptions", key),
                f"column '{name}': option '{key}' cannot be enforced on a {logical}",
                near(key, _OPTIONS[logical]),
            )
        pattern, zone = options.get("format"), options.get("defaultTimezone")
        if pattern is not None and not isinstance(pattern, str):
            problem = f"column '{name}': format is {pattern!r}; expected a java.time pattern"
            self.fault((*at, "logicalTypeOptions", "format"), problem)
            pattern = None
        if logical == "timestamp" and (zone is None) != (options.get("timezone") is True):
            self.fault(
                at,
                f"column '{name}': a timestamp says either 'timezone: true' (each value carries "
                "its offset) or a 'defaultTimezone'",
                "write one of them under logicalTypeOptions",
            )
        if zone is not None and str(zone) not in available_timezones():
            self.fault(
                (*at, "logicalTypeOptions", "defaultTimezone"),
                f"column '{name}': no time zone {zone!r}",
                near(str(zone), available_timezones()),
            )
        if pattern is not None:
            self._format((*at, "logicalTypeOptions", "format"), name, pattern, kind, zone is None)
        checks: list[RowCheck] = []
        repeated = self._repeated_hour(at, prop, zone)
        if kind.name != "string":
            checks.append(Castable(name, kind, pattern, zone, repeated))
        if required:
            checks.append(NotNull(name))
        checks += self._range(at, prop, options, kind)
        if logical == "string":
            checks += self._length(at, name, options)
        if logical == "string" and "pattern" in options:
            check = self._pattern((*at, "logicalTypeOptions", "pattern"), name, options["pattern"])
            checks += [check] if check else []
        self.row_rules += [RowRule(f"{self.dataset}.{name}.{c.kind}", c) for c in checks]

    def _length(self, at: Location, name: str, options: dict[str, Any]) -> list[RowCheck]:
        given = {n: options[n] for n in ("minLength", "maxLength") if n in options}
        for option, value in given.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                self.fault(
                    (*at, "logicalTypeOptions", option),
                    f"column '{name}': {option} is {value!r}; expected a whole number",
                )
                return []
        low, high = given.get("minLength"), given.get("maxLength")
        if low is not None and high is not None and low > high:
            problem = f"column '{name}': no text has at least {low} and at most {high} characters"
            self.fault((*at, "logicalTypeOptions"), problem)
        return [LengthWithin(name, low, high)] if given else []

    def _format(
        self, at: Location, name: str, pattern: str, kind: DataType, carries_offset: bool
    ) -> None:
        """A java.time pattern must be one that Spark reads, and say what the zone rule says."""
        letters = set(re.sub(r"'[^']*'|[^A-Za-z]", "", pattern))
        unknown = sorted(letters - set("GyuMLdDEaHhKkmsSVzOXxZ"))
        if unknown or pattern.count("'") % 2:
            problem = f"column '{name}': {pattern!r} is no java.time pattern that Spark reads"
            self.fault(
                at, problem, f"remove {', '.join(unknown)}" if unknown else "close the quote"
            )
        offset = bool(letters & set("VzOXxZ"))
        if kind.name == "timestamp" and offset != carries_offset:
            problem = (
                f"column '{name}': {pattern!r} reads no offset, but 'timezone: true' says that "
                "each value carries one"
                if carries_offset
                else f"column '{name}': {pattern!r} reads an offset, and 'defaultTimezone' would "
                "shift the value again"
            )
            self.fault(at, problem, "write an X at its end" if carries_offset else "remove one")

    def _range(
        self, at: Location, prop: SchemaProperty, options: dict[str, Any], kind: DataType
    ) -> list[RowCheck]:
        names = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
        allowed = _OPTIONS[prop.logicalType or ""]
        given = {n: options[n] for n in names if n in options and n in allowed}
        for option, value in given.items():
            good = (
                isinstance(value, int | float) and not isinstance(value, bool)
                if kind.is_number
                else isinstance(value, str) and _is_iso(value, kind)
            )
            if not good:
                self.fault(
                    (*at, "logicalTypeOptions", option),
                    f"column '{prop.name}': {option} is {value!r}; expected a {kind}"
                    + ("" if kind.is_number else " in ISO 8601"),
                )
                return []
        for pair in (names[:2], names[2:]):
            if set(pair) <= given.keys():
                self.fault((*at, "logicalTypeOptions"), f"say either {pair[0]} or {pair[1]}")
        if not given:
            return []
        low = given.get("minimum", given.get("exclusiveMinimum"))
        high = given.get("maximum", given.get("exclusiveMaximum"))
        if kind.is_number and low is not None and high is not None and low > high:
            problem = f"column '{prop.name}': no number is at least {low} and at most {high}"
            self.fault((*at, "logicalTypeOptions"), problem)
        return [
            InRange(
                prop.name or "",
                low,
                high,
                "exclusiveMinimum" in given,
                "exclusiveMaximum" in given,
            )
        ]

    def _pattern(self, at: Location, column: str, pattern: Any) -> Matches | None:
        try:
            with warnings.catch_warnings():
                # What Python warns of ("possible nested set") Java reads as another set.
                warnings.simplefilter("error")
                re.compile(pattern)
        except (re.error, TypeError, OverflowError, RecursionError, Warning) as error:
            shown = str(pattern)[:80]
            self.fault(at, f"column '{column}': {shown!r} is no regular expression: {error}")
            return None
        if re.search(r"\(\?P|\(\?\(|\\Z|\\z", pattern):
            self.fault(at, f"column '{column}': {pattern!r} means another thing in Java")
            return None
        return Matches(column, pattern)

    # -- quality and service levels --------------------------------------------------------------

    def _quality(self, at: Location, quality: DataQuality, column: str | None) -> None:
        kind = quality.type or "library"
        for key in _UNUSED.get(kind, ()):
            if getattr(quality, key) is not None:
                self.fault((*at, key), f"'{key}' means nothing in a rule of type {kind}")
        if kind == "text":
            return
        severity = self._severity(at, quality)
        bounds = self._bounds(at, quality)
        if severity is None or bounds is None:
            return
        row_rule = severity is Severity.ERROR
        check = self._quality_check(at, quality, column, bounds)
        if check is None:
            return
        if row_rule:
            row_check: RowCheck | None = None
            if isinstance(check, Invalid) and bounds == Bounds(0, 0):
                row_check = check.check
            elif isinstance(check, Nulls) and bounds == Bounds(0, 0):
                row_check = NotNull(check.column)
            elif isinstance(check, DependsOn) and bounds == Bounds(0, 0):
                row_check = check
            if row_check is None:
                self.fault(
                    at,
                    "severity 'error' quarantines single rows, and this rule counts many",
                    "use severity critical or warning; or metric invalidValues with mustBe: 0",
                )
                return
            kind = quality.name or row_check.kind
            self.row_rules.append(RowRule(f"{self.dataset}.{row_check.column}.{kind}", row_check))
            return
        if isinstance(check, DependsOn):
            problem = "a dependency quarantines single rows"
            self.fault(at, problem, "write severity: error and mustBe: 0")
            return
        metric = quality.metric or "quarantinedRows"
        label = quality.name or metric
        if isinstance(check, Quarantined) and check.rule and not quality.name:
            label += "." + check.rule.removeprefix(f"{self.dataset}.")
        text = quality.description or f"{label}: {bounds}"
        self._add_dataset(f"{column}.{label}" if column else label, check, severity, text.strip())

    def _quality_check(
        self, at: Location, quality: DataQuality, column: str | None, bounds: Bounds
    ) -> RowCount | Duplicates | Nulls | Invalid | Quarantined | DependsOn | None:
        if quality.type == "custom":
            return self._custom(at, quality, column, bounds)
        if quality.type not in (None, "library"):
            self.fault(
                (*at, "type"),
                f"quality type '{quality.type}' cannot be enforced",
                "use type library, text, or custom with engine nightjar",
            )
            return None
        arguments = quality.arguments or {}
        metric = quality.metric or ""
        if column is None and metric == "rowCount":
            self._only((*at, "arguments"), arguments, set())
            if bounds.unit == "percent":
                self.fault((*at, "unit"), "rowCount counts rows: it has no percent")
            return RowCount(bounds)
        if metric == "duplicateValues":
            named = {"properties"} if column is None else set[str]()
            self._only((*at, "arguments"), arguments, named)
            listed = arguments.get("properties") or []
            if not isinstance(listed, list):
                self.fault((*at, "arguments"), f"properties is {listed!r}; expected a list")
                return None
            columns = (column,) if column else tuple(map(str, listed))
            known = [p.name for p in (self.model.schema_ or [])[0].properties or []]
            for name in columns:
                if name not in known:
                    self.fault(
                        (*at, "arguments"),
                        f"no column '{name}'",
                        near(name, [k for k in known if k]),
                    )
            if not columns:
                self.fault(at, "duplicateValues needs 'arguments: {properties: [..]}'")
                return None
            return Duplicates(columns, bounds)
        if column is not None and metric in ("nullValues", "missingValues"):
            self._only((*at, "arguments"), arguments, set())
            return Nulls(column, bounds)
        if column is not None and metric == "invalidValues":
            return self._invalid(at, arguments, column, bounds)
        usable = _ROW_QUALITY | {"duplicateValues"} if column else {"rowCount", "duplicateValues"}
        where = f"column '{column}'" if column else "the table"
        self.fault(
            (*at, "metric"),
            f"metric '{metric}' cannot be enforced on {where}",
            near(metric, usable),
        )
        return None

    def _invalid(
        self, at: Location, arguments: dict[str, Any], column: str, bounds: Bounds
    ) -> Invalid | None:
        self._only((*at, "arguments"), arguments, {"validValues", "pattern"})
        properties = (self.model.schema_ or [])[0].properties or []
        declared = next((p.logicalType or "" for p in properties if p.name == column), "")
        if ("validValues" in arguments) == ("pattern" in arguments):
            self.fault(at, "invalidValues needs one of 'validValues' and 'pattern' as argument")
            return None
        if "pattern" in arguments:
            if declared != "string":
                self.fault((*at, "arguments"), f"a pattern cannot be enforced on a {declared}")
                return None
            pattern = self._pattern((*at, "arguments"), column, arguments["pattern"])
            return Invalid(pattern, bounds) if pattern else None
        values = arguments["validValues"]
        wanted = _VALUES.get(declared, object)
        plain = isinstance(values, list) and all(
            isinstance(v, wanted) and isinstance(v, bool) == (declared == "boolean") for v in values
        )
        if not plain or not values:
            self.fault((*at, "arguments"), f"validValues must be a list of values: {declared}")
            return None
        return Invalid(OneOf(column, tuple(values)), bounds)

    def _custom(
        self, at: Location, quality: DataQuality, column: str | None, bounds: Bounds
    ) -> Quarantined | DependsOn | None:
        if quality.engine != "nightjar":
            self.fault(
                (*at, "engine"),
                f"engine '{quality.engine}' cannot be enforced",
                "the custom engine here is: nightjar",
            )
            return None
        declared = quality.implementation
        check = declared.get("check") if isinstance(declared, dict) else declared
        known = "quarantinedRows" if column is None else "dependsOn"
        if check != known:
            where = "the table" if column is None else f"column '{column}'"
            problem = f"nightjar has no check {check!r} of {where}"
            self.fault((*at, "implementation"), problem, near(str(check), [known]))
            return None
        if column is not None:
            return self._dependency((*at, "implementation"), column, declared)
        if not isinstance(declared, dict):
            return Quarantined(bounds)
        self._only((*at, "implementation"), declared, {"check", "rule"})
        return Quarantined(bounds, str(declared.get("rule")))

    def _dependency(
        self, at: Location, column: str, declared: str | dict[str, Any] | None
    ) -> DependsOn | None:
        on = declared.get("columns") if isinstance(declared, dict) else None
        if not isinstance(declared, dict) or not isinstance(on, list) or not on:
            self.fault(at, f"what column '{column}' depends on is missing", "write columns: [..]")
            return None
        self._only(at, declared, {"check", "columns"})
        known = [p.name or "" for p in (self.model.schema_ or [])[0].properties or []]
        for name in on:
            if name not in known or name == column:
                self.fault(
                    at,
                    f"column '{column}' cannot depend on '{name}'",
                    near(str(name), [k for k in known if k != column]),
                )
        return DependsOn(column, tuple(map(str, on)))

    def _only(self, at: Location, arguments: dict[str, Any], known: set[str]) -> None:
        for key in arguments.keys() - known:
            self.fault(
                (*at, key),
                f"argument '{key}' cannot be enforced",
                near(key, known),
            )

    def _severity(self, at: Location, quality: DataQuality) -> Severity | None:
        try:
            return Severity(quality.severity or "critical")
        except ValueError:
            self.fault(
                (*at, "severity"),
                f"severity '{quality.severity}' is unknown",
                near(quality.severity or "", list(Severity)),
            )
            return None

    def _bounds(self, at: Location, quality: DataQuality) -> Bounds | None:
        unit = quality.unit or "rows"
        if unit not in ("rows", "percent"):
            self.fault((*at, "unit"), f"unit '{unit}' is unknown", near(unit, ["rows", "percent"]))
            return None
        for side in _THRESHOLDS:
            given = [name for name in side if getattr(quality, name) is not None]
            if len(given) > 1:
                self.fault(at, f"the rule says {' and '.join(given)}", "keep one of them")
                return None
        low: Any = None
        high: Any = None
        if quality.mustBe is not None:
            low = high = quality.mustBe
        if quality.mustBeBetween is not None:
            low, high = quality.mustBeBetween
        low = _first(quality.mustBeGreaterThan, quality.mustBeGreaterOrEqualTo, low)
        high = _first(quality.mustBeLessThan, quality.mustBeLessOrEqualTo, high)
        for value in (low, high):
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, int | float)
            ):
                self.fault(at, f"the threshold {value!r} is not a number")
                return None
        if low is None and high is None:
            self.fault(at, "the rule has no threshold", "add mustBe, mustBeLessThan, ...")
            return None
        low_open = quality.mustBeGreaterThan is not None
        high_open = quality.mustBeLessThan is not None
        bounds = Bounds(low, high, low_open, high_open, unit)
        if (
            low is not None
            and high is not None
            and (low > high or (low == high and (low_open or high_open)))
        ):
            self.fault(at, f"no number is {bounds}")
            return None
        return bounds

    def _sla(
        self, at: Location, sla: ServiceLevelAgreementProperty, columns: dict[str, Column]
    ) -> None:
        if sla.property != "freshness":
            self.fault(
                at,
                f"service level '{sla.property}' cannot be enforced",
                near(sla.property or "", ["freshness"]),
            )
            return
        table, _, column = (sla.element or "").rpartition(".")
        unit = {
            "d": "days",
            "day": "days",
            "days": "days",
            "h": "hours",
            "hour": "hours",
            "hours": "hours",
            "m": "minutes",
        }.get(sla.unit or "")
        if table not in ("", self.dataset) or column not in columns:
            self.fault(
                (*at, "element"),
                f"no column '{sla.element}'",
                near(column, [f"{self.dataset}.{c}" for c in columns]),
            )
        elif columns[column].type.name not in ("date", "timestamp"):
            self.fault((*at, "element"), f"column '{column}' is no date or timestamp")
        elif unit is None or isinstance(sla.value, bool) or not isinstance(sla.value, int | float):
            self.fault(at, "freshness needs a number as value and a unit: d, h or m")
        elif not 0 < sla.value <= 1_000_000:
            self.fault((*at, "value"), f"freshness is {sla.value}; expected more than 0")
        else:
            age = timedelta(**{unit: float(sla.value)})
            self._add_dataset(
                f"{column}.freshness",
                Fresh(column, age),
                Severity.CRITICAL,
                sla.description or f"the newest {column} is at most {sla.value} {unit} old",
            )

    def _add_dataset(self, name: str, check: Any, severity: Severity, text: str) -> None:
        self.dataset_rules.append(DatasetRule(f"{self.dataset}.{name}", check, severity, text))

    def _refuse_unknown_rules(self, qualities: list[DataQuality]) -> None:
        """A threshold on one rule names a rule that quarantines rows."""
        known = [rule.id for rule in self.row_rules] + [f"{self.dataset}.{UNPARSABLE}"]
        for i, quality in enumerate(qualities):
            declared = quality.implementation
            rule = declared.get("rule") if isinstance(declared, dict) else None
            if isinstance(declared, dict) and rule not in known:
                at: Location = ("schema", 0, "quality", i, "implementation")
                self.fault(at, f"no rule {rule!r} quarantines rows", near(str(rule), known))

    def _refuse_repeated_ids(self) -> None:
        seen: set[str] = set()
        rules: list[RowRule | DatasetRule] = [*self.row_rules, *self.dataset_rules]
        for rule in rules:
            if rule.id in seen:
                self.fault(
                    ("schema", 0),
                    f"two rules are called '{rule.id}'",
                    "give one of them a 'name'",
                )
            seen.add(rule.id)


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _is_iso(text: str, kind: DataType) -> bool:
    if "-" not in text:  # the compact form is not Spark's
        return False
    try:
        date.fromisoformat(text) if kind.name == "date" else datetime.fromisoformat(text)
    except ValueError:
        return False
    return True
