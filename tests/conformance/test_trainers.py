"""What every trainer keeps to, whatever it learns with."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession
from tests.conformance.candidates import (
    CANDIDATES,
    LABELS,
    candidate,
    kind_of,
    label_of,
    needs_deep,
)
from tests.conformance.conftest import SCHEMA, made_rows

from nightjar.core.errors import EnvironmentFault, GoldenMismatch, TrainingRefused
from nightjar.engine.trainers import SCORE, TrainingSet, trainer

RANKS = ("horovod_keras",)
NAMES = [name for name in CANDIDATES if name not in RANKS or find_spec("horovod")]
every_trainer = pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=needs_deep if n in RANKS else ()) for n in CANDIDATES],
)
Make = Callable[..., TrainingSet]


def engine_of(name: str) -> Any:
    return trainer(CANDIDATES[name]["trainer"])


def scores(frame: DataFrame) -> np.ndarray:
    return np.array([row[SCORE] for row in frame.select("id", SCORE).orderBy("id").collect()])


@pytest.fixture(scope="session")
def training_sets(training: Make) -> Callable[[str], TrainingSet]:
    """The rows that a candidate learns from, made once for each kind of label."""
    made: dict[str, TrainingSet] = {}

    def of(name: str) -> TrainingSet:
        kind = kind_of(name)
        if kind not in made:
            made[kind] = training(made_rows(kind=kind), kind=kind)
        return made[kind]

    return of


@pytest.fixture(scope="session")
def models(training_sets: Callable[[str], TrainingSet]) -> Callable[[str], Any]:
    """The model of each candidate, learnt once."""
    learnt: dict[str, Any] = {}

    def model(name: str) -> Any:
        if name not in learnt:
            learnt[name] = engine_of(name).fit(training_sets(name), candidate(name))
        return learnt[name]

    return model


def apart(name: str, one: np.ndarray, other: np.ndarray) -> bool:
    """Whether scores differ by more than the trainer says they may."""
    allowed = engine_of(name).TOLERANCE * np.maximum(1, np.abs(one))
    return bool((np.abs(one - other) > allowed).any())


# -- what is learnt -------------------------------------------------------------------------------


@every_trainer
def test_it_learns(name: str, models: Any, training_sets: Any) -> None:
    rows = training_sets(name).rows
    scored = engine_of(name).score(models(name), rows)
    assert scored.columns == [*rows.columns, SCORE]
    found = scored.orderBy("id").collect()
    assert [row["id"] for row in found] == list(range(400))
    y, made = np.array([row["y"] for row in found]), np.array([row[SCORE] for row in found])
    if kind_of(name) == "regression":
        assert 1 - ((made - y) ** 2).sum() / ((y - y.mean()) ** 2).sum() > 0.5
        return
    assert ((made >= 0) & (made <= 1)).all()
    if kind_of(name) == "multiclass":
        assert made.shape == (400, 3)
        assert made.sum(axis=1) == pytest.approx(1, abs=1e-5)
        assert (made.argmax(axis=1) == y).mean() > 0.6 > 1.3 * max(np.bincount(y.astype(int))) / 400
    else:
        assert made[y == 1].mean() > made[y == 0].mean() + 0.3


@every_trainer
def test_the_same_rows_give_the_same_model(
    name: str, training: Make, models: Any, training_sets: Any
) -> None:
    kind = kind_of(name)
    shuffled = training(made_rows(kind=kind)[::-1], partitions=5, kind=kind)
    engine = engine_of(name)
    again = engine.fit(shuffled, candidate(name))
    rows = training_sets(name).rows
    assert (scores(engine.score(again, rows)) == scores(engine.score(models(name), rows))).all()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[needs_deep, pytest.mark.slow] if n in RANKS else ())
        for n in CANDIDATES
    ],
)
def test_weights_count(name: str, training: Make) -> None:
    # Alike but for the label, 0 or 1, which nothing tells: the weights alone decide.
    rows = [
        (i, float(i // 2 % 4), 1.0, "a", "x", 9.0 if i % 2 else 1.0, float(i % 2))
        for i in range(80)
    ]
    kind = kind_of(name)
    if kind == "multiclass":  # whose last class lies apart
        rows += [(i, 9.0, 1.0, "b", "x", 1.0, 2.0) for i in range(80, 100)]
    engine = engine_of(name)

    def late(weighted: bool) -> float:
        found = training(rows, weighted=weighted, kind=kind)
        made = scores(engine.score(engine.fit(found, candidate(name)), found.rows))[:80]
        return float((made[:, 1] if kind == "multiclass" else made).mean())

    assert late(weighted=True) > 0.75
    assert 0.4 < late(weighted=False) < 0.6


@every_trainer
def test_ten_rows_are_enough(name: str, training: Make) -> None:
    codes = LABELS[kind_of(name)].codes or 10
    rows = [(i, float(i), 1.0, "ab"[i % 2], "x", 1.0, float(i * codes // 10)) for i in range(10)]
    found = training(rows, kind=kind_of(name))
    engine = engine_of(name)
    assert np.isfinite(scores(engine.score(engine.fit(found, candidate(name)), found.rows))).all()


def labelled(label: Callable[[int], float | None]) -> Callable[[int], tuple[Any, ...]]:
    return lambda i: (i, 1.0 * i, 1.0, "a", "x", 1.0, label(i))


REFUSED_BY_KIND = {
    "another class": ("multiclass", labelled(lambda i: i % 4 - 1.0), "5 of 20 .* none of .*early"),
    "no third class": ("multiclass", labelled(lambda i: i % 2 * 2.0), "of class: late"),
    "no number": ("regression", labelled(lambda i: float("nan")), "no finite number"),
    "an endless number": ("regression", labelled(lambda i: float("inf")), "no finite number"),
    "one number": ("regression", labelled(lambda i: 7.0), "the same number"),
}


@pytest.mark.parametrize(("kind", "row", "says"), REFUSED_BY_KIND.values(), ids=REFUSED_BY_KIND)
def test_labels_that_nothing_is_learnt_from(
    training: Make, kind: str, row: Callable[[int], tuple[Any, ...]], says: str
) -> None:
    with pytest.raises(TrainingRefused, match=says):
        training([row(i) for i in range(20)], kind=kind)


REFUSED: dict[str, tuple[Callable[[int], tuple[Any, ...]], str]] = {
    "one class": (lambda i: (i, 1.0 * i, 1.0, "a", "x", 1.0, 1.0), "both classes"),
    "three classes": (lambda i: (i, 1.0 * i, 1.0, "a", "x", 1.0, float(i % 3)), "neither 0 nor 1"),
    "a number as label": (lambda i: (i, 1.0, 1.0, "a", "x", 1.0, i / 7), "neither 0 nor 1"),
    "no label": (lambda i: (i, 1.0, 1.0, "a", "x", 1.0, None), "neither 0 nor 1"),
    "no number": (lambda i: (i, None, 1.0, "a", "x", 1.0, float(i % 2)), "no training row.*: n"),
    "no category": (lambda i: (i, 1.0, 1.0, "a", None, 1.0, float(i % 2)), "no training row.*: d"),
    "no weight": (lambda i: (i, 1.0, 1.0, "a", "x", None, float(i % 2)), "weight of 20 of 20"),
    "a negative weight": (lambda i: (i, 1.0, 1.0, "a", "x", -1.0, float(i % 2)), "weight of 20"),
}


@pytest.mark.parametrize(("row", "says"), REFUSED.values(), ids=REFUSED)
def test_rows_that_nothing_is_learnt_from(
    training: Make, row: Callable[[int], tuple[Any, ...]], says: str
) -> None:
    with pytest.raises(TrainingRefused, match=says):
        training([row(i) for i in range(20)], weighted=True)


# -- scoring --------------------------------------------------------------------------------------


@every_trainer
def test_rows_of_any_kind_are_scored(name: str, spark: SparkSession, models: Any) -> None:
    odd = [
        (1, None, None, "a", "x", 1.0, 0.0),
        (2, 1.0, 1.0, "never seen", "x", 1.0, 0.0),
        (3, 1.0, 1.0, None, "x", 1.0, 0.0),
        (4, None, None, None, None, 1.0, 0.0),
        (5, 1e300, -1e300, "", "", None, None),
    ]
    found = scores(engine_of(name).score(models(name), spark.createDataFrame(odd, SCHEMA)))
    assert len(found) == 5
    assert np.isfinite(found).all()
    if kind_of(name) != "regression":
        assert ((found >= 0) & (found <= 1)).all()
    assert (found[1] == found[2]).all(), "what was never seen and what is missing are one category"


@every_trainer
def test_no_rows_give_no_scores(name: str, spark: SparkSession, models: Any) -> None:
    scored = engine_of(name).score(models(name), spark.createDataFrame([], SCHEMA))
    assert (scored.columns[-1], scored.collect()) == (SCORE, [])


@every_trainer
def test_how_rows_are_cut_into_batches_changes_nothing(
    name: str, spark: SparkSession, models: Any, training_sets: Any
) -> None:
    engine = engine_of(name)
    rows = training_sets(name).rows
    whole = scores(engine.score(models(name), rows))
    before = spark.conf.get("spark.sql.execution.arrow.maxRecordsPerBatch")
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "7")
    try:
        cut = scores(engine.score(models(name), rows.repartition(3)))
    finally:
        spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", before)
    assert not apart(name, whole, cut)


# -- files ----------------------------------------------------------------------------------------

FRESH = """
import json, sys
from pathlib import Path
from nightjar.engine.session import start
from nightjar.engine.trainers import SCORE, trainer
root, conf = Path(sys.argv[1]), Path(sys.argv[2])
spark = start("fresh", conf)
found = {}
for name, engine in json.loads(sys.argv[3]).items():
    engine = trainer(engine)
    model = engine.load(spark, root / name)
    scored = engine.score(model, spark.read.parquet(str(root / "rows")))
    found[name] = [r[SCORE] for r in scored.orderBy("id").collect()]
(root / "scores.json").write_text(json.dumps(found))
"""


@pytest.fixture(scope="session")
def fresh(
    models: Any, training_sets: Any, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[Any]]:
    """The scores that every saved model gives in a process that did not learn it."""
    root = tmp_path_factory.mktemp("models")
    training_sets("xgboost").rows.write.parquet(str(root / "rows"))
    for name in NAMES:
        engine_of(name).save(models(name), root / name)
    conf = Path(__file__).parents[2] / "spark-conf" / "local.conf"
    engines = json.dumps({name: CANDIDATES[name]["trainer"] for name in NAMES})
    command = [sys.executable, "-c", FRESH, str(root), str(conf), engines]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, list[Any]] = json.loads((root / "scores.json").read_text())
    return found


@every_trainer
def test_a_fresh_process_gives_the_same_scores(
    name: str, fresh: dict[str, list[Any]], models: Any, training_sets: Any
) -> None:
    engine = engine_of(name)
    here = scores(engine.score(models(name), training_sets("xgboost").rows))
    assert not apart(name, here, np.array(fresh[name]))


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("mllib")])
def test_a_changed_file_is_refused_before_it_is_read(
    name: str, spark: SparkSession, models: Any, tmp_path: Path
) -> None:
    engine = engine_of(name)
    engine.save(models(name), tmp_path / "model")
    (file,) = [p for p in (tmp_path / "model").iterdir() if p.name != "encoding.json"]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(GoldenMismatch, match="sha256"):
        engine.load(spark, tmp_path / "model")


# -- faults ---------------------------------------------------------------------------------------

FAULTS: dict[str, tuple[str, dict[str, Any], tuple[str, ...], str, str]] = {
    "mllib, name": (
        "mllib",
        {"params": {"maxIterr": 5}},
        ("params", "maxIterr"),
        "no par",
        "'maxI",
    ),
    "xgboost, name": (
        "xgboost",
        {"params": {"max_dept": 3}},
        ("params", "max_dept"),
        "no parameter 'max_dept'",
        "did you mean 'max_depth'?",
    ),
    "xgboost, type": (
        "xgboost",
        {"params": {"max_depth": 2.5}},
        ("params", "max_depth"),
        "expect int but value='2.5'",
        "",
    ),
    "xgboost, range": (
        "xgboost",
        {"params": {"subsample": 3}},
        ("params", "subsample"),
        "exceed bound [0,1]",
        "",
    ),
    "xgboost, trees": (
        "xgboost",
        {"params": {"n_estimators": 0}},
        ("params", "n_estimators"),
        "at least 1",
        "",
    ),
    "xgboost, ours": (
        "xgboost",
        {"params": {"objective": "reg:squarederror"}},
        ("params", "objective"),
        "set by the trainer",
        "remove it",
    ),
    "sklearn, class": (
        "sklearn",
        {"estimator": "sklearn.ensemble.HistGradientBostingClassifier"},
        ("estimator",),
        "no classifier",
        "did you mean 'sklearn.ensemble.HistGradientBoostingClassifier'?",
    ),
    "sklearn, no classifier": (
        "sklearn",
        {"estimator": "sklearn.linear_model.LinearRegression", "params": {}},
        ("estimator",),
        "no classifier",
        "",
    ),
    "sklearn, no module of it": (
        "sklearn",
        {"estimator": "os.system", "params": {}},
        ("estimator",),
        "no classifier",
        "",
    ),
    "sklearn, no probabilities": (
        "sklearn",
        {"estimator": "sklearn.svm.LinearSVC", "params": {}},
        ("estimator",),
        "no probabilities",
        "",
    ),
    "sklearn, name": (
        "sklearn",
        {"params": {"max_itr": 3}},
        ("params", "max_itr"),
        "no parameter 'max_itr'",
        "did you mean 'max_iter'?",
    ),
    "sklearn, value": (
        "sklearn",
        {"params": {"learning_rate": -1}},
        ("params", "learning_rate"),
        "learning_rate",
        "",
    ),
    "sklearn, a regressor for classes": (
        "sklearn",
        {"estimator": "sklearn.linear_model.Ridge", "params": {}},
        ("estimator",),
        "no classifier",
        "",
    ),
    "sklearn, a classifier for numbers": (
        "sklearn, regression",
        {"estimator": "sklearn.ensemble.HistGradientBoostingClassifier", "params": {}},
        ("estimator",),
        "no regressor",
        "did you mean 'sklearn.ensemble.HistGradientBoostingRegressor'?",
    ),
    "mllib, a classifier for numbers": (
        "mllib, regression",
        {"estimator": "pyspark.ml.classification.LogisticRegression", "params": {}},
        ("estimator",),
        "no regressor",
        "did you mean 'pyspark.ml.regression.",
    ),
    "mllib, two classes alone": (
        "mllib, multiclass",
        {"estimator": "pyspark.ml.classification.GBTClassifier", "params": {}},
        ("estimator",),
        "two classes alone",
        "",
    ),
    "sklearn, inside": (
        "sklearn-calibrated",
        {"params": {"estimator": {"class": "sklearn.tree.DecisionTreeClasifier"}}},
        ("params", "estimator", "class"),
        "no classifier",
        "did you mean 'sklearn.tree.DecisionTreeClassifier'?",
    ),
    "sklearn, a parameter inside": (
        "sklearn-calibrated",
        {
            "params": {
                "estimator": {
                    "class": "sklearn.tree.DecisionTreeClassifier",
                    "params": {"max_deph": 2},
                }
            }
        },
        ("params", "estimator", "params", "max_deph"),
        "no parameter 'max_deph'",
        "did you mean 'max_depth'?",
    ),
}


@pytest.mark.parametrize(("name", "change", "at", "says", "hint"), FAULTS.values(), ids=FAULTS)
def test_what_is_wrong_is_said_before_work_begins(
    name: str, change: dict[str, Any], at: tuple[str, ...], says: str, hint: str
) -> None:
    ((where, problem, suggestion),) = engine_of(name).faults(
        candidate(name, **change), label_of(name)
    )
    assert where == at
    assert says in problem
    assert hint in suggestion


@every_trainer
def test_a_right_candidate_has_no_faults(name: str) -> None:
    weighted = label_of(name).model_copy(update={"weight": "w"})
    assert engine_of(name).faults(candidate(name), weighted) == []


def test_an_estimator_without_weights_is_refused_where_there_are_some() -> None:
    made = candidate("sklearn", estimator="sklearn.neighbors.KNeighborsClassifier", params={})
    engine, plain = engine_of("sklearn"), LABELS["binary"]
    weighted = plain.model_copy(update={"weight": "w"})
    assert engine.faults(made, plain) == []
    ((at, problem, _),) = engine.faults(made, weighted)
    assert (at, "takes no weights" in problem) == (("estimator",), True)
    ((at, problem, _),) = engine_of("mllib").faults(
        candidate(
            "mllib",
            estimator="pyspark.ml.classification.MultilayerPerceptronClassifier",
            params={},
        ),
        weighted,
    )
    assert (at, "takes no weights" in problem) == (("estimator",), True)


def test_more_workers_than_slots_are_refused_at_once(spark: SparkSession) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        engine_of("xgboost").require(spark, candidate("xgboost", workers=99))
    assert caught.value.details["workers"] == 99
    assert caught.value.details["slots"] == spark.sparkContext.defaultParallelism or (
        caught.value.details["slots"] < 99
    )


# -- scikit-learn's sample ------------------------------------------------------------------------


def test_the_sample_is_bounded_stratified_and_the_same(training: Make) -> None:
    said: list[str] = []
    rows = made_rows(3000)
    share = sum(row[-1] for row in rows) / 3000
    from nightjar.engine.trainers import sklearn as engine

    found = training(rows, say=said.append)
    table, count = engine._sample(found, 500)
    assert count == table.num_rows == 500
    assert sum(table.column("y").to_pylist()) == round(500 * share)
    other, _ = engine._sample(training(rows[::-1], partitions=7), 500)
    assert other.to_pylist() == table.to_pylist()
    model = engine.fit(found, candidate("sklearn", sample=500))
    assert (model.facts["rows"], model.facts["of"]) == (500, 3000)
    assert any("500 of 3,000 rows" in line for line in said)


def test_a_model_with_foreign_types_is_not_loaded() -> None:
    import skops.io

    from nightjar.engine.trainers import sklearn as engine

    with pytest.raises(GoldenMismatch, match="Path"):
        engine.decode(skops.io.dumps({"model": Path("x")}), 1)
