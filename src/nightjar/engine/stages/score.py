"""Score: the night's feature rows through the champion, as the contract of the scores says."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import date

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from nightjar.core.errors import NotThereYet
from nightjar.core.plan import MODEL_VERSION, Plan, probability_column
from nightjar.core.records import Record
from nightjar.engine import explain, features
from nightjar.engine.lake import count_rows, read_folder
from nightjar.engine.layout import compact
from nightjar.engine.quality.types import typed_schema
from nightjar.engine.registry import Registry
from nightjar.engine.stages.features import ROWS
from nightjar.engine.trainers import SCORE, likeliest, trainer
from nightjar.engine.work import Work, blank_record

SCORES = "scores"


def run(work: Work) -> dict[date, Record]:
    """Write the night's scores.

    Raises:
        NotThereYet: no model was promoted yet, the run asks for a version that does not exist, or
            the pipeline's features or label have changed since the model learnt them.
        GoldenMismatch: the champion's files or its scores are not those that were promoted.
    """
    from nightjar.engine.golden import replay

    spec, ds = work.plan.spec, work.night
    built = work.require(ds, "features")
    registry = Registry(work.project, spec.name)
    model = registry.version(work.model) if work.model else registry.require_champion()
    if misfit := model.misfit(spec):
        raise NotThereYet(
            f"model {model.label} cannot score {spec.name} as it is now: {misfit}. Train again: "
            f"nightjar train {spec.name} --as-of YYYY-MM-DD",
            model=model.label,
        )
    inputs: dict[date, object] = {
        ds: [built.fingerprint, model.label, model.digest, spec.publish, work.plan.scores.digest]
    }

    def do(pending: Sequence[date], attempt: str) -> dict[date, Record]:
        engine = trainer(model.facts["trainer"])
        loaded = engine.load(work.spark, model.folder / "model")
        golden = replay(work.spark, engine, loaded, model)
        rows = read_folder(work.spark, features.schema(work.plan), work.output(built, ROWS))
        if spec.publish.reasons:
            key, usual = work.plan.scores.primary_key, explain.typical_of(model)
            scored = explain.with_reasons(engine, loaded, rows, key, usual, spec.publish.reasons)
        else:
            scored = engine.score(loaded, rows)
        scored = as_published(work.plan, scored, model.label)
        folder = work.folder("scores", spec.name, attempt)
        raw = folder.with_name(f"{attempt}-raw")
        scored.write.mode("error").parquet(str(raw))
        compact(raw, folder, spec.publish.sort or work.plan.scores.primary_key)
        shutil.rmtree(raw)
        return {
            ds: blank_record(
                outputs={SCORES: work.project.relative(folder)},
                counts={"scores": count_rows(folder)},
                details={
                    "model": model.label,
                    "model_sha256": model.digest,
                    "model_run": model.run_id,
                    "golden_rows": golden,
                },
            )
        }

    return work.once("score", inputs, do)


def as_published(plan: Plan, scored: DataFrame, model: str) -> DataFrame:
    """The columns and types of the scores contract, sorted as the pipeline says."""
    publish, classes = plan.spec.publish, plan.spec.label.classes
    made = {publish.score: F.col(SCORE), MODEL_VERSION: F.lit(model)}
    if classes:
        names = F.array(*[F.lit(name) for name in classes])
        made[publish.score] = F.get(names, likeliest(SCORE))
        made[probability_column(publish)] = F.array_max(SCORE)
    columns = [
        made.get(f.name, F.col(f.name)).cast(f.dataType).alias(f.name)
        for f in typed_schema(plan.scores)
    ]
    rows = scored.select(*columns)
    order = publish.sort or plan.scores.primary_key
    # One sorted run of files: neighbours in the order are neighbours on disk.
    return rows.orderBy(*order) if order else rows
