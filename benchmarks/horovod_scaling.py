"""Rows per second with 1, 2 and more ranks of Horovod: one core and one TensorFlow thread each.

    python benchmarks/horovod_scaling.py [--ranks 1 2] [--repeat 5] [--memory] [--curve FILE.png]

Every rank has the same number of rows (weak scaling), so that efficiency is rows per second with n
ranks over n times that with one. What can be had at most on this machine is measured in the same
run, in turn with the ranks: the same trainings in as many processes that know nothing of each other
(`apart`), and bare multiplications of matrices of the network's size (`matmul`). Medians.

Where the time goes: waiting for input, computing, the gradients' allreduce (`sums`), which includes
waiting for the slowest rank, and what is `between` steps: Keras, and the checkpoint of each epoch.
`cores` are CPU seconds a second: of one rank, and of all else on the machine (Spark's JVM, the
driver, the guards, and whatever has no part in this).

With --memory also the most memory that a rank holds, for some rows and for eight times as many.
With --curve the loss by epoch of 1, 2 and 4 ranks on the same rows is drawn, the same rows in all
for each. `--repeat 0` leaves the rates out. Needs `make deep`.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nightjar.core.pipeline import HorovodKerasCandidate, Label
from nightjar.engine.session import start
from nightjar.engine.trainers import horovod_keras
from nightjar.engine.trainers.horovod_keras.job import Job, shares
from nightjar.engine.trainers.horovod_keras.launch import run

NUMERIC = 20
CATEGORIES = {"carrier": 16, "dest": 105}
GROUP = 5_000  # so that shares are even for 1, 2 and 4 ranks
CORES = sorted(os.sched_getaffinity(0))
MATMUL_SECONDS = 3.0


@dataclass(frozen=True)
class Rate:
    """What some ranks or processes did together: rows (or GFLOP) a second, and at what cost."""

    rate: float
    cores: float
    others: float = float("nan")
    shares: tuple[float, ...] = ()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000, help="of each rank")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, default=8192)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--curve", type=Path)
    given = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join(  # the ranks import this file for its builder
        [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    most = max([*given.ranks, 4 if given.curve else 1])
    conf = Path(__file__).parents[1] / "spark-conf" / "local.conf"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        profile = folder / "local.conf"
        profile.write_text(conf.read_text().replace("local[*]", f"local[{most}]"))
        spark = start("horovod benchmark", profile)
        groups = write(folder, given.rows * max(given.ranks))
        candidate = HorovodKerasCandidate.model_validate(
            {
                "trainer": "horovod_keras",
                "builder": "horovod_scaling:network",
                "params": {"width": given.width},
                "epochs": given.epochs,
                "batch_size": given.batch,
                "validation": 0,
            }
        )

        def job(ranks: int) -> Job:
            return made(candidate, folder, groups[: ranks * given.rows // GROUP], ranks)

        cases: dict[str, Callable[[int], Rate]] = {
            "matmul": lambda n: multiplied(n, given.batch, given.width),
            "apart": lambda n: apart([job(1) for _ in range(n)]),
            "ranks": lambda n: together(spark, job(n)),
        }
        print(
            f"{given.rows:,} rows a rank, batches of {given.batch}, two layers of {given.width}, "
            f"{len(CORES)} cores, load {os.getloadavg()[0]:.1f}; medians of {given.repeat}"
        )
        found: dict[tuple[str, int], list[Rate]] = {}
        for _ in range(given.repeat):
            for ranks in given.ranks:
                for case, measure in cases.items():
                    rates = found.setdefault((case, ranks), [])
                    rates.append(measure(ranks))
                    print(f"  {ranks} {case:6} {rates[-1]}", file=sys.stderr, flush=True)
        if given.repeat:
            show(found, given.ranks)
        if given.memory:
            memory(spark, candidate, folder, groups)
        if given.curve:
            curve(spark, candidate, folder, groups[: given.rows // GROUP], given.curve)
        spark.stop()


def show(found: Mapping[tuple[str, int], list[Rate]], counts: list[int]) -> None:
    """`efficiency` is that of the rates, `by CPU` that of rows by CPU second: other work on the
    machine spoils the first, and the second does not see time that is spent waiting."""
    print(
        "             a second        efficiency  of the ceiling  by CPU   cores  others"
        "    input  compute     sums  between"
    )
    efficiency: dict[tuple[str, int], float] = {}
    for case in ("matmul", "apart", "ranks"):
        alone = medians(found[case, counts[0]])
        for count in counts:
            made = medians(found[case, count])
            efficiency[case, count] = made.rate / count * counts[0] / alone.rate
            ceiling = efficiency[case, count] / efficiency.get(("apart", count), np.nan)
            by_cpu = made.rate / count / made.cores * counts[0] * alone.cores / alone.rate
            unit = "GFLOP" if case == "matmul" else "rows"
            print(
                f"{count} {case:6} {made.rate:12,.0f} {unit:5} {efficiency[case, count]:12.2f} "
                f"{ceiling:15.2f} {by_cpu:7.2f} {made.cores:7.2f} {made.others:7.2f}"
                + "".join(f"{part:9.1%}" for part in made.shares),
                flush=True,
            )


def medians(rates: list[Rate]) -> Rate:
    shares = zip(*(r.shares for r in rates), strict=True)
    return Rate(
        statistics.median(r.rate for r in rates),
        statistics.median(r.cores for r in rates),
        statistics.median(r.others for r in rates),
        tuple(statistics.median(each) for each in shares),
    )


# -- the cases -------------------------------------------------------------------------------------


def together(spark: Any, job: Job) -> Rate:
    """Ranks of Horovod, launched as a training launches them."""
    with _Machine() as machine:
        found = run(spark, job, timed=True)
    return rate(job, [rank["measured"] for rank in found], machine)


def apart(jobs: list[Job]) -> Rate:
    """Trainings of one rank each in processes of their own, which start their steps together."""
    gate = Path(jobs[0].folder).parent / uuid.uuid4().hex
    gate.mkdir()
    processes = []
    with _Machine() as machine:
        for i, job in enumerate(jobs):
            params = {**job.candidate.params, "core": i, "gate": str(gate), "count": len(jobs)}
            candidate = job.candidate.model_copy(update={"params": params})
            path = Path(job.folder) / "job.pickle"
            path.write_bytes(pickle.dumps(replace(job, candidate=candidate)))
            (Path(job.folder) / job.run).mkdir()
            command = [sys.executable, __file__, "--apart", str(path)]
            with (Path(job.folder) / "errors").open("w") as errors:
                processes.append(
                    subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
                )
        beats = 0
        while any(process.poll() is None for process in processes):
            beats += 1
            for job in jobs:  # the guards end what no driver looks after
                (Path(job.folder) / job.run / "driver.alive").write_text(str(beats))
            time.sleep(0.5)
    answers = []
    for process, job in zip(processes, jobs, strict=True):
        answer = process.communicate()[0]
        if process.returncode:
            raise RuntimeError((Path(job.folder) / "errors").read_text()[-2000:])
        answers.append(json.loads(answer))
    return rate(jobs[0], answers, machine)


def one_apart(path: Path) -> None:
    from nightjar.engine.trainers.horovod_keras.rank import learn

    os.environ.update(HOROVOD_RANK="0", OMP_NUM_THREADS="1")
    job = pickle.loads(path.read_bytes())
    guard = resources.files(horovod_keras).joinpath("guard.py").read_text()
    print(json.dumps(learn(job, guard, timed=True)["measured"]))


def rate(job: Job, measured: list[dict[str, Any]], machine: _Machine) -> Rate:
    rows = sum(rows for *_, rows in job.learnt[0]) * (job.candidate.epochs - 1)
    seconds = [m["ended"] - m["began"] for m in measured]
    steps = np.sum([m["step_seconds"] for m in measured], axis=0)
    used = sum(m["cpu_seconds"] for m in measured)
    began, ended = min(m["began"] for m in measured), max(m["ended"] for m in measured)
    return Rate(
        sum(rows / s for s in seconds),
        used / sum(seconds),
        (machine.busy(began, ended) - used) / (ended - began),
        (*(steps / sum(seconds)), 1 - steps.sum() / sum(seconds)),
    )


def multiplied(count: int, batch: int, width: int) -> Rate:
    """The forward and backward products of one hidden layer, in as many processes."""
    command = [sys.executable, __file__, "--matmul"]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [*command, str(core), str(batch), str(width)], stdout=subprocess.PIPE, env=environment
        )
        for core in range(count)
    ]
    answers = [json.loads(process.communicate()[0]) for process in processes]
    seconds = sum(answer["seconds"] for answer in answers)
    cores = sum(answer["cpu_seconds"] for answer in answers) / seconds
    return Rate(sum(answer["gflop"] / answer["seconds"] for answer in answers), cores)


def one_multiplied(core: int, batch: int, width: int) -> None:
    stay_on(core)
    chance = np.random.default_rng(0)
    rows = chance.normal(size=(batch, width)).astype(np.float32)
    weights = chance.normal(size=(width, width)).astype(np.float32)
    gflop = 0.0
    began, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() - began < MATMUL_SECONDS:
        rows @ weights, rows @ weights.T, rows.T @ rows
        gflop += 3 * 2 * batch * width * width / 1e9
    seconds = time.perf_counter() - began
    used = time.process_time() - cpu
    print(json.dumps({"gflop": gflop, "seconds": seconds, "cpu_seconds": used}))


def stay_on(core: int) -> None:
    """Keep all threads of this process, and those to come, on one core."""
    for task in os.listdir("/proc/self/task"):
        with suppress(ProcessLookupError):
            os.sched_setaffinity(int(task), {CORES[core % len(CORES)]})


class _Machine:
    """CPU seconds of the whole machine, looked at each tenth of a second."""

    def __enter__(self) -> _Machine:
        self.seen: list[tuple[float, float]] = []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *rest: object) -> None:
        self.over.set()
        self.thread.join()

    def _look(self) -> None:
        while not self.over.wait(0.1):
            fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
            user, nice, system, _, _, irq, softirq, _ = map(int, fields)
            ticks = user + nice + system + irq + softirq
            self.seen.append((time.time(), ticks / os.sysconf("SC_CLK_TCK")))

    def busy(self, began: float, ended: float) -> float:
        """CPU seconds between two points in time."""
        times, seconds = zip(*self.seen, strict=True)
        first, last = np.interp([began, ended], times, seconds)
        return float(last - first)


# -- what they learn -------------------------------------------------------------------------------


def network(
    numeric: int,
    categories: dict[str, int],
    width: int,
    core: int | None = None,
    gate: str | None = None,
    count: int = 1,
) -> Any:
    """Embeddings and two dense layers, as a pipeline file would declare them, on one core.

    With `gate`, a folder, it waits there until `count` processes have come so far.
    """
    import keras

    from nightjar.engine.trainers.horovod_keras import collective

    stay_on(collective.rank() if core is None else core)
    if gate is not None:
        (Path(gate) / str(core)).touch()
        while len(os.listdir(gate)) < count:
            time.sleep(0.01)
    numbers = keras.Input((numeric,), name="numeric", dtype="float32")
    codes = keras.Input((len(categories),), name="categorical", dtype="int32")
    parts = [numbers]
    for i, known in enumerate(categories.values()):
        parts.append(keras.layers.Embedding(known + 1, 8 + 4 * i)(codes[:, i]))
    rows = keras.layers.Concatenate()(parts)
    for _ in range(2):
        rows = keras.layers.Dense(width, activation="relu")(rows)
    return keras.Model([numbers, codes], keras.layers.Dense(1, activation="sigmoid")(rows))


def memory(spark: Any, candidate: HorovodKerasCandidate, folder: Path, groups: Any) -> None:
    """The most memory that a rank holds, for a share of rows and for one of eight times as many."""
    for times in (1, 8):
        part = groups[: len(groups) * times // 8]
        found = run(spark, made(candidate, folder, part, 1))
        rows = sum(rows for *_, rows in part)
        print(
            f"{rows:12,} rows: {found[0]['peak_bytes'] / 2**20:6,.0f} MiB in one rank", flush=True
        )


def made(candidate: HorovodKerasCandidate, folder: Path, groups: Any, ranks: int) -> Job:
    place = folder / uuid.uuid4().hex
    place.mkdir()
    numeric = tuple(f"n{i}" for i in range(NUMERIC))
    asked = candidate.model_copy(update={"workers": ranks})
    parts = shares(groups, ranks)
    label = Label.model_validate({"name": "late", "expr": "late", "known_after": "1 day"})
    return Job(asked, label, str(place), "run", numeric, CATEGORIES, parts, [[]] * ranks)


def write(folder: Path, count: int) -> list[tuple[str, int, int]]:
    """An encoded matrix as Parquet, in row groups of GROUP rows."""
    chance = np.random.default_rng(0)
    path = folder / "part-0.parquet"
    names = [f"x{i}" for i in range(NUMERIC + len(CATEGORIES))] + ["label", "weight"]
    schema = pa.schema([(name, pa.float32()) for name in names])
    groups = []
    with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
        for i in range(-(-count // GROUP)):
            numbers = chance.normal(size=(GROUP, NUMERIC))
            codes = [chance.integers(0, n, GROUP) for n in CATEGORIES.values()]
            late = numbers[:, 0] + numbers[:, 1] * numbers[:, 2] + chance.normal(size=GROUP) > 0.5
            columns = [*numbers.T, *codes, late, np.ones(GROUP)]
            arrays = [pa.array(column.astype(np.float32)) for column in columns]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=GROUP)
            groups.append((str(path), i, GROUP))
    return groups


def curve(
    spark: Any, candidate: HorovodKerasCandidate, folder: Path, groups: Any, path: Path
) -> None:
    """The loss of each epoch with 1, 2 and 4 ranks; the batches of all ranks together are equal."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for ranks in (1, 2, 4):
        asked = candidate.model_copy(
            update={
                "epochs": 8,
                "batch_size": candidate.batch_size // ranks,
                "scale_learning_rate": False,
            }
        )
        history = run(spark, made(asked, folder, groups, ranks))[0]["history"]["loss"]
        print(f"{ranks} rank(s): loss by epoch " + " ".join(f"{loss:.5f}" for loss in history))
        axes.plot(range(1, 9), history, marker="o", label=f"{ranks} rank{'s' * (ranks > 1)}")
    axes.set_xlabel("epoch")
    axes.set_ylabel("training loss")
    axes.set_title("The same rows; the batches of all ranks together as large")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--apart"]:
        one_apart(Path(sys.argv[2]))
    elif sys.argv[1:2] == ["--matmul"]:
        one_multiplied(*map(int, sys.argv[2:]))
    else:
        main()
