"""How good scores are, from one pass over the rows and memory that does not grow with them.

Scores are counted in 10,001 bins of width 1e-4, by label and slice. ROC AUC is the Mann-Whitney
statistic of the binned scores (ties count one half), which differs from that of the unbinned ones
by less than the share of pairs within one bin. Intervals are percentile bootstraps (Efron 1979):
resampling n rows is a multinomial draw of the bin counts, so it needs the bins alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

BINS = 10_000
RESAMPLES = 200
CALIBRATION_BINS = 10

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Metrics:
    """Quality of scores on some rows.

    `calibration` has, for ten bins of equal score width, rows, mean score and share of positives.
    """

    rows: int
    positives: int
    roc_auc: float
    roc_auc_low: float
    roc_auc_high: float
    log_loss: float
    brier: float
    calibration: tuple[tuple[int, float, float], ...]

    def as_dict(self) -> dict[str, float]:
        names = ("rows", "positives", "roc_auc", "roc_auc_low", "roc_auc_high", "log_loss", "brier")
        return {name: getattr(self, name) for name in names}


def evaluate(
    scored: DataFrame, score: str, label: str, slices: Sequence[str] = ()
) -> tuple[Metrics, dict[str, dict[str, Metrics]]]:
    """Metrics over all rows of `scored` that have a label, and by each value of each slice."""
    rows = scored.where(F.col(label).isNotNull()).select(
        F.round(F.col(score) * BINS).cast("int").alias("_bin"),
        F.col(label).cast("int").alias("_label"),
        *[F.coalesce(F.col(s).cast("string"), F.lit("(missing)")).alias(s) for s in slices],
    )
    sets = [["_bin", "_label"], *[["_bin", "_label", s] for s in slices]]
    counted = rows.groupingSets(
        [[F.col(n) for n in names] for names in sets], "_bin", "_label", *slices
    ).agg(F.count(F.lit(1)).alias("_n"))
    overall = np.zeros((BINS + 1, 2), dtype=np.int64)
    by_slice: dict[str, dict[str, Counts]] = {s: {} for s in slices}
    for row in counted.toLocalIterator():
        name = next((s for s in slices if row[s] is not None), None)
        if name is None:
            target = overall
        else:
            empty = np.zeros((BINS + 1, 2), dtype=np.int64)
            target = by_slice[name].setdefault(row[name], empty)
        target[row["_bin"], row["_label"]] += row["_n"]
    return measure(overall), {
        s: {value: measure(counts, resamples=0) for value, counts in sorted(found.items())}
        for s, found in by_slice.items()
    }


def measure(counts: Counts, resamples: int = RESAMPLES, seed: int = 0) -> Metrics:
    """Metrics of binned scores. `counts` has shape (bins, 2): negatives and positives by bin."""
    bins = len(counts) - 1
    total, positives = int(counts.sum()), int(counts[:, 1].sum())
    p = np.arange(bins + 1) / bins
    clipped = np.clip(p, 0.5 / bins, 1 - 0.5 / bins)
    scale = max(total, 1)
    loss = -(counts[:, 1] * np.log(clipped) + counts[:, 0] * np.log(1 - clipped)).sum() / scale
    brier = (counts[:, 1] * (1 - p) ** 2 + counts[:, 0] * p**2).sum() / scale
    area = roc_auc(counts)
    low, high = _interval(counts, resamples, seed) if resamples else (float("nan"), float("nan"))
    return Metrics(
        total, positives, area, low, high, float(loss), float(brier), _calibration(counts, p)
    )


def roc_auc(counts: Any) -> float:
    """The chance that a positive scores above a negative; NaN with one class alone."""
    negatives, positives = counts[:, 0], counts[:, 1]
    pairs = float(negatives.sum()) * float(positives.sum())
    if pairs == 0:
        return float("nan")
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + negatives / 2)).sum() / pairs)


def _interval(counts: Counts, resamples: int, seed: int) -> tuple[float, float]:
    total = int(counts.sum())
    if total == 0 or 0 in counts.sum(axis=0):
        return float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    used = np.flatnonzero(counts.sum(axis=1))
    shares = counts[used].ravel() / total
    draws = generator.multinomial(total, shares, size=resamples).reshape(resamples, len(used), 2)
    areas = [roc_auc(draw) for draw in draws]
    low, high = np.nanpercentile(areas, [2.5, 97.5])
    return float(low), float(high)


def _calibration(counts: Counts, p: NDArray[Any]) -> tuple[tuple[int, float, float], ...]:
    edges = np.minimum((p * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    rows = []
    for i in range(CALIBRATION_BINS):
        inside = counts[edges == i]
        n = int(inside.sum())
        mean = float((inside.sum(axis=1) * p[edges == i]).sum() / n) if n else float("nan")
        rows.append((n, mean, float(inside[:, 1].sum() / n) if n else float("nan")))
    return tuple(rows)
