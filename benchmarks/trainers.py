"""Flights with four candidates in one run: quality, seconds, scoring speed and size.

    python benchmarks/trainers.py [--warehouse FOLDER] [--ranks 2] [--epochs 8] [--since DAY]

Loads January to November of the demo's flights into FOLDER (a temporary one unless given; what is
loaded there is not loaded again), trains MLlib's logistic regression, XGBoost, scikit-learn's
histogram gradient boosting and, where `make deep` was run, a network by Horovod, on the same rows,
and measures each on November, which none of them saw. Scoring is of all feature rows into Spark's
noop sink, after one pass to warm up.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from pydantic import TypeAdapter

from nightjar.core.pipeline import Candidate
from nightjar.core.plan import load_plan
from nightjar.core.project import Project, nights_between
from nightjar.demo import Span, land
from nightjar.engine import features, night
from nightjar.engine.open import open_work
from nightjar.engine.registry import Registry
from nightjar.engine.stages.features import silver_frames, silver_records
from nightjar.engine.trainers import trainer
from nightjar.engine.training import train
from nightjar.engine.training.rows import known_nights


def candidates(ranks: int, epochs: int) -> dict[str, Any]:
    found: dict[str, dict[str, Any]] = {
        "xgboost": {
            "trainer": "xgboost",
            "params": {"n_estimators": 150, "max_depth": 6, "learning_rate": 0.08},
        },
        "histogram_boosting": {
            "trainer": "sklearn",
            "estimator": "sklearn.ensemble.HistGradientBoostingClassifier",
            "categorical": "index",
        },
    }
    if find_spec("horovod"):
        found["deep"] = {
            "trainer": "horovod_keras",
            "workers": ranks,
            "network": {"layers": [{"dense": 128}, {"dropout": 0.1}, {"dense": 64}]},
            "epochs": epochs,
            "batch_size": 1024,
            "patience": 2,
        }
    return {
        name: TypeAdapter(Candidate).validate_python(declared) for name, declared in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--warehouse", type=Path)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--since", type=date.fromisoformat, default=Span().history[0])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        measure(given.warehouse or Path(name), given.ranks, given.epochs, given.since)


def measure(warehouse: Path, ranks: int, epochs: int, since: date) -> None:
    project = Project.find(warehouse=warehouse)
    plan = load_plan(project, "flight_delays")
    logistic = {"logistic": plan.spec.candidates["logistic"]}
    chosen = {**logistic, **candidates(ranks, epochs)}
    plan = replace(plan, spec=plan.spec.model_copy(update={"candidates": chosen}))
    span = Span()
    land(project.warehouse)
    with open_work(project, plan, nights_between(since, span.history[1])) as work:
        night.load(work)
        work = replace(work, nights=(span.as_of,))
        details = train(work, span.as_of).details
        rows = all_rows(work, span.as_of)
        count = rows.count()
        registry = Registry(project, plan.spec.name)
        print(f"\n{'candidate':20} {'ROC AUC':>8} {'log loss':>9} {'trained':>9}", end="")
        print(f" {'scored':>14} {'size':>9}")
        by_quality = sorted(
            details["candidates"].items(), key=lambda item: -item[1]["metrics"]["roc_auc"]
        )
        for label, found in by_quality:
            uri = registry.client.get_run(found["run"]).info.artifact_uri
            folder = Path(unquote(urlparse(uri).path)) / "model" / "model"
            engine = trainer(found["trainer"])
            scored = engine.score(engine.load(work.spark, folder), rows)
            for _ in range(2):
                started = time.perf_counter()
                scored.write.format("noop").mode("overwrite").save()
                seconds = time.perf_counter() - started
            metrics = found["metrics"]
            print(
                f"{label:20} {metrics['roc_auc']:8.4f} {metrics['log_loss']:9.4f} "
                f"{found['seconds']:7.1f} s {count / seconds:7,.0f} rows/s "
                f"{found['model_bytes'] / 1e6:6.2f} MB"
            )


def all_rows(work: Any, as_of: date) -> Any:
    """The feature rows of the training's nights, from Parquet."""
    nights = known_nights(work, as_of)
    used = {source: silver_records(work, source, nights) for source in work.plan.spec.sources}
    folder = work.project.warehouse / "benchmark-rows"
    built = features.build(work.plan, silver_frames(work, used))
    built.write.mode("overwrite").parquet(str(folder))
    return work.spark.read.schema(features.schema(work.plan)).parquet(str(folder))


if __name__ == "__main__":
    main()
