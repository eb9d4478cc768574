"""What docs/trainers.md shows is true."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter
from tests.conformance.candidates import LABELS, needs_deep

from nightjar.core.pipeline import Candidate
from nightjar.engine.trainers import TRAINERS, trainer

PAGE = (Path(__file__).parents[2] / "docs" / "trainers.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


SHOWN: dict[str, Any] = yaml.safe_load(blocks("yaml")[0])["candidates"]


@pytest.mark.parametrize("name", SHOWN)
def test_the_candidates_are_right(name: str) -> None:
    made: Any = TypeAdapter(Candidate).validate_python(SHOWN[name])
    weighted = LABELS["binary"].model_copy(update={"weight": "w"})
    assert trainer(made.trainer).faults(made, weighted) == []


def test_every_trainer_is_there() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == set(TRAINERS)


@needs_deep
def test_the_builder_gives_a_model() -> None:
    (code,) = blocks("python")
    space: dict[str, Any] = {}
    os.environ["KERAS_BACKEND"] = "tensorflow"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(code, space)
        model = space["network"](numeric=3, categories={"a": 4, "b": 9}, width=5)
    assert sorted(tensor.name for tensor in model.inputs) == ["categorical", "numeric"]
    assert [tuple(tensor.shape) for tensor in model.outputs] == [(None, 1)]
