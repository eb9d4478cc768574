"""A trial: one candidate learns from the training's rows and is measured on the rows kept apart."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import nightjar
from nightjar.core.errors import SpecError
from nightjar.core.records import Record, code_digest
from nightjar.engine import explain, golden
from nightjar.engine.registry import Registry
from nightjar.engine.trainers import SCORE, candidate_faults, trainer
from nightjar.engine.training.evaluation import Metrics, evaluate
from nightjar.engine.training.report import behind, shown
from nightjar.engine.training.rows import Opened, scratch
from nightjar.engine.work import Work, blank_record


def step(candidate: str) -> str:
    """The step under which a candidate's trial is recorded."""
    return f"train.trial.{candidate}"


def require_right(work: Work) -> None:
    """Raises SpecError with everything wrong with the run's candidates."""
    faults = candidate_faults(work.plan)
    if faults:
        raise SpecError(faults=faults)


def run(work: Work, opened: Opened, name: str) -> Record:
    """Train, measure and keep one candidate, tracked as a run of MLflow.

    The record's details are its `metrics` over all test rows and by slice (`slices`), `seconds` of
    training, `evaluation_seconds` to score the test rows and count what came of it, `model_bytes`
    on disk, and `notes` of its trainer.

    Raises:
        EnvironmentFault: it needs what this session or this machine does not have.
        TrainingRefused, TrainingFailed: as its trainer does.
    """
    as_of = date.fromisoformat(opened.record.ds)
    inputs: dict[date, object] = {
        as_of: [
            opened.record.fingerprint,
            work.plan.spec.candidates[name],
            work.plan.spec.gate.slices,
        ]
    }

    def do(pending: Sequence[date], attempt: str) -> dict[date, Record]:
        registry = Registry(work.project, work.plan.spec.name)
        tags = {"as_of": str(as_of), "candidate": name}
        with (
            registry.run(name, tags) as run_id,
            tempfile.TemporaryDirectory(dir=scratch(work), prefix=f"{attempt}-") as folder,
        ):
            details = _try(work, opened, name, Path(folder))
            registry.log(run_id, _params(work, opened, name), _numbers(details))
            registry.store(run_id, Path(folder))
        counts = {"test rows": int(details["metrics"]["rows"])}
        return {as_of: blank_record(counts=counts, details={"run": run_id, **details})}

    return work.once(step(name), inputs, do)[as_of]


def _try(work: Work, opened: Opened, name: str, folder: Path) -> dict[str, Any]:
    """Leaves the model, its golden rows and `model.json` in `folder`."""
    spec = work.plan.spec
    candidate = spec.candidates[name]
    engine = trainer(candidate.trainer)
    engine.require(work.spark, candidate)
    work.say(f"  training {name} ...")
    started = time.monotonic()
    model = engine.fit(opened.training, candidate)
    seconds = time.monotonic() - started
    started = time.monotonic()
    scored = engine.score(model, opened.test)
    metrics, slices = evaluate(scored, SCORE, spec.label, spec.gate.slices)
    evaluation_seconds = time.monotonic() - started
    engine.save(model, folder / "model")
    size = sum(p.stat().st_size for p in (folder / "model").rglob("*") if p.is_file())
    golden.keep(engine, model, opened.test, folder / "golden")
    notes = engine.notes(model)
    facts = _facts(work, opened, name, metrics) | {"notes": notes}
    (folder / "model.json").write_text(json.dumps(facts, indent=1, sort_keys=True))
    work.say(f"  {name:<16} {shown(metrics, spec.gate.metric)}  ({seconds:.1f} s)")
    if said := behind(metrics, Metrics.from_dict(opened.record.details["base_rate"])):
        work.say(f"  {'':<16} {said}")
    return {
        "metrics": metrics.as_dict(),
        "seconds": round(seconds, 3),
        "evaluation_seconds": round(evaluation_seconds, 3),
        "model_bytes": size,
        "notes": notes,
        "trainer": candidate.trainer,
        "estimator": candidate.estimator,
        "slices": {
            s: {value: part.as_dict() for value, part in found.items()}
            for s, found in slices.items()
        },
    }


def _facts(work: Work, opened: Opened, name: str, metrics: Metrics) -> dict[str, Any]:
    """What a model says of itself wherever it is used."""
    spec = work.plan.spec
    candidate = spec.candidates[name]
    return {
        "pipeline": spec.name,
        "candidate": name,
        "trainer": candidate.trainer,
        "spec": candidate.model_dump(mode="json"),
        "features": spec.features.model_dump(mode="json"),
        "label": spec.label.model_dump(mode="json"),
        "nights": list(opened.nights),
        "test_from": opened.test_from,
        "metrics": {"rows": metrics.rows, **metrics.values},
        explain.TYPICAL: opened.record.details[explain.TYPICAL],
        "golden_rows": min(golden.ROWS, metrics.rows),
        "nightjar": nightjar.__version__,
        "code": code_digest(),
        "spark": work.spark.version,
    }


def _params(work: Work, opened: Opened, name: str) -> dict[str, Any]:
    candidate = work.plan.spec.candidates[name]
    first, last = opened.nights
    return {
        "estimator": candidate.estimator,
        **candidate.model_dump(mode="json", exclude={"params"}),
        **{f"param.{k}": v for k, v in candidate.params.items()},
        "first_night": first,
        "last_night": last,
        "test_from": opened.test_from,
        "code": code_digest(),
    }


def _numbers(details: dict[str, Any]) -> dict[str, float]:
    return {
        **Metrics.from_dict(details["metrics"]).values,
        "rows": details["metrics"]["rows"],
        "training_seconds": details["seconds"],
        "evaluation_seconds": details["evaluation_seconds"],
        "model_bytes": details["model_bytes"],
    }
