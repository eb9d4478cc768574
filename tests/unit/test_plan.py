"""Plans: every fault of a pipeline, where it stands, and what was probably meant."""

# ruff: noqa: E501
from __future__ import annotations

from typing import Any

import pytest

from nightjar.core.errors import Fault, SpecError, UsageError
from nightjar.core.plan import check_project, load_plan
from nightjar.core.project import Project

FILE = "pipelines/late_trips.yaml"
STATIONS = "schemas/stations.odcs.yaml"
SCORES = "schemas/trip_scores.odcs.yaml"


def faults(project: Project) -> tuple[Fault, ...]:
    with pytest.raises(SpecError) as caught:
        load_plan(project, "late_trips")
    return caught.value.faults


def only_fault(project: Project) -> Fault:
    (fault,) = faults(project)
    assert fault.file == FILE
    return fault


def test_the_plan(project: Project) -> None:
    plan = load_plan(project, "late_trips")
    assert sorted(plan.contracts) == ["stations", "trips"]
    assert [name for name, _ in plan.derive_before] == ["leaves_at"]
    assert [name for name, _ in plan.derive_after] == ["crowded"]
    assert plan.published_columns == ("starts_at", "trip_id", "platforms")


def test_an_unknown_pipeline(project: Project) -> None:
    with pytest.raises(UsageError, match="late_trips"):
        load_plan(project, "late_trip")


FAULTS = [
    # the spec itself
    ("schedule:", "shedule:", "'shedule'", "'schedule'"),
    ("{contract: trips, format: csv", "{contrct: trips, format: csv", "'contrct'", "'contract'"),
    ("- trim: [kind]", "- trimm: [kind]", "'trimm'", "'trim'"),
    ("keep: last", "kep: last", "'kep'", "'keep'"),
    ("  as_of: leaves", "  asof: leaves", "'asof'", "'as_of'"),
    ("columns: [platforms]", "colums: [platforms]", "'colums'", "'columns'"),
    ("trainer: mllib", "trainer: xgbost", "'xgbost'", "'xgboost'"),
    ("trainer: mllib, estimator", "estimator", "'trainer'", "xgboost"),
    ("trainer: mllib, estimator: ", "trainer: mllib, estimater: ", "'estimater'", "'estimator'"),
    ("trainer: mllib, estimator: pyspark.ml.classification.LogisticRegression", "trainer: xgboost, worker: 2", "'worker'", "'workers'"),
    ("trainer: mllib, estimator: pyspark.ml.classification.LogisticRegression, params: {maxIter: 5}", "trainer: horovod_keras, network: {layers: [{dens: 5}]}", "'dens'", "'dense'"),
    ("trainer: mllib, estimator: pyspark.ml.classification.LogisticRegression, params: {maxIter: 5}", "trainer: horovod_keras, network: {layers: [{dense: 5}], embeddings: {statoin: 4}}", "'statoin'", "'station'"),
    ("known_after: 1 day", "known_after: 1 day, weight: dely", "'dely'", "'delay'"),
    ("known_after: 1 day", "known_after: 1 day, weight: sum(delay)", "weight reads other rows", ""),
    ("known_after:", "known_afer:", "'known_afer'", "'known_after'"),
    ("at_least: 0.6", "at_least: 2", "at_least", ""),
    ("name: late_trips", "name: late_trip", "'late_trip'", "file"),
    # sources and contracts
    ("contract: trips,", "contract: trps,", "trps.odcs.yaml", "'trips'"),
    ("contract: trip_scores", "contract: trip_score", "trip_score.odcs.yaml", "'trip_scores'"),
    ("base: trips", "base: trisp", "'trisp'", "'trips'"),
    ("source: stations", "source: station", "'station'", "'stations'"),
    ("clean:\n  trips:", "clean:\n  tripz:", "'tripz'", "'trips'"),
    # cleaning
    ("trim: [kind]", "trim: [knid]", "'knid'", "'kind'"),
    ("scale: {price: 0.01}", "scale: {kind: 0.01}", "kind", ""),
    ("scale: {price: 0.01}", "blank_outside: {station: [0, 9]}", "station", ""),
    ("fill: {kind: bus}", "fill: {kind: 5}", "kind", ""),
    ("fill: {kind: bus}", "fill: {planned: 0.5}", "planned", ""),
    ("fill: {kind: bus}", "fill: {planned: true}", "planned", ""),
    ("fill: {kind: bus}", "fill: {starts_at: now}", "starts_at", ""),
    ("- trim: [kind]", "- fill: {price: 0}\n    - trim: [kind]", "'trim'", "text steps"),
    ("- trim: [kind]", "- deduplicate: {keep: first}\n    - trim: [kind]", "'trim'", "text steps"),
    # joins
    ("on: [station]", "on: [platforms]", "(station)", ""),
    ("on: [station]", "on: [statoin]", "'statoin'", "'station'"),
    ("columns: [platforms]", "columns: [platfroms]", "'platfroms'", "'platforms'"),
    ("columns: [platforms]", "columns: {platforms: kind}", "'kind'", "stations_kind"),
    ("columns: [platforms]", "columns: [platforms]\n      at: observed\n      within: 1 day", "'observed'", "'observed_at'"),
    ("columns: [platforms]", "columns: [platforms]\n      at: platforms\n      within: 1 day", "'platforms'", ""),
    ("columns: [platforms]", "columns: [platforms]\n      at: observed_at", "within", ""),
    # derived columns
    ("cast(platforms < 2 as double)", "cast(platfroms < 2 as double)", "'platfroms'", "'platforms'"),
    ("cast(platforms < 2 as double)", "platforms <", "'crowded'", ""),
    ("cast(platforms < 2 as double)", "rand()", "rand", ""),
    ("cast(platforms < 2 as double)", "max(platforms)", "MAX", ""),
    ("cast(platforms < 2 as double)", "crowded + 1", "crowded", ""),
    ("    crowded:", "    platforms: planned\n    crowded:", "'platforms'", ""),
    ("    crowded:", "    price: planned\n    crowded:", "'price'", ""),
    ("as_of: leaves_at - interval 1 hour", "as_of: crowded", "'crowded'", ""),
    ("as_of: leaves_at - interval 1 hour", "as_of: current_timestamp()", "current_timestamp", ""),
    ("as_of: leaves_at - interval 1 hour", "as_of: 1 + 1", "as_of", ""),
    ("as_of: leaves_at - interval 1 hour", "as_of: leave_at", "'leave_at'", "'leaves_at'"),
    # features
    ("numeric: [planned", "numeric: [plannd", "'plannd'", "'planned'"),
    ("categorical: [kind, station]", "categorical: [kidn, station]", "'kidn'", "'kind'"),
    ("categorical: [kind, station]", "categorical: [kind, late]\n", "'late'", ""),
    # label, split, gate
    ("expr: delay >= 5", "expr: dely >= 5", "'dely'", "'delay'"),
    ("expr: delay >= 5", "expr: platforms >= 5", "'platforms'", ""),
    ("expr: delay >= 5", "expr: (select 1)", "label", ""),
    ("label: {name: late", "label: {name: kind", "'kind'", ""),
    ("label: {name: late", "label: {name: leaves_at", "'leaves_at'", ""),
    ("label: {name: late", "label: {name: platforms", "'platforms'", ""),
    ("label: {name: late", "label: {name: crowded", "'crowded'", ""),
    ("by: leaves_at", "by: crowded", "'crowded'", ""),
    ("by: leaves_at", "by: delay", "'delay'", ""),
    ("by: leaves_at", "by: leavs_at", "'leavs_at'", "'leaves_at'"),
    ("slices: [station]", "slices: [statoin]", "'statoin'", "'station'"),
    ("slices: [station]", "slices: [planned]", "'planned'", ""),
    # publishing
    ("score: late_probability", "score: late_probabilty", "'late_probabilty'", "'late_probability'"),
    ("sort: [trip_id]", "sort: [trip]", "'trip'", "'trip_id'"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "named", "suggested"), FAULTS)
def test_a_fault_is_named_with_its_place(
    project: Project, edit: Any, old: str, new: str, named: str, suggested: str
) -> None:
    line = edit(FILE, old, new)
    fault = next(f for f in faults(project) if named in f.problem)
    assert fault.file == FILE
    assert suggested in fault.suggestion
    # On the changed lines, or at the section or item that holds them.
    assert line - 2 <= fault.line <= line + new.count("\n")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("cast(platforms < 2 as double)", "cast(delay < 2 as double)"),
        ("cast(platforms < 2 as double)", "coalesce(platforms, `delay`)"),
        ("numeric: [planned,", "numeric: [delay,"),
        ("categorical: [kind, ", "categorical: [delay, "),
        ("as_of: leaves_at - interval 1 hour", "as_of: leaves_at + delay"),
        ("planned, 0)", "delay, 0)"),
    ],
)
def test_what_is_known_after_the_event_is_no_feature(
    project: Project, edit: Any, old: str, new: str
) -> None:
    line = edit(FILE, old, new)
    leak = next(f for f in faults(project) if "knownAfterEvent" in f.problem)
    assert ("'delay'" in leak.problem, leak.line) == (True, line)


def test_nor_does_it_come_in_by_a_join(project: Project, edit: Any) -> None:
    line = edit(FILE, "columns: [platforms]", "columns: [platforms, complaints]")
    leak = only_fault(project)
    assert ("'complaints'" in leak.problem, "knownAfterEvent" in leak.problem) == (True, True)
    assert leak.line == line - 2


def test_nor_under_another_name_from_the_same_source(project: Project, edit: Any) -> None:
    join = "    - {source: trips, on: [starts_at, trip_id], columns: {delay: hint}}\n"
    line = edit(FILE, "  derive:", f"{join}  derive:")
    assert ("'delay'" in only_fault(project).problem, only_fault(project).line) == (True, line)


def test_nor_is_it_published(project: Project, edit: Any) -> None:
    edit(SCORES, "{name: platforms, logicalType: integer}", "{name: delay, logicalType: number}")
    fault = only_fault(project)
    assert ("'delay'" in fault.problem, "knownAfterEvent" in fault.problem) == (True, True)


def test_the_label_may_read_it(project: Project, edit: Any) -> None:
    edit(FILE, "expr: delay >= 5", "expr: delay >= 5 and price > 0")
    assert load_plan(project, "late_trips").spec.label.expr == "delay >= 5 and price > 0"


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("name: platforms", "name: platform", "'platform'"),
        ("name: model_version", "name: model", "'model_version'"),
        ("primaryKeyPosition: 1", "primaryKeyPosition: 3", "(trip_id, starts_at)"),
        ("name: platforms", "name: ds", "'ds'"),
    ],
)
def test_what_is_published_fits_its_contract(
    project: Project, edit: Any, old: str, new: str, named: str
) -> None:
    edit(SCORES, old, new)
    fault = next(f for f in faults(project) if named in f.problem)
    text = (project.root / FILE).read_text().splitlines()
    assert (fault.file, text[fault.line - 1].startswith("publish:")) == (FILE, True)


def test_reasons_need_their_columns(project: Project, edit: Any) -> None:
    edit(SCORES, "name: platforms, logicalType: integer", "name: reason_1, logicalType: integer")
    edit(FILE, "publish: {", "publish: {reasons: 1, ")
    problems = [f.problem for f in faults(project)]
    assert any("column 'reason_1'" in p and "not string" in p for p in problems)
    assert any("no column 'reason_1_effect' (number)" in p for p in problems)


def test_the_base_rows_are_those_of_one_night(project: Project, edit: Any) -> None:
    edit(FILE, '"landing/trips/{ds}.csv"', "landing/trips.csv")
    fault = only_fault(project)
    text = (project.root / FILE).read_text().splitlines()
    assert ("{ds}" in fault.problem, text[fault.line - 1]) == (True, "  base: trips")


def test_scores_need_keyed_base_rows(project: Project, edit: Any) -> None:
    for position in (
        "primaryKey: true, primaryKeyPosition: 1, ",
        ", primaryKey: true, primaryKeyPosition: 2",
    ):
        edit("schemas/trips.odcs.yaml", position, "")
    problems = [f.problem for f in faults(project)]
    assert any("deduplicate" in p and "trips" in p for p in problems)
    edit(FILE, "    - deduplicate: {keep: last}\n", "")
    assert any("'trips' has no primary key" in f.problem for f in faults(project))


def test_a_broken_contract_is_a_fault_of_its_own_file(project: Project, edit: Any) -> None:
    line = edit(STATIONS, "platforms, logicalType: integer", "platforms, logicalType: int")
    assert [(f.file, f.line) for f in faults(project)] == [(STATIONS, line)]


def test_a_contract_describes_the_dataset_of_its_file(project: Project, edit: Any) -> None:
    edit(STATIONS, "- name: stations", "- name: stops")
    (fault,) = faults(project)
    assert (fault.file, "'stops'" in fault.problem, "'stations'" in fault.problem) == (
        STATIONS,
        True,
        True,
    )


def test_a_whole_project_names_the_faults_of_all_files(project: Project, edit: Any) -> None:
    second = (project.root / FILE).read_text().replace("name: late_trips", "name: other")
    (project.root / "pipelines/other.yaml").write_text(second)
    expected = {
        (FILE, edit(FILE, "base: trips", "base: trisp")),
        (FILE, edit(FILE, "trim: [kind]", "trim: [knid]")),
        (SCORES, edit(SCORES, "status: active", "statsu: active")),
        ("pipelines/other.yaml", edit("pipelines/other.yaml", "keep: last", "keep: any")),
    }
    plans, found = check_project(project)
    assert (plans, {(f.file, f.line) for f in found}) == ([], expected)
    assert found == sorted(set(found))


def test_a_sound_project(project: Project) -> None:
    plans, found = check_project(project)
    assert ([plan.spec.name for plan in plans], found) == (["late_trips"], [])


def test_contracts_that_no_pipeline_uses_are_checked(project: Project) -> None:
    (project.root / "schemas/spare.odcs.yaml").write_text("kind: DataContract\n")
    plans, found = check_project(project)
    assert (len(plans), {f.file for f in found}) == (1, {"schemas/spare.odcs.yaml"})
