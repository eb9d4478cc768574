"""YAML files: what is read as what, what is refused, and on which line."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nightjar.core.documents import MAX_BYTES, MAX_DEPTH, Document, load
from nightjar.core.errors import Fault, SpecError


def read(tmp_path: Path, content: str | bytes) -> Document:
    path = tmp_path / "file.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return load(path, "pipelines/file.yaml")


def refused(tmp_path: Path, content: str | bytes) -> Fault:
    with pytest.raises(SpecError) as caught:
        read(tmp_path, content)
    (fault,) = caught.value.faults
    assert fault.file == "pipelines/file.yaml"
    return fault


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("12:30", "12:30"),
        ("2013-12-01", "2013-12-01"),
        ("1_000", "1_000"),
        ("0o17", "0o17"),
        ("<<", "<<"),
        ("true", True),
        ("FALSE", False),
        ("tRue", "tRue"),
        ("null", None),
        ("~", None),
        ("", None),
        ("017", 17),
        ("-3", -3),
        ("1.5e3", 1500.0),
        (".5", 0.5),
        ("'12'", "12"),
        ('"true"', "true"),
        ("1e", "1e"),
    ],
)
def test_scalars_follow_yaml_1_2(tmp_path: Path, text: str, value: Any) -> None:
    found = read(tmp_path, f"key: {text}").data["key"]
    assert (type(found), found) == (type(value), value)


def test_every_key_has_its_line(tmp_path: Path) -> None:
    document = read(tmp_path, "a: 1\nb:\n  - x\n  - c: 2\n    d: 3\n")
    assert document.data == {"a": 1, "b": ["x", {"c": 2, "d": 3}]}
    places = {("a",): 1, ("b",): 2, ("b", 0): 3, ("b", 1): 4, ("b", 1, "d"): 5}
    assert {at: document.lines[at] for at in places} == places
    assert document.fault(("b", 1, "d", "deeper", 7), "wrong").line == 5
    assert document.fault(("nowhere",), "wrong").line == 1


@pytest.mark.parametrize(
    ("text", "line", "named"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "'a'"),
        ("x:\n  a: 1\n  'a': 2\n", 3, "'a'"),
        ("a: 1\nb: &here 2\n", 2, "anchors"),
        ("a: &here {x: 1}\nb: *here\n", 1, "anchors"),
        ("a: 1\nb: !!python/object:os.system x\n", 2, "python/object"),
        ("a: !!str 12\n", 1, "tag"),
        ("a: !!binary aGk=\n", 1, "tag"),
        ("a: 1\nb: !mine [1]\n", 2, "!mine"),
        ("!mine a: 1\n", 1, "!mine"),
        ("a: 1\n[1, 2]: x\n", 2, "key"),
        ("a: 1\n{b: 1}: x\n", 2, "key"),
        ("a: 1\nb: [1, 2\nc: 3\n", 3, "YAML"),
        ("a: 1\n\tb: 2\n", 2, "YAML"),
        ("a: 1\n---\nb: 2\n", 2, "YAML"),
        ("a: \x07\n", 1, "YAML"),
    ],
)
def test_refused_with_its_line(tmp_path: Path, text: str, line: int, named: str) -> None:
    fault = refused(tmp_path, text)
    assert fault.line == line
    assert named in fault.problem


def test_depth_is_bounded(tmp_path: Path) -> None:
    deepest = "[" * (MAX_DEPTH) + "]" * (MAX_DEPTH)
    assert read(tmp_path, deepest).data is not None
    assert str(MAX_DEPTH) in refused(tmp_path, f"[{deepest}]").problem
    assert str(MAX_DEPTH) in refused(tmp_path, "[" * 100_000).problem


def test_size_is_bounded(tmp_path: Path) -> None:
    assert len(read(tmp_path, "a: " + "x" * (MAX_BYTES - 3)).data["a"]) == MAX_BYTES - 3
    assert str(MAX_BYTES + 1) in refused(tmp_path, "a: " + "x" * (MAX_BYTES - 2)).problem


def test_only_utf8(tmp_path: Path) -> None:
    assert "byte 3" in refused(tmp_path, b"a: \xff").problem
    assert read(tmp_path, "\ufeffa: é".encode()).data == {"a": "é"}


def test_a_missing_file_and_a_folder_are_faults(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(SpecError) as caught:
            load(path)
        assert caught.value.faults[0].file == path.name


YAMLISH = st.text(alphabet=" \n\t:-,[]{}#&*!|>'\"%@`~?<=.0123456789abenotruls\x00\x85\ufeff\ud7ff")


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.one_of(YAMLISH, st.text(), st.binary()))
@example("? ")
@example("- - ? a")
@example("9" * 5000)
@example("1e999")
def test_any_bytes_are_a_document_or_a_spec_error(tmp_path: Path, content: str | bytes) -> None:
    raw = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    with contextlib.suppress(SpecError):
        assert isinstance(read(tmp_path, raw), Document)
