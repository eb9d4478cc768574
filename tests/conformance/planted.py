"""A network for tests, and what can go wrong with one rank: planted in the rank that builds it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any


def network(
    numeric: int,
    categories: Mapping[str, int],
    width: int = 8,
    dropout: float = 0.0,
    slow: float = 0.0,
    stalls: int | None = None,
    skips: int | None = None,
    outputs: int = 1,
    activation: str = "sigmoid",
) -> Any:
    """`slow` seconds for each batch; rank `stalls` stops reading, rank `skips` averages nothing."""
    import keras

    from nightjar.engine.trainers.horovod_keras import collective, shard

    rows = inputs = keras.Input((numeric,), name="numeric")
    tensors = [inputs]
    if categories:
        tensors.append(keras.Input((len(categories),), name="categorical", dtype="int32"))
        known = max(categories.values()) + 1
        codes = keras.layers.Embedding(known, 2)(tensors[1])
        rows = keras.layers.Concatenate()([rows, keras.layers.Flatten()(codes)])
    rows = keras.layers.Dense(width, activation="tanh")(rows)
    rows = keras.layers.LayerNormalization()(rows)
    if dropout:
        rows = keras.layers.Dropout(dropout)(rows)
    model = keras.Model(tensors, keras.layers.Dense(outputs, activation=activation)(rows))

    batch, made = shard.Shard._batch, 0

    def planted(self: Any, rows: Any) -> Any:
        nonlocal made
        made += 1
        if stalls == collective.rank() and made > 12:
            time.sleep(3600)
        time.sleep(slow)
        return batch(self, rows)

    shard.Shard._batch = planted  # type: ignore[method-assign]
    add = collective.add

    def skipped(given: Any, name: str) -> list[Any]:
        summed = add(given, name)
        if name != "gradients" or skips != collective.rank():
            return summed
        # It takes part, and goes on with its own; a sum that nobody uses would not be computed.
        return [mine + 1e-25 * ours for mine, ours in zip(given, summed, strict=True)]

    collective.add = skipped
    return model
