"""How good scores are, from one pass over the rows and memory that does not grow with them.

Probabilities are counted in 10,001 bins of width 1e-4, by label and slice. ROC AUC is the
Mann-Whitney statistic of the binned scores (ties count one half), which differs from that of the
unbinned ones by less than the share of pairs within one bin; with several classes it is the mean of
each class against the others (Hand and Till 2001, one against the rest). Errors of numbers are
counted in bins of three significant digits, and summed exactly in each. Intervals are percentile
bootstraps (Efron 1979): resampling n rows is a multinomial draw of the bin counts, so it needs the
bins alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from nightjar.core.pipeline import Label
from nightjar.engine.trainers import likeliest

BINS = 10_000
RESAMPLES = 200
CALIBRATION_BINS = 10
ERROR_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)

Counts = NDArray[np.int64]
Table = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Metrics:
    """Quality of scores on some rows.

    `values` has the metrics of the label's kind, for those with a 95 % interval also `NAME_low` and
    `NAME_high`, and what is known beside (`positives`, `bias`). `picture` is what a report draws:
    of probabilities, for ten bins of equal width, rows, mean score and share of positives; of
    classes, for each, rows, precision and recall; of numbers, shares of the rows and the error that
    is not exceeded in them. `is_whole` says whether the rows hold what the metrics need: every
    class, and of numbers some that differ.
    """

    rows: int
    values: Mapping[str, float]
    picture: tuple[tuple[float, ...], ...] = ()
    is_whole: bool = True

    def __getitem__(self, name: str) -> float:
        return self.values[name]

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values; `from_dict` is the way back."""
        return {
            "rows": self.rows,
            **self.values,
            "picture": [list(row) for row in self.picture],
            "is_whole": self.is_whole,
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Metrics:
        """What `as_dict` gave; a missing number (None) is NaN."""
        rest = {"rows", "picture", "is_whole"}
        return cls(
            found["rows"],
            {name: _number(value) for name, value in found.items() if name not in rest},
            tuple(tuple(map(_number, row)) for row in found["picture"]),
            found["is_whole"],
        )


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def evaluate(
    scored: DataFrame, score: str, label: Label, slices: Sequence[str] = ()
) -> tuple[Metrics, dict[str, dict[str, Metrics]]]:
    """Metrics over all rows of `scored` that have a label, and by each value of each slice.

    `score` is as trainers make it; the label as feature rows have it.
    """
    rows = scored.where(F.col(label.name).isNotNull()).select(
        F.col(score).alias("_score"),
        F.col(label.name).alias("_label"),
        *[F.coalesce(F.col(s).cast("string"), F.lit("(missing)")).alias(s) for s in slices],
    )
    kind = _KINDS[label.kind]
    keyed, keys = kind.keyed(rows)
    sets = [keys, *[[*keys, s] for s in slices]]
    counted = keyed.groupingSets([[F.col(n) for n in names] for names in sets], *keys, *slices).agg(
        F.count(F.lit(1)).alias("_n"), *kind.sums()
    )
    names = [name for name in counted.columns if name not in slices]
    groups: dict[tuple[str, str] | None, list[tuple[Any, ...]]] = {None: []}
    for row in counted.toLocalIterator():
        of = next(((s, row[s]) for s in slices if row[s] is not None), None)
        groups.setdefault(of, []).append(tuple(row[name] for name in names))

    def measured(of: tuple[str, str] | None, resamples: int) -> Metrics:
        columns = zip(*groups[of], strict=True) if groups[of] else [()] * len(names)
        table = {name: np.array(c) for name, c in zip(names, columns, strict=True)}
        return kind.measure(table, label, resamples)

    by_slice: dict[str, dict[str, Metrics]] = {s: {} for s in slices}
    for of in sorted(group for group in groups if group is not None):
        by_slice[of[0]][of[1]] = measured(of, 0)
    return measured(None, RESAMPLES), by_slice


# -- probabilities ---------------------------------------------------------------------------------


def _bin(score: Column) -> Column:
    return F.round(score * BINS).cast("int")


def _binary_keys(rows: DataFrame) -> tuple[DataFrame, list[str]]:
    binned = rows.withColumn("_bin", _bin(F.col("_score")))
    return binned.withColumn("_label", F.col("_label").cast("int")), ["_bin", "_label"]


def _binary(table: Table, label: Label, resamples: int) -> Metrics:
    del label
    counts = np.zeros((BINS + 1, 2), dtype=np.int64)
    if len(table["_n"]):
        counts[table["_bin"], table["_label"]] = table["_n"]
    return measure(counts, resamples)


def measure(counts: Counts, resamples: int = RESAMPLES, seed: int = 0) -> Metrics:
    """Metrics of binned scores. `counts` has shape (bins, 2): negatives and positives by bin."""
    p = np.arange(len(counts)) / (len(counts) - 1)
    losses = _losses(len(counts))
    costs = np.stack([losses[::-1], losses], axis=1), np.stack([p**2, (1 - p) ** 2], axis=1)
    total, positives = int(counts.sum()), int(counts[:, 1].sum())

    def means(counts: Any) -> tuple[float, ...]:
        rows = max(total, 1)
        return roc_auc(counts), *(float((counts * cost).sum() / rows) for cost in costs)

    names = ("roc_auc", "log_loss", "brier")
    values = dict(zip(names, means(counts), strict=True)) | {"positives": positives}
    is_whole = 0 < positives < total
    if resamples:
        values |= _intervals(counts, means, names, resamples if is_whole else 0, seed)
    return Metrics(total, values, _calibration(counts, p), is_whole)


def _losses(bins: int) -> NDArray[np.float64]:
    """The log loss of each bin's probability, never endless: half a bin is the least."""
    p = np.arange(bins) / (bins - 1)
    return np.asarray(-np.log(np.clip(p, 0.5 / (bins - 1), 1 - 0.5 / (bins - 1))))


def roc_auc(counts: Any) -> float:
    """The chance that a positive scores above a negative; NaN with one class alone."""
    negatives, positives = counts[:, 0], counts[:, 1]
    pairs = float(negatives.sum()) * float(positives.sum())
    if pairs == 0:
        return float("nan")
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + negatives / 2)).sum() / pairs)


def _intervals(
    counts: NDArray[Any],
    means: Callable[[NDArray[Any]], tuple[float, ...]],
    names: Sequence[str],
    resamples: int,
    seed: int,
) -> dict[str, float]:
    """95 % intervals of what `means` says of counts of bins (the first axis), NaN with no draw."""
    if not resamples:
        return {f"{name}_{end}": float("nan") for name in names for end in ("low", "high")}
    generator = np.random.default_rng(seed)
    total = int(counts.sum())
    used = np.flatnonzero(counts.reshape(len(counts), -1).sum(axis=1))
    kept = counts[used]
    draw = np.zeros_like(counts)
    found = []
    for _ in range(resamples):
        draw[used] = generator.multinomial(total, kept.ravel() / total).reshape(kept.shape)
        found.append(means(draw))
    low, high = np.nanpercentile(np.array(found), [2.5, 97.5], axis=0)
    ends = {f"{name}_low": float(value) for name, value in zip(names, low, strict=True)}
    return ends | {f"{name}_high": float(value) for name, value in zip(names, high, strict=True)}


def _calibration(counts: Counts, p: NDArray[Any]) -> tuple[tuple[float, ...], ...]:
    edges = np.minimum((p * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    rows = []
    for i in range(CALIBRATION_BINS):
        inside = counts[edges == i]
        n = int(inside.sum())
        mean = float((inside.sum(axis=1) * p[edges == i]).sum() / n) if n else float("nan")
        rows.append((n, mean, float(inside[:, 1].sum() / n) if n else float("nan")))
    return tuple(rows)


# -- classes ---------------------------------------------------------------------------------------


def _class_keys(rows: DataFrame) -> tuple[DataFrame, list[str]]:
    """A row for each class: its place, its binned probability, is it true, is it the likeliest."""
    exploded = rows.withColumn("_likeliest", likeliest("_score")).select(
        "*", F.posexplode("_score").alias("_class", "_p")
    )
    keyed = exploded.select(
        *[c for c in rows.columns if not c.startswith("_")],
        "_class",
        _bin(F.col("_p")).alias("_bin"),
        (F.col("_class") == F.col("_label")).cast("int").alias("_true"),
        (F.col("_class") == F.col("_likeliest")).cast("int").alias("_said"),
    )
    return keyed, ["_class", "_bin", "_true", "_said"]


def _classes(table: Table, label: Label, resamples: int) -> Metrics:
    classes = label.codes
    n, is_true, said = table["_n"].astype(np.int64), table["_true"] == 1, table["_said"] == 1
    # Every row is once the row of its true class: by bin, and whether that was the likeliest.
    own = np.zeros((BINS + 1, 2), dtype=np.int64)
    np.add.at(own, (table["_bin"][is_true].astype(int), said[is_true].astype(int)), n[is_true])
    total, losses = int(own.sum()), _losses(BINS + 1)

    def means(own: Any) -> tuple[float, ...]:
        rows = max(total, 1)
        return float(own[:, 1].sum() / rows), float((own.sum(axis=1) * losses).sum() / rows)

    areas, picture = [], []
    for code in range(classes):
        mine = table["_class"] == code
        counts = np.zeros((BINS + 1, 2), dtype=np.int64)
        np.add.at(counts, (table["_bin"][mine].astype(int), is_true[mine].astype(int)), n[mine])
        areas.append(roc_auc(counts))
        hits = int(n[mine & is_true & said].sum())
        picture.append(
            (
                int(n[mine & is_true].sum()),
                _share(hits, int(n[mine & said].sum())),
                _share(hits, int(n[mine & is_true].sum())),
            )
        )
    names = ("accuracy", "log_loss")
    values = dict(zip(names, means(own), strict=True)) | {"roc_auc": float(np.mean(areas))}
    is_whole = all(rows for rows, _, _ in picture)
    if resamples:
        values |= _intervals(own, means, names, resamples if total else 0, 0)
    return Metrics(total, values, tuple(picture), is_whole)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


# -- numbers ---------------------------------------------------------------------------------------


def _error_keys(rows: DataFrame) -> tuple[DataFrame, list[str]]:
    error = F.col("_score") - F.col("_label")
    step = F.pow(F.lit(10.0), F.floor(F.log10(F.abs("_error"))) - 2)
    rounded = F.when(F.col("_error") == 0, 0.0).otherwise(F.round(F.col("_error") / step) * step)
    return rows.withColumn("_error", error).withColumn("_bin", rounded), ["_bin"]


def _error_sums() -> list[Column]:
    return [
        F.mean("_error").alias("_bias"),
        F.mean(F.abs("_error")).alias("_absolute"),
        F.mean(F.col("_error") ** 2).alias("_squared"),
        F.mean("_label").alias("_mean"),
        F.var_pop("_label").alias("_variance"),
    ]


def _numbers(table: Table, label: Label, resamples: int) -> Metrics:
    del label
    n = table["_n"].astype(np.int64)
    total = int(n.sum())
    if total == 0:
        nothing = dict.fromkeys(("rmse", "mae", "r2", "bias"), float("nan"))
        return Metrics(0, nothing, is_whole=False)

    def mean(values: NDArray[Any], counts: Any = n) -> float:
        return float((counts * values).sum() / total)

    centre = mean(table["_mean"])
    variance = mean(table["_variance"] + (table["_mean"] - centre) ** 2)
    squared = mean(table["_squared"])
    is_whole = variance > 0

    def errors(counts: Any) -> tuple[float, ...]:
        return mean(table["_squared"], counts) ** 0.5, mean(table["_absolute"], counts)

    names = ("rmse", "mae")
    values = dict(zip(names, errors(n), strict=True))
    values["r2"] = 1 - squared / variance if is_whole else float("nan")
    values["bias"] = mean(table["_bias"])
    if resamples:
        values |= _intervals(n, errors, names, resamples, 0)
    order = np.argsort(table["_absolute"], kind="stable")
    share = np.cumsum(n[order]) / total
    places = np.searchsorted(share, ERROR_QUANTILES)
    sizes = table["_absolute"][order][np.minimum(places, len(order) - 1)]
    picture = tuple((q, float(size)) for q, size in zip(ERROR_QUANTILES, sizes, strict=True))
    return Metrics(total, values, picture, is_whole)


# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Kind:
    keyed: Callable[[DataFrame], tuple[DataFrame, list[str]]]
    measure: Callable[[Table, Label, int], Metrics]
    sums: Callable[[], list[Column]] = list


_KINDS = {
    "binary": _Kind(_binary_keys, _binary),
    "multiclass": _Kind(_class_keys, _classes),
    "regression": _Kind(_error_keys, _numbers, _error_sums),
}
