"""The Keras model of a candidate: layers declared in the pipeline file, or a builder function."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from nightjar.core.errors import SpecError
from nightjar.core.pipeline import HorovodKerasCandidate, Network

MOST_WIDTH = 64


def build(candidate: HorovodKerasCandidate, numeric: int, categories: Mapping[str, int]) -> Any:
    """A functional Keras model from inputs `numeric` and `categorical` to one probability.

    `numeric` is the width of the first (float32, standardised), and `categories` has one entry for
    each column of the second: int32 codes up to and including the number of known values, which
    stands for a missing or unseen one. An input without columns is not there.

    Raises:
        SpecError: the builder does not give such a model.
    """
    import keras

    keras.utils.set_random_seed(candidate.seed)
    if candidate.network is not None:
        return _declared(candidate.network, numeric, categories)
    assert candidate.builder is not None, "a candidate has a network or a builder"
    module, _, function = candidate.builder.partition(":")
    model = getattr(import_module(module), function)(
        numeric=numeric, categories=dict(categories), **candidate.params
    )
    expected = {
        name for name, has in (("numeric", numeric), ("categorical", bool(categories))) if has
    }
    found = {tensor.name for tensor in getattr(model, "inputs", None) or ()}
    outputs = [tuple(tensor.shape) for tensor in getattr(model, "outputs", None) or ()]
    if found != expected or outputs != [(None, 1)]:
        raise SpecError(
            f"builder {candidate.builder} must give a functional Keras model with inputs named "
            f"{', '.join(sorted(expected))} and one output of shape (None, 1), the probability; "
            f"found inputs {sorted(found)}, outputs {outputs}"
        )
    return model


def _declared(network: Network, numeric: int, categories: Mapping[str, int]) -> Any:
    import keras

    inputs, parts = {}, []
    if numeric:
        inputs["numeric"] = keras.Input((numeric,), name="numeric", dtype="float32")
        parts.append(inputs["numeric"])
    if categories:
        codes = keras.Input((len(categories),), name="categorical", dtype="int32")
        inputs["categorical"] = codes
        for i, (name, known) in enumerate(categories.items()):
            width = network.embeddings.get(name) or default_width(known, network.embedding_scale)
            embedding = keras.layers.Embedding(known + 1, width, name=f"embed_{name}")
            parts.append(embedding(codes[:, i]))
    rows = keras.layers.Concatenate()(parts) if len(parts) > 1 else parts[0]
    for layer in network.layers:
        if layer.dense is not None:
            rows = keras.layers.Dense(layer.dense, activation=network.activation)(rows)
        elif layer.dropout is not None:
            rows = keras.layers.Dropout(layer.dropout)(rows)
        elif layer.normalization == "batch":
            rows = keras.layers.BatchNormalization()(rows)
        else:
            rows = keras.layers.LayerNormalization()(rows)
    probability = keras.layers.Dense(1, activation="sigmoid", name="probability")(rows)
    return keras.Model(inputs, probability)


def default_width(known: int, scale: float) -> int:
    """The width of an embedding of `known` categories: their fourth root, scaled."""
    return max(1, min(MOST_WIDTH, round(scale * math.sqrt(math.sqrt(known)))))
