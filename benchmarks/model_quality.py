"""The champion beside scikit-learn on one machine: the same features, rows and split.

    python benchmarks/model_quality.py [--warehouse warehouse] [--as-of 2013-12-01]

Needs a trained pipeline (`make demo`). Prints ROC AUC, log loss and training seconds of each
candidate, as its training recorded them, and of scikit-learn's HistGradientBoostingClassifier
with native categories and missing values, on the feature rows that training built.
"""

from __future__ import annotations

import argparse
import time
from datetime import date
from pathlib import Path

import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import log_loss, roc_auc_score

from nightjar.core.plan import load_plan
from nightjar.core.project import Project
from nightjar.engine import features
from nightjar.engine.open import open_work
from nightjar.engine.stages.features import silver_frames, silver_records
from nightjar.engine.training.rows import known_nights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--warehouse", type=Path)
    parser.add_argument("--as-of", type=date.fromisoformat, default=date(2013, 12, 1))
    given = parser.parse_args()
    project = Project.find(warehouse=given.warehouse)
    plan = load_plan(project, "flight_delays")
    with open_work(project, plan, [given.as_of], say=lambda line: None) as work:
        nights = known_nights(work, given.as_of)
        used = {s: silver_records(work, s, nights) for s in plan.spec.sources}
        frame = features.build(plan, silver_frames(work, used)).toPandas()
        trained = work.require(given.as_of, "train").details
    label, chosen = plan.spec.label.name, plan.spec.features
    frame = frame[frame[label].notna()]
    for name in chosen.categorical:
        frame[name] = frame[name].astype("category")
    cutoff = pd.Timestamp(trained["test_from"]).tz_localize(None)
    is_test = frame[plan.spec.split.by] >= cutoff
    names = [*chosen.numeric, *chosen.categorical]
    train, test = frame[~is_test], frame[is_test]
    model = HistGradientBoostingClassifier(categorical_features="from_dtype", random_state=0)
    started = time.monotonic()
    model.fit(train[names], train[label])
    seconds = time.monotonic() - started
    scores = model.predict_proba(test[names])[:, 1]
    rows = [
        (name, found["roc_auc"], found["log_loss"], found["seconds"])
        for name, found in trained["candidates"].items()
    ]
    auc, loss = roc_auc_score(test[label], scores), log_loss(test[label], scores)
    rows.append(("scikit-learn HistGradientBoosting", auc, loss, seconds))
    print(f"{len(train):,} training rows, {len(test):,} test rows from {cutoff}")
    print(f"{'model':36} {'ROC AUC':>8} {'log loss':>9} {'seconds':>8}")
    for name, area, loss, took in sorted(rows, key=lambda row: row[1]):
        print(f"{name:36} {area:8.4f} {loss:9.4f} {took:8.1f}")
    best = max(found["roc_auc"] for found in trained["candidates"].values())
    print(f"the better candidate is {auc - best:+.4f} behind scikit-learn")


if __name__ == "__main__":
    main()
