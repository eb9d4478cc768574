"""One Spark session for all tests, and a small pipeline project whose every row is known."""

from __future__ import annotations

import os
import random
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from pyspark.sql import SparkSession

from nightjar.core.contract import Contract, load_contract
from nightjar.core.plan import Plan, load_plan
from nightjar.core.project import Project
from nightjar.engine.session import start
from nightjar.engine.work import Work

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session", autouse=True)
def imported() -> None:
    """Import, once, what warns of itself while it is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import great_expectations  # noqa: F401
        import mlflow  # noqa: F401


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    # Tests are short: no time to optimise what runs once.
    os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
    session = start("tests", ROOT / "spark-conf" / "local.conf")
    session.conf.set("spark.sql.shuffle.partitions", "2")
    yield session
    session.stop()


@pytest.fixture
def contract(tmp_path: Path) -> Callable[..., Contract]:
    """Compiles a contract of one table `things`, from its properties and its quality rules."""

    def compile_(
        properties: Sequence[dict[str, Any]],
        quality: Sequence[dict[str, Any]] = (),
        **more: Any,
    ) -> Contract:
        path = tmp_path / "things.odcs.yaml"
        path.write_text(_contract("things", properties, quality, **more))
        return load_contract(path)

    return compile_


# -- a small project -------------------------------------------------------------------------------

FIRST = date(2024, 3, 1)
NIGHTS = tuple(FIRST + timedelta(days=i) for i in range(10))
DEPOTS = ("north", "south", "east")
# Of the dirty rows that every night's file ends with, each is wrong in one way.
DIRTY_ROWS = {"unparsable": 1, "quarantined": 3, "deduplicated": 2}

PARCELS = [
    {"name": "parcel", "logicalType": "string", "primaryKey": True},
    {
        "name": "sent_at",
        "logicalType": "timestamp",
        "required": True,
        "logicalTypeOptions": {"timezone": True},
    },
    {
        "name": "depot",
        "logicalType": "string",
        "required": True,
        "quality": [
            {
                "metric": "invalidValues",
                "arguments": {"validValues": list(DEPOTS)},
                "mustBe": 0,
                "severity": "error",
            }
        ],
    },
    {"name": "weight", "logicalType": "number", "logicalTypeOptions": {"minimum": 0}},
    {
        "name": "hours_late",
        "logicalType": "number",
        "customProperties": [{"property": "knownAfterEvent", "value": True}],
    },
]
DEPOT = [
    {"name": "depot", "logicalType": "string", "primaryKey": True},
    {"name": "capacity", "logicalType": "integer", "physicalType": "int"},
]
TRAFFIC = [
    {"name": "depot", "logicalType": "string", "primaryKey": True, "primaryKeyPosition": 1},
    {
        "name": "seen_at",
        "logicalType": "timestamp",
        "primaryKey": True,
        "primaryKeyPosition": 2,
        "logicalTypeOptions": {"timezone": True},
    },
    {"name": "jam", "logicalType": "number"},
]
SCORES = [
    {"name": "parcel", "logicalType": "string", "primaryKey": True},
    {
        "name": "sent_at",
        "logicalType": "timestamp",
        "required": True,
        "logicalTypeOptions": {"timezone": True},
    },
    {"name": "depot", "logicalType": "string", "required": True},
    {
        "name": "late_probability",
        "logicalType": "number",
        "required": True,
        "logicalTypeOptions": {"minimum": 0, "maximum": 1},
    },
    {"name": "model_version", "logicalType": "string", "required": True},
]
SOME_ROWS = [{"metric": "rowCount", "mustBeGreaterThan": 0, "severity": "critical"}]
LOGISTIC = {
    "trainer": "mllib",
    "estimator": "pyspark.ml.classification.LogisticRegression",
    "params": {"maxIter": 20},
}


def pipeline() -> dict[str, Any]:
    """The spec of pipeline `parcels`, to be changed and written by `Parcels`."""
    return {
        "name": "parcels",
        "schedule": "0 4 * * *",
        "sources": {
            "parcels": {"contract": "parcels", "format": "csv", "path": "landing/parcels/{ds}.csv"},
            "traffic": {"contract": "traffic", "format": "csv", "path": "landing/traffic/{ds}.csv"},
            "depots": {"contract": "depots", "format": "csv", "path": "landing/depots.csv"},
        },
        "clean": {"parcels": [{"trim": ["depot"]}, {"deduplicate": {"keep": "last"}}]},
        "features": {
            "base": "parcels",
            "as_of": "sent_at - interval 1 hour",
            "joins": [
                {
                    "source": "traffic",
                    "on": ["depot"],
                    "at": "seen_at",
                    "within": "6 hours",
                    "columns": ["jam"],
                },
                {"source": "depots", "on": ["depot"], "columns": ["capacity"]},
            ],
            "derive": {"heavy": "cast(weight > 20 as double)", "pressure": "jam / capacity"},
            "numeric": ["weight", "heavy", "jam", "pressure"],
            "categorical": ["depot"],
        },
        "label": {"name": "late", "expr": "hours_late >= 5", "known_after": "1 day"},
        "split": {"by": "sent_at", "history": "30 days", "test": "3 days"},
        "candidates": {"logistic": LOGISTIC},
        "gate": {"metric": "roc_auc", "at_least": 0.7, "slices": ["depot"], "smallest_slice": 20},
        "publish": {"contract": "parcel_scores", "score": "late_probability", "sort": ["parcel"]},
    }


@dataclass(frozen=True)
class Parcels:
    """A project: `rows` parcels a night, late where they are heavy and the roads are full.

    Each night's file of parcels also holds DIRTY_ROWS.
    """

    project: Project
    spark: SparkSession
    rows: int = 60
    said: list[str] = field(default_factory=list)

    def write_spec(self, **changes: Any) -> None:
        path = self.project.root / "pipelines" / "parcels.yaml"
        path.write_text(yaml.safe_dump({**pipeline(), **changes}, sort_keys=False))

    @property
    def plan(self) -> Plan:
        return load_plan(self.project, "parcels")

    def work(self, *nights: date, force: bool = False) -> Work:
        return Work(self.project, self.plan, nights, self.spark, self.said.append, force)

    def land(self, ds: date) -> None:
        """Drop the files of one night."""
        chance = random.Random(f"{ds}")
        midnight = datetime.combine(ds, datetime.min.time())
        jams = {(d, h): chance.uniform(0, 10) for d in DEPOTS for h in range(0, 24, 4)}
        parcels = []
        for i in range(self.rows):
            depot = chance.choice(DEPOTS)
            sent = midnight + timedelta(minutes=chance.randrange(60, 24 * 60))
            hour = (sent.hour - 1) // 4 * 4
            weight, jam = round(chance.uniform(0, 40), 2), jams[depot, hour]
            hours = weight / 8 + jam / 3 + chance.gauss(0, 1) - 0.5
            parcels.append(f"{ds}-{i},{sent.isoformat()}Z,{depot},{weight},{hours:.3f}")
        noon = f"{ds}T12:00:00Z"
        dirty = [
            f"{ds}-u,{noon},north,1,1,one too many",
            f"{ds}-a,{noon},west,1,1",
            f"{ds}-b,yesterday,north,-3,1",
            f",{noon},north,1,1",
            f"{parcels[0]}",
            f"{parcels[1]}",
        ]
        self._write(f"parcels/{ds}.csv", "parcel,sent_at,depot,weight,hours_late", parcels + dirty)
        seen = [
            f"{depot},{(midnight + timedelta(hours=h)).isoformat()}Z,{jam:.3f}"
            for (depot, h), jam in jams.items()
        ]
        self._write(f"traffic/{ds}.csv", "depot,seen_at,jam", seen)
        self._write(
            "depots.csv", "capacity,depot", [f"{100 + i},{d}" for i, d in enumerate(DEPOTS)]
        )

    def _write(self, name: str, header: str, lines: Sequence[str]) -> None:
        path = self.project.warehouse / "landing" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([header, *lines]) + "\n")


@pytest.fixture(scope="session")
def new_parcels(
    spark: SparkSession, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Parcels]:
    """Makes a project of its own, in which no file has landed; or a copy of another's warehouse."""

    def make(copy_of: Parcels | None = None) -> Parcels:
        root = tmp_path_factory.mktemp("project")
        (root / "pipelines").mkdir()
        (root / "schemas").mkdir()
        tables = {"parcels": PARCELS, "depots": DEPOT, "traffic": TRAFFIC, "parcel_scores": SCORES}
        for name, columns in tables.items():
            path = root / "schemas" / f"{name}.odcs.yaml"
            path.write_text(_contract(name, columns, SOME_ROWS))
        if copy_of:
            shutil.copytree(copy_of.project.warehouse, root / "warehouse", symlinks=True)
        made = Parcels(Project.find(root, root / "warehouse"), spark)
        made.write_spec()
        return made

    return make


@pytest.fixture(scope="session")
def loaded(new_parcels: Callable[..., Parcels]) -> Parcels:
    """A project whose ten nights are ingested, cleaned and validated. Not to be changed."""
    from nightjar.engine import night

    made = new_parcels()
    for ds in NIGHTS:
        made.land(ds)
    night.load(made.work(*NIGHTS))
    return made


@pytest.fixture(scope="session")
def trained(loaded: Parcels, new_parcels: Callable[..., Parcels]) -> Parcels:
    """The same project with a champion. Not to be changed."""
    from nightjar.engine.training import train

    made = new_parcels(copy_of=loaded)
    as_of = NIGHTS[-1] + timedelta(days=1)
    train(made.work(as_of), as_of)
    return made


def _contract(
    name: str,
    properties: Sequence[dict[str, Any]],
    quality: Sequence[dict[str, Any]] = (),
    **more: Any,
) -> str:
    table = {"name": name, "properties": list(properties), "quality": list(quality)}
    return yaml.safe_dump(
        {
            "apiVersion": "v3.1.0",
            "kind": "DataContract",
            "id": name,
            "version": "1.0.0",
            "status": "active",
            "schema": [table],
            **more,
        },
        sort_keys=False,
    )
