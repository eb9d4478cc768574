"""Bronze to silver, quarantine and duplicates: each record has exactly one outcome."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import pytest
from pyspark.sql import SparkSession

from nightjar.core.contract import Contract
from nightjar.core.errors import AccountingError
from nightjar.core.pipeline import CleanStep
from nightjar.engine.stages import clean as stage
from nightjar.engine.stages import ingest
from nightjar.engine.stages.clean import (
    DUPLICATE,
    QUARANTINE,
    SILVER,
    clean,
    quarantine_schema,
    refuse_unparsable,
    silver_schema,
)
from nightjar.engine.stages.ingest import bronze_schema

NIGHT = date(2024, 3, 1)
ID = {"name": "id", "logicalType": "string", "primaryKey": True}


@pytest.fixture
def run(spark: SparkSession) -> Callable[..., list[Any]]:
    """`clean` over rows of texts; the record number is the place in the list."""

    def run_(
        contract: Contract,
        rows: Sequence[Sequence[str | None]],
        *steps: dict[str, Any],
        nulls: Sequence[str] = ("",),
        file: Callable[[int], str] = lambda i: "f.csv",
    ) -> list[Any]:
        empty = (None,) * 6
        bronze = [(*r, NIGHT, file(i), i, *empty) for i, r in enumerate(rows, start=1)]
        frame = spark.createDataFrame(bronze, bronze_schema(contract))
        parsed = [CleanStep.model_validate(step) for step in steps]
        found = clean(frame, contract, parsed, nulls).collect()
        return sorted(found, key=lambda r: (r["_file"], r["_record"]))

    return run_


def rules(row: Any) -> list[str]:
    return [reason["rule"].removeprefix("things.") for reason in row["_broken"]]


def number(name: str, **options: Any) -> dict[str, Any]:
    kind = options.pop("type", "double")
    logical = "integer" if kind in ("smallint", "int", "bigint") else "number"
    return {
        "name": name,
        "logicalType": logical,
        "physicalType": kind,
        "logicalTypeOptions": options,
    }


# -- steps ----------------------------------------------------------------------------------------

TEXT_STEPS = {
    "nothing": ({}, [" a ", "NA", "", None], [" a ", "NA", None, None]),
    "trim": ({"trim": ["v"]}, [" a ", "   ", "b", None], ["a", None, "b", None]),
    "upper": ({"upper": ["v"]}, ["aß", "B"], ["ASS", "B"]),
    "lower": ({"lower": ["v"]}, ["AÄ", "b"], ["aä", "b"]),
    "replace": (
        {"replace": {"v": {"a": "b", "b": "c", "?": ""}}},
        ["a", "b", "ab", "?", None],
        ["b", "c", "ab", "", None],
    ),
}


@pytest.mark.parametrize(("step", "given_", "kept"), TEXT_STEPS.values(), ids=TEXT_STEPS)
def test_text_steps(
    run: Any, contract: Any, step: dict[str, Any], given_: list[Any], kept: list[Any]
) -> None:
    things = contract([ID, {"name": "v", "logicalType": "string"}])
    steps = [step] if step else []
    rows = run(things, [(str(i), v) for i, v in enumerate(given_)], *steps)
    assert [r["v"] for r in rows] == kept
    assert {r["outcome"] for r in rows} == {SILVER}


def test_null_values_are_texts_that_mean_nothing(run: Any, contract: Any) -> None:
    things = contract([ID, {"name": "v", "logicalType": "string"}])
    rows = run(things, [("1", "NA"), ("2", ""), ("3", "na")], nulls=("NA",))
    assert [r["v"] for r in rows] == [None, "", "na"]


VALUE_STEPS = {
    "scale": ("double", {"scale": {"v": 2.5}}, ["2", "-1", None], [5.0, -2.5, None]),
    "scale of whole numbers": ("bigint", {"scale": {"v": 60}}, ["2", "-1"], [120, -60]),
    "scale of large whole numbers": (
        "bigint",
        {"scale": {"v": 1}},
        ["9007199254740993"],
        [9007199254740993],
    ),
    "blank_outside": (
        "double",
        {"blank_outside": {"v": (0, 10)}},
        ["0", "10", "10.1", "-0.1", None],
        [0.0, 10.0, None, None, None],
    ),
    "fill": ("int", {"fill": {"v": 7}}, ["1", None, ""], [1, 7, 7]),
}


@pytest.mark.parametrize(("kind", "step", "given_", "kept"), VALUE_STEPS.values(), ids=VALUE_STEPS)
def test_value_steps(
    run: Any, contract: Any, kind: str, step: Any, given_: list[Any], kept: list[Any]
) -> None:
    things = contract([ID, number("v", type=kind)])
    rows = run(things, [(str(i), v) for i, v in enumerate(given_)], step)
    assert [r["v"] for r in rows] == kept
    assert {r["outcome"] for r in rows} == {SILVER}


def test_steps_follow_each_other(run: Any, contract: Any) -> None:
    things = contract([ID, number("v")])
    steps = [{"trim": ["v"]}, {"scale": {"v": 10}}, {"blank_outside": {"v": (0, 50)}}]
    rows = run(things, [("1", " 4 "), ("2", "6"), ("3", None)], *steps, {"fill": {"v": -1}})
    assert [r["v"] for r in rows] == [40.0, -1.0, -1.0]


def test_a_text_of_the_wrong_type_is_never_filled(run: Any, contract: Any) -> None:
    things = contract([ID, number("v", type="int")])
    (row,) = run(things, [("1", "seven")], {"fill": {"v": 7}})
    assert (row["outcome"], rules(row)) == (QUARANTINE, ["v.type"])


def test_a_blanked_value_that_is_required_is_missing(run: Any, contract: Any) -> None:
    things = contract([ID, number("v") | {"required": True}])
    rows = run(things, [("1", "99"), ("2", "5")], {"blank_outside": {"v": (0, 10)}})
    assert [(r["outcome"], rules(r)) for r in rows] == [
        (QUARANTINE, ["v.required"]),
        (SILVER, []),
    ]


@pytest.mark.parametrize(
    ("kind", "text"),
    [("smallint", "30000"), ("bigint", "9223372036854775807"), ("double", "1e308")],
)
def test_a_scaled_value_that_does_not_fit_is_quarantined(
    run: Any, contract: Any, kind: str, text: str
) -> None:
    things = contract([ID, number("v", type=kind)])
    rows = run(things, [("1", text), ("2", "1")], {"scale": {"v": 1000}})
    assert [(r["outcome"], rules(r)) for r in rows] == [(QUARANTINE, ["v.type"]), (SILVER, [])]
    assert rows[0]["_broken"][0]["found"] == text


# -- quarantine -----------------------------------------------------------------------------------


def test_a_bad_row_is_kept_as_delivered_with_every_rule_that_it_broke(
    run: Any, contract: Any
) -> None:
    things = contract([ID, number("n", type="int", minimum=0), number("m", maximum=9)])
    rows = run(things, [("1", " 5", "10"), (None, "-1", "x"), ("3", "5", "9")])
    assert [r["outcome"] for r in rows] == [QUARANTINE, QUARANTINE, SILVER]
    assert rules(rows[0]) == ["n.type", "m.range"]
    assert rules(rows[1]) == ["id.required", "n.range", "m.type"]
    assert tuple(rows[0]["_original"]) == ("1", " 5", "10")
    assert tuple(rows[1]["_original"]) == (None, "-1", "x")
    assert rows[2]["_original"] is None


def test_the_rules_judge_the_cleaned_value_and_show_it(run: Any, contract: Any) -> None:
    things = contract([ID, number("n", maximum=9)])
    rows = run(things, [("1", " 5 "), ("2", " 50 ")], {"trim": ["n"]}, {"scale": {"n": 0.5}})
    assert [(r["outcome"], r["n"]) for r in rows] == [(SILVER, 2.5), (QUARANTINE, 25.0)]
    assert rows[1]["_broken"][0]["found"] == "25.0"
    assert tuple(rows[1]["_original"]) == ("2", " 50 ")


def test_unparsable_records_are_quarantined_with_their_text(
    spark: SparkSession, contract: Any
) -> None:
    things = contract([ID, number("n")])
    record = (None, None, NIGHT, "f.csv", 4, "1,2,3", "found 3 fields, expected 2", *[None] * 4)
    bronze = spark.createDataFrame([record], bronze_schema(things))
    refused = refuse_unparsable(bronze, things)
    (row,) = refused.collect()
    assert (row["outcome"], row["_record"], row["_text"]) == (QUARANTINE, 4, "1,2,3")
    assert tuple(row["_broken"][0]) == (
        "things.unparsable",
        None,
        "found 3 fields, expected 2",
        "2 fields of UTF-8 text",
    )
    # It can stand in one table with the rows that were parsed.
    cleaned = clean(spark.createDataFrame([], bronze_schema(things)), things, (), ())
    assert refused.schema.simpleString() == cleaned.schema.simpleString()
    assert cleaned.select(*silver_schema(things).names).schema == silver_schema(things)
    shown = cleaned.select(*quarantine_schema(things).names).schema
    assert shown.simpleString() == quarantine_schema(things).simpleString()


# -- deduplicate ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("keep", "kept"), [("first", ["a1", "b1"]), ("last", ["a3", "b2"])])
def test_deduplicate_goes_by_file_then_record(
    run: Any, contract: Any, keep: str, kept: list[str]
) -> None:
    things = contract([ID, {"name": "v", "logicalType": "string"}])
    given_ = [("a", "a3"), ("b", "b2"), ("a", "a1"), ("a", "a2"), ("b", "b1")]
    # The first two records stand in the later file.
    rows = run(
        things,
        given_,
        {"deduplicate": {"keep": keep}},
        file=lambda i: "2.csv" if i <= 2 else "1.csv",
    )
    assert sorted(r["v"] for r in rows if r["outcome"] == SILVER) == kept
    assert {r["v"] for r in rows if r["outcome"] == DUPLICATE} == {
        v for _, v in given_ if v not in kept
    }


def test_a_quarantined_row_displaces_no_good_one(run: Any, contract: Any) -> None:
    things = contract([ID, number("n", minimum=0)])
    rows = run(things, [("a", "1"), ("a", "-1"), ("a", "-2")], {"deduplicate": {"keep": "last"}})
    assert [r["outcome"] for r in rows] == [SILVER, QUARANTINE, QUARANTINE]


def test_a_dependency_goes_by_most_rows_that_are_alike(run: Any, contract: Any) -> None:
    depends = {
        "type": "custom",
        "engine": "nightjar",
        "implementation": {"check": "dependsOn", "columns": ["zip", "state"]},
        "mustBe": 0,
        "severity": "error",
    }
    things = contract(
        [ID, {"name": "zip", "logicalType": "string"}, {"name": "state", "logicalType": "string"},
         {"name": "city", "logicalType": "string", "quality": [depends]}]
    )  # fmt: skip
    rows = [
        ("1", "a", "x", "ulm"), ("2", "a", "x", "ulm"), ("3", "a", "x", "uln"),
        ("4", "a", "x", None),
        ("5", "a", "y", "uln"),
        ("6", "b", "x", "bonn"), ("7", "b", "x", "born"),
        ("8", None, "x", "ulm"), ("9", None, "x", "ulm"), ("10", None, "x", "bonn"),
        ("11", "c", "x", "kiel"), ("12", "c", "x", "kiel"), ("13", "c", "x", "keil"),
        ("14", "c", "x", "kile"),
    ]  # fmt: skip
    found = run(things, rows)
    assert [r["_record"] for r in found if r["outcome"] == QUARANTINE] == [3]
    (reason,) = found[2]["_broken"]
    assert tuple(reason) == (
        "things.city.dependency", "city", "uln", "what most rows with its zip, state have"
    )  # fmt: skip


def test_without_the_step_repeated_keys_stay(run: Any, contract: Any) -> None:
    rows = run(contract([ID]), [("a",), ("a",)])
    assert [r["outcome"] for r in rows] == [SILVER, SILVER]


# -- every record, exactly once -------------------------------------------------------------------


@dataclass(frozen=True)
class Expected:
    """What must become of one record."""

    outcome: str
    values: tuple[Any, ...] | None
    broken: tuple[str, ...]


WIDE = [
    ID,
    {
        "name": "code",
        "logicalType": "string",
        "required": True,
        "logicalTypeOptions": {"pattern": "[A-C][0-9]?", "maxLength": 2},
    },
    number("n", type="smallint", minimum=-5, exclusiveMaximum=100),
    number("m") | {"required": True},
    {"name": "flag", "logicalType": "boolean"},
]
STEPS = [
    {"trim": ["code", "n"]},
    {"upper": ["code"]},
    {"replace": {"code": {"ZZ": "A1"}}},
    {"scale": {"n": 2}},
    {"blank_outside": {"m": (0, 1000)}},
    {"fill": {"flag": False}},
    {"deduplicate": {"keep": "last"}},
]
NULLS = ("", "NA")
TEXTS = {
    "id": ["k1", "k2", "k3", "k4", "", "NA", None],
    "code": ["A", "b1", " c2 ", "ZZ", "zz", "D", "A12", "A\n", "   ", "NA", None],
    "n": ["0", " 7", "-2", "-3", "49", "50", "32767", "32768", "1.5", "x", "", None],
    "m": ["1", "1e2", "1000.5", "-1", "1e400", "NaN", "0x1", "NA", None],
    "flag": ["true", "FALSE", "yes", "", None],
}


def expected(rows: Sequence[Sequence[str | None]]) -> list[Expected]:
    """The rules of WIDE and STEPS again, in plain Python."""
    judged = [_judge(*row) for row in rows]
    last = {e.values[0]: i for i, e in enumerate(judged) if e.outcome == SILVER and e.values}
    return [
        Expected(DUPLICATE, None, ())
        if e.values and e.outcome == SILVER and last[e.values[0]] != i
        else e
        for i, e in enumerate(judged)
    ]


def _judge(*row: str | None) -> Expected:
    key, code, n_text, m_text, flag_text = (None if t in NULLS else t for t in row)
    broken = []
    if key is None:
        broken.append("id.required")
    code = code and (code.strip(" ") or None)
    code = code and code.upper()
    code = "A1" if code == "ZZ" else code
    if code is None:
        broken.append("code.required")
    else:
        broken += ["code.length"] if len(code) > 2 else []
        broken += [] if re.fullmatch("[A-C][0-9]?", code) else ["code.pattern"]
    n_text = n_text and (n_text.strip(" ") or None)
    n = int(n_text) * 2 if n_text and re.fullmatch("-?[0-9]+", n_text) else None
    if n_text is not None and (n is None or abs(n) > 32767 or abs(n // 2) > 32767):
        broken.append("n.type")
    elif n is not None and not -5 <= n < 100:
        broken.append("n.range")
    m = float(m_text) if m_text and re.fullmatch("-?[0-9.]+(e[0-9]+)?", m_text) else None
    m = None if m == float("inf") else m
    if m_text is not None and m is None:
        broken.append("m.type")
    elif m is None or not 0 <= m <= 1000:
        broken.append("m.required")
    flag = flag_text.lower() == "true" if flag_text else False
    if flag_text and flag_text.lower() not in ("true", "false"):
        broken.append("flag.type")
    if broken:
        return Expected(QUARANTINE, None, tuple(broken))
    return Expected(SILVER, (key, code, n, m, flag), ())


def test_one_large_table_comes_out_as_the_rules_say(run: Any, contract: Any) -> None:
    chance = random.Random(7)
    good = {"code": ["B"], "n": ["1"], "m": ["5"], "flag": ["true"]}
    pools = {name: TEXTS[name] + good.get(name, []) * 20 for name in TEXTS}
    pools["id"] += [f"k{i}" for i in range(400)]
    junk = ["".join(chance.choices("xé😀\n\t\"'\\,", k=chance.randrange(4))) for _ in range(40)]
    pools = {name: [*pool, *chance.sample(junk, 4)] for name, pool in pools.items()}
    rows = [tuple(chance.choice(pool) for pool in pools.values()) for _ in range(3000)]
    wanted = expected(rows)
    outcomes = [e.outcome for e in wanted]
    assert min(outcomes.count(o) for o in (SILVER, QUARANTINE, DUPLICATE)) > 50
    things = contract(WIDE)
    found = run(things, rows, *STEPS, nulls=NULLS)
    assert [r["_record"] for r in found] == list(range(1, len(rows) + 1))
    for row, delivered, due in zip(found, rows, wanted, strict=True):
        kept = tuple(row[n] for n in things.names) if row["outcome"] == SILVER else None
        assert (delivered, Expected(row["outcome"], kept, tuple(rules(row)))) == (delivered, due)
        assert row["outcome"] == SILVER or tuple(row["_original"]) == delivered


# -- accounting -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ingested(new_parcels: Any) -> Any:
    made = new_parcels()
    made.land(NIGHT)
    ingest.run(made.work(NIGHT), "parcels")
    return made


def test_a_lost_row_stops_the_run(ingested: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = stage.refuse_unparsable
    monkeypatch.setattr(stage, "refuse_unparsable", lambda *given_: honest(*given_).limit(0))
    with pytest.raises(AccountingError) as caught:
        stage.run(ingested.work(NIGHT), "parcels")
    assert caught.value.details == {
        "file": f"landing/parcels/{NIGHT}.csv",
        "read": 66,
        "clean": 60,
        "quarantined": 3,
        "deduplicated": 2,
        "discarded": 0,
    }
    assert ingested.work(NIGHT).book.get(NIGHT, "clean.parcels") is None


def test_the_record_says_what_became_of_the_rows(ingested: Any) -> None:
    record = stage.run(ingested.work(NIGHT), "parcels")[NIGHT]
    assert record.counts == {"read": 66, "clean": 60, "quarantined": 4, "deduplicated": 2}
    assert record.details["rules_broken"] == {
        "parcels.depot.allowed": 1,
        "parcels.parcel.required": 1,
        "parcels.sent_at.type": 1,
        "parcels.unparsable": 1,
        "parcels.weight.range": 1,
    }
