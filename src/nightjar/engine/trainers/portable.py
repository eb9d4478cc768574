"""Models that live outside the JVM: shipped as bytes, scored in Python workers over Arrow batches.

The model is decoded once in each Python worker and stays there between tasks. Batches are bounded,
and so are threads (to the cores of a task): memory does not grow with a partition.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark import Broadcast, TaskContext
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.functions import arrow_udf
from pyspark.sql.types import ArrayType, DoubleType

from nightjar.core.errors import GoldenMismatch, UntrustedModel
from nightjar.engine.encoding import Encoding, Layout
from nightjar.engine.trainers import SCORE, TRAINERS

BATCH_ROWS = 16_384

Predict = Callable[[NDArray[np.float32]], NDArray[Any]]
"""From a matrix of shape (rows, features) to scores of shape (rows,), or (rows, outputs)."""


@dataclass(frozen=True)
class Portable:
    """A model as bytes, of the trainer whose `decode(payload, threads)` gives a Predict.

    `outputs` is of how many numbers a score is made; `facts` are plain facts of its training.
    """

    trainer: str
    encoding: Encoding
    layout: Layout
    outputs: int
    payload: bytes = field(repr=False)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.payload).hexdigest()


def score(model: Portable, rows: DataFrame) -> DataFrame:
    """`rows` with the column SCORE.

    The features alone go to the Python workers, and the scores alone come back: all other columns
    stay in the JVM, which a mapInArrow would move both ways.
    """
    shipped = rows.sparkSession.sparkContext.broadcast(model)
    kind = DoubleType() if model.outputs == 1 else ArrayType(DoubleType())
    digest = model.digest

    def scores(batches: Iterator[tuple[pa.Array, ...]]) -> Iterator[pa.Array]:
        return _scores(shipped, digest, batches)

    run: Any = arrow_udf(scores, kind)  # type: ignore[call-overload]
    return rows.withColumn(SCORE, run(*model.encoding.columns))


def save(model: Portable, folder: Path) -> None:
    """Write the payload in the trainer's own format, and what reads it as `encoding.json`."""
    folder.mkdir(parents=True)
    (folder / _engine(model.trainer).FILE).write_bytes(model.payload)
    facts = {
        "trainer": model.trainer,
        "sha256": model.digest,
        "layout": asdict(model.layout),
        "encoding": json.loads(model.encoding.to_json()),
        "outputs": model.outputs,
        "facts": model.facts,
    }
    (folder / "encoding.json").write_text(json.dumps(facts, indent=1))


def load(spark: SparkSession, folder: Path) -> Portable:
    """The model that `save` wrote; nothing of it is decoded before its digest is checked.

    Raises:
        GoldenMismatch: the model's file is not the one that was saved.
        UntrustedModel: it names a trainer that there is not.
    """
    del spark  # decoded in the Python workers
    told = json.loads((folder / "encoding.json").read_text())
    path = folder / _engine(told["trainer"]).FILE
    payload = path.read_bytes()
    found = hashlib.sha256(payload).hexdigest()
    if found != told["sha256"]:
        raise GoldenMismatch(
            f"{path} is not the model that was saved (sha256 {found[:12]}, saved "
            f"{told['sha256'][:12]}). Restore it, or train and promote again.",
            file=str(path),
        )
    encoding = Encoding.from_json(json.dumps(told["encoding"]))
    layout = Layout(**told["layout"])
    return Portable(told["trainer"], encoding, layout, told["outputs"], payload, told["facts"])


def notes(model: Portable) -> dict[str, Any]:
    """The facts of the model's training."""
    return model.facts


def predictor(model: Portable, threads: int) -> Predict:
    """The model, ready to predict in this process."""
    found: Predict = _engine(model.trainer).decode(model.payload, threads)
    return found


def _engine(name: str) -> Any:
    if name not in TRAINERS:  # only these are imported, whatever a file names
        raise UntrustedModel(f"a model names the trainer {name!r}, which there is not", found=name)
    return import_module(TRAINERS[name])


# The one model that this Python worker holds, by digest.
_HELD: dict[str, tuple[Portable, Predict]] = {}


def _held(shipped: Broadcast[Portable], digest: str) -> tuple[Portable, Predict]:
    if digest not in _HELD:
        _HELD.clear()
        context = TaskContext.get()
        model = shipped.value
        _HELD[digest] = (model, predictor(model, context.cpus() if context else 1))
    return _HELD[digest]


def _scores(
    shipped: Broadcast[Portable], digest: str, batches: Iterator[tuple[pa.Array, ...]]
) -> Iterator[pa.Array]:
    for columns in batches:
        model, predict = _held(shipped, digest)
        whole = pa.RecordBatch.from_arrays(list(columns), list(model.encoding.columns))
        parts = [
            predict(model.encoding.matrix(whole.slice(start, BATCH_ROWS), model.layout))
            for start in range(0, whole.num_rows, BATCH_ROWS)
        ]
        yield _column(np.concatenate(parts).astype(np.float64, copy=False))


def _column(scores: NDArray[np.float64]) -> pa.Array:
    if scores.ndim == 1:
        return pa.array(scores)
    rows, outputs = scores.shape
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * outputs)
    return pa.ListArray.from_arrays(offsets, pa.array(scores.ravel()))
