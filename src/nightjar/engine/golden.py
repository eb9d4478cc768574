"""Golden rows: kept with a model and the scores it gave, and replayed before it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pyspark.sql import DataFrame, SparkSession

from nightjar.core.errors import GoldenMismatch
from nightjar.engine.registry import RegisteredModel
from nightjar.engine.trainers import SCORE, Trainer

ROWS = 64


def keep(engine: Trainer, model: Any, rows: DataFrame, folder: Path) -> None:
    """Write some rows and their scores to `folder`: the first ROWS by their own order."""
    chosen = rows.orderBy(*rows.columns[2:]).limit(ROWS)
    scored = engine.score(model, chosen).withColumnRenamed(SCORE, "_expected").coalesce(1)
    scored.write.mode("error").parquet(str(folder))


def replay(spark: SparkSession, engine: Trainer, loaded: Any, model: RegisteredModel) -> int:
    """Score the golden rows again; returns how many there are.

    Raises:
        GoldenMismatch: a score differs by more than the trainer's TOLERANCE (relative where it is
            beyond one), or a row is missing.
    """
    golden = spark.read.parquet(str(model.folder / "golden"))
    rows = engine.score(loaded, golden).select("_expected", SCORE).collect()
    before = np.array([r["_expected"] for r in rows], dtype=float)
    after = np.array([r[SCORE] for r in rows], dtype=float)
    apart = np.abs(before - after) / np.maximum(1, np.abs(before))
    worst = float(apart.max(initial=0.0))
    expected = int(model.facts["golden_rows"])
    if len(rows) != expected or not worst <= engine.TOLERANCE:
        raise GoldenMismatch(
            f"model {model.label} does not give the scores that it gave when it was trained: "
            f"{len(rows)} of {expected} golden rows, largest difference {worst:.3g} (at most "
            f"{engine.TOLERANCE:g}). Nothing was scored. Has Spark or the model's code changed? "
            "Train and promote again.",
            model=model.label,
            worst=worst,
        )
    return len(rows)
