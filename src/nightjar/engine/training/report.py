"""The training report: how good the candidates are, as a line of text and as one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nightjar.core.pipeline import LARGER_IS_BETTER, METRIC_NAMES, METRICS, Gate, Label
from nightjar.engine.training.evaluation import Metrics

WIDTH, HEIGHT = 13, 4.2
SMALLEST_BIN = 30
BOUND = "firebrick"


def shown(metrics: Metrics, first: str) -> str:
    """The metrics in a line, `first` before the others; with intervals where there are some."""
    kind = next(names for names in METRICS.values() if set(names) <= metrics.values.keys())
    told = []
    for name in sorted(kind, key=lambda name: (name != first, kind.index(name))):
        text = f"{METRIC_NAMES[name]} {metrics[name]:.4f}"
        if name == first and f"{name}_low" in metrics.values:
            low, high = metrics[f"{name}_low"], metrics[f"{name}_high"]
            text += f" [{low:.4f}, {high:.4f}]" if low < high else ""
        told.append(text)
    return "  ".join(told)


def behind(metrics: Metrics, base_rate: Metrics) -> str:
    """Says by which metrics a model is worse than, or like, one answer for all rows; else empty."""
    names = [
        shown_as
        for name, shown_as in METRIC_NAMES.items()
        if name in metrics.values
        and (
            metrics[name] <= base_rate[name]
            if name in LARGER_IS_BETTER
            else metrics[name] >= base_rate[name]
        )
    ]
    return f"no better than the base rate by {', '.join(names)}" if names else ""


def draw_training(
    path: Path,
    title: str,
    label: Label,
    gate: Gate,
    metrics: Mapping[str, Metrics],
    slices: Mapping[str, Mapping[str, Metrics]],
    best: str,
    base_rate: Metrics,
    champion: tuple[str, Metrics] | None,
) -> None:
    """Write a PNG: the gate's metric with its interval, what the scores are worth, and the slices.

    `metrics` is by candidate; `slices` those of `best`, by slice and value. Slices are left out as
    the gate leaves them out. `base_rate` has the metrics of one answer for all rows; `champion` is
    the standing one's name and its metrics on the same rows, where it was compared.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    FigureCanvasAgg(figure)
    quality, worth, parts = figure.subplots(1, 3, width_ratios=(1, 1, 1.2))
    figure.suptitle(title)
    colours = {name: f"C{i}" for i, name in enumerate(metrics)}
    _quality(quality, metrics, gate, colours, base_rate, champion)
    if label.kind == "binary":
        _calibration(worth, metrics, colours)
    elif label.kind == "multiclass":
        _classes(worth, metrics[best], label, best, colours[best])
    else:
        _errors(worth, metrics, colours)
    _slices(parts, slices, gate, best, metrics[best][gate.metric], colours[best])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _quality(
    axes: Any,
    metrics: Mapping[str, Metrics],
    gate: Gate,
    colours: Mapping[str, str],
    base_rate: Metrics,
    champion: tuple[str, Metrics] | None,
) -> None:
    name = gate.metric
    for i, (candidate, found) in enumerate(metrics.items()):
        at = found[name]
        low, high = (found.values.get(f"{name}_{end}", at) for end in ("low", "high"))
        around = [[max(0.0, at - low)], [max(0.0, high - at)]]
        axes.errorbar(at, i, xerr=around, fmt="o", capsize=4, color=colours[candidate])
        axes.annotate(f"{at:.4f}", (at, i), xytext=(0, 9), ha="center", textcoords="offset points")
    axes.axvline(base_rate[name], color="grey", linestyle=":", label="base rate")
    axes.axvline(gate.bound, color=BOUND, linestyle="--", label=f"gate {gate.bound:g}")
    if champion is not None:
        label, found = champion
        axes.axvline(found[name], color="black", label=f"{label} {found[name]:.4f}")
    axes.set_yticks(range(len(metrics)), list(metrics))
    axes.set_ylim(-0.6, len(metrics) - 0.4)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=3, frameon=False, fontsize=8)
    has_interval = all(f"{name}_low" in found.values for found in metrics.values())
    axes.set_xlabel(
        f"{METRIC_NAMES[name]} on the test window" + ", with 95 % interval" * has_interval
    )


def _calibration(axes: Any, metrics: Mapping[str, Metrics], colours: Mapping[str, str]) -> None:
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":")
    for name, found in metrics.items():
        points = [(mean, share) for rows, mean, share in found.picture if rows >= SMALLEST_BIN]
        axes.plot(*zip(*points, strict=True), marker="o", color=colours[name], label=name)
    axes.set_xlabel("predicted probability")
    axes.set_ylabel("share that came true")
    axes.set_title(f"Calibration (bins of {SMALLEST_BIN} rows or more)", fontsize=10)
    axes.legend(loc="upper left", frameon=False)


def _classes(axes: Any, metrics: Metrics, label: Label, best: str, colour: str) -> None:
    places = range(len(label.classes))
    names = [f"{n} ({int(r[0]):,})" for n, r in zip(label.classes, metrics.picture, strict=True)]
    for shift, column, name, alpha in ((-0.2, 1, "precision", 0.9), (0.2, 2, "recall", 0.5)):
        values = [row[column] for row in metrics.picture]
        at = [place + shift for place in places]
        axes.barh(at, values, 0.38, color=colour, alpha=alpha, label=name)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.legend(loc="lower right")
    axes.set_title(f"{best}, by class (rows)", fontsize=10)


def _errors(axes: Any, metrics: Mapping[str, Metrics], colours: Mapping[str, str]) -> None:
    for name, found in metrics.items():
        sizes = [(size, share) for share, size in found.picture]
        axes.plot(*zip(*sizes, strict=True), marker="o", color=colours[name], label=name)
    axes.set_xlabel("error, in the label's unit")
    axes.set_ylabel("share of rows with no larger one")
    axes.set_ylim(0, 1)
    axes.set_title("Errors", fontsize=10)
    axes.legend(loc="lower right", frameon=False)


def _slices(
    axes: Any,
    slices: Mapping[str, Mapping[str, Metrics]],
    gate: Gate,
    best: str,
    overall: float,
    colour: str,
) -> None:
    rows: Sequence[tuple[str, Metrics]] = [
        (f"{name} {value} ({part.rows:,})", part)
        for name, found in slices.items()
        for value, part in found.items()
        if part.rows >= gate.smallest_slice and part.is_whole
    ]
    values = [part[gate.metric] for _, part in rows]
    axes.barh([label for label, _ in rows], values, color=colour, alpha=0.6)
    axes.axvline(overall, color=colour, linestyle="--")
    if gate.slice_bound is not None:
        axes.axvline(gate.slice_bound, color=BOUND, linestyle="--")
    if gate.metric == "roc_auc":
        axes.set_xlim(0.4, 1)
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=8)
    axes.set_xlabel(METRIC_NAMES[gate.metric])
    axes.set_title(f"{best}, by slice (rows)", fontsize=10)
