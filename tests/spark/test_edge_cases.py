"""Learning and scoring at their edges: each has one clear outcome."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from pyspark.sql import SparkSession
from tests.spark.conftest import pipeline

from nightjar.core.errors import GateFailed, TrainingRefused, UntrustedModel
from nightjar.core.releases import ReleaseLog
from nightjar.engine import night
from nightjar.engine.registry import Registry
from nightjar.engine.trainers import mllib
from nightjar.engine.training import train

NIGHTS = tuple(date(2024, 3, 1) + timedelta(days=i) for i in range(10))
AS_OF = NIGHT = date(2024, 3, 11)


def change_contract(made: Any, name: str, change: Callable[[dict[str, Any]], None]) -> None:
    path = made.project.root / "schemas" / f"{name}.odcs.yaml"
    spec = yaml.safe_load(path.read_text())
    change(spec["schema"][0])
    path.write_text(yaml.safe_dump(spec, sort_keys=False))


def landed(made: Any, ds: date = NIGHT) -> Path:
    return Path(made.project.warehouse) / f"landing/parcels/{ds}.csv"


def scores(made: Any, ds: date = NIGHT) -> list[dict[str, Any]]:
    log = ReleaseLog(made.project.warehouse, "parcels")
    return list(
        pq.read_table(log.folder(log.require()) / f"ds={ds}", partitioning=None).to_pylist()
    )


# -- scoring --------------------------------------------------------------------------------------


def test_a_category_that_no_model_ever_saw_is_scored(
    trained: Any, new_parcels: Callable[..., Any]
) -> None:
    made = new_parcels(copy_of=trained)

    def any_depot(table: dict[str, Any]) -> None:
        (depot,) = (c for c in table["properties"] if c["name"] == "depot")
        del depot["quality"]

    change_contract(made, "parcels", any_depot)
    made.land(NIGHT)
    path = landed(made)
    path.write_text(path.read_text().replace(",north,", ",atlantis,"))
    night.run_night(made.work(NIGHT))
    rows = scores(made)
    unseen = [r["late_probability"] for r in rows if r["depot"] == "atlantis"]
    assert len(unseen) > 5
    assert all(0 < p < 1 for p in unseen)
    assert len(set(unseen)) > 5  # by weight and traffic still


def without_row_count(table: dict[str, Any]) -> None:
    table["quality"] = []


def test_a_night_without_rows_is_what_the_contract_says(
    trained: Any, new_parcels: Callable[..., Any]
) -> None:
    made = new_parcels(copy_of=trained)
    made.land(NIGHT)
    header = landed(made).read_text().splitlines()[0]
    landed(made).write_text(header + "\n")
    with pytest.raises(GateFailed) as caught:
        night.run_night(made.work(NIGHT))
    assert [f["rule"] for f in caught.value.details["failed"]] == ["parcels.rowCount"]
    assert ReleaseLog(made.project.warehouse, "parcels").current() is None
    for name in ("parcels", "parcel_scores"):
        change_contract(made, name, without_row_count)
    night.run_night(made.work(NIGHT))
    release = ReleaseLog(made.project.warehouse, "parcels").require()
    assert (release.ds, release.rows, release.nights) == (str(NIGHT), 0, 1)
    assert scores(made) == []
    night.run_night(made.work(NIGHT))
    assert len(ReleaseLog(made.project.warehouse, "parcels").all()) == 1


# -- learning -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expr", "rows"),
    [
        ("cast(null as boolean)", {"train": 0, "train_positives": 0}),
        ("if(parcel like '%-0', hours_late >= 5, null)", {"train": 7}),
    ],
    ids=["no label is known", "ten rows"],
)
def test_too_few_rows_are_refused(
    loaded: Any, new_parcels: Callable[..., Any], expr: str, rows: dict[str, int]
) -> None:
    made = new_parcels(copy_of=loaded)
    made.write_spec(label={"name": "late", "expr": expr, "known_after": "1 day"})
    with pytest.raises(TrainingRefused) as caught:
        train(made.work(AS_OF), AS_OF)
    assert rows.items() <= caught.value.details.items()
    assert "at least 20 of each class" in caught.value.message


def test_what_cannot_teach_is_said(loaded: Any, new_parcels: Callable[..., Any]) -> None:
    """Two features that are the same in every row; twelve parcels of the first night are delivered
    again on the last one, so that they stand on both sides of the split."""
    made = new_parcels(copy_of=loaded)
    features = pipeline()["features"]
    features["derive"] |= {"always": "weight * 0 + 1", "unit": "concat('kg', left(depot, 0))"}
    features["numeric"].append("always")
    features["categorical"].append("unit")
    made.write_spec(features=features)
    first = landed(made, NIGHTS[0]).read_text().splitlines()[1:13]
    again = [line.replace(f"{NIGHTS[0]}T", f"{NIGHTS[-1]}T") for line in first]
    path = landed(made, NIGHTS[-1])
    path.write_text(path.read_text() + "\n".join(again) + "\n")
    night.load(made.work(*NIGHTS))
    record = train(made.work(AS_OF), AS_OF)
    assert "  warning: the same in every training row: always, unit" in made.said
    assert "  12 rows are tested on too, and are not learnt from" in made.said
    assert record.details["shared_rows"] == 12
    assert record.counts["train rows"] + record.counts["test rows"] == loaded_rows(made) - 12
    assert record.details["promoted"]


def loaded_rows(made: Any) -> int:
    book = made.work(AS_OF).book
    return sum(book.get(ds, "clean.parcels").counts["clean"] for ds in NIGHTS)


# -- models ---------------------------------------------------------------------------------------


def test_a_model_that_names_foreign_code_is_refused_unloaded(
    trained: Any, spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    champion = Registry(trained.project, "parcels").require_champion()
    folder = tmp_path / "model"
    shutil.copytree(champion.folder / "model", folder)
    assert mllib.load(spark, folder).stages
    trap = tmp_path / "trap.py"
    trap.write_text("raise SystemExit('this code ran')\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (stage, *_) = sorted((folder / "stages").glob("*/metadata/part-*"))
    metadata = json.loads(stage.read_text())
    for named in ("trap.Stage", "org.apache.spark.ml.feature.SQLTransformer"):
        (stage.parent / f".{stage.name}.crc").unlink(missing_ok=True)
        stage.write_text(json.dumps(metadata | {"class": named}) + "\n")
        with pytest.raises(UntrustedModel) as caught:
            mllib.load(spark, folder)
        assert caught.value.details == {"found": named}
    stage.write_text("no metadata")
    with pytest.raises(UntrustedModel):
        mllib.load(spark, folder)
