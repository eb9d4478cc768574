"""Pipeline specs: closed, frozen, and typed."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pydantic
import pytest
import yaml

from nightjar.core.documents import load
from nightjar.core.pipeline import (
    CleanStep,
    HorovodKerasCandidate,
    Join,
    Pipeline,
    Source,
    Split,
    parse_duration,
)

FILE = Path(__file__).parent / "project" / "pipelines" / "late_trips.yaml"


@pytest.fixture
def data() -> dict[str, Any]:
    return dict(load(FILE).data)


def source(**changes: Any) -> Source:
    return Source.model_validate({"contract": "trips", "format": "csv", "path": "a.csv", **changes})


def wrong(model: type[pydantic.BaseModel], value: Any) -> tuple[Any, ...]:
    with pytest.raises(pydantic.ValidationError) as caught:
        model.model_validate(value)
    return caught.value.errors()[0]["loc"]


def test_specs_are_frozen(data: dict[str, Any]) -> None:
    spec = Pipeline.model_validate(data)
    for model, key in ((spec, "name"), (spec.sources["trips"], "path"), (spec.gate, "at_least")):
        with pytest.raises(pydantic.ValidationError):
            setattr(model, key, "other")


@pytest.mark.parametrize(
    "at",
    [
        (),
        ("sources", "trips"),
        ("clean", "trips", 0),
        ("features",),
        ("features", "joins", 0),
        ("label",),
        ("split",),
        ("candidates", "logistic"),
        ("gate",),
        ("publish",),
    ],
)
def test_every_level_is_closed(data: dict[str, Any], at: tuple[Any, ...]) -> None:
    place: Any = data
    for step in at:
        place = place[step]
    place["extra"] = 1
    # Below a candidate, pydantic names its trainer.
    assert tuple(step for step in wrong(Pipeline, data) if step != "mllib") == (*at, "extra")


@pytest.mark.parametrize("key", ["name", "schedule", "sources", "features", "label", "publish"])
def test_required_keys(data: dict[str, Any], key: str) -> None:
    del data[key]
    assert wrong(Pipeline, data) == (key,)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("40 seconds", 40),
        ("30 minutes", 1800),
        ("1 hour", 3600),
        ("2 hours", 7200),
        ("1 day", 86400),
    ],
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "2", "2h", "-1 day", "1.5 hours", "2  hours", "1 week", 7, None]
)
def test_no_durations(text: Any) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../x.csv",
        "a/../../x",
        "a//b",
        "a/",
        "",
        "c:x",
        "s3://b/x",
        "a\\b",
        "{night}.csv",
    ],
)
def test_paths_stay_inside_the_warehouse(path: str) -> None:
    with pytest.raises(pydantic.ValidationError):
        source(path=path)


def test_a_path_with_ds_is_one_file_a_night() -> None:
    nightly = source(path="landing/{ds}/trips-{ds}.csv.gz")
    assert (nightly.nightly, source().nightly) == (True, False)
    assert nightly.file(date(2013, 12, 1)) == "landing/2013-12-01/trips-2013-12-01.csv.gz"


def test_a_star_stands_in_the_last_part_alone() -> None:
    assert source(path="landing/{ds}/*.csv").many
    assert not source().many
    for path in ("landing/*/a.csv", "*/a.csv"):
        assert wrong(Source, {**source().model_dump(), "path": path}) == ("path",)


def test_limits_are_sizes() -> None:
    limits = source(limits={"record": "1 MiB", "unpacked": "2 GiB", "ratio": 10}).limits
    assert (limits.record, limits.unpacked, limits.ratio) == (1 << 20, 2 << 30, 10)
    for key, value in {"record": "1 MB", "unpacked": "-1 B", "ratio": 0}.items():
        bad = {**source().model_dump(), "limits": {key: value}}
        assert wrong(Source, bad) == ("limits", key)
    assert wrong(Source, {**source().model_dump(), "limits": {"record": "4 GiB"}})


@pytest.mark.parametrize(
    ("format_", "option"),
    [
        ("jsonl", {"delimiter": ";"}),
        ("jsonl", {"quote": "'"}),
        ("parquet", {"encoding": "utf-8"}),
        ("csv", {"delimiter": "'", "quote": "'"}),
    ],
)
def test_options_that_mean_nothing_are_refused(format_: str, option: dict[str, str]) -> None:
    base = {"contract": "trips", "format": format_, "path": "a"}
    assert wrong(Source, {**base, **option}) == ()


def test_quotes() -> None:
    assert [source(quote=q).quote for q in ("'", '"', "")] == ["'", '"', ""]
    for bad in ("''", "x", "é", "\n"):
        assert wrong(Source, {**source().model_dump(), "quote": bad}) == ("quote",)


def test_delimiters() -> None:
    assert [source(delimiter=d).delimiter for d in (",", ";", "\t", "|")] == [",", ";", "\t", "|"]
    for bad in ("", ",,", '"', "\n", "\r", "\0", "é"):
        assert wrong(Source, {**source().model_dump(), "delimiter": bad}) == ("delimiter",)


@pytest.mark.parametrize("name", ["Trips", "1trips", "trips-x", "a" * 65, "", "a;b", "a\n"])
def test_names_are_plain_words(data: dict[str, Any], name: str) -> None:
    data["name"] = name
    assert wrong(Pipeline, data) == ("name",)


@pytest.mark.parametrize(
    "step",
    [
        {},
        {"trim": ["a"], "upper": ["a"]},
        {"trim": ["Not A Name"]},
        {"deduplicate": {"keep": "any"}},
        {"blank_outside": {"a": [1]}},
        {"blank_outside": {"a": [5, 1]}},
        {"scale": {"a": "much"}},
    ],
)
def test_wrong_clean_steps(step: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        CleanStep.model_validate(step)


def test_clean_steps_know_their_kind_and_columns() -> None:
    assert CleanStep.model_validate({"trim": ["a", "b"]}).columns == ("a", "b")
    step = CleanStep.model_validate({"fill": {"a": 1, "b": "x"}})
    assert (step.kind, step.columns, step.fill) == ("fill", ("a", "b"), {"a": 1, "b": "x"})
    assert CleanStep.model_validate({"deduplicate": {"keep": "first"}}).columns == ()


NETWORK = {"layers": [{"dense": 8}, {"dropout": 0.1}, {"normalization": "layer"}]}
WRONG_CANDIDATES: dict[str, dict[str, Any]] = {
    "no model": {},
    "two models": {"network": NETWORK, "builder": "module:function"},
    "a builder that is none": {"builder": "os.system"},
    "params without a builder": {"network": NETWORK, "params": {"a": 1}},
    "patience without rows to hold out": {"network": NETWORK, "patience": 2, "validation": 0},
    "no layers": {"network": {"layers": []}},
    "a layer of two": {"network": {"layers": [{"dense": 8, "dropout": 0.1}]}},
    "a layer that is none": {"network": {"layers": [{"dens": 8}]}},
    "no workers": {"network": NETWORK, "workers": 0},
}


@pytest.mark.parametrize("change", WRONG_CANDIDATES.values(), ids=WRONG_CANDIDATES)
def test_wrong_networks(change: dict[str, Any]) -> None:
    HorovodKerasCandidate.model_validate({"trainer": "horovod_keras", "network": NETWORK})
    with pytest.raises(pydantic.ValidationError):
        HorovodKerasCandidate.model_validate({"trainer": "horovod_keras", **change})


def test_joins() -> None:
    listed = Join.model_validate({"source": "s", "on": ["a"], "columns": ["x", "y"]})
    assert (listed.columns, listed.lookback) == ({"x": "x", "y": "y"}, timedelta(days=1))
    for half in ({"at": "t"}, {"within": "1 hour"}):
        assert wrong(Join, {"source": "s", "on": ["a"], "columns": [], **half}) == ()
    assert wrong(Join, {"source": "s", "on": [], "columns": []}) == ("on",)


def test_the_test_window_is_shorter_than_the_history() -> None:
    assert wrong(Split, {"by": "t", "history": "10 days", "test": "10 days"}) == ()


@pytest.mark.parametrize(
    ("section", "change", "at"),
    [
        ("features", {"numeric": [], "categorical": []}, ("features",)),
        ("features", {"numeric": ["a"], "categorical": ["a"]}, ("features",)),
        ("gate", {"metric": "acuracy"}, ("gate", "metric")),
        ("gate", {"at_least": 1.01}, ("gate",)),
        ("gate", {"at_least": None}, ("gate",)),
        ("gate", {"metric": "log_loss"}, ("gate",)),
        (
            "gate",
            {"metric": "rmse", "at_least": None, "at_most": 3, "slices_at_least": 1},
            ("gate",),
        ),
        ("gate", {"gain": -0.1}, ("gate", "gain")),
        ("label", {"kind": "multiclass"}, ("label",)),
        ("label", {"classes": ["a", "b", "c"]}, ("label",)),
        ("label", {"kind": "multiclass", "classes": ["a", "b"]}, ("label",)),
        ("label", {"kind": "multiclass", "classes": ["a", "b", "a"]}, ("label",)),
        ("label", {"kind": "ordinal"}, ("label", "kind")),
        ("gate", {"smallest_slice": 0}, ("gate", "smallest_slice")),
        ("label", {"known_after": "soon"}, ("label", "known_after")),
    ],
)
def test_wrong_values(
    data: dict[str, Any], section: str, change: dict[str, Any], at: tuple[str, ...]
) -> None:
    data[section] = {**data[section], **change}
    assert wrong(Pipeline, data) == at


@pytest.mark.parametrize(
    "schedule",
    [
        "@daily",
        "0 4 * *",
        "0 4 * * * *",
        "",
        "0 25 * * *",
        "60 4 * * *",
        "0 4 0 * *",
        "0 4 * 13 *",
        "0 4 * * 1-9",
    ],
)
def test_a_schedule_has_five_fields(data: dict[str, Any], schedule: str) -> None:
    data["schedule"] = schedule
    assert wrong(Pipeline, data) == ("schedule",)


@pytest.mark.parametrize(
    "schedule", ["*/15 0-23 1,31 1-12 0-7", "0 4 * jan mon-fri", "59 23 L * 5#3"]
)
def test_right_schedules(data: dict[str, Any], schedule: str) -> None:
    assert Pipeline.model_validate({**data, "schedule": schedule}).schedule == schedule


def test_nights_that_end_before_they_start_are_refused(data: dict[str, Any]) -> None:
    data["orchestration"] = {"start": "2014-01-01", "end": "2013-12-31"}
    assert wrong(Pipeline, data) == ("orchestration",)


def test_a_deadline_without_anybody_to_tell_is_refused(data: dict[str, Any]) -> None:
    data["orchestration"] = {"released_by": "3 hours"}
    assert wrong(Pipeline, data) == ("orchestration",)
    data["orchestration"]["notify"] = {"notifier": "told.Notifier"}
    assert Pipeline.model_validate(data).orchestration.notify is not None


def test_the_steps_that_the_docs_show_are_all_there_are() -> None:
    page = (Path(__file__).parents[2] / "docs" / "pipelines.md").read_text()
    block = page.partition("<!-- steps -->")[2].partition("<!-- /steps -->")[0]
    shown = yaml.safe_load(block.replace("```yaml", "").replace("```", ""))
    assert [CleanStep(**step).kind for step in shown] == list(CleanStep.model_fields)


def test_the_example_of_kinds_in_the_docs_holds(data: dict[str, Any]) -> None:
    docs = (Path(__file__).parents[2] / "docs" / "pipelines.md").read_text()
    shown = yaml.safe_load(docs.split("<!-- kinds -->")[1].split("```")[1].removeprefix("yaml"))
    data |= shown
    found = Pipeline.model_validate(data)
    assert (found.label.codes, found.label.outputs) == (3, 3)
    assert (found.gate.bound, found.gate.slice_bound, found.gate.larger) == (0.8, 0.9, False)
