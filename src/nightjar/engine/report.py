"""The training report: one picture of how good the candidates are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nightjar.engine.evaluation import Metrics

WIDTH, HEIGHT = 13, 4.2


def draw_training(
    path: Path,
    title: str,
    metrics: Mapping[str, Metrics],
    slices: Mapping[str, Mapping[str, Metrics]],
    best: str,
    smallest_slice: int,
) -> None:
    """Write a PNG: ROC AUC with its interval, calibration, and the best candidate by slice.

    `metrics` is by candidate; `slices` those of `best`, by slice and value. Slices with fewer rows
    than `smallest_slice` are left out, as the gate leaves them out.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    FigureCanvasAgg(figure)
    quality, calibration, parts = figure.subplots(1, 3, width_ratios=(1, 1, 1.2))
    figure.suptitle(title)
    colours = {name: f"C{i}" for i, name in enumerate(metrics)}
    _quality(quality, metrics, colours)
    _calibration(calibration, metrics, colours)
    _slices(parts, slices, best, metrics[best].roc_auc, colours[best], smallest_slice)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _quality(axes: Any, metrics: Mapping[str, Metrics], colours: Mapping[str, str]) -> None:
    for i, (name, found) in enumerate(metrics.items()):
        below, above = found.roc_auc - found.roc_auc_low, found.roc_auc_high - found.roc_auc
        axes.errorbar(
            found.roc_auc, i, xerr=[[below], [above]], fmt="o", capsize=4, color=colours[name]
        )
        axes.annotate(
            f"{found.roc_auc:.4f}",
            (found.roc_auc, i),
            xytext=(0, 9),
            ha="center",
            textcoords="offset points",
        )
    axes.axvline(0.5, color="grey", linestyle=":", label="no skill")
    axes.set_yticks(range(len(metrics)), list(metrics))
    axes.set_ylim(-0.6, len(metrics) - 0.4)
    axes.set_xlabel("ROC AUC on the test window, with 95 % interval")
    axes.legend(loc="lower left", frameon=False)


def _calibration(axes: Any, metrics: Mapping[str, Metrics], colours: Mapping[str, str]) -> None:
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":")
    for name, found in metrics.items():
        points = [(mean, share) for rows, mean, share in found.calibration if rows >= 30]
        axes.plot(*zip(*points, strict=True), marker="o", color=colours[name], label=name)
    axes.set_xlabel("predicted probability")
    axes.set_ylabel("share that came true")
    axes.set_title("Calibration (bins of 30 rows or more)", fontsize=10)
    axes.legend(loc="upper left", frameon=False)


def _slices(
    axes: Any,
    slices: Mapping[str, Mapping[str, Metrics]],
    best: str,
    overall: float,
    colour: str,
    smallest: int,
) -> None:
    rows: Sequence[tuple[str, Metrics]] = [
        (f"{name} {value} ({part.rows:,})", part)
        for name, found in slices.items()
        for value, part in found.items()
        if part.rows >= smallest and 0 < part.positives < part.rows
    ]
    axes.barh(
        [label for label, _ in rows], [part.roc_auc for _, part in rows], color=colour, alpha=0.6
    )
    axes.axvline(overall, color=colour, linestyle="--")
    axes.set_xlim(0.4, 1)
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=8)
    axes.set_xlabel("ROC AUC")
    axes.set_title(f"{best}, by slice (rows)", fontsize=10)
