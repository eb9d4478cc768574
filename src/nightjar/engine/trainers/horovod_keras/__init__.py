"""Deep networks: Keras 3 on TensorFlow, learnt by ranks of Horovod on Spark's executors.

The rows travel as Parquet; each rank reads its own row groups. What a rank does is in rank.py; how
gradients are averaged in averaging.py; what ends a training that hangs in guard.py and launch.py.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import uuid
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from nightjar.core.errors import EnvironmentFault
from nightjar.core.pipeline import HorovodKerasCandidate, Label
from nightjar.core.records import code_digest, fingerprint
from nightjar.engine import encoding
from nightjar.engine.encoding import Encoding, Layout
from nightjar.engine.lake import parquet_files
from nightjar.engine.trainers import TrainingSet, Wrong, portable, require_slots
from nightjar.engine.trainers.horovod_keras.job import Group, Job, shares
from nightjar.engine.trainers.portable import Portable, Predict

TOLERANCE = 1e-5  # float32 sums follow the size of the batch and the processor
FILE = "model.keras"
LAYOUT = Layout(impute=True, standardize=True)
RANK_BYTES = 1 << 30  # TensorFlow, Horovod, a small network and its batches
_BUCKETS = 1 << 20


def faults(candidate: HorovodKerasCandidate, label: Label) -> list[Wrong]:
    found: list[Wrong] = []
    if label.kind == "regression" and candidate.class_weights != "none":
        problem = f"class_weights are for classes; label '{label.name}' is a number"
        found.append((("class_weights",), problem, "remove them"))
    return found + _builder_faults(candidate)


def _builder_faults(candidate: HorovodKerasCandidate) -> list[Wrong]:
    if candidate.builder is None:
        return []
    module, _, _ = candidate.builder.partition(":")
    try:
        found = find_spec(module)
    except (ImportError, ValueError):
        found = None
    if found is None:
        problem = f"builder: no module '{module}' can be imported here"
        return [(("builder",), problem, "its folder must be on PYTHONPATH")]
    return []


def require(spark: SparkSession, candidate: HorovodKerasCandidate) -> None:
    missing = [name for name in ("tensorflow", "keras", "horovod") if find_spec(name) is None]
    if missing:
        raise EnvironmentFault(
            f"horovod_keras needs {', '.join(missing)}, which this environment does not have; "
            "build it (a C++ compiler and make are needed; five minutes): make deep",
            missing=missing,
        )
    from nightjar.engine.trainers.horovod_keras import collective

    require_slots(spark, candidate.workers, "horovod_keras")
    built = collective.built_with()
    needed = "nccl" if candidate.device == "gpu" else "gloo"
    if needed not in built:
        raise EnvironmentFault(
            f"device: {candidate.device} needs a Horovod built with {needed}; this one has "
            f"{', '.join(sorted(built)) or 'neither gloo nor nccl'}. See docs/trainers.md.",
            built=sorted(built),
        )
    settings = dict(spark.sparkContext.getConf().getAll())
    if candidate.device == "gpu" and settings.get("spark.task.resource.gpu.amount") != "1":
        raise EnvironmentFault(
            "device: gpu needs one GPU for each task, so that no two ranks share one: start with "
            "spark-conf/gpu.conf (spark.task.resource.gpu.amount 1)",
            found=settings.get("spark.task.resource.gpu.amount"),
        )
    _require_memory(spark, candidate.workers, settings)


def _require_memory(spark: SparkSession, workers: int, settings: dict[str, str]) -> None:
    """On one machine: what is free. Elsewhere: what the cluster grants beside the JVM."""
    needed, master = workers * RANK_BYTES, str(spark.sparkContext.master)
    if master.startswith("local"):
        free = _free_bytes()
        if free is not None and free < needed:
            raise EnvironmentFault(
                f"{workers} ranks need {needed >> 20} MiB and {free >> 20} MiB are free: ask for "
                "fewer workers",
                needed=needed,
                free=free,
            )
        return
    asked = settings.get("spark.executor.memoryOverhead")
    cores = int(settings.get("spark.executor.cores", "1"))
    ranks = max(1, min(workers, cores // int(settings.get("spark.task.cpus", "1"))))
    is_enforced = master.startswith(("yarn", "k8s"))
    if is_enforced and (asked is None or _bytes(asked) < ranks * RANK_BYTES):
        raise EnvironmentFault(
            f"an executor here may hold {ranks} ranks, which live beside its JVM: set "
            f"spark.executor.memoryOverhead to {ranks * RANK_BYTES >> 20}m or more",
            found=asked,
        )


def _free_bytes() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = {line.split(":")[0]: line.split()[1] for line in lines}
    return int(found["MemAvailable"]) << 10


def _bytes(text: str) -> int:
    """A size as Spark writes it; a bare number is in MiB."""
    units = {"k": 10, "m": 20, "g": 30, "t": 40}
    number = text.lower().removesuffix("b")
    unit = number[-1:] if number[-1:] in units else ""
    return int(number.removesuffix(unit)) << units[unit or "m"]


def fit(training: TrainingSet, candidate: HorovodKerasCandidate) -> Portable:
    """Raises TrainingFailed where a rank failed; the next try goes on after its last epoch."""
    learnt = encoding.learn(training.rows, training.features)
    folder = training.folder / "resume" / _identity(training, candidate, learnt)
    groups, held_out = _write(training, candidate, learnt, folder / "rows")
    job = Job(
        candidate=candidate,
        label=training.label,
        folder=str(folder),
        run=f"run-{uuid.uuid4().hex[:12]}",
        numeric=learnt.numeric,
        categories={name: len(values) for name, values in learnt.categories.items()},
        learnt=shares(groups, candidate.workers),
        held_out=shares(held_out, candidate.workers),
        class_weights=_class_weights(training, candidate),
        mean=training.mean,
        deviation=training.deviation,
        threads=int(training.rows.sparkSession.conf.get("spark.task.cpus", "1") or 1),
    )
    from nightjar.engine.trainers.horovod_keras.launch import run

    found = run(training.rows.sparkSession, job)
    payload = (folder / FILE).read_bytes()
    shutil.rmtree(folder)
    rows = sum(rows for *_, rows in groups)
    history = found[0]["history"]
    epochs = len(history.get("loss", ()))
    facts = {
        "rows": rows,
        "held_out_rows": sum(rows for *_, rows in held_out),
        "workers": candidate.workers,
        "epochs": epochs,
        "resumed_after": found[0]["resumed_after"],
        "steps_an_epoch": job.steps,
        "history": history,
        "peak_bytes": max(rank["peak_bytes"] for rank in found),
        "seconds_in_fit": round(max(rank["seconds"] for rank in found), 3),
    }
    return Portable("horovod_keras", learnt, LAYOUT, training.label.outputs, payload, facts)


def _identity(training: TrainingSet, candidate: HorovodKerasCandidate, learnt: Encoding) -> str:
    """The same for the same rows, candidate and code alone: only then is a checkpoint gone on."""
    names = [*training.features.numeric, *training.features.categorical]
    names += [training.label.name, *training.key, *([training.weight] if training.weight else [])]
    mixed = F.bit_xor(F.xxhash64(*names)).alias("rows")
    rows = training.rows.agg(mixed).collect()[0]["rows"]
    return fingerprint(
        candidate=candidate,
        label=training.label,
        rows=[training.count, rows],
        names=names,
        encoding=learnt.to_json(),
        code=code_digest(),
    )[:20]


def _write(
    training: TrainingSet, candidate: HorovodKerasCandidate, learnt: Encoding, folder: Path
) -> tuple[list[Group], list[Group]]:
    """The matrix as Parquet, in row groups small enough to share out; those held out apart."""
    place = F.pmod(F.xxhash64(*training.key), F.lit(_BUCKETS))
    weight = F.col(training.weight) if training.weight else F.lit(1.0)
    label = (F.col(training.label.name) - training.mean) / training.deviation
    rows = training.rows.select(
        *learnt.columns,
        label.cast("float").alias("label"),
        weight.cast("float").alias("weight"),
        (place < int(candidate.validation * _BUCKETS)).alias("held_out"),
    )
    matrix = encoding.encoded(rows, learnt, LAYOUT, ("label", "weight", "held_out"))
    group = int(np.clip(training.count // (16 * candidate.workers), 64, 65_536))
    writer = matrix.write.mode("overwrite").partitionBy("held_out")
    writer.option("parquet.block.row.count.limit", group).parquet(str(folder))
    parts = [_groups(folder / f"held_out={word}") for word in ("false", "true")]
    return parts[0], parts[1]


def _groups(folder: Path) -> list[Group]:
    found: list[Group] = []
    for file in parquet_files(folder):
        footer = pq.read_metadata(file)
        for i in range(footer.num_row_groups):
            found.append((str(file), i, footer.row_group(i).num_rows))
    return found


def _class_weights(training: TrainingSet, candidate: HorovodKerasCandidate) -> tuple[float, ...]:
    """`balanced`: all classes count alike, and the mean weight of a row is one."""
    if candidate.class_weights == "none":
        return ()
    even = training.count / len(training.classes)
    return tuple(even / count for count in training.classes)


def decode(payload: bytes, threads: int) -> Predict:
    """In Keras's safe mode: a model that holds code is not loaded."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):  # set by the model that this worker held before
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    with tempfile.NamedTemporaryFile(suffix=".keras") as file:
        file.write(payload)
        file.flush()
        model = keras.saving.load_model(file.name, compile=False, safe_mode=True)
    names = [tensor.name for tensor in model.inputs]
    widths = {tensor.name: tensor.shape[1] for tensor in model.inputs}
    numeric = widths.get("numeric", 0)

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def forward(inputs: Any) -> Any:
        return model(inputs, training=False)

    def predict(matrix: NDArray[np.float32]) -> NDArray[Any]:
        inputs = {"numeric": matrix[:, :numeric], "categorical": matrix[:, numeric:].astype("i4")}
        found = forward({name: tf.constant(inputs[name]) for name in names}).numpy()
        return np.asarray(found[:, 0] if found.shape[1] == 1 else found)

    return predict


# A portable model is scored and kept in one way, whatever it was learnt by.
score, save, load, notes = portable.score, portable.save, portable.load, portable.notes
