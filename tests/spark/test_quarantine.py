"""Quarantine and replay: rows go out, are repaired, and come back into their night exactly once."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from typer.testing import CliRunner

from nightjar.cli import app
from nightjar.contracts import own_contract
from nightjar.core.checks import Bounds, DatasetRule, Quarantined, Severity
from nightjar.core.errors import (
    Conflict,
    GateFailed,
    NightjarError,
    NotThereYet,
    RepairRefused,
    UsageError,
)
from nightjar.core.releases import ReleaseLog
from nightjar.core.releases.log import nights_of
from nightjar.engine.night import run_night
from nightjar.engine.quality.gate import examples, judge
from nightjar.engine.quality.types import typed_schema
from nightjar.engine.quarantine import table_file
from nightjar.engine.repairs import RepairLog
from nightjar.engine.replay import Outcome, Request, replay
from nightjar.engine.stages import clean, ingest

NIGHT, LATER = date(2024, 3, 11), date(2024, 3, 12)
FILE = f"landing/parcels/{NIGHT}.csv"
# What every night's file of parcels ends with, by record: see `Parcels.land`.
UNPARSABLE, WEST, YESTERDAY, NAMELESS = 61, 62, 63, 64


def nightjar(made: Any, *arguments: str, expect: int = 0) -> Any:
    place = ("--project", str(made.project.root), "--warehouse", str(made.project.warehouse))
    result = CliRunner().invoke(app, [*arguments, *place, "--json"], catch_exceptions=False)
    assert result.exit_code == expect, result.output
    return json.loads(result.stdout)


def contract_with(made: Any, name: str, **changes: dict[str, Any]) -> None:
    """Change columns of a contract of the project."""
    import yaml

    path = made.project.root / "schemas" / f"{name}.odcs.yaml"
    spec = yaml.safe_load(path.read_text())
    for column in spec["schema"][0]["properties"]:
        column.update(changes.get(column["name"], {}))
    path.write_text(yaml.safe_dump(spec, sort_keys=False))


@pytest.fixture(scope="module")
def released(trained: Any, new_parcels: Callable[..., Any]) -> Any:
    """Two nights in a row, released. Parcels' names are personal data. Not to be changed."""
    made = new_parcels(copy_of=trained)
    contract_with(made, "parcels", parcel={"tags": ["pii"]})
    for ds in (NIGHT, LATER):
        made.land(ds)
        run_night(made.work(ds))
    return made


@pytest.fixture
def copy(released: Any, new_parcels: Callable[..., Any]) -> Any:
    made = new_parcels(copy_of=released)
    contract_with(made, "parcels", parcel={"tags": ["pii"]})
    return made


@pytest.fixture(scope="module")
def repaired(released: Any, new_parcels: Callable[..., Any]) -> tuple[Any, Path, Outcome]:
    """The first night repaired by `fix`; the edited file and the outcome. Not to be changed."""
    made = new_parcels(copy_of=released)
    contract_with(made, "parcels", parcel={"tags": ["pii"]})
    rows = export(made)
    edit(rows, fix)
    return made, rows, mend(made, rows)


@pytest.fixture
def copy_of_repaired(
    repaired: tuple[Any, Path, Outcome], new_parcels: Callable[..., Any]
) -> tuple[Any, Path, Outcome]:
    made = new_parcels(copy_of=repaired[0])
    contract_with(made, "parcels", parcel={"tags": ["pii"]})
    return made, *repaired[1:]


def table(made: Any, ds: date = NIGHT, source: str = "parcels") -> list[dict[str, Any]]:
    path = table_file(made.project, "parcels", source, ds)
    rows = pq.ParquetFile(path).read().to_pylist() if path.exists() else []
    return sorted(rows, key=lambda r: (r["record"], r["nth"]))


def export(made: Any, name: str = "rows.csv", *more: str) -> Path:
    target = made.project.root / name
    nightjar(made, "quarantine", "export", "parcels", "--ds", str(NIGHT), "--dataset", "parcels",
             "--to", str(target), *more)  # fmt: skip
    return target


def edit(path: Path, change: Callable[[dict[str, str]], None]) -> None:
    """Change the rows of an exported CSV file as a person does in a spreadsheet."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        change(row)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def fix(row: dict[str, str]) -> None:
    """Repairs two of the four bad rows, discards one and leaves one wrong in another way."""
    match int(row["_record"]):
        case 61:
            row |= {"_action": "discard", "_reason": "a test label"}
        case 62:
            row["depot"] = "south"
        case 63:
            row |= {"sent_at": f"{NIGHT}T12:00:00Z", "weight": "-3"}
        case 64:
            row["parcel"] = "found-again"


def mend(made: Any, rows: Path | None, **more: Any) -> Outcome:
    dataset = "parcels" if rows else None
    request = Request(NIGHT, dataset, rows, **{"by": "ada", "reason": "by the book", **more})
    return replay(made.work(NIGHT), request)


def scores(made: Any, ds: date = NIGHT) -> dict[str, float]:
    log = ReleaseLog(made.project.warehouse, "parcels")
    rows = pq.read_table(log.folder(log.require()) / f"ds={ds}", partitioning=None).to_pylist()
    assert len({r["parcel"] for r in rows}) == len(rows)
    return {r["parcel"]: r["late_probability"] for r in rows}


# -- what is there --------------------------------------------------------------------------------


def test_every_file_is_accounted_for(released: Any) -> None:
    """Against a count of the files' own lines."""
    told = nightjar(released, "accounting", "parcels", "--ds", str(NIGHT))
    files = {f["file"]: f for f in told["files"]}
    assert len(files) == 3
    for name, account in files.items():
        path = released.project.warehouse / name
        with path.open(newline="") as file:
            _, *records = list(csv.reader(file))
        assert account["bytes"] == path.stat().st_size
        assert account["read"] == len(records)
    parcels = files[FILE]
    keys = Counter(r[0] for r in records_of(released) if len(r) == 5 and r[2] != "west" and r[0])
    assert parcels["unparsable"] == sum(len(r) != 5 for r in records_of(released)) == 1
    assert parcels["deduplicated"] == sum(n - 1 for n in keys.values() if n > 1) == 2
    assert (parcels["clean"], parcels["quarantined"], parcels["discarded"]) == (60, 4, 0)
    assert told["uncounted"] == []


def test_what_could_not_be_counted_is_said(new_parcels: Callable[..., Any]) -> None:
    made = new_parcels()
    made.land(NIGHT)
    path = made.project.warehouse / FILE
    path.write_text(path.read_text() + f'{NIGHT}-q,"open,north,1,1\n{NIGHT}-r,x,north,1,1\n')
    ingest.run(made.work(NIGHT), "parcels")
    told = nightjar(made, "accounting", "parcels")
    assert (told["files"][0]["read"], told["files"][0]["clean"]) == (67, None)
    assert "parcels: its rows were read, and have not been cleaned since" in told["uncounted"]
    assert f"traffic: nothing was read for {NIGHT}" in told["uncounted"]
    clean.run(made.work(NIGHT), "parcels")
    told = nightjar(made, "accounting", "parcels")
    assert (told["files"][0]["unparsable"], told["files"][0]["quarantined"]) == (2, 5)
    assert "2 line end(s) stand in unparsable records" in told["uncounted"][0]


def test_messages_hide_persons(released: Any, new_parcels: Callable[..., Any]) -> None:
    """A refusal is read in logs by many."""
    made = new_parcels(copy_of=released)
    short = {"maxLength": 3}
    contract_with(made, "parcels", parcel={"tags": ["pii"], "logicalTypeOptions": short})
    with pytest.raises(GateFailed) as caught:
        mend(made, None)
    assert "parcels.rowCount" in caught.value.message
    assert f"{NIGHT}-" not in caught.value.message
    contract = made.plan.contract_of("parcels")
    rule = DatasetRule("r", Quarantined(Bounds(0, 0)), Severity.CRITICAL, "")
    record = made.work(NIGHT).book.get(NIGHT, "clean.parcels")
    folder = made.project.warehouse / record.outputs["quarantine"]
    rows = made.spark.read.parquet(str(folder))
    (first, *_) = examples(rows, rule, contract.pii)
    assert "rule=parcels.parcel.length" in first
    assert "found=***" in first
    assert f"found={NIGHT}" in examples(rows, rule)[0]


def records_of(made: Any) -> list[list[str]]:
    with (made.project.warehouse / FILE).open(newline="") as file:
        return list(csv.reader(file))[1:]


def test_the_table_says_every_broken_rule_of_every_row_and_hides_persons(released: Any) -> None:
    rows = table(released)
    names = ("record", "nth", "rule", "column_name", "found")
    assert [tuple(r[n] for n in names) for r in rows] == [
        (UNPARSABLE, 1, "parcels.unparsable", None, "found 6 fields, expected 5"),
        (WEST, 1, "parcels.depot.allowed", "depot", "west"),
        (YESTERDAY, 1, "parcels.sent_at.type", "sent_at", "yesterday"),
        (YESTERDAY, 2, "parcels.weight.range", "weight", "-3.0"),
        (NAMELESS, 1, "parcels.parcel.required", "parcel", None),
    ]  # fmt: skip
    assert {r["file"] for r in rows} == {FILE}
    assert [r["text"] for r in rows] == ["***", None, None, None, None]
    assert json.loads(rows[1]["original"])["parcel"] == "***"
    assert json.loads(rows[1]["original"])["depot"] == "west"
    assert [r["masked"] for r in rows] == [True, True, True, True, True]
    assert f"{NIGHT}-a" not in str(rows)


def test_the_table_holds_its_own_contract(
    released: Any, spark: SparkSession, tmp_path: Path
) -> None:
    contract = own_contract("quarantine")
    path = str(table_file(released.project, "parcels", "parcels", NIGHT))
    frame = spark.read.parquet(path)
    assert [(f.name, f.dataType) for f in frame.schema] == [
        (f.name, f.dataType) for f in typed_schema(contract)
    ]
    judged = judge(frame, contract, night=NIGHT, read=5, quarantined=0, docs=tmp_path, run_name="t")
    assert [v.rule for v in judged if not v.passed] == []
    assert len(judged) == 2
    doubled = frame.union(frame.limit(1))
    judged = judge(
        doubled, contract, night=NIGHT, read=6, quarantined=0, docs=tmp_path, run_name="t"
    )
    assert [v.rule for v in judged if not v.passed] == ["quarantine.primary_key"]


def test_analysts_read_one_current_state(copy: Any) -> None:
    """Not every attempt: DuckDB and pandas see each record once, after the night was done again."""
    run_night(copy.work(NIGHT, force=True))
    root = copy.project.warehouse / "quarantine"
    sql = (
        "SELECT pipeline, dataset, CAST(ds AS VARCHAR), count(*) FILTER (nth = 1), count(*) FROM "
        f"read_parquet('{root}/*/*/*/*.parquet', hive_partitioning = true) "
        "GROUP BY ALL ORDER BY ALL"
    )
    nights = [*(date(2024, 3, 1) + timedelta(days=i) for i in range(10)), NIGHT, LATER]
    expected = [("parcels", "parcels", str(ds), 4, 5) for ds in nights]
    assert duckdb.sql(sql).fetchall() == expected
    frame = pd.read_parquet(root)
    assert frame[frame["nth"] == 1].groupby("ds", observed=True).size().to_list() == [4] * 12
    attempts = copy.project.warehouse / "cleaned" / "parcels.parcels"
    assert len(list(attempts.iterdir())) == 4  # a glob over these would count the night twice


def test_a_table_that_a_crash_left_behind_is_mended_by_the_next_run(copy: Any) -> None:
    before = table(copy)
    path = table_file(copy.project, "parcels", "parcels", NIGHT)
    path.unlink()
    run_night(copy.work(NIGHT))
    assert table(copy) == before
    stale = table_file(copy.project, "parcels", "parcels", LATER).read_bytes()
    path.write_bytes(stale)
    run_night(copy.work(NIGHT))
    assert table(copy) == before


def test_list_and_show(released: Any) -> None:
    listed = nightjar(released, "quarantine", "list", "parcels", "--ds", str(NIGHT))["quarantine"]
    assert [(r["dataset"], r["read"], r["quarantined"]) for r in listed] == [("parcels", 66, 4)]
    assert listed[0]["rules"]["parcels.weight.range"] == 1
    of = ("quarantine", "show", "parcels", "--ds", str(NIGHT), "--dataset", "parcels")
    shown = nightjar(released, *of, "--limit", "2")
    assert (shown["quarantined"], [r["record"] for r in shown["rows"]]) == (4, [61, 62])
    assert shown["rows"][1]["original"]["parcel"] == "***"
    assert f"{NIGHT}-a" not in str(shown)
    (one,) = nightjar(released, *of, "--rule", "parcels.depot.allowed", "--unmask")["rows"]
    assert one["original"]["parcel"] == f"{NIGHT}-a"
    refused = nightjar(released, *of, "--rule", "parcels.depot.alowed", expect=2)
    assert "did you mean 'parcels.depot.allowed'?" in refused["error"]["message"]


# -- replay ---------------------------------------------------------------------------------------


def test_repaired_rows_come_into_their_night_exactly_once(
    released: Any, repaired: tuple[Any, Path, Outcome]
) -> None:
    made, _, outcome = repaired
    before, later = scores(released), scores(released, LATER)
    assert outcome.number == 1
    assert outcome.outcomes == {
        "clean": 2, "quarantined": 1, "deduplicated": 0, "discarded": 1
    }  # fmt: skip
    assert outcome.still_broken == {"parcels.weight.range": 1}
    # Two rows more, the others as they were; the masked name of the first is the delivered one.
    after = scores(made)
    assert after.keys() - before.keys() == {f"{NIGHT}-a", "found-again"}
    assert {k: v for k, v in after.items() if k in before} == before
    assert scores(made, LATER) == later
    # The other night's files are shared, not copied.
    was, now = (
        nights_of(ReleaseLog(m.project.warehouse, "parcels").require()) for m in (released, made)
    )
    assert now[str(LATER)] == was[str(LATER)]
    assert now[str(NIGHT)] != was[str(NIGHT)]
    account = nightjar(made, "accounting", "parcels", "--ds", str(NIGHT))["files"][0]
    assert [account[k] for k in ("read", "clean", "quarantined", "deduplicated", "discarded")] == [
        66, 62, 1, 2, 1,
    ]  # fmt: skip
    # The row that is still bad is back, with the reason that is left.
    (left,) = table(made)
    assert (left["record"], left["rule"], left["replay"]) == (YESTERDAY, "parcels.weight.range", 1)
    assert json.loads(left["original"])["sent_at"] == f"{NIGHT}T12:00:00Z"


def test_the_same_replay_twice_is_nothing_more(
    copy_of_repaired: tuple[Any, Path, Outcome],
) -> None:
    copy, rows, first = copy_of_repaired
    releases = ReleaseLog(copy.project.warehouse, "parcels").all()
    repairs = RepairLog(copy.project.warehouse, "parcels", "parcels")
    state, logged = table(copy), repairs.entries(NIGHT)
    del copy.said[:]
    again = mend(copy, rows)
    assert (again.number, again.changed, again.released) == (None, 0, False)
    assert again.release == first.release
    assert all(line.endswith("already done") for line in copy.said)
    assert ReleaseLog(copy.project.warehouse, "parcels").all() == releases
    assert (table(copy), repairs.entries(NIGHT)) == (state, logged)
    # Nor does the next ordinary run forget it.
    run_night(copy.work(NIGHT))
    assert ReleaseLog(copy.project.warehouse, "parcels").all() == releases
    clean.run(copy.work(NIGHT, force=True), "parcels")
    assert copy.work(NIGHT).book.get(NIGHT, "clean.parcels").counts["clean"] == 62


def test_history_says_who_when_which_rule_and_which_rows(
    repaired: tuple[Any, Path, Outcome],
) -> None:
    copy, *_ = repaired
    told = nightjar(copy, "quarantine", "history", "parcels")["repairs"]
    assert [(r["record"], r["action"], r["by"], r["reason"], r["rules"]) for r in told] == [
        (61, "discard", "ada", "a test label", ["parcels.unparsable"]),
        (62, "replace", "ada", "by the book", ["parcels.depot.allowed"]),
        (63, "replace", "ada", "by the book", ["parcels.sent_at.type", "parcels.weight.range"]),
        (64, "replace", "ada", "by the book", ["parcels.parcel.required"]),
    ]
    assert {r["at"][:4] for r in told} == {date.today().strftime("%Y")}
    assert told[1]["changed"] == {"depot": "south"}
    assert told[3]["changed"] == {"parcel": "***"}
    unmasked = nightjar(copy, "quarantine", "history", "parcels", "--unmask")["repairs"]
    assert unmasked[3]["changed"] == {"parcel": "found-again"}


def test_a_repaired_row_whose_key_is_there_already_is_no_second_row(copy: Any) -> None:
    rows = export(copy)
    known = records_of(copy)[5][0]

    def clash(row: dict[str, str]) -> None:
        if int(row["_record"]) == NAMELESS:
            row["parcel"] = known

    edit(rows, clash)
    outcome = mend(copy, rows)
    assert sum(outcome.outcomes.values()) == 1
    assert len(scores(copy)) == 60  # the last that was delivered stays, as the pipeline says
    account = nightjar(copy, "accounting", "parcels", "--ds", str(NIGHT))["files"][0]
    assert (account["clean"], account["deduplicated"]) == (60, 3)


def test_a_changed_contract_lets_its_rows_in_and_nothing_else_moves(copy: Any) -> None:
    quality = {
        "metric": "invalidValues",
        "arguments": {"validValues": ["north", "south", "east", "west"]},
        "mustBe": 0,
        "severity": "error",
    }
    contract_with(copy, "parcels", depot={"quality": [quality]})
    outcome = mend(copy, None)
    assert (outcome.number, outcome.released) == (None, True)
    assert len(scores(copy)) == 61
    assert [r["record"] for r in table(copy) if r["nth"] == 1] == [61, 63, 64]
    again = mend(copy, None)
    assert not again.released


def test_a_changed_cleaning_rule_lets_its_rows_in(copy: Any) -> None:
    steps = [{"trim": ["depot"]}, {"replace": {"depot": {"west": "north"}}},
             {"deduplicate": {"keep": "last"}}]  # fmt: skip
    copy.write_spec(clean={"parcels": steps})
    assert mend(copy, None).released
    assert len(scores(copy)) == 61


def test_nights_loaded_as_history_stay_unreleased(copy: Any) -> None:
    ds = date(2024, 3, 3)
    target = copy.project.root / "old.parquet"
    nightjar(copy, "quarantine", "export", "parcels", "--ds", str(ds), "--dataset", "parcels",
             "--to", str(target), "--rule", "parcels.depot.allowed")  # fmt: skip
    frame = pd.read_parquet(target)
    assert frame["_record"].to_list() == [WEST]
    frame["depot"] = "east"
    frame.to_parquet(target)
    outcome = replay(copy.work(ds), Request(ds, "parcels", target, "ada", "x"))
    assert (outcome.outcomes["clean"], outcome.release, outcome.released) == (1, None, False)
    book = copy.work(ds).book
    assert book.get(ds, "clean.parcels").counts["clean"] == 61
    assert book.get(ds + timedelta(days=1), "clean.parcels").counts["clean"] == 60


def test_a_later_night_that_looked_back_is_released_again(copy: Any) -> None:
    contract_with(copy, "traffic", jam={"logicalTypeOptions": {"maximum": 0.5}})
    outcome = mend(copy, None)
    assert (outcome.released, outcome.also) == (True, [str(LATER)])


def test_a_replay_that_the_gate_refuses_leaves_the_release_as_it_was(copy: Any) -> None:
    before = scores(copy)
    quality = {
        "type": "custom",
        "engine": "nightjar",
        "implementation": {"check": "quarantinedRows", "rule": "parcels.depot.allowed"},
        "mustBe": 0,
        "severity": "critical",
    }
    import yaml

    path = copy.project.root / "schemas" / "parcels.odcs.yaml"
    spec = yaml.safe_load(path.read_text())
    spec["schema"][0]["quality"].append(quality)
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    with pytest.raises(GateFailed) as caught:
        mend(copy, None)
    (failed,) = caught.value.details["failed"]
    assert failed["rule"] == "parcels.quarantinedRows.depot.allowed"
    assert "1 of 66 rows quarantined for parcels.depot.allowed (1.52%)" in failed["found"]
    assert scores(copy) == before
    rows = export(copy)
    edit(rows, fix)
    assert mend(copy, rows).released
    assert len(scores(copy)) == 62


def test_a_file_that_is_delivered_anew_drops_its_repairs(
    copy_of_repaired: tuple[Any, Path, Outcome],
) -> None:
    copy, rows, _ = copy_of_repaired
    landed = copy.project.warehouse / FILE
    landed.write_text(landed.read_text().replace(",west,", ",north,"))
    run_night(copy.work(NIGHT), only="ingest")
    with pytest.raises(RepairRefused):
        mend(copy, rows)
    run_night(copy.work(NIGHT))
    assert len(scores(copy)) == 61
    assert {r["record"] for r in table(copy)} == {UNPARSABLE, YESTERDAY, NAMELESS}


def test_two_replays_at_once_are_one_after_the_other(
    repaired: tuple[Any, Path, Outcome],
) -> None:
    log = RepairLog(repaired[0].project.warehouse, "parcels", "parcels")
    (*_, last) = log.entries(NIGHT)
    with pytest.raises(Conflict):
        log.append(NIGHT, [last])
    assert len(log.entries(NIGHT)) == 4


def _unknown(row: dict[str, str]) -> None:
    row["_record"] = "1" + row["_record"]


def _no_reason(row: dict[str, str]) -> None:
    row["_action"] = "discard"


def _action(row: dict[str, str]) -> None:
    row["_action"] = "delete"


def _other_delivery(row: dict[str, str]) -> None:
    row["_sha256"] = "0" * 64


def _twice(row: dict[str, str]) -> None:
    row["_record"] = str(WEST)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (_unknown, "not in quarantine"),
        (_no_reason, "for a reason"),
        (_action, "'delete'"),
        (_other_delivery, "delivered anew"),
        (_twice, "stands in row"),
    ],
)
def test_rows_that_cannot_be_replayed_are_refused_before_any_work(
    released: Any, tmp_path: Path, spoil: Callable[[dict[str, str]], None], named: str
) -> None:
    rows = tmp_path / "rows.csv"
    of = ("parcels", "--ds", str(NIGHT), "--dataset", "parcels")
    nightjar(released, "quarantine", "export", *of, "--to", str(rows))
    edit(rows, spoil)
    refused = nightjar(released, "quarantine", "replay", *of, "--rows", str(rows), expect=2)
    assert refused["error"]["code"] == "REPAIR_REFUSED"
    assert named in refused["error"]["message"]
    assert RepairLog(released.project.warehouse, "parcels", "parcels").entries(NIGHT) == []


def test_a_dry_run_says_what_would_change(released: Any, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    of = ("parcels", "--ds", str(NIGHT), "--dataset", "parcels")
    nightjar(released, "quarantine", "export", *of, "--to", str(rows))
    asked = ("quarantine", "replay", *of, "--rows", str(rows), "--dry-run")
    assert nightjar(released, *asked) == {"repairs": []}
    edit(rows, fix)
    told = nightjar(released, *asked)["repairs"]
    assert [(r["record"], r["action"], r["changed"]) for r in told] == [
        (61, "discard", []),
        (62, "replace", ["depot"]),
        (63, "replace", ["sent_at"]),
        (64, "replace", ["parcel"]),
    ]


def test_what_is_asked_wrongly_is_said(released: Any, tmp_path: Path) -> None:
    work = released.work(NIGHT)
    cases: list[tuple[Request, type[NightjarError]]] = [
        (Request(NIGHT, "parcels"), UsageError),
        (Request(NIGHT, "parcel", tmp_path / "x.csv"), UsageError),
        (Request(NIGHT, "parcels", tmp_path / "none.csv"), UsageError),
        (Request(NIGHT, "parcels", tmp_path / "x.xlsx"), UsageError),
        (Request(NIGHT + timedelta(days=9)), NotThereYet),
    ]
    for request, kind in cases:
        with pytest.raises(kind):
            replay(work, request)
