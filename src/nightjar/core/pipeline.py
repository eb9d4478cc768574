"""Pipeline specs: what a pipeline reads, cleans, learns, demands and publishes."""

from __future__ import annotations

import re
from datetime import date, timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]


def parse_duration(value: Any) -> Any:
    """'2 hours', '1 day', '30 seconds' as a timedelta.

    >>> parse_duration("2 hours")
    datetime.timedelta(seconds=7200)
    """
    if isinstance(value, timedelta):
        return value
    match = re.fullmatch(r"(\d{1,6}) (second|minute|hour|day)s?", str(value))
    if not match:
        raise ValueError(f"{value!r} is no duration; write it like '2 hours' or '30 days'")
    return timedelta(**{match[2] + "s": int(match[1])})


_UNITS = {"B": 0, "KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}


def parse_size(value: Any) -> Any:
    """'64 MiB', '2 GiB' as a number of bytes.

    >>> parse_size("64 MiB")
    67108864
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = re.fullmatch(r"(\d{1,6}) (B|KiB|MiB|GiB|TiB)", str(value))
    if not match:
        raise ValueError(f"{value!r} is no size; write it like '64 MiB' or '2 GiB'")
    return int(match[1]) << _UNITS[match[2]]


def _inside(path: str) -> str:
    parts = path.split("/")
    if path.startswith("/") or ".." in parts or "" in parts or "\\" in path or ":" in path:
        raise ValueError(f"{path!r} must be a relative path that stays inside the warehouse")
    if re.search(r"[{}]", path.replace("{ds}", "")):
        raise ValueError(f"{path!r}: the one placeholder is {{ds}}")
    if "*" in "/".join(parts[:-1]):
        raise ValueError(f"{path!r}: '*' stands for many files, in the last part of a path alone")
    return path


_MONTHS = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
_CRON_FIELD = rf"(?i)(?:[\d*/,#?L-]|mon|tue|wed|thu|fri|sat|sun|{_MONTHS})+"
_CRON_RANGES = (
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day", 1, 31),
    ("month", 1, 12),
    ("weekday", 0, 7),
)


def _cron(text: str) -> str:
    fields = text.split()
    if len(fields) != 5 or not all(re.fullmatch(_CRON_FIELD, field) for field in fields):
        raise ValueError(f"{text!r} is no cron line of five fields")
    for field, (name, low, high) in zip(fields, _CRON_RANGES, strict=True):
        for number in re.findall(r"\d+", re.sub(r"[/#]\d+", "", field)):
            if not low <= int(number) <= high:
                raise ValueError(f"{text!r}: {name} {number} is not in {low} to {high}")
    return text


def _delimiter(text: str) -> str:
    if not text.isascii() or not (text.isprintable() or text == "\t") or text == '"':
        raise ValueError(f"{text!r} cannot part fields: use one ASCII character that is no quote")
    return text


def _quote(text: str) -> str:
    if text and (len(text) > 1 or not text.isascii() or not text.isprintable() or text.isalnum()):
        raise ValueError(f"{text!r} cannot quote: use one ASCII mark, or '' where nothing quotes")
    return text


Duration = Annotated[timedelta, BeforeValidator(parse_duration)]


class Closed(BaseModel):
    """Frozen, and refuses keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


Encoding = Literal["utf-8", "utf-16", "utf-16-le", "utf-16-be", "latin-1", "windows-1252", "detect"]


class Limits(Closed):
    """The most that one delivered file may ask for; more is refused, never cut off.

    `record` is the longest record in bytes; `unpacked` the size of a file once it is decompressed,
    and `ratio` how many times its size on disk that may be (asked beyond 128 MiB).
    """

    record: Annotated[int, BeforeValidator(parse_size), Field(ge=1 << 10, le=1 << 30)] = 64 << 20
    unpacked: Annotated[int, BeforeValidator(parse_size), Field(ge=1)] = 256 << 30
    ratio: int = Field(default=200, ge=1)


class Source(Closed):
    """One delivered dataset. A path with {ds} is delivered each night; without, it is a snapshot.

    A path whose last part holds '*' is many files: all whose names match. `encoding` None is
    UTF-8, or UTF-16 where a byte order mark says so. `settled` is how long a file must have lain
    unchanged; `repeats`, whether the same bytes may come twice.
    """

    contract: Name
    format: Literal["csv", "jsonl", "parquet"]
    path: Annotated[str, AfterValidator(_inside)]
    null_values: tuple[str, ...] = ("",)
    delimiter: Annotated[
        str, StringConstraints(min_length=1, max_length=1), AfterValidator(_delimiter)
    ] = ","
    quote: Annotated[str, AfterValidator(_quote)] = '"'
    encoding: Encoding | None = None
    settled: Duration = timedelta(0)
    repeats: Literal["refuse", "allow"] = "refuse"
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        only = {"delimiter": ("csv",), "quote": ("csv",), "encoding": ("csv", "jsonl")}
        for option, formats in only.items():
            if option in self.model_fields_set and self.format not in formats:
                raise ValueError(f"'{option}' means nothing for {self.format}")
        if self.quote == self.delimiter:
            raise ValueError(f"{self.quote!r} cannot both quote and part fields")
        return self

    @property
    def nightly(self) -> bool:
        return "{ds}" in self.path

    @property
    def many(self) -> bool:
        return "*" in self.path

    def file(self, ds: date) -> str:
        return self.path.replace("{ds}", ds.isoformat())


class Deduplicate(Closed):
    """Of the good rows with one primary key, keep the first or last that was delivered."""

    keep: Literal["first", "last"]


class CleanStep(Closed):
    """One step of cleaning: exactly one key. Text steps come before value steps."""

    trim: tuple[Name, ...] | None = None
    upper: tuple[Name, ...] | None = None
    lower: tuple[Name, ...] | None = None
    replace: dict[Name, dict[str, str]] | None = None
    scale: dict[Name, float] | None = None
    blank_outside: dict[Name, tuple[float, float]] | None = None
    fill: dict[Name, str | int | float | bool] | None = None
    deduplicate: Deduplicate | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len(self.model_fields_set) != 1:
            raise ValueError("a cleaning step is one key: " + ", ".join(type(self).model_fields))
        for name, (low, high) in (self.blank_outside or {}).items():
            if low > high:
                raise ValueError(f"blank_outside {name}: no number is in [{low:g}, {high:g}]")
        return self

    @property
    def kind(self) -> str:
        return next(iter(self.model_fields_set))

    @property
    def columns(self) -> tuple[str, ...]:
        value = getattr(self, self.kind)
        return () if isinstance(value, Deduplicate) else tuple(value)


class Join(Closed):
    """Columns of another source: the same key, or (with `at`) the latest row at the as-of time.

    `within` is the greatest age of that latest row; `lookback` how many nights before the night
    of the base rows are read to find it.
    """

    source: Name
    on: tuple[Name, ...] = Field(min_length=1)
    columns: dict[Name, Name]
    at: Name | None = None
    within: Duration | None = None
    lookback: Duration = timedelta(days=1)

    @model_validator(mode="before")
    @classmethod
    def _columns_as_list(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("columns"), list):
            return {**data, "columns": {name: name for name in data["columns"]}}
        return data

    @model_validator(mode="after")
    def _as_of(self) -> Self:
        if (self.at is None) != (self.within is None):
            raise ValueError("an as-of join says both 'at' and 'within'")
        return self


class Features(Closed):
    """What a prediction may know: all of it known at `as_of`, row by row."""

    base: Name
    as_of: str
    joins: tuple[Join, ...] = ()
    derive: dict[Name, str] = Field(default_factory=dict)
    numeric: tuple[Name, ...] = ()
    categorical: tuple[Name, ...] = ()

    @model_validator(mode="after")
    def _some(self) -> Self:
        names = self.numeric + self.categorical
        if not names:
            raise ValueError("at least one numeric or categorical feature is needed")
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"listed twice: {', '.join(twice)}")
        return self


class Label(Closed):
    """What is predicted, or null where nobody will ever know.

    `kind` says what `expr` gives: true or false, one of `classes` as text, or a number. `weight` is
    an expression over the base row: how much the row counts in training.

    In feature rows a label is a number: 0 or 1, the place of its class in `classes` (-1 for any
    other), or itself.
    """

    name: Name
    expr: str
    known_after: Duration
    kind: Literal["binary", "multiclass", "regression"] = "binary"
    classes: tuple[str, ...] = Field(default=(), max_length=256)
    weight: str | None = None

    @model_validator(mode="after")
    def _classes(self) -> Self:
        if (self.kind == "multiclass") != bool(self.classes):
            raise ValueError("kind: multiclass needs 'classes', and the other kinds have none")
        if 0 < len(self.classes) < 3:
            raise ValueError("multiclass has three classes or more; with two, say kind: binary")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("a class is listed twice")
        return self

    @property
    def codes(self) -> int:
        """How many classes there are; 0 for numbers."""
        return {"binary": 2, "multiclass": len(self.classes), "regression": 0}[self.kind]

    @property
    def outputs(self) -> int:
        """Of how many numbers a score is made: a probability for each of the classes, else one."""
        return len(self.classes) or 1


class Split(Closed):
    """By time: the last `test` of the `history` before a training's end is for testing alone."""

    by: Name
    history: Duration
    test: Duration

    @model_validator(mode="after")
    def _room(self) -> Self:
        if self.test >= self.history:
            raise ValueError("the test window must be shorter than the history")
        return self


class MllibCandidate(Closed):
    """A classifier of pyspark.ml, by class name. `categorical` is how categories become numbers."""

    trainer: Literal["mllib"]
    estimator: str
    params: dict[str, Any] = Field(default_factory=dict)
    categorical: Literal["onehot", "index"] = "onehot"
    standardize: bool = False


class XGBoostCandidate(Closed):
    """Boosted trees, learnt by `workers` Spark tasks together."""

    trainer: Literal["xgboost"]
    workers: int = Field(default=1, ge=1, le=1024)
    params: dict[str, Any] = Field(default_factory=dict)

    @property
    def estimator(self) -> str:
        return "xgboost.spark.SparkXGBClassifier"


class SklearnCandidate(Closed):
    """A classifier of scikit-learn, by class name, learnt on the driver from `sample` rows at most.

    `standardize` centres and scales the numeric features.
    """

    trainer: Literal["sklearn"]
    estimator: str
    params: dict[str, Any] = Field(default_factory=dict)
    categorical: Literal["onehot", "index"] = "onehot"
    standardize: bool = False
    sample: int = Field(default=500_000, ge=10, le=20_000_000)


class Layer(Closed):
    """One layer of a network: exactly one key."""

    dense: int | None = Field(default=None, ge=1, le=65_536)
    dropout: float | None = Field(default=None, ge=0, lt=1)
    normalization: Literal["batch", "layer"] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len(self.model_fields_set) != 1:
            raise ValueError("a layer is one key: " + ", ".join(type(self).model_fields))
        return self

    @property
    def kind(self) -> str:
        return next(iter(self.model_fields_set))


class Network(Closed):
    """Layers over the numbers and an embedding of each category.

    `embeddings` gives the width of a category's embedding; where it says nothing, the fourth root
    of the number of categories, times `embedding_scale`, is taken.
    """

    layers: tuple[Layer, ...] = Field(min_length=1)
    activation: Literal["relu", "gelu", "silu", "tanh", "elu", "selu"] = "relu"
    embeddings: dict[Name, Annotated[int, Field(ge=1, le=4096)]] = Field(default_factory=dict)
    embedding_scale: float = Field(default=4.0, gt=0, le=64)


class HorovodKerasCandidate(Closed):
    """A Keras model, learnt by `workers` ranks of Horovod that average their gradients.

    Either `network` or `builder` (`module:function`, which returns the model) says what it is.
    `batch_size` is that of one rank. The learning rate is scaled by the number of ranks over
    `warmup_epochs`. `validation` is the share of the training rows that is held out for the curve
    and for stopping early, after `patience` epochs without a better validation loss. A rank that
    makes no step for `stall` ends the training.
    """

    trainer: Literal["horovod_keras"]
    workers: int = Field(default=1, ge=1, le=1024)
    device: Literal["cpu", "gpu"] = "cpu"
    network: Network | None = None
    builder: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")] | None = (
        None
    )
    params: dict[str, Any] = Field(default_factory=dict)
    epochs: int = Field(default=10, ge=1, le=10_000)
    batch_size: int = Field(default=512, ge=1, le=1_000_000)
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: float = Field(default=1e-3, gt=0, le=10)
    scale_learning_rate: bool = True
    warmup_epochs: float = Field(default=1.0, ge=0)
    clip_norm: float | None = Field(default=1.0, gt=0)
    class_weights: Literal["none", "balanced"] = "none"
    validation: float = Field(default=0.1, ge=0, le=0.5)
    patience: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**31)
    stall: Duration = timedelta(seconds=40)

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        if (self.network is None) == (self.builder is None):
            raise ValueError("say either 'network' or 'builder'")
        if self.params and self.builder is None:
            raise ValueError("'params' are those of a 'builder'")
        if self.patience is not None and not self.validation:
            raise ValueError("'patience' needs a 'validation' share")
        return self

    @property
    def estimator(self) -> str:
        return self.builder or "keras.Model"


CANDIDATES: dict[str, type[Closed]] = {
    "mllib": MllibCandidate,
    "xgboost": XGBoostCandidate,
    "sklearn": SklearnCandidate,
    "horovod_keras": HorovodKerasCandidate,
}
Candidate = Annotated[
    MllibCandidate | XGBoostCandidate | SklearnCandidate | HorovodKerasCandidate,
    Field(discriminator="trainer"),
]


METRICS = {
    "binary": ("roc_auc", "log_loss", "brier"),
    "multiclass": ("roc_auc", "log_loss", "accuracy"),
    "regression": ("rmse", "mae", "r2"),
}
METRIC_NAMES = {
    "roc_auc": "ROC AUC",
    "log_loss": "log loss",
    "brier": "Brier score",
    "accuracy": "accuracy",
    "rmse": "RMSE",
    "mae": "MAE",
    "r2": "R²",
}
LARGER_IS_BETTER = ("roc_auc", "accuracy", "r2")


class Gate(Closed):
    """What a candidate must show on the test window to become champion.

    A metric that is better when larger has bounds `at_least`, the others `at_most`. A challenger
    must be better than the champion by `gain`.
    """

    metric: Literal["roc_auc", "log_loss", "brier", "accuracy", "rmse", "mae", "r2"]
    at_least: float | None = None
    at_most: float | None = None
    slices: tuple[Name, ...] = ()
    slices_at_least: float | None = None
    slices_at_most: float | None = None
    smallest_slice: int = Field(default=200, ge=1)
    gain: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        used, other = ("at_least", "at_most") if self.larger else ("at_most", "at_least")
        better = "larger" if self.larger else "smaller"
        for prefix in ("", "slices_"):
            if getattr(self, prefix + other) is not None:
                raise ValueError(
                    f"'{prefix}{other}': {self.metric} is better {better}; say '{prefix}{used}'"
                )
        if getattr(self, used) is None:
            raise ValueError(f"'{used}' is missing: {self.metric} needs a bound")
        if self.metric == "roc_auc" and not 0.5 <= self.bound <= 1:
            raise ValueError(f"at_least: {self.bound:g} is no ROC AUC from 0.5 to 1")
        return self

    @property
    def larger(self) -> bool:
        """Whether the metric is better when it is larger."""
        return self.metric in LARGER_IS_BETTER

    @property
    def bound(self) -> float:
        """What the metric must be over all rows."""
        bound = self.at_least if self.larger else self.at_most
        assert bound is not None, "validated"
        return bound

    @property
    def slice_bound(self) -> float | None:
        """What the metric must be in each slice; by default ROC AUC no worse than chance."""
        if self.larger:
            chance = 0.5 if self.metric == "roc_auc" else None
            return chance if self.slices_at_least is None else self.slices_at_least
        return self.slices_at_most

    def holds(self, value: float, bound: float) -> bool:
        """Whether a value of the metric is as good as `bound`; NaN never is."""
        return value >= bound if self.larger else value <= bound


class Retention(Closed):
    """Which releases stay: the newest `releases` and all younger than `age`; pinned ones always.

    With neither, all stay. `grace` is how long a reader or a writer may take at the most.
    """

    releases: int | None = Field(default=None, ge=1)
    age: Duration | None = None
    grace: Duration = timedelta(days=1)


class Publish(Closed):
    """What analysts get: `contract` says its columns, `score` which of them is the prediction.

    `reasons` says how many features' effects each score comes with (see `plan.reason_columns`).
    """

    contract: Name
    score: Name
    reasons: int = Field(0, ge=0, le=10)
    sort: tuple[Name, ...] = ()
    retention: Retention = Retention()


class Notify(Closed):
    """Any Airflow notifier: a class by its dotted name, and what it is made with."""

    notifier: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$")]
    arguments: dict[str, Any] = Field(default_factory=dict)


class Orchestration(Closed):
    """How a scheduler runs the pipeline.

    `tasks` is how finely a night is cut: a task for each stage of each dataset, for each stage, or
    one for the whole night. `released_by` is how long after a run was queued its release is due.
    """

    tasks: Literal["datasets", "stages", "night"] = "datasets"
    training: Annotated[str, AfterValidator(_cron)] | None = None
    start: date = date(2020, 1, 1)
    end: date | None = None
    connection: Annotated[str, StringConstraints(pattern=r"^[\w.-]{1,200}$")] = "spark_default"
    profile: Name = "local"
    pool: Annotated[str, StringConstraints(pattern=r"^[\w.-]{1,200}$")] = "spark"
    retries: int = Field(default=2, ge=0, le=10)
    retry_after: Duration = timedelta(minutes=1)
    retry_at_most: Duration = timedelta(minutes=30)
    timeout: Duration = timedelta(hours=2)
    released_by: Duration | None = None
    notify: Notify | None = None

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.end is not None and self.end < self.start:
            raise ValueError(f"end {self.end} lies before start {self.start}")
        if self.released_by is not None and self.notify is None:
            raise ValueError("released_by needs notify: whom to tell when it is missed")
        return self


class Pipeline(Closed):
    """One pipeline file."""

    name: Name
    description: str = ""
    schedule: Annotated[str, AfterValidator(_cron)]
    sources: dict[Name, Source] = Field(min_length=1)
    clean: dict[Name, tuple[CleanStep, ...]] = Field(default_factory=dict)
    features: Features
    label: Label
    split: Split
    candidates: dict[Name, Candidate] = Field(min_length=1)
    gate: Gate
    publish: Publish
    orchestration: Orchestration = Orchestration()
