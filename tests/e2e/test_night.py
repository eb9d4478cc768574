"""One night of real flights, by the command line: released, repeated, interrupted, refused."""

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from tests.e2e.project import NIGHT, Shell, copy_project

from nightjar.core.plan import load_plan
from nightjar.core.project import Project
from nightjar.core.releases import ReleaseLog
from nightjar.demo import PIPELINE
from nightjar.engine.night import run_night
from nightjar.engine.open import open_work

LANDING = Path("warehouse/landing")
FLIGHTS = LANDING / "flights" / f"{NIGHT}.csv"


def published(project: Path) -> list[tuple]:
    log = ReleaseLog(project / "warehouse", PIPELINE)
    files = log.folder(log.require()) / "ds=*" / "*.parquet"
    return duckdb.sql(
        f"FROM read_parquet('{files}', hive_partitioning = true) ORDER BY ALL"
    ).fetchall()


def test_every_flight_of_the_night_has_one_score(released: Path) -> None:
    with (released / FLIGHTS).open(newline="") as file:
        delivered = list(csv.DictReader(file))
    shell = Shell(released)
    sql = (
        "SELECT count(*), count(DISTINCT (time_hour, carrier, flight)), min(late_probability),"
        " max(late_probability), count(*) FILTER (late_probability IS NULL)"
        " FROM flight_delay_scores"
    )
    (row,) = shell.answer("query", sql)["rows"]
    rows, distinct, low, high, missing = row.values()
    assert rows == distinct == len(delivered)
    assert missing == 0
    assert 0 <= low < high <= 1
    cancelled = [f for f in delivered if f["arr_delay"] == "NA"]
    assert cancelled, "the night has flights without a label"
    (scored,) = shell.answer(
        "query",
        "SELECT count(*) AS n FROM flight_delay_scores WHERE (carrier, flight) IN "
        + str(tuple((f["carrier"], int(f["flight"])) for f in cancelled)),
    )["rows"]
    assert scored["n"] >= len(cancelled)


def test_every_score_has_its_reasons(released: Path) -> None:
    features = load_plan(Project(released, released / "warehouse"), PIPELINE).spec.features
    sql = (
        "SELECT reason_1, reason_1_effect, reason_2_effect, late_probability"
        " FROM flight_delay_scores"
    )
    rows = Shell(released).answer("query", sql)["rows"]
    assert {r["reason_1"] for r in rows} <= {*features.numeric, *features.categorical}
    assert len({r["reason_1"] for r in rows}) > 1
    for row in rows:
        assert abs(row["reason_1_effect"]) >= abs(row["reason_2_effect"] or 0) > 0
        assert 0 <= row["late_probability"] - row["reason_1_effect"] <= 1


def test_rows_are_accounted_for(released: Path) -> None:
    night = released / "warehouse" / "runs" / PIPELINE / str(NIGHT)
    for source in ("flights", "weather", "planes", "airports", "airlines"):
        counts = json.loads((night / f"clean.{source}.json").read_text())["counts"]
        delivered = json.loads((night / f"ingest.{source}.json").read_text())["details"]["files"]
        with (released / "warehouse" / delivered[0]["file"]).open(newline="") as file:
            assert counts["read"] == sum(1 for _ in csv.DictReader(file))
        kept = counts["clean"] + counts["quarantined"] + counts["deduplicated"]
        assert counts["read"] == kept
    airports = json.loads((night / "clean.airports.json").read_text())
    assert airports["counts"]["quarantined"] == 4
    folder = released / "warehouse" / airports["outputs"]["quarantine"]
    reasons = duckdb.sql(f"SELECT _original.faa, _broken FROM '{folder}/*.parquet'").fetchall()
    assert {faa: sorted(b["rule"] for b in broken) for faa, broken in reasons} == _bad_airports(
        released
    )


def _bad_airports(project: Path) -> dict[str, list[str]]:
    """Counted apart from Nightjar: the rows that break the contract's ranges, with all reasons."""
    with (project / LANDING / "airports.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    bad = {}
    for row in rows:
        rules = []
        if not -180 <= float(row["lon"]) <= -60:
            rules.append("airports.lon.range")
        if not -12 <= int(row["tz"]) <= -4:
            rules.append("airports.tz.range")
        if rules:
            bad[row["faa"]] = rules
    return bad


def test_the_manifest_answers_from_which_data_and_model(released: Path) -> None:
    log = ReleaseLog(released / "warehouse", PIPELINE)
    release = log.require()
    night = release.partitions[str(NIGHT)]
    import hashlib

    digest = hashlib.sha256((released / FLIGHTS).read_bytes()).hexdigest()
    assert night["inputs"]["flights"][0]["sha256"] == digest
    assert night["model"]["version"] == f"{PIPELINE}/1"
    assert night["rows"]["flights"]["read"] == sum(f["rows"] for f in night["files"].values())
    assert night["checks"]["passed"] <= night["checks"]["total"]
    assert set(night["contracts"]) == {
        "flights",
        "weather",
        "planes",
        "airports",
        "airlines",
        "flight_delay_scores",
    }


def test_the_same_night_twice_is_one_release(released: Path) -> None:
    before, log = published(released), ReleaseLog(released / "warehouse", PIPELINE)
    releases = [r.id for r in log.all()]
    again = Shell(released).nightjar("run", PIPELINE, "--ds", str(NIGHT))
    assert again.stdout.count("already done") == 19  # three stages of five datasets, and four
    Shell(released).nightjar("run", PIPELINE, "--ds", str(NIGHT), "--force")
    assert [r.id for r in log.all()] == releases
    assert published(released) == before


def test_a_night_that_dies_between_any_two_steps_goes_on_from_there(
    released: Path, copy_of_trained: Path
) -> None:
    project = Project.find(copy_of_trained)
    plan = load_plan(project, PIPELINE)
    log = ReleaseLog(project.warehouse, PIPELINE)
    finished: list[str] = []

    class Died(BaseException):
        pass

    def die_after_one_step(line: str) -> None:
        if "already done" not in line and not line.startswith("  "):
            finished.append(line.split()[0])
            raise Died

    with open_work(project, plan, [NIGHT], say=die_after_one_step) as work:
        for _ in range(50):
            try:
                run_night(work)
            except Died:
                assert log.current() is None or finished[-1] == "publish"
                continue
            break
    sources = list(plan.spec.sources)
    expected = [f"{stage}.{s}" for stage in ("ingest", "clean", "validate") for s in sources]
    assert finished == [*expected, "features", "score", "audit", "publish"]
    assert published(copy_of_trained) == published(released)


def test_kill_9_leaves_nothing_visible_and_the_next_run_needs_no_hand(
    released: Path, copy_of_trained: Path
) -> None:
    command = [str(Path(sys.executable).parent / "nightjar"), "run", PIPELINE, "--ds", str(NIGHT)]
    with subprocess.Popen(
        command,
        cwd=copy_of_trained,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as running:
        assert running.stdout is not None
        for line in running.stdout:
            if line.startswith("clean.weather"):
                os.killpg(running.pid, signal.SIGKILL)
                break
    assert ReleaseLog(copy_of_trained / "warehouse", PIPELINE).current() is None
    again = Shell(copy_of_trained).nightjar("run", PIPELINE, "--ds", str(NIGHT))
    assert again.stdout.count("already done") == 7  # five ingests, two cleans
    assert published(copy_of_trained) == published(released)


def test_reordered_columns_give_the_same_scores(released: Path, copy_of_trained: Path) -> None:
    for name in ("flights", "weather"):
        path = copy_of_trained / LANDING / name / f"{NIGHT}.csv"
        with path.open(newline="") as file:
            rows = list(csv.reader(file))
        order = list(range(len(rows[0])))[::-1]
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([row[i] for i in order] for row in rows)
    Shell(copy_of_trained).nightjar("run", PIPELINE, "--ds", str(NIGHT))
    assert published(copy_of_trained) == published(released)


# -- what is refused ------------------------------------------------------------------------------


def _drop_column(path: Path) -> None:
    _rewrite(path, lambda row: row[:-1])


def _add_column(path: Path) -> None:
    _rewrite(path, lambda row: [*row, "gate" if row[0] == "year" else "B7"])


def _misname_column(path: Path) -> None:
    path.write_text(path.read_text().replace("tailnum", "tail_num", 1))


def _rewrite(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(change(row) for row in rows)


@pytest.mark.parametrize(
    ("spoil", "code", "named"),
    [
        (Path.unlink, "INPUT_MISSING", [f"{NIGHT}.csv"]),
        (lambda p: p.write_bytes(b""), "INPUT_EMPTY", [f"{NIGHT}.csv", "0 bytes"]),
        (_drop_column, "INPUT_COLUMNS", ["'time_hour' is missing"]),
        (_add_column, "INPUT_COLUMNS", ["'gate' is not in the contract"]),
        (_misname_column, "INPUT_COLUMNS", ["'tailnum' is missing (did you mean 'tail_num'?)"]),
        (lambda p: p.write_bytes(p.read_text().encode("utf-32")), "INPUT_UNREADABLE", ["UTF-32"]),
    ],
    ids=["missing", "empty", "column missing", "column extra", "column misnamed", "utf-32"],
)  # fmt: skip
def test_a_delivery_that_is_not_as_agreed_is_refused_before_spark_starts(
    copy_of_trained: Path, spoil: Callable[[Path], object], code: str, named: list[str]
) -> None:
    spoil(copy_of_trained / FLIGHTS)
    refused = Shell(copy_of_trained).nightjar(
        "run", PIPELINE, "--ds", str(NIGHT), "--json", expect=3
    )
    error = json.loads(refused.stdout)["error"]
    assert error["code"] == code
    for words in named:
        assert words in error["message"]
    assert "incubator" not in refused.stderr, "no JVM was started"


def test_broken_rows_beyond_the_contracts_limit_stop_the_night(copy_of_trained: Path) -> None:
    """One flight in twenty leaves from an airport that is not in the contract."""
    count = iter(range(10_000))
    _rewrite(
        copy_of_trained / FLIGHTS,
        lambda row: [
            "XXX" if v in ("EWR", "JFK", "LGA") and next(count) % 20 == 0 else v for v in row
        ],
    )
    refused = Shell(copy_of_trained).nightjar(
        "run", PIPELINE, "--ds", str(NIGHT), "--json", expect=3
    )
    error = json.loads(refused.stdout)["error"]
    assert error["code"] == "GATE_FAILED"
    (failed,) = error["failed"]
    assert failed["rule"] == "flights.quarantinedRows"
    assert "rows quarantined" in failed["found"]
    for words in ("flights.origin.allowed", "column=origin", "found=XXX", "expected=one of EWR"):
        assert words in error["message"]
    assert ReleaseLog(copy_of_trained / "warehouse", PIPELINE).current() is None


def test_a_night_before_any_model_says_what_to_do(tmp_path: Path) -> None:
    project = tmp_path / "project"
    copy_project(project)
    from nightjar.demo import land

    land(project / "warehouse")
    refused = Shell(project).nightjar("run", PIPELINE, "--ds", str(NIGHT), expect=4)
    assert "[NOT_THERE_YET]" in refused.stderr
    assert f"nightjar train {PIPELINE}" in refused.stderr


def test_a_contract_with_an_unknown_key_is_refused_by_every_command(tmp_path: Path) -> None:
    project = tmp_path / "project"
    copy_project(project)
    contract = project / "schemas" / "weather.odcs.yaml"
    contract.write_text(contract.read_text().replace("logicalType:", "logicalTipe:", 1))
    for command in (["check"], ["run", PIPELINE, "--ds", str(NIGHT)]):
        refused = Shell(project).nightjar(*command, expect=2)
        assert "schemas/weather.odcs.yaml:" in refused.stderr
        assert "unknown key 'logicalTipe'" in refused.stderr
        assert "did you mean 'logicalType'?" in refused.stderr
