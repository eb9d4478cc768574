"""What one rank does: an ordinary Keras `fit` over its share, together with the other ranks."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from nightjar.core.errors import TrainingRefused
from nightjar.engine.trainers.horovod_keras import collective, network
from nightjar.engine.trainers.horovod_keras.job import Job
from nightjar.engine.trainers.horovod_keras.shard import Shard

MODEL = "model.keras"
START_SECONDS = 300
# How much longer a rank waits for the others than for itself, so that they are blamed first.
OTHERS_SECONDS = 12
CHECKPOINTS_KEPT = 2
MESSAGE_LENGTH = 1000


def learn(job: Job, guard: str, timed: bool = False) -> dict[str, Any]:
    """Learn as one rank of `job`; rank 0 leaves the model in the job's folder.

    `guard` is the source text of the process that watches this one. Returns the history of the
    metrics by epoch, and what was measured.

    Raises:
        TrainingRefused: the loss is no number, or the ranks' parameters differ.
    """
    rank = int(os.environ["HOROVOD_RANK"])
    shared = Path(job.folder) / job.run
    with _Progress(rank, shared, job, guard) as progress:
        try:
            found = _learn(job, progress, timed)
        except BaseException as error:
            message = f"{type(error).__name__}: {error}"
            if len(message) > MESSAGE_LENGTH:
                half = MESSAGE_LENGTH // 2
                message = f"{message[:half]} ... {message[-half:]}"
            progress.say({"fault": "error", "message": message})
            (shared / f"rank-{rank}.trace").write_text(traceback.format_exc())
            raise
    return found


def _learn(job: Job, progress: _Progress, timed: bool) -> dict[str, Any]:
    os.environ.update(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3")
    import tensorflow as tf

    collective.waiting = progress.waiting
    collective.start()
    _choose_device(job, tf)
    from nightjar.engine.trainers.horovod_keras import averaging

    candidate, rank = job.candidate, collective.rank()
    built = network.build(candidate, job.label, len(job.numeric), job.categories)
    inputs = {tensor.name: tensor for tensor in built.inputs}
    model = averaging.Averaged(inputs, built.outputs[0])
    model.compile(
        optimizer=_optimizer(job),
        loss=_loss(job)(reduction="mean_with_sample_weight"),
        jit_compile=False,  # Horovod's operations have no kernel for XLA
    )
    if timed:
        model.time_steps()

    def shard(groups: Any, steps: int, shuffled: bool) -> Shard:
        order = (candidate.seed, rank) if shuffled else None
        weights = job.class_weights if shuffled else ()
        return Shard(
            groups[rank],
            len(job.numeric),
            len(job.categories),
            candidate.batch_size,
            steps,
            weights,
            order,
            progress.reading,
        )

    learnt = shard(job.learnt, job.steps, shuffled=True)
    held_out = shard(job.held_out, job.held_out_steps, shuffled=False)
    course = _Course(model, job, learnt, progress)
    began = course.resume()
    started = time.perf_counter()
    if began < candidate.epochs and not course.over:
        model.fit(
            learnt.dataset(),
            validation_data=held_out.dataset() if job.held_out_steps else None,
            initial_epoch=began,
            epochs=candidate.epochs,
            verbose=0,
            callbacks=[course.callback()],
        )
    seconds = time.perf_counter() - started
    measured = _measured(model, course) if timed else None
    if rank == 0:
        course.restore_best()
        _scoring(inputs, built.outputs[0], job).save(Path(job.folder) / MODEL)
    collective.stop()
    return {
        "rank": rank,
        "history": course.history,
        "resumed_after": began,
        "seconds": seconds,
        "peak_bytes": peak_bytes(),
        "measured": measured,
    }


def _measured(model: Any, course: _Course) -> dict[str, Any]:
    """Of the epochs after the first: from when to when, in seconds since 1970; CPU seconds of all
    threads; seconds of the thread that reads; and those of the steps (see Averaged)."""
    assert course.first_ended is not None, "a measured training has more than one epoch"
    began, cpu, reading = course.first_ended
    return {
        "began": began,
        "ended": time.time(),
        "cpu_seconds": time.process_time() - cpu,
        "seconds_reading": course.shard.seconds_reading - reading,
        "step_seconds": model.seconds.numpy().tolist(),
    }


def peak_bytes() -> int:
    """The most memory that this process has held."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def _choose_device(job: Job, tf: Any) -> None:
    if job.candidate.device == "cpu":
        tf.config.set_visible_devices([], "GPU")
        tf.config.threading.set_intra_op_parallelism_threads(job.threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        return
    found = tf.config.list_physical_devices("GPU")
    mine = found[gpu_of(collective.gpus(), collective.local_rank(), len(found))]
    tf.config.experimental.set_memory_growth(mine, True)
    tf.config.set_visible_devices([mine], "GPU")


def gpu_of(given: Sequence[str], local_rank: int, visible: int) -> int:
    """The place of this rank's GPU among those that its process sees.

    It is the one that Spark `given` its task; where a container shows one alone, that.

    >>> gpu_of(["3"], 0, 8), gpu_of(["3"], 0, 1), gpu_of([], 1, 8)
    (3, 0, 1)
    """
    if visible == 1:
        return 0
    return int(given[0]) if given else local_rank


def _loss(job: Job) -> Any:
    import keras

    return {
        "binary": keras.losses.BinaryCrossentropy,
        "multiclass": keras.losses.SparseCategoricalCrossentropy,
        "regression": keras.losses.MeanSquaredError,
    }[job.label.kind]


def _scoring(inputs: Any, predicted: Any, job: Job) -> Any:
    """The model that is kept: a number comes in the label's unit."""
    import keras

    if job.label.kind == "regression":
        predicted = keras.layers.Rescaling(job.deviation, job.mean, name="in_unit")(predicted)
    return keras.Model(inputs, predicted)


def _optimizer(job: Job) -> Any:
    import keras

    candidate = job.candidate
    kind = {
        "adam": keras.optimizers.Adam,
        "adamw": keras.optimizers.AdamW,
        "sgd": keras.optimizers.SGD,
    }[candidate.optimizer]
    # Clipped when it is applied, which is after the averaging.
    return kind(learning_rate=candidate.learning_rate, global_clipnorm=candidate.clip_norm)


class _Course:
    """How a training goes on from epoch to epoch: rate, checks, checkpoints, the best so far."""

    def __init__(self, model: Any, job: Job, shard: Shard, progress: _Progress) -> None:
        self.model, self.job, self.shard, self.progress = model, job, shard, progress
        self.folder = Path(job.folder) / "checkpoints"
        self.history: dict[str, list[float]] = {}
        self.best: dict[str, Any] = {"epoch": -1, "loss": float("inf"), "weights": None}
        self.over = False
        self.step, self.rate = 0, float("nan")
        # When the first epoch ended: wall clock, CPU seconds, seconds spent on reading.
        self.first_ended: tuple[float, float, float] | None = None

    def callback(self) -> Any:
        import keras

        course, progress = self, self.progress
        timed = self.model.timed

        class Epochs(keras.callbacks.Callback):  # type: ignore[misc]
            def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
                course.shard.epoch = epoch
                progress.epoch = epoch

            def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
                course.set_rate()
                if timed:
                    import tensorflow as tf

                    course.model.step_began.assign(tf.timestamp())
                progress.mark(own_code=False)

            def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
                progress.mark(own_code=True)

            def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
                progress.mark(own_code=True)

            def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
                course.end_epoch(epoch, dict(logs or {}))
                if timed and course.first_ended is None:  # it holds the building of the graph
                    reading = course.shard.seconds_reading
                    course.first_ended = (time.time(), time.process_time(), reading)
                    course.model.seconds.assign([0.0, 0.0, 0.0])

        return Epochs()

    def set_rate(self) -> None:
        """From the declared rate to that times the ranks, linearly over the warm-up."""
        candidate = self.job.candidate
        most = collective.size() if candidate.scale_learning_rate else 1
        steps = candidate.warmup_epochs * self.job.steps
        self.step += 1
        done = 1.0 if steps == 0 else min(1.0, self.step / steps)
        rate = candidate.learning_rate * (1 + (most - 1) * done)
        if rate != self.rate:
            self.model.optimizer.learning_rate = self.rate = rate

    def end_epoch(self, epoch: int, logs: dict[str, float]) -> None:
        from nightjar.engine.trainers.horovod_keras import averaging

        averaging.average_statistics(self.model)
        self._compare(epoch)
        for name, value in logs.items():
            self.history.setdefault(name, []).append(float(value))
        if not np.isfinite(logs["loss"]):
            raise TrainingRefused(
                f"the loss of epoch {epoch + 1} is {logs['loss']}: lower the learning rate, or "
                "clip the gradients",
                epoch=epoch + 1,
            )
        loss = float(logs.get("val_loss", logs["loss"]))
        if loss < self.best["loss"]:
            weights = [v.numpy() for v in self.model.variables]
            self.best = {"epoch": epoch, "loss": loss, "weights": weights}
        patience = self.job.candidate.patience
        if patience is not None and epoch - self.best["epoch"] >= patience:
            self.over = self.model.stop_training = True
        if collective.rank() == 0:
            self._keep(epoch)

    def _compare(self, epoch: int) -> None:
        """Every rank must hold the same parameters, bit for bit."""
        import tensorflow as tf

        from nightjar.engine.trainers.horovod_keras import averaging

        mine = averaging.digest(self.model)
        found = collective.gather(tf.constant([mine], tf.int64), "digests").numpy().tolist()
        if len(set(found)) > 1:
            most = max(set(found), key=lambda value: (found.count(value), value == found[0]))
            apart = [rank for rank, value in enumerate(found) if value != most]
            raise TrainingRefused(
                f"after epoch {epoch + 1} the parameters of rank {', '.join(map(str, apart))} are "
                f"not those of the other {found.count(most)} of {len(found)} ranks: gradients were "
                "not averaged there",
                ranks=apart,
                epoch=epoch + 1,
            )

    # -- checkpoints ---------------------------------------------------------------------------

    def _keep(self, epoch: int) -> None:
        from nightjar.engine.trainers.horovod_keras import averaging

        arrays = {f"s{i}": v.numpy() for i, v in enumerate(averaging.state(self.model))}
        best = self.best["weights"] or []
        arrays |= {f"b{i}": value for i, value in enumerate(best)}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        content = buffer.getvalue()
        facts = {
            "epoch": epoch,
            "sha256": hashlib.sha256(content).hexdigest(),
            "history": self.history,
            "best": {"epoch": self.best["epoch"], "loss": self.best["loss"]},
            "over": self.over,
        }
        self.folder.mkdir(exist_ok=True)
        _put(self.folder / f"{epoch:06d}.npz", content)
        _put(self.folder / f"{epoch:06d}.json", json.dumps(facts).encode())
        for old in sorted(self.folder.glob("*.json"))[:-CHECKPOINTS_KEPT]:
            old.unlink()
            old.with_suffix(".npz").unlink(missing_ok=True)

    def resume(self) -> int:
        """Go on after the last whole checkpoint; returns how many epochs are done.

        Every rank ends with the state of rank 0.
        """
        import tensorflow as tf

        from nightjar.engine.trainers.horovod_keras import averaging

        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        done = self._load()
        seen = collective.gather(tf.constant([done]), "resumed").numpy().tolist()
        if len(set(seen)) > 1:
            raise TrainingRefused(
                f"the ranks see different checkpoints (epochs {seen}): {self.folder} must be "
                "storage that all of them share",
                epochs=seen,
            )
        averaging.broadcast_state(self.model)
        self.step = int(self.model.optimizer.iterations.numpy())
        return done

    def _load(self) -> int:
        from nightjar.engine.trainers.horovod_keras import averaging

        for path in sorted(self.folder.glob("*.json"), reverse=True):
            facts = json.loads(path.read_bytes())
            content = path.with_suffix(".npz").read_bytes()
            if hashlib.sha256(content).hexdigest() != facts["sha256"]:
                continue
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                for i, variable in enumerate(averaging.state(self.model)):
                    variable.assign(arrays[f"s{i}"])
                count = len(self.model.variables)
                weights = [arrays[f"b{i}"] for i in range(count)] if "b0" in arrays else None
            self.history, self.over = facts["history"], facts["over"]
            self.best = {**facts["best"], "weights": weights}
            return int(facts["epoch"]) + 1
        return 0

    def restore_best(self) -> None:
        if self.best["weights"] is not None:
            for variable, value in zip(self.model.variables, self.best["weights"], strict=True):
                variable.assign(value)


def _put(path: Path, content: bytes) -> None:
    partial = path.with_suffix(path.suffix + ".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


class _Progress:
    """Marks how far this rank is, for its guard to see, and starts and ends the guard.

    A mark is four numbers: how many there were, whether the rank is in code of its own (else in a
    step, which ends when all ranks have made it), whether it reads rows, and the epoch.
    """

    def __init__(self, rank: int, shared: Path, job: Job, guard: str) -> None:
        self.rank, self.shared, self.epoch = rank, shared, 0
        self.count = self.own = self.busy = 0
        self.handle, self.path = tempfile.mkstemp(prefix="nightjar-rank-")
        self._write()
        stall = job.candidate.stall.total_seconds()
        limits = (stall, stall + OTHERS_SECONDS, START_SECONDS)
        command = [sys.executable, "-I", "-S", "-c", guard, str(rank), str(os.getpid())]
        command += [self.path, str(shared), *map(str, limits)]
        # In a session of its own: what ends the rank's process group must not end its guard.
        self.guard = subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        (self.shared / f"rank-{self.rank}.done").write_text(str(kind is None))
        self.guard.kill()
        self.guard.wait()
        os.close(self.handle)
        Path(self.path).unlink(missing_ok=True)

    def mark(self, own_code: bool) -> None:
        self.count += 1
        self.own = int(own_code)
        self._write()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Nothing happens here until the other ranks do the same; before the first step, all is
        starting."""
        if self.count == 0:
            yield
            return
        before = self.own
        self.mark(own_code=False)
        try:
            yield
        finally:
            self.mark(own_code=bool(before))

    @contextmanager
    def reading(self) -> Iterator[None]:
        self.busy = 1
        self._write()
        try:
            yield
        finally:
            self.busy = 0
            self._write()

    def say(self, found: dict[str, Any]) -> None:
        """Leave a report for the driver."""
        facts = {"rank": self.rank, "pid": os.getpid(), "host": os.uname().nodename}
        facts |= {"idle": 0, "epoch": self.epoch}
        _put(self.shared / f"rank-{self.rank}.report", json.dumps({**facts, **found}).encode())

    def _write(self) -> None:
        os.pwrite(self.handle, struct.pack("4q", self.count, self.own, self.busy, self.epoch), 0)
