"""A small pipeline from landing files to a champion and a release, and what training refuses."""

from __future__ import annotations

import csv
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pyarrow.parquet as pq
import pytest
from pyspark.ml.feature import ImputerModel
from pyspark.sql import SparkSession

from nightjar.core.errors import (
    EnvironmentFault,
    GateFailed,
    MissingInput,
    NotThereYet,
    SpecError,
    TrainingRefused,
    UsageError,
)
from nightjar.core.pipeline import Gate
from nightjar.core.releases import ReleaseLog
from nightjar.engine.night import run_night
from nightjar.engine.registry import Registry
from nightjar.engine.trainers import mllib
from nightjar.engine.training import prepare, train, try_candidates
from nightjar.engine.training.evaluation import Metrics
from nightjar.engine.training.promotion import gate_faults

FIRST = date(2024, 3, 1)
# The ten nights of `loaded` end on the day before; their labels are known on this day.
AS_OF = date(2024, 3, 11)
CONSTANT = {
    "trainer": "mllib",
    "estimator": "pyspark.ml.classification.DecisionTreeClassifier",
    "params": {"maxDepth": 0},
    "categorical": "index",
}


def champion_of(made: Any) -> str | None:
    champion = Registry(made.project, "parcels").champion()
    return champion and champion.label


# -- loading --------------------------------------------------------------------------------------


def test_every_row_of_the_history_is_accounted_for(loaded: Any) -> None:
    book = loaded.work(FIRST).book
    for i in range(10):
        ds = FIRST + timedelta(days=i)
        assert book.get(ds, "ingest.parcels").counts == {"read": 66, "unparsable": 1}
        assert book.get(ds, "clean.parcels").counts == {
            "read": 66,
            "clean": 60,
            "quarantined": 4,
            "deduplicated": 2,
        }
        assert book.get(ds, "clean.traffic").counts["clean"] == 18
        checks = book.get(ds, "validate.parcels").details["checks"]
        assert {c["rule"] for c in checks} == {
            "parcels.primary_key",
            "parcels.rowCount",
            "parcels.row_rules",
        }
        assert all(c["passed"] for c in checks)


# -- training -------------------------------------------------------------------------------------


def test_the_best_candidate_becomes_champion(trained: Any) -> None:
    record = trained.work(AS_OF).book.get(AS_OF, "train")
    assert record.counts == {"train rows": 420, "test rows": 180}
    details = record.details
    assert (details["promoted"], details["champion"], details["best"]) == (
        True,
        "parcels/1",
        "logistic",
    )
    assert details["reasons"] == []
    assert details["nights"] == ["2024-03-01", "2024-03-10"]
    assert details["test_from"] == "2024-03-08T00:00:00+00:00"
    found = details["candidates"]["logistic"]
    metrics = found["metrics"]
    assert 0.85 < metrics["roc_auc"] < 1
    assert metrics["roc_auc_low"] < metrics["roc_auc"] < metrics["roc_auc_high"]
    assert metrics["log_loss"] < details["base_rate"]["log_loss"]
    assert details["base_rate"]["roc_auc"] == 0.5
    assert sum(s["rows"] for s in found["slices"]["depot"].values()) == 180
    assert champion_of(trained) == "parcels/1"


def test_the_metrics_are_tracked(trained: Any) -> None:
    registry = Registry(trained.project, "parcels")
    run = registry.client.get_run(registry.require_champion().run_id)
    details = trained.work(AS_OF).book.get(AS_OF, "train").details
    assert run.data.metrics["roc_auc"] == details["candidates"]["logistic"]["metrics"]["roc_auc"]
    assert run.data.params["first_night"] == "2024-03-01"


def landed_weights(made: Any, nights: range) -> list[float]:
    weights = []
    for i in nights:
        path = made.project.warehouse / f"landing/parcels/{FIRST + timedelta(days=i)}.csv"
        with path.open() as file:
            weights += [float(r["weight"]) for r in list(csv.DictReader(file))[: made.rows]]
    return sorted(weights)


def test_transforms_are_learnt_on_training_rows_alone(spark: SparkSession, trained: Any) -> None:
    champion = Registry(trained.project, "parcels").require_champion()
    model = mllib.load(spark, champion.folder / "model")
    (imputer,) = [s for s in model.stages if isinstance(s, ImputerModel)]
    median = imputer.surrogateDF.first()["weight"]

    def medians(weights: list[float]) -> list[float]:
        return weights[len(weights) // 2 - 1 : len(weights) // 2 + 1]

    assert median in medians(landed_weights(trained, range(7)))
    assert median not in medians(landed_weights(trained, range(10)))


def test_the_same_inputs_are_not_learnt_from_again(trained: Any) -> None:
    registry = Registry(trained.project, "parcels")
    before = trained.work(AS_OF).book.get(AS_OF, "train")
    del trained.said[:]
    assert train(trained.work(AS_OF), AS_OF) == before
    (line,) = trained.said
    assert line.startswith("train")
    assert line.endswith("already done")
    assert len(registry.client.search_model_versions("name = 'parcels'")) == 1


def test_a_worse_challenger_is_not_promoted(trained: Any, new_parcels: Callable[..., Any]) -> None:
    made = new_parcels(copy_of=trained)
    made.write_spec(candidates={"constant": CONSTANT}, gate={"metric": "roc_auc", "at_least": 0.5})
    record = train(made.work(AS_OF), AS_OF)
    assert record.details["promoted"] is False
    (reason,) = record.details["reasons"]
    assert "what the champion parcels/1 shows on the same rows" in reason
    assert record.details["champion"] == champion_of(made) == "parcels/1"
    standing = record.details["champion_before"]["roc_auc"]
    assert standing > record.details["candidates"]["constant"]["metrics"]["roc_auc"] == 0.5


def test_a_candidate_below_the_gate_is_not_promoted(
    loaded: Any, new_parcels: Callable[..., Any]
) -> None:
    made = new_parcels(copy_of=loaded)
    made.write_spec(candidates={"constant": CONSTANT})
    record = train(made.work(AS_OF), AS_OF)
    assert record.details["reasons"][0] == "ROC AUC 0.5000 is below 0.7"
    assert (record.details["promoted"], record.details["champion"]) == (False, None)
    assert champion_of(made) is None
    with pytest.raises(NotThereYet, match="no champion"):
        run_night(made.work(FIRST))


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "one class alone": (
        {"label": {"name": "late", "expr": "hours_late > -1e9", "known_after": "1 day"}},
        {"train": 420, "train_positives": 420, "test": 180, "test_positives": 180},
    ),
    "no row for testing": (
        {"split": {"by": "sent_at", "history": "30 days", "test": "29 days"}},
        {"train": 0, "train_positives": 0},
    ),
    "a number that is never there": (
        {"features": {"numeric": ["weight", "nothing"], "derive": {"nothing": "weight + null"}}},
        {"features": ["nothing"]},
    ),
    "a category that is never there": (
        {"features": {"categorical": ["nothing"], "derive": {"nothing": "concat(depot, null)"}}},
        {"features": ["nothing"]},
    ),
}


@pytest.mark.parametrize(("change", "details"), REFUSED.values(), ids=REFUSED)
def test_rows_that_mean_nothing_are_refused(
    loaded: Any, new_parcels: Callable[..., Any], change: dict[str, Any], details: dict[str, Any]
) -> None:
    made = new_parcels(copy_of=loaded)
    if "features" in change:
        change = {"features": {"base": "parcels", "as_of": "sent_at"} | change["features"]}
        change["gate"] = {"metric": "roc_auc", "at_least": 0.7}
    made.write_spec(**change)
    with pytest.raises(TrainingRefused) as caught:
        train(made.work(AS_OF), AS_OF)
    assert details.items() <= caught.value.details.items()
    assert made.work(AS_OF).book.get(AS_OF, "train") is None
    assert champion_of(made) is None


def test_nights_whose_labels_are_not_known_yet_are_not_learnt_from(loaded: Any) -> None:
    with pytest.raises(NotThereYet, match="labels are known"):
        train(loaded.work(FIRST), FIRST)


def test_a_wrong_candidate_is_a_fault_before_any_work(new_parcels: Callable[..., Any]) -> None:
    made = new_parcels()
    made.write_spec(candidates={"constant": CONSTANT | {"params": {"maxDeph": 0}}})
    with pytest.raises(SpecError) as caught:
        train(made.work(AS_OF), AS_OF)
    (fault,) = caught.value.faults
    assert (fault.file, fault.suggestion) == (
        "pipelines/parcels.yaml",
        "did you mean 'maxDepth'?",
    )


# -- in steps, and again --------------------------------------------------------------------------


@pytest.fixture
def two(loaded: Any, new_parcels: Callable[..., Any]) -> Any:
    """A project with two candidates, none tried yet."""
    made = new_parcels(copy_of=loaded)
    made.write_spec(candidates={"constant": CONSTANT, "other": CONSTANT | {"params": {"seed": 1}}})
    return made


def steps_done(made: Any) -> set[str]:
    """The steps of training that the last run did, and did not find done."""
    lines = [line.split() for line in made.said if line.startswith("train")]
    del made.said[:]
    return {words[0] for words in lines if words[-2:] != ["already", "done"]}


def test_candidates_are_tried_apart_and_then_decided_on(two: Any) -> None:
    folder = two.project.warehouse / "training" / "parcels"
    prepare(two.work(AS_OF), AS_OF)
    (rows,) = folder.iterdir()
    assert steps_done(two) == {"train.rows"}
    for name in ("other", "constant"):
        work = two.work(AS_OF)
        alone = replace(work, plan=work.plan.with_candidates([name]))
        try_candidates(alone, AS_OF)
        assert steps_done(two) == {f"train.trial.{name}"}
    assert rows.is_dir()
    record = train(two.work(AS_OF), AS_OF)
    assert steps_done(two) == {"train"}
    assert list(record.details["candidates"]) == ["constant", "other"]
    assert list(folder.iterdir()) == [], "the rows go once the decision is made"


def test_a_training_that_broke_off_goes_on(two: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = mllib.fit

    def fail(training: Any, candidate: Any) -> Any:
        if candidate.params == {"seed": 1}:
            raise RuntimeError("the machine is gone")
        return fit(training, candidate)

    monkeypatch.setattr(mllib, "fit", fail)
    with pytest.raises(RuntimeError, match="gone"):
        train(two.work(AS_OF), AS_OF)
    assert steps_done(two) == {"train.rows", "train.trial.constant"}
    monkeypatch.undo()
    train(two.work(AS_OF), AS_OF)
    assert steps_done(two) == {"train.trial.other", "train"}


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        ({"trainer": "xgboost", "workers": 99}, EnvironmentFault, "99 tasks"),
        (
            {
                "trainer": "mllib",
                "estimator": "pyspark.ml.classification.LogisticRegression",
                "params": {"regParam": -1},
            },
            UsageError,
            "candidate 'wrong': LogisticRegression: parameter regParam given .*-1.0: .*>= 0",
        ),
    ],
)
def test_what_cannot_be_trained_here_is_said_before_any_row_is_read(
    two: Any, wrong: dict[str, Any], error: type[Exception], said: str
) -> None:
    two.write_spec(candidates={"constant": CONSTANT, "wrong": wrong})
    with pytest.raises(error, match=said):
        train(two.work(AS_OF), AS_OF)
    assert steps_done(two) == set()
    assert list((two.project.warehouse / "training").rglob("*.parquet")) == []


def test_rows_that_are_gone_are_made_again(two: Any) -> None:
    record = prepare(two.work(AS_OF), AS_OF)
    shutil.rmtree(two.project.warehouse / record.details["folder"])
    try_candidates(two.work(AS_OF), AS_OF)
    assert steps_done(two) == {"train.rows", "train.trial.constant", "train.trial.other"}


def test_a_candidate_that_was_tried_again_is_decided_on_again(two: Any) -> None:
    first = train(two.work(AS_OF), AS_OF).details["candidates"]
    steps_done(two)
    work = two.work(AS_OF, force=True)
    try_candidates(replace(work, plan=work.plan.with_candidates(["other"])), AS_OF)
    steps_done(two)
    second = train(two.work(AS_OF), AS_OF).details["candidates"]
    # The rows are looked for, and found gone, only where something is done with them.
    assert steps_done(two) >= {"train"}
    assert second["constant"]["run"] == first["constant"]["run"]
    assert second["other"]["run"] != first["other"]["run"]


# -- the gate of models ---------------------------------------------------------------------------

GATE = Gate(
    metric="roc_auc", at_least=0.7, slices=("depot",), slices_at_least=0.6, smallest_slice=50
)


def measured(roc_auc: float = 0.7, rows: int = 100, is_whole: bool = True) -> Metrics:
    return Metrics(rows, {"roc_auc": roc_auc}, is_whole=is_whole)


@pytest.mark.parametrize(
    ("whole", "part", "faults"),
    [
        ({}, {}, 0),
        ({"roc_auc": 0.6999}, {}, 1),
        ({"roc_auc": math.nan}, {}, 1),
        ({}, {"roc_auc": 0.6}, 0),
        ({}, {"roc_auc": 0.5999}, 1),
        ({}, {"roc_auc": math.nan}, 1),
        ({}, {"roc_auc": 0.1, "rows": 49}, 0),
        ({}, {"roc_auc": 0.1, "rows": 50}, 1),
        ({}, {"roc_auc": math.nan, "is_whole": False}, 0),
        ({"roc_auc": 0.1}, {"roc_auc": 0.1}, 2),
    ],
)
def test_the_gate_of_models(whole: Any, part: Any, faults: int) -> None:
    slices = {"depot": {"north": measured(), "south": measured(**part)}}
    assert len(gate_faults(measured(**whole), slices, GATE)) == faults


def test_a_metric_that_is_better_smaller_has_an_upper_bound() -> None:
    gate = Gate(metric="rmse", at_most=2.0, slices=("depot",), slices_at_most=3.0, smallest_slice=1)

    def faults(whole: float, part: float) -> list[str]:
        slices = {"depot": {"north": Metrics(9, {"rmse": part})}}
        return gate_faults(Metrics(9, {"rmse": whole}), slices, gate)

    assert faults(2.0, 3.0) == []
    assert faults(2.01, 3.0) == ["RMSE 2.0100 is above 2"]
    assert faults(1.0, 3.5) == ["RMSE 3.5000 where depot is north (9 rows) is above 3"]
    assert len(faults(math.nan, math.nan)) == 2


# -- the night ------------------------------------------------------------------------------------

NIGHT = date(2024, 3, 11)


@pytest.fixture(scope="module")
def released(trained: Any, new_parcels: Callable[..., Any]) -> Any:
    made = new_parcels(copy_of=trained)
    made.land(NIGHT)
    run_night(made.work(NIGHT))
    return made


def test_a_night_gives_a_release_of_one_score_a_row(released: Any) -> None:
    log = ReleaseLog(released.project.warehouse, "parcels")
    release = log.require()
    assert (release.version, release.ds, release.rows) == (1, str(NIGHT), 60)
    rows = pq.read_table(log.folder(release) / f"ds={NIGHT}", partitioning=None).to_pylist()
    assert [r["parcel"] for r in rows] == sorted(f"{NIGHT}-{i}" for i in range(60))
    assert {r["model_version"] for r in rows} == {"parcels/1"}
    assert all(0 <= r["late_probability"] <= 1 for r in rows)
    assert list(rows[0]) == ["parcel", "sent_at", "depot", "late_probability", "model_version"]
    # Heavy parcels are late.
    landed = released.project.warehouse / f"landing/parcels/{NIGHT}.csv"
    with landed.open() as file:
        weights = {r["parcel"]: float(r["weight"]) for r in list(csv.DictReader(file))[:60]}
    by_weight = sorted(rows, key=lambda r: weights[r["parcel"]])
    chances = [r["late_probability"] for r in by_weight]
    assert sum(chances[:20]) < 0.5 * sum(chances[-20:])


def test_the_manifest_says_from_what(released: Any) -> None:
    release = ReleaseLog(released.project.warehouse, "parcels").require()
    night = release.partitions[str(NIGHT)]
    assert night["model"]["version"] == "parcels/1"
    assert night["rows"]["parcels"] == {
        "read": 66,
        "clean": 60,
        "quarantined": 4,
        "deduplicated": 2,
    }
    assert night["checks"]["passed"] == night["checks"]["total"]
    assert sum(f["rows"] for f in night["files"].values()) == 60


def test_a_second_run_does_nothing(released: Any) -> None:
    log = ReleaseLog(released.project.warehouse, "parcels")
    before = log.all()
    del released.said[:]
    run_night(released.work(NIGHT))
    assert all(line.endswith("already done") for line in released.said)
    assert log.all() == before


def test_the_same_night_again_gives_the_same_scores(released: Any, new_parcels: Any) -> None:
    made = new_parcels(copy_of=released)

    def scores() -> list[Any]:
        record = made.work(NIGHT).book.get(NIGHT, "score")
        return list(pq.read_table(made.project.warehouse / record.outputs["scores"]).to_pylist())

    before = scores()
    for stage in ("features", "score"):
        run_night(made.work(NIGHT, force=True), only=stage)
    assert made.said[-1].startswith("score")
    assert not made.said[-1].endswith("already done")
    assert scores() == before


def test_a_night_without_its_file_publishes_nothing(released: Any) -> None:
    with pytest.raises(MissingInput):
        run_night(released.work(NIGHT + timedelta(days=1)))
    assert len(ReleaseLog(released.project.warehouse, "parcels").all()) == 1


def test_a_night_without_a_good_row_publishes_nothing(released: Any, new_parcels: Any) -> None:
    made = new_parcels(copy_of=released)
    ds = NIGHT + timedelta(days=1)
    made.land(ds)
    landed = made.project.warehouse / f"landing/parcels/{ds}.csv"
    landed.write_text("parcel,sent_at,depot,weight,hours_late\nx,yesterday,north,1,1\n")
    with pytest.raises(GateFailed) as caught:
        run_night(made.work(ds))
    assert [f["rule"] for f in caught.value.details["failed"]] == ["parcels.rowCount"]
    assert ReleaseLog(made.project.warehouse, "parcels").require().ds == str(NIGHT)
