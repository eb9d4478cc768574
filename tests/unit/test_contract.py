"""Contracts: what they compile to, and that no fault of theirs passes or hides another."""

# ruff: noqa: E501
from __future__ import annotations

import contextlib
import copy
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
    RowCount,
    RowRule,
    RowRulesHold,
    Severity,
)
from nightjar.core.contract import Contract, load_contract
from nightjar.core.errors import Fault, SpecError
from nightjar.core.project import Project

ROOT = Path(__file__).resolve().parents[2]
TRIPS = "schemas/trips.odcs.yaml"


def faults(project: Project, file: str = TRIPS) -> tuple[Fault, ...]:
    with pytest.raises(SpecError) as caught:
        load_contract(project.root / file, file)
    assert caught.value.code == "SPEC_INVALID"
    return caught.value.faults


def trips(project: Project) -> Contract:
    return load_contract(project.root / TRIPS)


# -- what a contract compiles to ---------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((ROOT / "schemas").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_contracts_compile(path: Path) -> None:
    contract = load_contract(path)
    assert contract.dataset == path.name.removesuffix(".odcs.yaml")
    assert contract.primary_key
    assert all(rule.column in contract.names for rule in contract.row_rules)


def test_columns(project: Project) -> None:
    columns = {c.name: c for c in trips(project).columns}
    assert {name: str(c.type) for name, c in columns.items()} == {
        "trip_id": "bigint",
        "starts_at": "timestamp",
        "station": "string",
        "planned": "int",
        "price": "decimal(9,2)",
        "delay": "double",
        "kind": "string",
    }
    required = {name for name, c in columns.items() if c.required}
    assert required == {"trip_id", "starts_at", "station", "planned"}
    assert trips(project).after_event == {"delay"}


def test_primary_key_follows_the_positions(project: Project, edit: Any) -> None:
    assert trips(project).primary_key == ("starts_at", "trip_id")
    edit(TRIPS, "primaryKeyPosition: 1", "primaryKeyPosition: 3")
    assert trips(project).primary_key == ("trip_id", "starts_at")


def test_row_rules(project: Project) -> None:
    assert {rule.id: rule.check for rule in trips(project).row_rules} == {
        "trips.trip_id.type": Castable("trip_id", DataType("bigint")),
        "trips.trip_id.required": NotNull("trip_id"),
        "trips.starts_at.type": Castable("starts_at", DataType("timestamp")),
        "trips.starts_at.required": NotNull("starts_at"),
        "trips.station.required": NotNull("station"),
        "trips.station.pattern": Matches("station", "[A-Z]{3}"),
        "trips.planned.type": Castable("planned", DataType("int")),
        "trips.planned.required": NotNull("planned"),
        "trips.planned.range": InRange("planned", 0, 1440, False, True),
        "trips.price.type": Castable("price", DataType("decimal", 9, 2)),
        "trips.delay.type": Castable("delay", DataType("double")),
        "trips.kind.length": LengthWithin("kind", 1, 8),
        "trips.kind.allowed": OneOf("kind", ("bus", "tram")),
    }


def test_dataset_rules(project: Project) -> None:
    contract = trips(project)
    found = {rule.id: (rule.check, rule.severity) for rule in contract.dataset_rules}
    critical = Severity.CRITICAL
    assert found == {
        "trips.delay.nullValues": (
            Nulls("delay", Bounds(None, 10, high_open=True, unit="percent")),
            Severity.WARNING,
        ),
        "trips.primary_key": (Duplicates(("starts_at", "trip_id"), Bounds(0, 0)), critical),
        "trips.rowCount": (RowCount(Bounds(0, None, low_open=True)), critical),
        "trips.quarantinedRows": (Quarantined(Bounds(None, 5, unit="percent")), critical),
        "trips.starts_at.freshness": (Fresh("starts_at", timedelta(hours=30)), critical),
        "trips.row_rules": (RowRulesHold(contract.row_rules), critical),
    }


def test_a_threshold_on_one_rule(project: Project, edit: Any) -> None:
    one = "implementation: {check: quarantinedRows, rule: trips.kind.allowed}"
    edit(TRIPS, IMPLEMENTED, one)
    found = {rule.id: rule.check for rule in trips(project).dataset_rules}
    bounds = Bounds(None, 5, unit="percent")
    assert found["trips.quarantinedRows.kind.allowed"] == Quarantined(bounds, "trips.kind.allowed")


def test_a_dependency_is_a_row_rule_that_the_gate_does_not_prove(
    project: Project, edit: Any
) -> None:
    edit(TRIPS, NULLS, DEPENDS)
    contract = trips(project)
    rule = RowRule("trips.delay.dependency", DependsOn("delay", ("station",)))
    assert rule in contract.row_rules
    (held,) = (r.check for r in contract.dataset_rules if isinstance(r.check, RowRulesHold))
    assert set(contract.row_rules) - set(held.rules) == {rule}


def test_columns_that_a_dataset_rule_reads() -> None:
    def columns(check: Any) -> tuple[str, ...]:
        return DatasetRule("d.x", check, Severity.WARNING, "").columns

    assert columns(Duplicates(("a", "b"), Bounds(0, 0))) == ("a", "b")
    assert columns(Nulls("a", Bounds(0, 0))) == ("a",)
    assert columns(Invalid(OneOf("a", (1,)), Bounds(0, 0))) == ("a",)
    assert columns(RowCount(Bounds(0))) == ()


# -- faults ------------------------------------------------------------------------------------

IMPLEMENTED = "implementation: quarantinedRows"
DEPENDS = (
    "{type: custom, engine: nightjar, implementation: {check: dependsOn, columns: [station]}, "
    "mustBe: 0, severity: error}"
)
FRESH = "{property: freshness, value: 30, unit: h, element: trips.starts_at}"
PRICE = 'physicalType: "decimal(9,2)"'
PLANNED = "{minimum: 0, exclusiveMaximum: 1440}"
LENGTH = "{minLength: 1, maxLength: 8}"
NULLS = "{metric: nullValues, mustBeLessThan: 10, unit: percent, severity: warning}"
COUNT = "mustBeGreaterThan: 0"
VALID = "{validValues: [bus, tram]}"
KNOWN = "[{property: knownAfterEvent, value: true}]"

FAULTS = [
    # an unknown key at each level, with the nearest known one
    ("status: active", "statsu: active", "'statsu'", "'status'"),
    ("    properties:", "    propertys:", "'propertys'", "'properties'"),
    ("station, logicalType: string, required", "station, logicalType: string, requird", "'requird'", "'required'"),
    ("- {metric: nullValues", "- {metrc: nullValues", "'metrc'", "'metric'"),
    ("element: trips.starts_at", "elemnt: trips.starts_at", "'elemnt'", "'element'"),
    ("{property: knownAfterEvent", "{propety: knownAfterEvent", "'propety'", "'property'"),
    # keys of the standard that nothing enforces
    ("status: active", "status: active\nservers: []", "'servers'", "remove it"),
    ("        logicalType: number", "        logicalType: number\n        partitioned: true", "'partitioned'", "remove it"),
    (COUNT, "mustNotBe: 0", "'mustNotBe'", "mustBe"),
    # the header
    ("kind: DataContract", "kind: Contract", "'Contract'", ""),
    ("apiVersion: v3.1.0", "apiVersion: v2.2.0", "'v2.2.0'", ""),
    ("version: 1.2.0\n", "", "'version'", ""),
    # names and types
    ("name: station,", "name: Station,", "'Station'", "letters"),
    ("name: station,", "name: trip_id,", "'trip_id'", ""),
    ("- name: trips", "- name: Trips", "'Trips'", "letters"),
    ("trip_id, logicalType: integer", "trip_id, logicalType: intger", "'intger'", "'integer'"),
    ("trip_id, logicalType: integer", "trip_id, logicalType: array", "'array'", "integer"),
    ("physicalType: int,", "physicalType: double,", "'double'", "smallint"),
    (PRICE, "physicalType: decimal", "'decimal'", "decimal(precision,scale)"),
    (PRICE, 'physicalType: "decimal(39,2)"', "decimal(39,2)", ""),
    (PRICE, 'physicalType: "decimal(2,3)"', "decimal(2,3)", ""),
    (PRICE, 'physicalType: "decimal(0,0)"', "decimal(0,0)", ""),
    (PRICE, 'physicalType: "double(9,2)"', "double(9,2)", ""),
    # options
    ('{pattern: "[A-Z]{3}"}', '{patern: "[A-Z]{3}"}', "'patern'", "'pattern'"),
    (LENGTH, "{minimum: 1}", "'minimum'", "minLength"),
    (PLANNED, "{maxLength: 3}", "'maxLength'", "exclusiveMaximum"),
    (PLANNED, "{minimum: zero}", "'zero'", ""),
    (PLANNED, "{minimum: true}", "True", ""),
    (PLANNED, "{minimum: 0, exclusiveMinimum: 0}", "exclusiveMinimum", ""),
    (PLANNED, "{minimum: 5, maximum: 4}", "'planned'", ""),
    (LENGTH, "{minLength: one}", "'one'", ""),
    (LENGTH, "{maxLength: -1}", "-1", ""),
    (LENGTH, "{minLength: 9, maxLength: 8}", "'kind'", ""),
    ('"[A-Z]{3}"', '"[A-Z{3}"', "'station'", ""),
    ('"[A-Z]{3}"', "5", "'station'", ""),
    ('"[A-Z]{3}"', "~", "'station'", ""),
    ('"[A-Z]{3}"', '"a{99999999999999999999}"', "'station'", ""),
    ('"[A-Z]{3}"', '"[[A-Z]{3}"', "'station'", ""),
    ('"[A-Z]{3}"', r"'[A-Z]{3}\Z'", "Java", ""),
    ('"[A-Z]{3}"', "'(?P<x>a)'", "Java", ""),
    # metrics and their arguments
    ("metric: rowCount", "metric: rowCont", "'rowCont'", "'rowCount'"),
    ("metric: rowCount", "metric: nullValues", "'nullValues'", "duplicateValues"),
    ("metric: nullValues", "metric: rowCount", "'rowCount'", "nullValues"),
    ("metric: rowCount", "metric: duplicateValues", "duplicateValues", ""),
    ("metric: rowCount", "metric: duplicateValues\n        arguments: {properties: [statoin]}", "'statoin'", "'station'"),
    ("metric: rowCount", "metric: duplicateValues\n        arguments: {properties: 5}", "5", ""),
    ("metric: rowCount", "metric: rowCount\n        arguments: {where: x}", "'where'", ""),
    ("metric: rowCount", "metric: rowCount\n        unit: percent", "percent", ""),
    ("metric: rowCount", "metric: rowCount\n        unit: percnt", "'percnt'", "'percent'"),
    ("metric: rowCount", "metric: rowCount\n        severity: eror", "'eror'", "'error'"),
    ("metric: rowCount", "metric: rowCount\n        severity: error", "'error'", "invalidValues"),
    ("severity: warning", "severity: error", "'error'", "invalidValues"),
    (VALID, "{validvalues: [bus]}", "'validvalues'", "'validValues'"),
    (VALID, "{validValues: []}", "validValues", ""),
    (VALID, "{validValues: [bus, 5]}", "string", ""),
    (VALID, "{validValues: [bus], pattern: bus}", "validValues", ""),
    (VALID, "{pattern: '('}", "'('", ""),
    # keys that a rule of this type does not use
    ("metric: rowCount", "metric: rowCount\n        engine: soda", "'engine'", ""),
    ("metric: rowCount", "type: text\n        metric: rowCount", "'metric'", ""),
    ("engine: nightjar", "engine: nightjar\n        metric: rowCount", "'metric'", ""),
    ("metric: rowCount", "type: sql", "'sql'", "custom"),
    ("engine: nightjar", "engine: soda", "'soda'", "nightjar"),
    ("quarantinedRows", "quarantineRows", "'quarantineRows'", "'quarantinedRows'"),
    (NULLS, "{type: custom, engine: nightjar, implementation: quarantinedRows, mustBe: 0}", "'delay'", ""),
    (IMPLEMENTED, "implementation: {check: quarantinedRows, rule: trips.kind.alowed}", "'trips.kind.alowed'", "'trips.kind.allowed'"),
    (IMPLEMENTED, "implementation: {check: quarantinedRows}", "None", ""),
    (IMPLEMENTED, "implementation: {check: quarantinedRows, rle: trips.unparsable}", "'rle'", "'rule'"),
    (NULLS, DEPENDS.replace("[station]", "[]"), "'delay'", "columns"),
    (NULLS, DEPENDS.replace("station", "statoin"), "'statoin'", "'station'"),
    (NULLS, DEPENDS.replace("station", "delay"), "'delay'", ""),
    (NULLS, DEPENDS.replace("dependsOn", "dependOn"), "'dependOn'", "'dependsOn'"),
    (NULLS, DEPENDS.replace("error", "warning"), "single rows", "severity: error"),
    # thresholds
    (COUNT, "description: many", "threshold", "mustBe"),
    (COUNT, "mustBe: many", "'many'", ""),
    (COUNT, "mustBeBetween: [3, 1]", "3", ""),
    (COUNT, "mustBeBetween: [1, 2, 3]", "2", ""),
    (COUNT, "mustBe: 0\n        mustBeLessThan: 5", "mustBeLessThan", "keep one"),
    (COUNT, "mustBeGreaterThan: 5\n        mustBeGreaterOrEqualTo: 1", "mustBeGreaterOrEqualTo", "keep one"),
    (COUNT, "mustBeGreaterThan: 5\n        mustBeLessThan: 5", "5", ""),
    (COUNT, "mustBeGreaterThan: 9\n        mustBeLessThan: 5", "9", ""),
    # freshness
    (FRESH, FRESH.replace("freshness", "freshnes"), "'freshnes'", "'freshness'"),
    (FRESH, FRESH.replace("freshness", "latency"), "'latency'", "freshness"),
    (FRESH, FRESH.replace("starts_at", "start_at"), "'trips.start_at'", "'trips.starts_at'"),
    (FRESH, FRESH.replace("trips.starts_at", "stations.starts_at"), "'stations.starts_at'", "'trips.starts_at'"),
    (FRESH, FRESH.replace("starts_at", "station"), "'station'", ""),
    (FRESH, FRESH.replace("unit: h", "unit: w"), "unit", ""),
    (FRESH, FRESH.replace("30", "soon"), "number", ""),
    (FRESH, FRESH.replace("30", "0"), "0", ""),
    (FRESH, FRESH.replace("30", "1e300"), "1e+300", ""),
    # knownAfterEvent
    (KNOWN, "[{property: knownAfterEvnt, value: true}]", "'knownAfterEvnt'", "'knownAfterEvent'"),
    (KNOWN, "[{property: knownAfterEvent, value: yes}]", "'yes'", ""),
    (KNOWN, "{property: knownAfterEvent}", "'customProperties'", ""),
    # the primary key
    ("name: station,", "name: station, primaryKeyPosition: 3,", "'station'", ""),
    ("name: station,", "name: station, primaryKey: true,", "'station'", ""),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "named", "suggested"), FAULTS)
def test_a_fault_is_named_with_its_place(
    project: Project, edit: Any, old: str, new: str, named: str, suggested: str
) -> None:
    first = edit(TRIPS, old, new) if new else min(edit(TRIPS, old, new), 1)
    fault = next(f for f in faults(project) if named in f.problem)
    assert fault.file == TRIPS
    assert suggested in fault.suggestion
    # On the changed lines, or at the item or column that holds them.
    assert first - 5 <= fault.line <= first + new.count("\n") + 1


@pytest.mark.parametrize(
    ("old", "new", "below"),
    [
        ("trip_id, logicalType: integer", "trip_id, logicalType: intger", 0),
        (PRICE, "physicalType: decimal", 0),
        (KNOWN, "[{property: knownAfterEvnt, value: true}]", 0),
        ("metric: rowCount", "metric: rowCont", 0),
        ("engine: nightjar", "engine: soda", 0),
        ("implementation: quarantinedRows", "implementation: rows", 0),
        (FRESH, FRESH.replace("starts_at", "start_at"), 0),
        (LENGTH, "{minLength: 1,\n  maxLenght: 8}", 1),
        (COUNT, f"{COUNT}\n        unit: pieces", 1),
    ],
)
def test_the_line_is_the_keys_own(
    project: Project, edit: Any, old: str, new: str, below: int
) -> None:
    line = edit(TRIPS, old, new)
    (fault,) = faults(project)
    assert fault.line == line + below


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("{}", "timezone: true"),
        ("{timezone: false}", "timezone: true"),
        ("{timezone: true, defaultTimezone: Europe/Rome}", "defaultTimezone"),
        ("{defaultTimezone: Europe/Roma}", "'Europe/Roma'"),
        ("{defaultTimezone: [Europe/Rome]}", "Europe/Rome"),
        ("{timezone: true, format: 5}", "5"),
        ("{timezone: true, minimum: yesterday}", "'yesterday'"),
        ("{timezone: true, minimum: 2013}", "2013"),
    ],
)
def test_timestamps_say_their_zone(project: Project, edit: Any, options: str, named: str) -> None:
    line = edit(TRIPS, "{timezone: true}", options)
    (fault,) = faults(project)
    assert (fault.line, named in fault.problem) == (line, True)


def test_a_timestamp_without_offset_takes_the_default_zone(project: Project, edit: Any) -> None:
    edit(TRIPS, "{timezone: true}", "{defaultTimezone: Europe/Rome, format: yyyyMMddHH}")
    rule = next(r for r in trips(project).row_rules if r.id == "trips.starts_at.type")
    assert rule.check == Castable("starts_at", DataType("timestamp"), "yyyyMMddHH", "Europe/Rome")


def test_two_rules_of_one_id(project: Project, edit: Any) -> None:
    edit(
        TRIPS,
        f"        {COUNT}\n",
        f"        {COUNT}\n      - metric: rowCount\n        mustBe: 7\n",
    )
    (fault,) = faults(project)
    assert "'trips.rowCount'" in fault.problem
    assert "name" in fault.suggestion
    edit(TRIPS, "mustBe: 7", "mustBe: 7\n        name: seven")
    assert "trips.seven" in {rule.id for rule in trips(project).dataset_rules}


def test_two_columns_at_one_position_of_the_key(project: Project, edit: Any) -> None:
    edit(TRIPS, "primaryKeyPosition: 2", "primaryKeyPosition: 1")
    assert ["'trip_id'" in faults(project)[0].problem, len(faults(project))] == [True, 2]


def test_all_faults_at_once(project: Project, edit: Any) -> None:
    lines = [
        edit(TRIPS, "kind: DataContract", "kind: Contract"),
        edit(TRIPS, "trip_id, logicalType: integer", "trip_id, logicalType: intger"),
        edit(TRIPS, PRICE, "physicalType: money"),
        edit(TRIPS, VALID, "{validValues: bus}"),
        edit(TRIPS, "metric: rowCount", "metric: rows"),
        edit(TRIPS, "value: 30", "value: soon"),
    ]
    assert [fault.line for fault in faults(project)] == lines


@pytest.mark.parametrize("text", ["", "[1, 2]", "words", "schema: {}", "schema: [~]", "schema:"])
def test_a_file_of_another_shape(project: Project, text: str) -> None:
    (project.root / TRIPS).write_text(text)
    assert all("expected a mapping" in f.problem or "list" in f.problem for f in faults(project))


def test_one_table_a_contract(project: Project) -> None:
    data = yaml.safe_load((project.root / TRIPS).read_text())
    data["schema"].append(copy.deepcopy(data["schema"][0]))
    (project.root / TRIPS).write_text(yaml.safe_dump(data))
    assert "2 tables" in faults(project)[0].problem


# -- bounds ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bounds", "inside", "outside", "shown"),
    [
        (Bounds(1, 3), [1, 2, 3], [0.99, 3.01], "at least 1 and at most 3"),
        (Bounds(1, 3, True, True), [1.01, 2.99], [1, 3], "more than 1 and less than 3"),
        (Bounds(None, 5, unit="percent"), [-9, 5], [5.5], "at most 5%"),
        (Bounds(0, 0), [0], [-1, 1], "exactly 0"),
        (Bounds(0.5, 0.5, unit="percent"), [0.5], [0], "exactly 0.5%"),
        (Bounds(), [-1e300, 1e300], [], ""),
    ],
)
def test_bounds(bounds: Bounds, inside: list[float], outside: list[float], shown: str) -> None:
    assert [bounds.hold(value) for value in inside] == [True] * len(inside)
    assert [bounds.hold(value) for value in outside] == [False] * len(outside)
    assert str(bounds) == shown


@pytest.mark.parametrize(
    ("check", "expected"),
    [
        (Castable("a", DataType("decimal", 9, 2)), "a value of type decimal(9,2)"),
        (Castable("a", DataType("date"), "dd.MM.yyyy"), "a value of type date written dd.MM.yyyy"),
        (InRange("a", 0, 9, False, True), ">= 0 and < 9"),
        (InRange("a", None, 9), "<= 9"),
        (LengthWithin("a", 2, 2), "exactly 2 characters"),
        (OneOf("a", ("x", "y")), "one of x, y"),
        (OneOf("a", tuple(range(13))), "one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ..."),
    ],
)
def test_what_a_check_expects(check: Any, expected: str) -> None:
    assert check.expected == expected


# -- nothing but a contract or a spec error ----------------------------------------------------

SHIPPED = [yaml.safe_load(path.read_text()) for path in (ROOT / "schemas").glob("*.yaml")]
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        ["rowCount", "custom", "text", "error", "percent", "integer", "[[a]", "a{9,1}"]
    ),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every mapping or list inside a value, with each of its keys."""
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    here = [(value, key) for key, _ in inside]
    children = value.values() if isinstance(value, dict) else value
    return here + [p for child in children if isinstance(child, dict | list) for p in places(child)]


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_mutated_contract_is_a_contract_or_a_spec_error(
    tmp_path: Path, data: st.DataObject
) -> None:
    contract = copy.deepcopy(data.draw(st.sampled_from(SHIPPED)))
    for _ in range(data.draw(st.integers(1, 3))):
        found = places(contract)
        if not found:
            break
        holder, key = found[data.draw(st.integers(0, len(found) - 1))]
        match data.draw(st.sampled_from(["drop", "rename", "retype", "repeat"])):
            case "rename" if isinstance(holder, dict):
                holder[f"{key}x"] = holder.pop(key)
            case "repeat" if isinstance(holder, list):
                holder.append(copy.deepcopy(holder[key]))
            case "retype":
                holder[key] = data.draw(ODD)
            case _:
                del holder[key]
    path = tmp_path / "mutated.odcs.yaml"
    path.write_text(yaml.safe_dump(contract, allow_unicode=False))
    with contextlib.suppress(SpecError):
        assert isinstance(load_contract(path), Contract)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"timezone": True, "format": "yyyy-MM-dd HH:mm:ss"}, "reads no offset"),
        ({"defaultTimezone": "UTC", "format": "yyyy-MM-dd HH:mm:ssX"}, "reads an offset"),
        ({"timezone": True, "format": "bad qq X"}, "no java.time pattern"),
        ({"timezone": True, "format": "yyyy-MM-dd'T"}, "no java.time pattern"),
        ({"timezone": True, "minimum": "20240101T000000"}, "ISO 8601"),
    ],
)
def test_a_timestamp_that_would_be_read_wrongly_is_a_fault(
    tmp_path: Path, options: dict[str, object], named: str
) -> None:
    source = yaml.safe_load((ROOT / "schemas" / "weather.odcs.yaml").read_text())
    (column,) = [c for c in source["schema"][0]["properties"] if c["name"] == "time_hour"]
    column["logicalTypeOptions"] = options
    path = tmp_path / "weather.odcs.yaml"
    path.write_text(yaml.safe_dump(source))
    with pytest.raises(SpecError) as caught:
        load_contract(path)
    assert named in str(caught.value)


def column_of_weather(tmp_path: Path, **keys: object) -> Contract:
    source = yaml.safe_load((ROOT / "schemas" / "weather.odcs.yaml").read_text())
    (column,) = [c for c in source["schema"][0]["properties"] if c["name"] == "time_hour"]
    column.pop("customProperties", None)
    column.update(keys)
    path = tmp_path / "weather.odcs.yaml"
    path.write_text(yaml.safe_dump(source))
    return load_contract(path)


def test_the_hour_that_clocks_repeat_is_declared_or_refused(tmp_path: Path) -> None:
    zone = {"defaultTimezone": "America/New_York"}
    for declared in (None, "first", "second", "refuse"):
        custom = [{"property": "repeatedHour", "value": declared}] if declared else []
        made = column_of_weather(tmp_path, logicalTypeOptions=zone, customProperties=custom)
        rule = next(r for r in made.row_rules if r.id == "weather.time_hour.type")
        assert isinstance(rule.check, Castable)
        assert rule.check.repeated == (declared or "refuse")
        assert "show once" in rule.check.expected
    for options, value, named in (
        (zone, "earlier", "'earlier'"),
        ({"timezone": True}, "first", "defaultTimezone"),
    ):
        custom = [{"property": "repeatedHour", "value": value}]
        with pytest.raises(SpecError, match=named):
            column_of_weather(tmp_path, logicalTypeOptions=options, customProperties=custom)


def test_a_column_may_have_another_name_where_it_is_delivered(tmp_path: Path) -> None:
    made = column_of_weather(tmp_path, physicalName="Time (Hour)")
    assert made.delivered_names[made.names.index("time_hour")] == "Time (Hour)"
    assert set(made.names) - {"time_hour"} < set(made.delivered_names)
    with pytest.raises(SpecError, match="delivered as 'origin'"):
        column_of_weather(tmp_path, physicalName="origin")
