"""The Keras model of a candidate: layers declared in the pipeline file, or a builder function."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from nightjar.core.errors import SpecError
from nightjar.core.pipeline import HorovodKerasCandidate, Label, Network

MOST_WIDTH = 64
_GIVES = {
    "binary": "the probability",
    "multiclass": "the probability of each class",
    "regression": "the standardised number",
}


def build(
    candidate: HorovodKerasCandidate, label: Label, numeric: int, categories: Mapping[str, int]
) -> Any:
    """A functional Keras model from inputs `numeric` and `categorical` to what is predicted.

    Its output, of shape (None, label.outputs), is one probability, the probability of each class,
    or a number less the labels' mean and over their deviation.

    `numeric` is the width of the first (float32, standardised), and `categories` has one entry for
    each column of the second: int32 codes up to and including the number of known values, which
    stands for a missing or unseen one. An input without columns is not there.

    Raises:
        SpecError: the builder does not give such a model.
    """
    import keras

    keras.utils.set_random_seed(candidate.seed)
    if candidate.network is not None:
        return _declared(candidate.network, label, numeric, categories)
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
    if found != expected or outputs != [(None, label.outputs)]:
        raise SpecError(
            f"builder {candidate.builder} must give a functional Keras model with inputs named "
            f"{', '.join(sorted(expected))} and one output of shape (None, {label.outputs}), "
            f"{_GIVES[label.kind]}; found inputs {sorted(found)}, outputs {outputs}"
        )
    return model


def _declared(network: Network, label: Label, numeric: int, categories: Mapping[str, int]) -> Any:
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
    activation = {"binary": "sigmoid", "multiclass": "softmax", "regression": "linear"}[label.kind]
    predicted = keras.layers.Dense(label.outputs, activation=activation, name="predicted")(rows)
    return keras.Model(inputs, predicted)


def default_width(known: int, scale: float) -> int:
    """The width of an embedding of `known` categories: their fourth root, scaled."""
    return max(1, min(MOST_WIDTH, round(scale * math.sqrt(math.sqrt(known)))))
