"""Models that live outside the JVM: shipped as bytes, scored in Python workers over Arrow batches.

The model is decoded once in each Python worker and stays there between tasks. Batches are bounded,
and so are threads (to the cores of a task): memory does not grow with a partition.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark import Broadcast, TaskContext
from pyspark.sql import DataFrame
from pyspark.sql.types import DoubleType, StructField, StructType

from nightjar.core.errors import GoldenMismatch
from nightjar.engine.encoding import Encoding, Layout
from nightjar.engine.trainers import SCORE

BATCH_ROWS = 16_384

Predict = Callable[[NDArray[np.float32]], NDArray[Any]]
"""From a matrix of shape (rows, features) to probabilities of shape (rows,)."""


@dataclass(frozen=True)
class Portable:
    """A model as bytes. `decoder` is the module whose `decode(payload, threads)` gives a Predict.

    `notes` are plain facts of its training.
    """

    decoder: str
    encoding: Encoding
    layout: Layout
    payload: bytes = field(repr=False)
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.payload).hexdigest()


def score(model: Portable, rows: DataFrame) -> DataFrame:
    """`rows` with the column SCORE."""
    shipped = rows.sparkSession.sparkContext.broadcast(model)
    schema = StructType([*rows.schema.fields, StructField(SCORE, DoubleType())])
    return rows.mapInArrow(partial(_score, shipped, model.digest), schema)


def save(model: Portable, folder: Path, name: str) -> None:
    """Write the payload as `name`, and what reads it as `encoding.json`."""
    folder.mkdir(parents=True)
    (folder / name).write_bytes(model.payload)
    facts = {
        "file": name,
        "sha256": model.digest,
        "layout": asdict(model.layout),
        "encoding": json.loads(model.encoding.to_json()),
        "notes": model.notes,
    }
    (folder / "encoding.json").write_text(json.dumps(facts, indent=1))


def load(folder: Path, name: str, decoder: str) -> Portable:
    """The model that `save` wrote; nothing of it is decoded before its digest is checked.

    Raises:
        GoldenMismatch: the file `name` is not the one that was saved.
    """
    facts = json.loads((folder / "encoding.json").read_text())
    payload = (folder / name).read_bytes()
    found = hashlib.sha256(payload).hexdigest()
    if found != facts["sha256"]:
        raise GoldenMismatch(
            f"{folder / name} is not the model that was saved (sha256 {found[:12]}, saved "
            f"{facts['sha256'][:12]}). Restore it, or train and promote again.",
            file=str(folder / name),
        )
    encoding = Encoding.from_json(json.dumps(facts["encoding"]))
    return Portable(decoder, encoding, Layout(**facts["layout"]), payload, facts["notes"])


def predictor(model: Portable, threads: int) -> Predict:
    """The model, ready to predict in this process."""
    found: Predict = import_module(model.decoder).decode(model.payload, threads)
    return found


# The one model that this Python worker holds, by digest.
_HELD: dict[str, tuple[Portable, Predict]] = {}


def _held(shipped: Broadcast[Portable], digest: str) -> tuple[Portable, Predict]:
    if digest not in _HELD:
        _HELD.clear()
        context = TaskContext.get()
        model = shipped.value
        _HELD[digest] = (model, predictor(model, context.cpus() if context else 1))
    return _HELD[digest]


def _score(
    shipped: Broadcast[Portable], digest: str, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    for whole in batches:
        model, predict = _held(shipped, digest)
        for start in range(0, whole.num_rows, BATCH_ROWS):
            batch = whole.slice(start, BATCH_ROWS)
            scores = predict(model.encoding.matrix(batch, model.layout))
            column = pa.array(np.asarray(scores, dtype=np.float64))
            names = [*batch.schema.names, SCORE]
            yield pa.RecordBatch.from_arrays([*batch.columns, column], names)
