"""The rows of a training: put together once, parted by time, and looked at before anything learns.

They lie in a folder that no record counts on: the decision removes it, and what a training that
never came to its end has left, a vacuum collects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock
from pathlib import Path
from typing import Any

from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from nightjar.core.errors import NotThereYet, TrainingRefused, UsageError
from nightjar.core.records import Record
from nightjar.engine import explain, features
from nightjar.engine.lake import read_folder
from nightjar.engine.registry import Registry
from nightjar.engine.stages.features import silver_frames, silver_records
from nightjar.engine.trainers import SCORE, TrainingSet, trainer
from nightjar.engine.training.evaluation import evaluate
from nightjar.engine.training.report import shown
from nightjar.engine.work import Work, blank_record

STEP = "train.rows"
SMALLEST_CLASS = 20
ROWS_A_PARTITION = 250_000


@dataclass(frozen=True)
class Opened:
    """The prepared rows: to learn from, in an order that they alone decide, and to test on."""

    record: Record
    folder: Path
    training: TrainingSet
    test: DataFrame

    @property
    def nights(self) -> tuple[str, str]:
        """The first and the last night that they are of."""
        first, last = self.record.details["nights"]
        return first, last

    @property
    def test_from(self) -> str:
        """The time (ISO 8601) from which on rows are tested on."""
        return str(self.record.details["test_from"])


def inputs(work: Work, as_of: date) -> list[object]:
    """Everything that decides which rows there are.

    Raises:
        NotThereYet: no night that can be learnt from is loaded.
    """
    spec = work.plan.spec
    used = _used(work, known_nights(work, as_of))
    prints = {s: {str(d): r.fingerprint for d, r in found.items()} for s, found in used.items()}
    return [spec.features, spec.label, spec.split, prints]


def prepare(work: Work, as_of: date) -> Record:
    """Write the rows, and look at them.

    Raises:
        EnvironmentFault: a candidate needs what this session or this machine does not have.
        NotThereYet: no night that can be learnt from is loaded.
        TrainingRefused: the rows cannot give a model that means anything.
        UsageError: a candidate has a parameter that is out of its range.
    """
    before = work.book.get(as_of, STEP)
    gone = before is not None and not _folder(work, before).is_dir()
    do = _Preparation(work, as_of).run
    return work.once(STEP, {as_of: inputs(work, as_of)}, do, stale=[as_of] if gone else [])[as_of]


@contextmanager
def opened(work: Work, as_of: date) -> Iterator[Opened]:
    """The rows, which are prepared where they are not there; those to learn from are cached."""
    record = prepare(work, as_of)
    folder, told = _folder(work, record), record.details
    train, test = _read(work, folder)
    if told["shared_rows"]:
        train, _ = without_rows_of(train, test, _key(work))
    seen = {**told["training"], "classes": tuple(told["training"]["classes"])}
    training = TrainingSet(train, **_of_pipeline(work), **seen, say=work.say)
    ordered = training.in_fixed_order(max(8, training.count // ROWS_A_PARTITION))
    training = replace(training, rows=ordered.persist(StorageLevel.MEMORY_AND_DISK))
    try:
        yield Opened(record, folder, training, test)
    finally:
        training.rows.unpersist()


def known_nights(work: Work, as_of: date) -> list[date]:
    """The loaded nights of the split's history whose labels are known on the day `as_of`.

    Raises:
        NotThereYet: there is none.
    """
    spec = work.plan.spec
    base = spec.features.base
    loaded = work.book.nights(f"validate.{base}")
    last = as_of - spec.label.known_after
    nights = [ds for ds in loaded if last - spec.split.history < ds <= last]
    if not nights:
        raise NotThereYet(
            f"no night of '{base}' whose labels are known on {as_of} is loaded; load some first: "
            f"nightjar load {spec.name} --from YYYY-MM-DD --to YYYY-MM-DD",
            loaded=[str(ds) for ds in loaded[-5:]],
        )
    return nights


def scratch(work: Work) -> Path:
    """Storage of the pipeline's trainings that every executor sees."""
    folder = work.project.warehouse / "training" / work.plan.spec.name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def without_rows_of(train: DataFrame, test: DataFrame, key: Sequence[str]) -> tuple[DataFrame, int]:
    """`train` without the rows whose key is in `test` too, and how many these are.

    A row that was delivered on two nights could else be learnt by heart and then tested on.
    """
    keys = test.select(*key).distinct()
    shared = train.join(keys, list(key), "left_semi").count()
    return (train.join(keys, list(key), "left_anti") if shared else train), shared


class _Preparation:
    def __init__(self, work: Work, as_of: date) -> None:
        self.work, self.spec = work, work.plan.spec
        self.label = self.spec.label
        self.nights = known_nights(work, as_of)
        end = datetime.combine(self.nights[-1] + timedelta(days=1), clock.min, UTC)
        self.cutoff = end - self.spec.split.test

    def run(self, pending: Sequence[date], attempt: str) -> dict[date, Record]:
        work = self.work
        for name, candidate in self.spec.candidates.items():  # before any work is done for them
            try:
                trainer(candidate.trainer).require(work.spark, candidate)
            except UsageError as error:
                raise UsageError(f"candidate '{name}': {error.message}") from error
        # Makes what is missing of the registry's books, before candidates write there side by side.
        Registry(work.project, self.spec.name).experiment()
        work.say(
            f"  {len(self.nights)} nights, {self.nights[0]} to {self.nights[-1]}; "
            f"tested on rows from {self.cutoff:%Y-%m-%d %H:%M} UTC"
        )
        folder = work.folder("training", self.spec.name, attempt)
        self._write(folder)
        train, test = _read(work, folder)
        train, shared = without_rows_of(train, test, _key(work))
        if shared:
            work.say(f"  {shared:,} rows are tested on too, and are not learnt from")
        tested = self._count(train, test)
        training = TrainingSet.of(train, **_of_pipeline(work), say=work.say)
        base_rate, _ = evaluate(test.withColumn(SCORE, training.prior), SCORE, self.label)
        work.say(f"  {'base rate':<16} {shown(base_rate, self.spec.gate.metric)}")
        (ds,) = pending
        return {
            ds: blank_record(
                counts={"train rows": training.count, "test rows": tested},
                details={
                    "folder": work.project.relative(folder),
                    "nights": [str(self.nights[0]), str(self.nights[-1])],
                    "test_from": self.cutoff.isoformat(),
                    "shared_rows": shared,
                    "training": {
                        "count": training.count,
                        "classes": training.classes,
                        "mean": training.mean,
                        "deviation": training.deviation,
                    },
                    "base_rate": base_rate.as_dict(),
                    explain.TYPICAL: explain.typical(train, self.spec.features),
                },
            )
        }

    def _write(self, folder: Path) -> None:
        used = _used(self.work, self.nights)
        built = features.build(self.work.plan, silver_frames(self.work, used))
        is_test = F.col(self.spec.split.by) >= F.lit(self.cutoff)
        labelled = built.where(F.col(self.label.name).isNotNull())
        parted = labelled.withColumn("part", F.when(is_test, "test").otherwise("train"))
        parted.write.partitionBy("part").parquet(str(folder))

    def _count(self, train: DataFrame, test: DataFrame) -> int:
        """The number of test rows; refuses what is too little to mean anything."""
        counted = [F.count(F.lit(1)).alias("rows")]
        y = F.col(self.label.name)
        counted += [
            F.count_if(y == code).alias(f"class_{code}") for code in range(self.label.codes)
        ]
        found: dict[str, list[int]] = {}
        for name, rows in (("train", train), ("test", test)):
            found[name] = list(rows.agg(*counted).collect()[0])
        told = {name: rows for name, (rows, *_) in found.items()}
        if self.label.kind == "binary":
            told |= {f"{name}_positives": classes[1] for name, (_, *classes) in found.items()}
        names = self.label.classes or ("negatives", "positives")[: self.label.codes]
        for part, (count, *classes) in found.items():
            least = min(classes, default=count // 2)
            if least < SMALLEST_CLASS:
                each = ", ".join(f"{n} {name}" for name, n in zip(names, classes, strict=True))
                needed = "of each class" if classes else "pairs of rows"
                raise TrainingRefused(
                    f"the {part} rows hold {each or 'no more'} of {count}; at least "
                    f"{SMALLEST_CLASS} {needed} are needed. Load more nights, or look at label "
                    f"'{self.label.name}': {self.label.expr}",
                    **told,
                )
        return found["test"][0]


def _used(work: Work, nights: Sequence[date]) -> dict[str, dict[date, Record]]:
    return {source: silver_records(work, source, nights) for source in work.plan.spec.sources}


def _key(work: Work) -> tuple[str, ...]:
    return work.plan.contract_of(work.plan.spec.features.base).primary_key


def _of_pipeline(work: Work) -> Mapping[str, Any]:
    """What a training set has of its pipeline, whatever the rows are."""
    spec = work.plan.spec
    return {
        "features": spec.features,
        "label": spec.label,
        "key": _key(work),
        "folder": scratch(work),
        "weight": features.WEIGHT if spec.label.weight is not None else None,
    }


def _folder(work: Work, record: Record) -> Path:
    return work.project.warehouse / str(record.details["folder"])


def _read(work: Work, folder: Path) -> tuple[DataFrame, DataFrame]:
    schema = features.schema(work.plan)
    train = read_folder(work.spark, schema, folder / "part=train")
    return train, read_folder(work.spark, schema, folder / "part=test")
