"""The decision: is the best of the tried candidates good enough, and better than the champion?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from nightjar.core.pipeline import METRIC_NAMES, Gate
from nightjar.core.records import Record
from nightjar.engine import golden
from nightjar.engine.registry import Registry
from nightjar.engine.trainers import SCORE, trainer
from nightjar.engine.training.evaluation import Metrics, evaluate
from nightjar.engine.training.report import draw_training
from nightjar.engine.training.rows import Opened
from nightjar.engine.work import Work, blank_record


def decide(work: Work, opened: Opened, tried: Mapping[str, Record]) -> Record:
    """Promote the best of the candidates, if the gate lets it; `tried` has their trials' records.

    Raises:
        GoldenMismatch: the best or the champion does not give the scores that it gave when it was
            trained, or is not the model that was kept.
    """
    gate, registry = work.plan.spec.gate, Registry(work.project, work.plan.spec.name)
    metrics = {name: Metrics.from_dict(r.details["metrics"]) for name, r in tried.items()}
    slices = {
        name: {
            s: {value: Metrics.from_dict(part) for value, part in found.items()}
            for s, found in record.details["slices"].items()
        }
        for name, record in tried.items()
    }
    refused = {name: gate_faults(metrics[name], slices[name], gate) for name in tried}
    sign = 1 if gate.larger else -1
    best = max(tried, key=lambda name: sign * metrics[name][gate.metric])
    run = str(tried[best].details["run"])
    champion = registry.champion()
    reasons = list(refused[best])
    standing: Metrics | None = None
    misfit = champion.misfit(work.plan.spec) if champion else ""
    if champion is not None and misfit:
        work.say(f"  the champion {champion.label} is not compared: {misfit}")
    elif champion is not None and not reasons:
        engine = trainer(champion.facts["trainer"])
        loaded = engine.load(work.spark, champion.folder / "model")
        scored = engine.score(loaded, opened.test)
        standing, _ = evaluate(scored, SCORE, work.plan.spec.label)
        needed = standing[gate.metric] + sign * gate.gain
        if not gate.holds(metrics[best][gate.metric], needed):
            reasons.append(
                f"{_beyond(metrics[best], gate, needed, digits=4)}, what the champion "
                f"{champion.label} shows on the same rows (gain {gate.gain:g})"
            )
    promoted = None
    if not reasons:
        promoted = registry.register(run)
        engine = trainer(promoted.facts["trainer"])
        loaded = engine.load(work.spark, promoted.folder / "model")
        golden.replay(work.spark, engine, loaded, promoted)
        registry.promote(promoted)
        work.say(f"  {promoted.label} ({best}) is the champion")
    else:
        work.say(f"  not promoted: {'; '.join(reasons)}")
    told = opened.record
    compared = (champion.label, standing) if champion and standing else None
    picture = _draw(work, opened, metrics, slices[best], best, compared, run)
    registry.log_file(run, picture)
    return blank_record(
        counts=told.counts,
        details={
            "champion": promoted.label if promoted else champion and champion.label,
            "promoted": promoted is not None,
            "reasons": reasons,
            "metric": gate.metric,
            "best": best,
            "report": work.project.relative(picture),
            **{name: told.details[name] for name in ("nights", "test_from", "shared_rows")},
            "base_rate": told.details["base_rate"],
            "champion_before": standing.as_dict() if standing else None,
            "candidates": {
                name: {**record.details, "refused": refused[name]} for name, record in tried.items()
            },
        },
    )


def gate_faults(
    metrics: Metrics, slices: Mapping[str, Mapping[str, Metrics]], gate: Gate
) -> list[str]:
    """Why a candidate may not become champion; empty where it may.

    A slice counts where it has `smallest_slice` rows and all that the metric needs.
    """
    faults = []
    if not gate.holds(metrics[gate.metric], gate.bound):
        faults.append(_beyond(metrics, gate, gate.bound))
    for name, found in slices.items():
        for value, part in found.items():
            if gate.slice_bound is None or part.rows < gate.smallest_slice or not part.is_whole:
                continue
            if not gate.holds(part[gate.metric], gate.slice_bound):
                where = f" where {name} is {value} ({part.rows} rows)"
                faults.append(_beyond(part, gate, gate.slice_bound, where))
    return faults


def _beyond(metrics: Metrics, gate: Gate, bound: float, where: str = "", digits: int = 0) -> str:
    is_on = "below" if gate.larger else "above"
    limit = f"{bound:.{digits}f}" if digits else f"{bound:g}"
    return f"{METRIC_NAMES[gate.metric]} {metrics[gate.metric]:.4f}{where} is {is_on} {limit}"


def _draw(
    work: Work,
    opened: Opened,
    metrics: Mapping[str, Metrics],
    slices: Mapping[str, Mapping[str, Metrics]],
    best: str,
    champion: tuple[str, Metrics] | None,
    run: str,
) -> Path:
    spec, as_of = work.plan.spec, opened.record.ds
    folder = work.project.warehouse / "reports" / spec.name
    path = folder / f"train-{as_of}-{run[:8]}.png"
    title = (
        f"{spec.name}, trained as of {as_of}: {metrics[best].rows:,} test rows "
        f"from {opened.test_from[:10]}"
    )
    base_rate = Metrics.from_dict(opened.record.details["base_rate"])
    draw_training(path, title, spec.label, spec.gate, metrics, slices, best, base_rate, champion)
    return path
