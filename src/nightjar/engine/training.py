"""Training: candidates learn from the same rows, and the best one is promoted on evidence."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock
from pathlib import Path
from typing import Any

from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

import nightjar
from nightjar.core.errors import NotThereYet, SpecError, TrainingRefused
from nightjar.core.pipeline import Gate
from nightjar.core.records import Record, code_digest
from nightjar.engine import explain, features, golden
from nightjar.engine.evaluation import Metrics, evaluate
from nightjar.engine.lake import read_folder
from nightjar.engine.registry import Registry
from nightjar.engine.report import draw_training
from nightjar.engine.stages.features import silver_frames, silver_records
from nightjar.engine.trainers import SCORE, TrainingSet, candidate_faults, trainer
from nightjar.engine.work import Work, blank_record

SMALLEST_CLASS = 20
ROWS_A_PARTITION = 250_000
BASE_RATE = "base_rate"


@dataclass(frozen=True)
class Trial:
    """One candidate, trained and measured on the test window.

    `evaluation_seconds` is the time to score the test rows and count what came of it; `size` that
    of the model's files in bytes; `notes` what its trainer says of the training.
    """

    candidate: str
    run_id: str
    metrics: Metrics
    slices: Mapping[str, Mapping[str, Metrics]]
    seconds: float
    evaluation_seconds: float
    size: int
    notes: Mapping[str, Any]
    refused: tuple[str, ...]


def train(work: Work, as_of: date) -> Record:
    """Train the pipeline's candidates on what is known on the day `as_of`; promote the best.

    The rows are those of the loaded nights of the split's history whose labels are known by then.

    Raises:
        SpecError: a candidate's estimator or parameters are wrong.
        EnvironmentFault: a candidate needs what this session or this machine does not have.
        NotThereYet: no night that can be learnt from is loaded.
        TrainingRefused: the rows cannot give a model that means anything.
    """
    faults = candidate_faults(work.plan)
    if faults:
        raise SpecError(faults=faults)
    spec = work.plan.spec
    nights = known_nights(work, as_of)
    used = {source: silver_records(work, source, nights) for source in spec.sources}
    inputs: dict[date, object] = {
        as_of: [
            spec.features,
            spec.label,
            spec.split,
            spec.candidates,
            spec.gate,
            {s: {str(d): r.fingerprint for d, r in found.items()} for s, found in used.items()},
        ]
    }

    def do(pending: object, attempt: str) -> dict[date, Record]:
        for candidate in spec.candidates.values():
            trainer(candidate.trainer).require(work.spark, candidate)
        cutoff = datetime.combine(nights[-1] + timedelta(days=1), clock.min, UTC) - spec.split.test
        with tempfile.TemporaryDirectory(dir=_scratch(work), prefix=f"{attempt}-") as scratch:
            session = _Session(work, as_of, nights, cutoff, Path(scratch))
            return {as_of: session.run(features.build(work.plan, silver_frames(work, used)))}

    return work.once("train", inputs, do)[as_of]


def known_nights(work: Work, as_of: date) -> list[date]:
    """The loaded nights of the split's history whose labels are known on the day `as_of`.

    Raises:
        NotThereYet: there is none.
    """
    spec = work.plan.spec
    base = spec.features.base
    loaded = work.book.nights(f"validate.{base}")
    last = as_of - spec.label.known_after
    nights = [ds for ds in loaded if last - spec.split.history < ds <= last]
    if not nights:
        raise NotThereYet(
            f"no night of '{base}' whose labels are known on {as_of} is loaded; load some first: "
            f"nightjar load {spec.name} --from YYYY-MM-DD --to YYYY-MM-DD",
            loaded=[str(ds) for ds in loaded[-5:]],
        )
    return nights


def _scratch(work: Work) -> Path:
    folder = work.project.warehouse / "training" / work.plan.spec.name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class _Session:
    """One training: rows, split, trials, gate."""

    def __init__(
        self, work: Work, as_of: date, nights: list[date], cutoff: datetime, scratch: Path
    ) -> None:
        self.work, self.as_of, self.nights, self.cutoff = work, as_of, nights, cutoff
        self.scratch = scratch
        self.spec = work.plan.spec
        self.label = self.spec.label.name
        self.key = work.plan.contract_of(self.spec.features.base).primary_key
        self.registry = Registry(work.project, self.spec.name)
        self.typical: dict[str, float | str | None] = {}

    def run(self, built: DataFrame) -> Record:
        self.work.say(
            f"  {len(self.nights)} nights, {self.nights[0]} to {self.nights[-1]}; "
            f"tested on rows from {self.cutoff:%Y-%m-%d %H:%M} UTC"
        )
        folder = self.scratch / "features"
        labelled = built.where(F.col(self.label).isNotNull())
        is_test = F.col(self.spec.split.by) >= F.lit(self.cutoff)
        labelled.withColumn("part", F.when(is_test, "test").otherwise("train")).write.partitionBy(
            "part"
        ).parquet(str(folder))
        schema = features.schema(self.work.plan)
        train = read_folder(self.work.spark, schema, folder / "part=train")
        test = read_folder(self.work.spark, schema, folder / "part=test")
        train, shared = without_rows_of(train, test, self.key)
        if shared:
            self.work.say(f"  {shared:,} rows are tested on too, and are not learnt from")
        rows = {**self._count(train, test), "shared": shared}
        training = TrainingSet.of(
            train,
            self.spec.features,
            self.spec.label,
            self.key,
            _scratch(self.work),
            features.WEIGHT if self.spec.label.weight is not None else None,
            self.work.say,
        )
        # Cached in a fixed order, which every trainer starts from.
        train = training.in_fixed_order(max(8, rows["train"] // ROWS_A_PARTITION))
        training = replace(training, rows=train.persist(StorageLevel.MEMORY_AND_DISK))
        try:
            self.typical = explain.typical(training.rows, self.spec.features)
            trials = [self._trial(name, training, test) for name in self.spec.candidates]
            constant = test.withColumn(SCORE, F.lit(rows["train_positives"] / rows["train"]))
            base_rate, _ = evaluate(constant, SCORE, self.label)
            return self._decide(trials, test, base_rate, rows)
        finally:
            training.rows.unpersist()

    def _count(self, train: DataFrame, test: DataFrame) -> dict[str, int]:
        """Count rows and positives; refuse what is too little to mean anything."""
        counts = {}
        for name, rows in (("train", train), ("test", test)):
            row = rows.agg(F.count(F.lit(1)).alias("n"), F.sum(self.label).alias("p")).first()
            counts[name] = int(row["n"]) if row else 0
            counts[f"{name}_positives"] = int(row["p"] or 0) if row else 0
        for name in ("train", "test"):
            positives = counts[f"{name}_positives"]
            smaller = min(positives, counts[name] - positives)
            if smaller < SMALLEST_CLASS:
                raise TrainingRefused(
                    f"the {name} rows hold {positives} positives of {counts[name]}; at least "
                    f"{SMALLEST_CLASS} of each class are needed. Load more nights, or look at "
                    f"label '{self.label}': {self.spec.label.expr}",
                    **counts,
                )
        return counts

    def _draw(self, trials: list[Trial], best: Trial) -> Path:
        folder = self.work.project.warehouse / "reports" / self.spec.name
        path = folder / f"train-{self.as_of}-{best.run_id[:8]}.png"
        title = (
            f"{self.spec.name}, trained as of {self.as_of}: {best.metrics.rows:,} test rows "
            f"from {self.cutoff:%Y-%m-%d}"
        )
        metrics = {t.candidate: t.metrics for t in trials}
        draw_training(
            path, title, metrics, best.slices, best.candidate, self.spec.gate.smallest_slice
        )
        self.registry.log_file(best.run_id, path)
        return path

    def _trial(self, name: str, training: TrainingSet, test: DataFrame) -> Trial:
        candidate = self.spec.candidates[name]
        engine = trainer(candidate.trainer)
        with self.registry.run(name, {"as_of": str(self.as_of), "candidate": name}) as run_id:
            self.work.say(f"  training {name} ...")
            started = time.monotonic()
            model = engine.fit(training, candidate)
            seconds = time.monotonic() - started
            started = time.monotonic()
            metrics, slices = evaluate(
                engine.score(model, test), SCORE, self.label, self.spec.gate.slices
            )
            scoring = time.monotonic() - started
            folder = self.scratch / name
            folder.mkdir()
            engine.save(model, folder / "model")
            size = sum(p.stat().st_size for p in (folder / "model").rglob("*") if p.is_file())
            golden.keep(engine, model, test, folder / "golden")
            facts = self._facts(name, metrics, engine.notes(model))
            (folder / "model.json").write_text(json.dumps(facts, indent=1, sort_keys=True))
            self.registry.log(
                run_id,
                {
                    "estimator": candidate.estimator,
                    **candidate.model_dump(mode="json", exclude={"params"}),
                    **{f"param.{k}": v for k, v in candidate.params.items()},
                    "first_night": self.nights[0],
                    "last_night": self.nights[-1],
                    "test_from": self.cutoff.isoformat(),
                    "code": code_digest(),
                },
                {
                    **metrics.as_dict(),
                    "training_seconds": seconds,
                    "evaluation_seconds": scoring,
                    "model_bytes": size,
                },
            )
            self.registry.store(run_id, folder)
            shutil.rmtree(folder)
        refused = tuple(gate_faults(metrics, slices, self.spec.gate))
        self.work.say(
            f"  {name:<16} ROC AUC {metrics.roc_auc:.4f} "
            f"[{metrics.roc_auc_low:.4f}, {metrics.roc_auc_high:.4f}]  "
            f"log loss {metrics.log_loss:.4f}  ({seconds:.1f} s)"
        )
        return Trial(name, run_id, metrics, slices, seconds, scoring, size, facts["notes"], refused)

    def _facts(self, name: str, metrics: Metrics, notes: dict[str, Any]) -> dict[str, Any]:
        candidate = self.spec.candidates[name]
        return {
            "pipeline": self.spec.name,
            "candidate": name,
            "trainer": candidate.trainer,
            "spec": candidate.model_dump(mode="json"),
            "features": self.spec.features.model_dump(mode="json"),
            "label": self.spec.label.model_dump(mode="json"),
            "nights": [str(self.nights[0]), str(self.nights[-1])],
            "test_from": self.cutoff.isoformat(),
            "metrics": metrics.as_dict(),
            explain.TYPICAL: self.typical,
            "notes": notes,
            "golden_rows": min(golden.ROWS, metrics.rows),
            "nightjar": nightjar.__version__,
            "code": code_digest(),
            "spark": self.work.spark.version,
        }

    def _decide(
        self, trials: list[Trial], test: DataFrame, base_rate: Metrics, rows: dict[str, int]
    ) -> Record:
        best = max(trials, key=lambda t: t.metrics.roc_auc)
        champion = self.registry.champion()
        reasons = list(best.refused)
        standing: Metrics | None = None
        if champion is not None and not reasons:
            engine = trainer(champion.facts["trainer"])
            loaded = engine.load(self.work.spark, champion.folder / "model")
            standing, _ = evaluate(engine.score(loaded, test), SCORE, self.label)
            needed = standing.roc_auc + self.spec.gate.gain
            if best.metrics.roc_auc < needed:
                reasons.append(
                    f"ROC AUC {best.metrics.roc_auc:.4f} is below {needed:.4f}, what the champion "
                    f"{champion.label} shows on the same rows (gain {self.spec.gate.gain:g})"
                )
        promoted = None
        if not reasons:
            promoted = self.registry.register(best.run_id)
            engine = trainer(promoted.facts["trainer"])
            loaded = engine.load(self.work.spark, promoted.folder / "model")
            golden.replay(self.work.spark, engine, loaded, promoted)
            self.registry.promote(promoted)
            self.work.say(f"  {promoted.label} ({best.candidate}) is the champion")
        else:
            self.work.say(f"  not promoted: {'; '.join(reasons)}")
        picture = self._draw(trials, best)
        return blank_record(
            counts={"train rows": rows["train"], "test rows": rows["test"]},
            details={
                "champion": promoted.label if promoted else champion and champion.label,
                "promoted": promoted is not None,
                "reasons": reasons,
                "best": best.candidate,
                "report": self.work.project.relative(picture),
                "nights": [str(self.nights[0]), str(self.nights[-1])],
                "test_from": self.cutoff.isoformat(),
                "shared_rows": rows["shared"],
                "base_rate": base_rate.as_dict(),
                "champion_before": standing.as_dict() if standing else None,
                "candidates": {
                    t.candidate: {
                        **t.metrics.as_dict(),
                        "seconds": round(t.seconds, 3),
                        "evaluation_seconds": round(t.evaluation_seconds, 3),
                        "model_bytes": t.size,
                        "notes": dict(t.notes),
                        "run": t.run_id,
                        "trainer": self.spec.candidates[t.candidate].trainer,
                        "estimator": self.spec.candidates[t.candidate].estimator,
                        "refused": list(t.refused),
                        "calibration": t.metrics.calibration,
                        "slices": {
                            s: {value: m.as_dict() for value, m in found.items()}
                            for s, found in t.slices.items()
                        },
                    }
                    for t in trials
                },
            },
        )


def without_rows_of(train: DataFrame, test: DataFrame, key: Sequence[str]) -> tuple[DataFrame, int]:
    """`train` without the rows whose key is in `test` too, and how many these are.

    A row that was delivered on two nights could else be learnt by heart and then tested on.
    """
    keys = test.select(*key).distinct()
    shared = train.join(keys, list(key), "left_semi").count()
    return (train.join(keys, list(key), "left_anti") if shared else train), shared


def gate_faults(
    metrics: Metrics, slices: Mapping[str, Mapping[str, Metrics]], gate: Gate
) -> list[str]:
    """Why a candidate may not become champion; empty where it may.

    A slice counts where it has `smallest_slice` rows and both classes.
    """
    faults = []
    if not metrics.roc_auc >= gate.at_least:
        faults.append(f"ROC AUC {metrics.roc_auc:.4f} is below {gate.at_least:g}")
    for name, found in slices.items():
        for value, part in found.items():
            big = part.rows >= gate.smallest_slice and 0 < part.positives < part.rows
            if big and not part.roc_auc >= gate.slices_at_least:
                faults.append(
                    f"ROC AUC {part.roc_auc:.4f} where {name} is {value} ({part.rows} rows) is "
                    f"below {gate.slices_at_least:g}"
                )
    return faults
