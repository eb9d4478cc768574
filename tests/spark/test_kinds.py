"""Labels of every kind, from training through the gate to what is released."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pyarrow.parquet as pq
import pytest
from tests.spark.conftest import NIGHTS, SCORES, SOME_ROWS, _contract, pipeline

from nightjar.core.errors import NotThereYet, SpecError
from nightjar.core.releases import ReleaseLog
from nightjar.engine.night import run_night
from nightjar.engine.registry import Registry
from nightjar.engine.training import train

AS_OF = NIGHTS[-1] + timedelta(days=1)
CLASSES = ["prompt", "late", "very late"]
BY_HOURS = (
    "case when hours_late < 3 then 'prompt' when hours_late < 6 then 'late' else 'very late' end"
)
NUMBER = {"logicalType": "number", "required": True}
TEXT = {"logicalType": "string", "required": True}
KINDS: dict[str, dict[str, Any]] = {
    "multiclass": {
        "label": {
            "name": "fate",
            "expr": BY_HOURS,
            "known_after": "1 day",
            "kind": "multiclass",
            "classes": CLASSES,
        },
        "candidates": {
            "forest": {
                "trainer": "mllib",
                "estimator": "pyspark.ml.classification.RandomForestClassifier",
                "params": {"numTrees": 10, "seed": 1},
            },
            "boosted": {
                "trainer": "xgboost",
                "params": {"n_estimators": 20, "max_depth": 3},
            },
        },
        "gate": {
            "metric": "accuracy",
            "at_least": 0.55,
            "slices": ["depot"],
            "slices_at_least": 0.3,
            "smallest_slice": 20,
        },
        "publish": {
            "contract": "parcel_scores",
            "score": "fate_expected",
            "reasons": 2,
            "sort": ["parcel"],
        },
        "columns": {"fate_expected": TEXT, "fate_expected_probability": NUMBER},
    },
    "regression": {
        "label": {
            "name": "hours",
            "expr": "hours_late",
            "known_after": "1 day",
            "kind": "regression",
        },
        "candidates": {
            "line": {
                "trainer": "mllib",
                "estimator": "pyspark.ml.regression.LinearRegression",
                "params": {"regParam": 0.01},
            },
            "boosted": {
                "trainer": "sklearn",
                "estimator": "sklearn.ensemble.HistGradientBoostingRegressor",
                "params": {"max_iter": 40},
                "categorical": "index",
            },
        },
        "gate": {
            "metric": "rmse",
            "at_most": 1.6,
            "slices": ["depot"],
            "slices_at_most": 2.0,
            "smallest_slice": 20,
        },
        "publish": {
            "contract": "parcel_scores",
            "score": "hours_expected",
            "reasons": 2,
            "sort": ["parcel"],
        },
        "columns": {"hours_expected": NUMBER},
    },
}


def declare(made: Any, kind: str, **changes: Any) -> None:
    """Write the pipeline of a kind and the contract of its scores."""
    spec = {**KINDS[kind], **changes}
    columns = spec.pop("columns")
    made.write_spec(**spec)
    kept = [c for c in SCORES if c["name"] != "late_probability"]
    made_columns = [{"name": name, **declared} for name, declared in columns.items()]
    for rank in (1, 2):
        made_columns += [
            {"name": f"reason_{rank}", "logicalType": "string"},
            {"name": f"reason_{rank}_value", "logicalType": "string"},
            {"name": f"reason_{rank}_effect", "logicalType": "number"},
        ]
    path = made.project.root / "schemas" / "parcel_scores.odcs.yaml"
    path.write_text(_contract("parcel_scores", [*kept, *made_columns], SOME_ROWS))


@pytest.fixture(scope="module", params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def trained_kind(kind: str, loaded: Any, new_parcels: Callable[..., Any]) -> Any:
    made = new_parcels(copy_of=loaded)
    declare(made, kind)
    train(made.work(AS_OF), AS_OF)
    return made


def test_the_best_is_promoted_and_beats_the_base_rate(kind: str, trained_kind: Any) -> None:
    details = trained_kind.work(AS_OF).book.get(AS_OF, "train").details
    assert (details["promoted"], details["champion"], details["reasons"]) == (True, "parcels/1", [])
    metric = KINDS[kind]["gate"]["metric"]
    found = {name: c["metrics"][metric] for name, c in details["candidates"].items()}
    best, base = found[details["best"]], details["base_rate"][metric]
    if kind == "regression":
        assert best == min(found.values()) < 0.7 * base
    else:
        assert best == max(found.values()) > 1.2 * base
    for candidate in details["candidates"].values():
        assert set(candidate["slices"]["depot"]) == {"north", "south", "east"}
        low, high = (candidate["metrics"][f"{metric}_{end}"] for end in ("low", "high"))
        assert low < candidate["metrics"][metric] < high
    picture = trained_kind.project.warehouse / details["report"]
    assert picture.stat().st_size > 10_000
    run = Registry(trained_kind.project, "parcels").client.get_run(
        details["candidates"][details["best"]]["run"]
    )
    assert run.data.metrics[metric] == best


def test_a_night_is_released_with_its_reasons(kind: str, trained_kind: Any) -> None:
    night = NIGHTS[-1] + timedelta(days=1)
    trained_kind.land(night)
    run_night(trained_kind.work(night))
    log = ReleaseLog(trained_kind.project.warehouse, "parcels")
    folder = log.folder(log.require()) / f"ds={night}"
    rows = pq.read_table(folder, partitioning=None).to_pylist()
    assert len(rows) == 60
    if kind == "multiclass":
        assert {row["fate_expected"] for row in rows} <= set(CLASSES)
        assert len({row["fate_expected"] for row in rows}) > 1
        assert all(1 / 3 <= row["fate_expected_probability"] <= 1 for row in rows)
    else:
        hours = [row["hours_expected"] for row in rows]
        assert -3 < min(hours) < 3 < max(hours) < 12
    assert {row["reason_1"] for row in rows} <= {"weight", "heavy", "jam", "pressure", "depot"}
    for row in rows:
        assert abs(row["reason_1_effect"]) >= abs(row["reason_2_effect"] or 0) > 0 or (
            row["reason_2_effect"] is None
        )


def test_a_candidate_beyond_the_bound_is_not_promoted(
    loaded: Any, new_parcels: Callable[..., Any]
) -> None:
    made = new_parcels(copy_of=loaded)
    candidates = {"line": KINDS["regression"]["candidates"]["line"]}
    declare(made, "regression", gate={"metric": "mae", "at_most": 0.1}, candidates=candidates)
    details = train(made.work(AS_OF), AS_OF).details
    (reason,) = details["reasons"]
    assert reason.startswith("MAE ")
    assert reason.endswith(" is above 0.1")
    assert (details["promoted"], details["champion"]) == (False, None)


def test_a_champion_of_another_label_scores_nothing_and_is_not_compared(
    trained: Any, new_parcels: Callable[..., Any]
) -> None:
    made = new_parcels(copy_of=trained)
    candidates = {"line": KINDS["regression"]["candidates"]["line"]}
    declare(made, "regression", candidates=candidates)
    night = NIGHTS[-1] + timedelta(days=1)
    made.land(night)
    with pytest.raises(NotThereYet, match=r"parcels/1 cannot score .* predicts 'late' \(binary\)"):
        run_night(made.work(night))
    assert ReleaseLog(made.project.warehouse, "parcels").current() is None
    details = train(made.work(AS_OF), AS_OF).details
    assert (details["promoted"], details["champion"]) == (True, "parcels/2")
    assert details["champion_before"] is None
    assert any("parcels/1 is not compared" in line for line in made.said)


def test_a_champion_that_reads_a_feature_that_is_gone_scores_nothing(
    trained: Any, new_parcels: Callable[..., Any]
) -> None:
    made = new_parcels(copy_of=trained)
    features = {**pipeline()["features"], "numeric": ["weight", "jam"], "derive": {}}
    made.write_spec(features=features)
    night = NIGHTS[-1] + timedelta(days=1)
    made.land(night)
    with pytest.raises(NotThereYet, match="features heavy, pressure, which there are no more"):
        run_night(made.work(night))


WRONG = {
    "a metric of another kind": (
        {"gate": {"metric": "roc_auc", "at_least": 0.7}},
        "'roc_auc' does not measure regression labels",
    ),
    "a column that is text": (
        {"columns": {"hours_expected": TEXT}},
        "column 'hours_expected' of 'parcel_scores' is string: not number",
    ),
}


@pytest.mark.parametrize(("change", "problem"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_the_kind_is_a_fault(
    new_parcels: Callable[..., Any], change: dict[str, Any], problem: str
) -> None:
    made = new_parcels()
    declare(made, "regression", **change)
    with pytest.raises(SpecError) as caught:
        _ = made.plan
    assert problem in [fault.problem for fault in caught.value.faults]


def test_the_probability_of_a_class_has_its_column(new_parcels: Callable[..., Any]) -> None:
    made = new_parcels()
    declare(made, "multiclass", columns={"fate_expected": TEXT})
    with pytest.raises(SpecError) as caught:
        _ = made.plan
    problems = [fault.problem for fault in caught.value.faults]
    assert "contract 'parcel_scores' has no column 'fate_expected_probability' (number)" in problems
