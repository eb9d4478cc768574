"""Why a row has its score: what each feature adds, against that feature's typical value.

A feature's effect on a row is the row's score less the score of the same row with that one feature
set to its typical value: its median over the training rows, or its most frequent category. This is
the occlusion of Zeiler and Fergus (2014) by a baseline value. It asks the model and nothing else,
so it means the same for every trainer. What features do only together is counted for each of them,
so the effects of a row need not sum to anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from nightjar.core.errors import NotThereYet
from nightjar.core.pipeline import Features
from nightjar.core.plan import reason_columns
from nightjar.engine.registry import RegisteredModel
from nightjar.engine.trainers import SCORE, Trainer, likeliest

TYPICAL = "typical"
_AS_IS = -1


def typical(rows: DataFrame, features: Features) -> dict[str, float | str | None]:
    """By feature, the median of the numeric ones and the first most frequent category; one pass."""
    row = rows.agg(
        *[F.median(n).alias(n) for n in features.numeric],
        *[F.mode(n, deterministic=True).alias(n) for n in features.categorical],
    ).first()
    return dict(row.asDict()) if row else {}


def typical_of(model: RegisteredModel) -> Mapping[str, Any]:
    """The typical values that were learnt with a model.

    Raises:
        NotThereYet: it was trained before they were kept.
    """
    if TYPICAL not in model.facts:
        raise NotThereYet(
            f"publish.reasons asks for the reasons of each score, and model {model.label} was "
            "trained without the features' typical values. Train and promote again.",
            model=model.label,
        )
    return model.facts[TYPICAL]  # type: ignore[no-any-return]


def with_reasons(
    engine: Trainer,
    model: Any,
    rows: DataFrame,
    key: Sequence[str],
    typical: Mapping[str, Any],
    top: int,
) -> DataFrame:
    """`rows` with SCORE and the `top` features that move it most, largest effect first.

    For rank k: `reason_k`, the feature; `reason_k_value`, its value as text, null where missing;
    `reason_k_effect`, in units of the score (with several classes, of the probability of the row's
    likeliest one). All null from the first feature whose effect is within the trainer's tolerance.
    Every row is scored once as it is and once for each of the features; `key` tells rows apart.
    """
    features = list(typical)
    kinds = dict(rows.dtypes)
    variant = F.col("_variant")
    variants = rows.select(
        F.struct(*[F.col(n) for n in rows.columns]).alias("_row"),
        *[F.col(n).alias(f"_key_{i}") for i, n in enumerate(key)],
        *rows.columns,
        F.explode(F.array(*[F.lit(i) for i in range(_AS_IS, len(features))])).alias("_variant"),
    )
    for i, name in enumerate(features):
        plain = F.lit(typical[name]).cast(kinds[name])
        variants = variants.withColumn(name, F.when(variant == i, plain).otherwise(F.col(name)))
    as_is = F.max(F.when(variant == _AS_IS, F.col(SCORE)))
    others = F.collect_list(
        F.when(variant != _AS_IS, F.struct(F.col(SCORE).alias("score"), variant.alias("feature")))
    )
    scored = (
        engine.score(model, variants)
        .groupBy(*[f"_key_{i}" for i in range(len(key))])
        .agg(F.first("_row").alias("_row"), as_is.alias(SCORE), others.alias("_others"))
    )
    names = F.array(*[F.lit(n) for n in features])
    values = F.array(*[F.col(f"_row.{n}").cast("string") for n in features])

    is_list = dict(scored.dtypes)[SCORE].startswith("array")

    def told(score: Column) -> Column:
        """What a score says: of several classes, how probable the likeliest one is."""
        return F.get(score, likeliest(SCORE)) if is_list else score

    def effect(other: Column) -> Column:
        moved = told(F.col(SCORE)) - told(other["score"])
        return F.struct(
            (-F.abs(moved)).alias("order"), other["feature"].alias("feature"), moved.alias("effect")
        )

    effects = F.filter(
        F.array_sort(F.transform(F.col("_others"), effect)),
        lambda e: (
            e["order"] < -engine.TOLERANCE * F.greatest(F.lit(1.0), F.abs(told(F.col(SCORE))))
        ),
    )
    ranked = scored.select("_row.*", SCORE, effects.alias("_effects"), names.alias("_names"),
                           values.alias("_values"))  # fmt: skip
    reasons = []
    for rank in range(1, top + 1):
        found = F.get("_effects", F.lit(rank - 1))
        name, value, moved = reason_columns(rank)
        reasons += [
            F.get("_names", found["feature"]).alias(name),
            F.get("_values", found["feature"]).alias(value),
            found["effect"].alias(moved),
        ]
    return ranked.select(*rows.columns, SCORE, *reasons)
