"""Ranks of Horovod: exact, shared out without loss, and ended in time when one of them fails."""

from __future__ import annotations

import doctest
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from tests.conformance.candidates import LABELS, needs_deep
from tests.conformance.conftest import SCHEMA, made_rows

from nightjar.core.errors import EnvironmentFault, SpecError, TrainingFailed
from nightjar.core.pipeline import Features, HorovodKerasCandidate
from nightjar.engine.trainers import TrainingSet
from nightjar.engine.trainers import horovod_keras as engine
from nightjar.engine.trainers.horovod_keras import network
from nightjar.engine.trainers.horovod_keras.job import shares
from nightjar.engine.trainers.horovod_keras.shard import Shard
from nightjar.engine.trainers.portable import Portable

BUILDER = "tests.conformance.planted:network"
NUMBERS = Features(base="b", as_of="t", numeric=("n", "m"))


def candidate(**more: Any) -> HorovodKerasCandidate:
    given = {"workers": 2, "builder": BUILDER, "batch_size": 32, "learning_rate": 0.01, **more}
    return HorovodKerasCandidate.model_validate({"trainer": "horovod_keras", **given})


@pytest.fixture
def training_of(spark: SparkSession, tmp_path: Path) -> Callable[[str], TrainingSet]:
    def made(kind: str) -> TrainingSet:
        (tmp_path / kind).mkdir(exist_ok=True)
        rows = spark.createDataFrame(made_rows(kind=kind), SCHEMA).repartition(2)
        whole = TrainingSet.of(rows, NUMBERS, LABELS[kind], ("id",), tmp_path / kind)
        return replace(whole, rows=whole.in_fixed_order(2).cache())

    return made


@pytest.fixture
def training(training_of: Callable[[str], TrainingSet]) -> TrainingSet:
    return training_of("binary")


@pytest.fixture
def keras() -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.environ["KERAS_BACKEND"] = "tensorflow"
        import keras

        yield keras


@pytest.mark.parametrize("name", ["job", "rank"])
def test_the_examples_in_docstrings(name: str) -> None:
    failed, tried = doctest.testmod(import_module(f"{engine.__name__}.{name}"))
    assert (failed, tried > 0) == (0, True)


# -- shares ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_every_row_is_read_once_an_epoch(training: TrainingSet, ranks: int) -> None:
    made = candidate(validation=0, batch_size=10)
    learnt = engine.encoding.learn(training.rows, training.features)
    groups, held_out = engine._write(training, made, learnt, training.folder / "rows")
    assert (held_out, sum(rows for *_, rows in groups)) == ([], 400)
    parts = shares(groups, ranks)
    steps = -(-max(sum(g[2] for g in part) for part in parts) // 10)
    seen: Counter[tuple[float, ...]] = Counter()
    orders = []
    for epoch in (0, 1, 0):
        order = []
        for rank, part in enumerate(parts):
            shard = Shard(part, 2, 0, 10, steps, (), (5, rank))
            shard.epoch = epoch
            batches = list(shard.batches())
            assert len(batches) == steps
            for features, labels, weights in batches:
                assert features["numeric"].shape == (10, 2)
                kept = weights > 0
                order += features["numeric"][kept, 0].tolist()
                rows = zip(features["numeric"][kept, 0], labels[kept, 0], strict=True)
                seen.update((float(n), float(y)) for n, y in rows)
        orders.append(order)
        assert len(order) == 400
    assert all(count % 3 == 0 for count in seen.values())
    assert orders[0] == orders[2]
    assert orders[0] != orders[1]


def test_the_held_out_rows_are_others(training: TrainingSet) -> None:
    learnt = engine.encoding.learn(training.rows, training.features)
    made = candidate(validation=0.25)
    groups, held_out = engine._write(training, made, learnt, training.folder / "rows")
    kept, apart = (sum(rows for *_, rows in part) for part in (groups, held_out))
    assert kept + apart == 400
    assert 60 < apart < 140


# -- memory ---------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_a_ranks_share(training: TrainingSet) -> None:
    learnt = engine.encoding.learn(training.rows, training.features)
    groups, _ = engine._write(training, candidate(validation=0), learnt, training.folder / "rows")

    def peak(times: int) -> int:
        # The same row groups again and again are as many rows as others would be.
        made = subprocess.run(
            [sys.executable, "-c", READ, json.dumps(groups), str(times)],
            capture_output=True,
            text=True,
            check=True,
        )
        rows, bytes_held = map(int, made.stdout.split())
        assert rows == 400 * times
        return bytes_held

    few, many = peak(25), peak(2500)  # 10,000 rows and a million, which are 16 MB
    assert many - few < 4 << 20


@needs_deep
def test_nothing_is_tuned_between_epochs() -> None:
    # The tuner's thread would sleep for about two seconds at the end of each pass.
    made = Shard([], 2, 0, 10, 1, (), None).dataset()
    assert made.options().autotune.enabled is False


READ = """
import json, sys
from nightjar.engine.trainers.horovod_keras.shard import Shard
from nightjar.engine.trainers.horovod_keras.rank import peak_bytes

groups = [tuple(group) for group in json.loads(sys.argv[1])] * int(sys.argv[2])
rows = sum(rows for *_, rows in groups)
shard = Shard(groups, 2, 0, 100, rows // 100, (), (0, 0))
print(sum(int((weights > 0).sum()) for *_, weights in shard.batches()), peak_bytes())
"""


@needs_deep
def test_memory_does_not_grow_with_the_rows_that_are_scored(
    spark: SparkSession, training: TrainingSet, keras: Any
) -> None:
    declared = candidate(builder=None, network={"layers": [{"dense": 16}]})
    made = network.build(declared, training.label, 2, {})
    made.save(training.folder / "model.keras")
    payload = (training.folder / "model.keras").read_bytes()
    learnt = engine.encoding.learn(training.rows, training.features)
    model = Portable("horovod_keras", learnt, engine.LAYOUT, 1, payload)

    def peak(count: int) -> int:
        """Of the Python workers, which Spark keeps between jobs."""
        for worker in python_workers():
            (worker / "clear_refs").write_text("5")  # what it holds now is the most it held
        rows = spark.range(0, count, 1, 1).select(
            "id", F.randn(1).alias("n"), F.lit(1.0).alias("m")
        )
        row = engine.score(model, rows).agg(F.count("_score").alias("scored")).collect()[0]
        assert row["scored"] == count
        return max(
            int((worker / "status").read_text().partition("VmHWM:")[2].split()[0]) << 10
            for worker in python_workers()
        )

    peak(100_000)  # loads the model
    few, many = peak(100_000), peak(2_000_000)  # which are 64 MB with their scores
    assert many - few < 16 << 20


def python_workers() -> list[Path]:
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            line = (place / "cmdline").read_bytes()
        except OSError:
            continue
        if b"pyspark.daemon" in line:
            found.append(place)
    return found


# -- exactness ------------------------------------------------------------------------------------


HEADS: dict[str, tuple[dict[str, Any], str]] = {
    "binary": ({"outputs": 1, "activation": "sigmoid"}, "BinaryCrossentropy"),
    "multiclass": ({"outputs": 3, "activation": "softmax"}, "SparseCategoricalCrossentropy"),
    "regression": ({"outputs": 1, "activation": "linear"}, "MeanSquaredError"),
}


@needs_deep
@pytest.mark.parametrize("kind", HEADS)
def test_two_ranks_are_one_process_with_the_whole_batch(
    kind: str,
    spark: SparkSession,
    training_of: Callable[[str], TrainingSet],
    keras: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # One step an epoch, and shares of unequal size: each epoch's loss is that of one step.
    head, loss = HEADS[kind]
    made = candidate(
        params=head, epochs=16, batch_size=300, validation=0, warmup_epochs=4, clip_norm=0.5
    )
    training = training_of(kind)
    learnt = engine.encoding.learn(training.rows, training.features)
    groups, _ = engine._write(training, made, learnt, training.folder / "rows")
    groups = sorted(groups)
    parts = [groups[: len(groups) // 3], groups[len(groups) // 3 :]]
    assert len({sum(rows for *_, rows in part) for part in parts}) == 2
    monkeypatch.setattr(engine, "shares", lambda given, ranks: parts if given else [[], []])
    model = engine.fit(training, made)
    assert model.facts["steps_an_epoch"] == 1

    stock = _stock(keras, made, head)
    stock.compile(
        optimizer=keras.optimizers.Adam(0.01, global_clipnorm=0.5),
        loss=getattr(keras.losses, loss)(reduction="mean_with_sample_weight"),
        jit_compile=False,
    )
    engine._write(training, made, learnt, training.folder / "again")
    again = sorted(engine._groups(training.folder / "again" / "held_out=false"))
    parts = [again[: len(groups) // 3], again[len(groups) // 3 :]]
    ordered = training.rows.orderBy("id")
    batch = pa.RecordBatch.from_pandas(ordered.select("n", "m").toPandas(), preserve_index=False)
    matrix = learnt.matrix(batch, engine.LAYOUT)
    losses, theirs = [], np.empty(0)
    for epoch in range(made.epochs):
        both = []
        for rank, part in enumerate(parts):
            shard = Shard(part, 2, 0, 300, 1, (), (0, rank))
            shard.epoch = epoch
            both += list(shard.batches())
        x = np.concatenate([features["numeric"] for features, _, _ in both])
        y = np.concatenate([labels for _, labels, _ in both])
        weights = np.concatenate([weights for *_, weights in both])
        stock.optimizer.learning_rate = 0.01 * (1 + min(1.0, (epoch + 1) / 4))
        losses.append(float(stock.train_on_batch({"numeric": x}, y, sample_weight=weights)))
        if losses[-1] == min(losses):  # the epoch that is kept
            theirs = np.asarray(stock.predict_on_batch({"numeric": matrix}))
    assert losses[-1] < losses[0]
    assert np.abs(np.array(model.facts["history"]["loss"]) - losses).max() < 1e-6

    # What was learnt comes back from the model's file, in the label's unit.
    ours = np.array([row["_score"] for row in engine.score(model, ordered).collect()])
    theirs = theirs * training.deviation + training.mean
    expected = theirs if kind == "multiclass" else theirs[:, 0]
    assert ours.shape == ((400, 3) if kind == "multiclass" else (400,))
    assert ours == pytest.approx(expected, rel=1e-5, abs=1e-5)


def _stock(keras: Any, made: HorovodKerasCandidate, head: dict[str, Any]) -> Any:
    """The planted network as plain Keras, from the same seed."""
    keras.utils.set_random_seed(made.seed)
    inputs = keras.Input((2,), name="numeric")
    rows = keras.layers.Dense(8, activation="tanh")(inputs)
    rows = keras.layers.LayerNormalization()(rows)
    predicted = keras.layers.Dense(head["outputs"], activation=head["activation"])(rows)
    return keras.Model([inputs], predicted)


@needs_deep
@pytest.mark.parametrize("kind", HEADS)
def test_a_declared_network_has_the_output_of_its_label(kind: str, keras: Any) -> None:
    made = candidate(builder=None, network={"layers": [{"dense": 4}]})
    found = network.build(made, LABELS[kind], 2, {"c": 3})
    rows = {"numeric": np.ones((5, 2), "f4"), "categorical": np.full((5, 1), 3)}
    predicted = np.asarray(found(rows))
    assert predicted.shape == (5, LABELS[kind].outputs)
    assert found.layers[-1].activation.__name__ == HEADS[kind][0]["activation"]
    with pytest.raises(SpecError, match=rf"shape \(None, {LABELS[kind].outputs}\)"):
        network.build(candidate(params={"outputs": 2}), LABELS[kind], 2, {})


def test_class_weights_are_balanced_for_any_number_of_classes(
    training_of: Callable[[str], TrainingSet],
) -> None:
    for kind in ("binary", "multiclass"):
        found = training_of(kind)
        weights = engine._class_weights(found, candidate(class_weights="balanced"))
        shares = np.array(weights) * found.classes
        assert shares == pytest.approx(found.count / len(found.classes))
        assert engine._class_weights(found, candidate()) == ()
    balanced = candidate(class_weights="balanced")
    ((at, problem, _),) = engine.faults(balanced, LABELS["regression"])
    assert (at, "is a number" in problem) == (("class_weights",), True)
    assert engine.faults(balanced, LABELS["multiclass"]) == []


@needs_deep
def test_a_rank_that_skips_averaging_is_noticed(training: TrainingSet) -> None:
    with pytest.raises(TrainingFailed) as caught:
        engine.fit(training, candidate(params={"skips": 1}, epochs=3))
    assert caught.value.details["fault"] == "error"
    assert "the parameters of rank 1 are not those" in caught.value.message
    assert "after epoch 1" in caught.value.message


# -- failures -------------------------------------------------------------------------------------


def when(
    training: TrainingSet, epochs: int, do: Callable[[int], None]
) -> tuple[threading.Thread, dict[str, float]]:
    """In the background: wait for so many epochs, then `do` it to the process of rank 1."""
    noted: dict[str, float] = {}

    def wait() -> None:
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline:
            kept = sorted(training.folder.glob("resume/*/checkpoints/*.json"))
            alive = list(training.folder.glob("resume/*/run-*/rank-1.alive"))
            if kept and int(kept[-1].stem) + 1 >= epochs and alive:
                noted["epochs"] = int(kept[-1].stem) + 1
                noted["pid"] = int(alive[-1].read_text().split()[0])
                noted["at"] = time.monotonic()
                do(int(noted["pid"]))
                return
            time.sleep(0.02)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread, noted


def rank_processes() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if "gloo_exec_fn" in line or "rank-{rank}.alive" in line:
            found.append(line[:200])
    return found


def nothing_is_left() -> None:
    deadline = time.monotonic() + 15
    while rank_processes() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert rank_processes() == []


@needs_deep
def test_a_killed_rank_is_named_and_the_retry_goes_on_to_the_same_loss(
    spark: SparkSession, training: TrainingSet, tmp_path: Path
) -> None:
    made = candidate(params={"slow": 0.05, "dropout": 0.2}, epochs=8, patience=8)
    thread, noted = when(training, 2, lambda pid: os.kill(pid, signal.SIGKILL))
    with pytest.raises(TrainingFailed) as caught:
        engine.fit(training, made)
    took = time.monotonic() - noted["at"]
    thread.join()
    assert caught.value.details["rank"] == 1
    assert caught.value.details["fault"] == "died"
    assert took < 60
    nothing_is_left()
    resumed = engine.fit(training, made)
    assert resumed.facts["resumed_after"] >= noted["epochs"]
    other = TrainingSet.of(training.rows, NUMBERS, LABELS["binary"], ("id",), tmp_path / "whole")
    whole = engine.fit(other, made)
    assert whole.facts["resumed_after"] == 0
    assert resumed.facts["history"] == whole.facts["history"]
    rows = training.rows
    ours, theirs = (
        [r["_score"] for r in engine.score(m, rows).orderBy("id").collect()]
        for m in (resumed, whole)
    )
    assert ours == theirs
    assert list((training.folder / "resume").iterdir()) == [], "a finished training leaves nothing"


@needs_deep
def test_a_frozen_rank_ends_the_training_in_time(training: TrainingSet) -> None:
    thread, noted = when(training, 1, lambda pid: os.kill(pid, signal.SIGSTOP))
    with pytest.raises(TrainingFailed) as caught:
        engine.fit(training, candidate(params={"slow": 0.05}, epochs=200))
    took = time.monotonic() - noted["at"]
    thread.join()
    assert (caught.value.details["rank"], caught.value.details["fault"]) == (1, "frozen")
    assert took < 60
    nothing_is_left()


@needs_deep
def test_a_rank_that_stalls_in_its_own_code_ends_the_training_in_time(
    training: TrainingSet,
) -> None:
    started = time.monotonic()
    made = candidate(params={"stalls": 1, "slow": 0.01}, epochs=200, stall="6 seconds")
    with pytest.raises(TrainingFailed) as caught:
        engine.fit(training, made)
    assert (caught.value.details["rank"], caught.value.details["fault"]) == (1, "stalled")
    assert 6 <= caught.value.details["idle"] < 60
    assert time.monotonic() - started < 300
    nothing_is_left()


# -- before it begins -----------------------------------------------------------------------------


@needs_deep
def test_what_is_not_there_is_said_at_once(spark: SparkSession) -> None:
    for made, word in (
        (candidate(workers=99), "slots"),
        (candidate(device="gpu"), "nccl"),
    ):
        with pytest.raises(EnvironmentFault, match=word):
            engine.require(spark, made)


def test_a_machine_without_the_libraries_is_told_how_to_get_them(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentFault, match="make deep") as caught:
        engine.require(spark, candidate())
    assert caught.value.details["missing"] == ["tensorflow", "keras", "horovod"]


def test_too_little_memory_is_said_at_once(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_free_bytes", lambda: 1 << 30)
    with pytest.raises(EnvironmentFault, match="2048 MiB and 1024 MiB are free"):
        engine._require_memory(spark, 2, {})


def test_a_builder_that_cannot_be_imported_is_a_fault() -> None:
    ((at, problem, _),) = engine.faults(
        candidate(builder="no_such_module:network"), LABELS["binary"]
    )
    assert (at, "no_such_module" in problem) == (("builder",), True)
    assert engine.faults(candidate(), LABELS["binary"]) == []


def test_reports_say_who_failed_first(tmp_path: Path) -> None:
    from nightjar.engine.trainers.horovod_keras import launch

    def report(rank: int, fault: str, message: str = "") -> None:
        facts = {"rank": rank, "fault": fault, "idle": 1, "epoch": 0, "message": message}
        (tmp_path / f"rank-{rank}.report").write_text(json.dumps(facts))

    report(0, "error", "HorovodInternalError: Connection closed by peer")
    report(1, "waiting")
    report(2, "frozen")
    assert (launch._cause(tmp_path) or {})["rank"] == 2
    report(3, "died")
    assert (launch._cause(tmp_path) or {})["rank"] == 3
