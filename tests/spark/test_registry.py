"""Registered models: champion by alias, refused once their files or scores have changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from nightjar.core.errors import GoldenMismatch, NotThereYet
from nightjar.core.project import Project
from nightjar.engine import golden
from nightjar.engine.registry import RegisteredModel, Registry, tree_digest
from nightjar.engine.trainers import mllib


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    root = tmp_path_factory.mktemp("registry")
    return Project(root, root / "warehouse")


@pytest.fixture
def registry(project: Project, request: pytest.FixtureRequest) -> Registry:
    """One of its own for each test, on the project's SQLite file."""
    return Registry(project, request.node.name.partition("[")[0])


@pytest.fixture
def stored(registry: Registry, tmp_path: Path) -> Callable[[str], str]:
    """Stores a model folder of one word in a run; returns the run's id."""

    def store(word: str) -> str:
        folder = tmp_path / word
        (folder / "model").mkdir(parents=True)
        (folder / "model" / "weights").write_text(word)
        (folder / "model.json").write_text(json.dumps({"trainer": "mllib", "word": word}))
        with registry.run(word, {}) as run_id:
            registry.log(run_id, {"word": word}, {"roc_auc": 0.75, "missing": float("nan")})
            assert registry.store(run_id, folder) == tree_digest(folder)
        return run_id

    return store


def test_no_champion_is_not_there_yet(registry: Registry) -> None:
    assert registry.champion() is None
    with pytest.raises(NotThereYet, match="nightjar train"):
        registry.require_champion()


def test_the_champion_is_what_was_promoted_last(registry: Registry, stored: Any) -> None:
    first, second = registry.register(stored("one")), registry.register(stored("two"))
    assert (first.version, second.version) == ("1", "2")
    assert registry.champion() is None
    registry.promote(first)
    registry.promote(second)
    assert registry.require_champion() == second
    registry.promote(first)
    champion = registry.require_champion()
    assert champion == first
    assert champion.label == f"{registry.pipeline}/1"
    assert champion.facts["word"] == "one"
    assert (champion.folder / "model" / "weights").read_text() == "one"
    assert champion.digest == tree_digest(champion.folder)


def test_what_was_tracked_can_be_read_back(registry: Registry, stored: Any) -> None:
    run = registry.client.get_run(stored("one"))
    assert run.info.status == "FINISHED"
    assert run.data.params == {"word": "one"}
    assert run.data.metrics == {"roc_auc": 0.75}


def test_a_run_whose_block_raises_has_failed(registry: Registry) -> None:
    with pytest.raises(ZeroDivisionError), registry.run("broken", {}) as run_id:
        _ = 1 / 0
    assert registry.client.get_run(run_id).info.status == "FAILED"


@pytest.mark.parametrize("change", ["content", "removal", "addition"])
def test_changed_files_are_refused(registry: Registry, stored: Any, change: str) -> None:
    model = registry.register(stored(change))
    registry.promote(model)
    weights = model.folder / "model" / "weights"
    match change:
        case "content":
            weights.write_text("another")
        case "removal":
            weights.unlink()
        case "addition":
            weights.with_name("more").write_text("")
    with pytest.raises(GoldenMismatch) as caught:
        registry.champion()
    assert caught.value.details["model"] == model.label


def test_projects_do_not_see_each_others_models(
    registry: Registry, stored: Any, tmp_path: Path
) -> None:
    registry.promote(registry.register(stored("mine")))
    other = Registry(Project(tmp_path, tmp_path / "warehouse"), registry.pipeline)
    assert other.champion() is None
    assert registry.require_champion().facts["word"] == "mine"


def test_the_digest_is_of_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    before = tree_digest(tmp_path)
    (tmp_path / ".a.crc").write_text("hidden")
    assert tree_digest(tmp_path) == before
    (tmp_path / "a").rename(tmp_path / "b")
    assert tree_digest(tmp_path) != before


# -- golden rows ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def champion(trained: Any) -> RegisteredModel:
    return Registry(trained.project, "parcels").require_champion()


@pytest.fixture
def altered(
    spark: SparkSession, champion: RegisteredModel, tmp_path: Path
) -> Callable[..., RegisteredModel]:
    """The champion with other golden rows."""

    def alter(change: Callable[[Any], Any]) -> RegisteredModel:
        folder = tmp_path / "model"
        shutil.copytree(champion.folder, folder, ignore=shutil.ignore_patterns("golden"))
        rows = spark.read.parquet(str(champion.folder / "golden"))
        change(rows).write.parquet(str(folder / "golden"))
        return replace(champion, folder=folder)

    return alter


def replayed(spark: SparkSession, model: RegisteredModel) -> int:
    loaded = mllib.load(spark, model.folder / "model")
    return golden.replay(spark, mllib, loaded, model)


def test_golden_rows_give_their_scores_again(spark: SparkSession, champion: Any) -> None:
    assert replayed(spark, champion) == champion.facts["golden_rows"] == golden.ROWS


CHANGES: dict[str, Callable[[Any], Any]] = {
    "a score": lambda rows: rows.withColumn(
        "_expected",
        F.col("_expected") + F.when(F.col("parcel") == rows.first()["parcel"], 1e-6).otherwise(0),
    ),
    "a feature": lambda rows: rows.withColumn("weight", F.col("weight") + 0.01),
    "a missing row": lambda rows: rows.limit(golden.ROWS - 1),
    "no rows": lambda rows: rows.limit(0),
    "a score that is no number": lambda rows: rows.withColumn("_expected", F.lit(float("nan"))),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changed_golden_rows_are_refused(spark: SparkSession, altered: Any, change: Any) -> None:
    with pytest.raises(GoldenMismatch) as caught:
        replayed(spark, altered(change))
    assert caught.value.details["model"] == "parcels/1"


def test_rounding_noise_is_no_change(spark: SparkSession, altered: Any) -> None:
    model = altered(lambda rows: rows.withColumn("_expected", F.col("_expected") + 1e-12))
    assert replayed(spark, model) == golden.ROWS
