"""JSON lines: every record of a file, exactly, however it is broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nightjar.core.checks import DataType
from nightjar.core.contract import Column, Contract
from nightjar.core.errors import EmptyInput, NightjarError, OversizedInput, UnreadableInput
from nightjar.core.pipeline import Source
from nightjar.engine import jsonlines
from nightjar.engine.delivered import FileFacts, Records, Unparsable

CONTRACT = Contract("t", "1", "", tuple(Column(c, DataType("string")) for c in "ab"), (), (), ())


def read(path: Path, **options: Any) -> tuple[dict[int, Any], FileFacts]:
    source = Source(contract="t", format="jsonl", path="x", **options)
    rows: dict[int, Any] = {}
    *items, facts = jsonlines.read(path, CONTRACT, source)
    for item in items:
        if isinstance(item, Records):
            values = zip(*(c.to_pylist() for c in item.columns), strict=True)
            rows.update(zip(item.numbers.tolist(), values, strict=True))
        elif isinstance(item, Unparsable):
            rows[item.number] = item.reason
    assert isinstance(facts, FileFacts)
    assert facts.records == len(rows)
    assert facts.unparsable == sum(isinstance(row, str) for row in rows.values())
    return rows, facts


IN_QUOTES = "Expecting property name enclosed in double quotes at character 2"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('{"a": "x", "b": "y"}', ("x", "y")),
        ('{"b": "y", "a": "x"}', ("x", "y")),
        ('{"a": "x"}', ("x", None)),
        ('{"a": null, "b": ""}', (None, "")),
        ('{"a": 1, "b": -0.10}', ("1", "-0.10")),
        (
            '{"a": 123456789012345678901234567890, "b": 1e400}',
            ("123456789012345678901234567890", "1e400"),
        ),
        ('{"a": true, "b": false}', ("true", "false")),
        ('{"a": "\\u00e9\\ud83d\\udc2c", "b": "\\u0000"}', ("é\U0001f42c", "\0")),
        ("{}", (None, None)),
        ('{"a": "x", "a": "y"}', "key 'a' stands twice"),
        ('{"a": {"b": 1}}', "key 'a' holds an object"),
        ('{"a": {"b": 1, "b": 2}}', "key 'b' stands twice"),
        ('{"a": [1]}', "key 'a' holds a list"),
        ('{"a": "x", "c": 1}', "key 'c' is not in the contract"),
        ('{"a\u200b": "x"}', "key 'a\\u200b' is not in the contract"),
        ('{"a": NaN}', "NaN is no JSON"),
        ('{"a": -Infinity}', "-Infinity is no JSON"),
        ('{"a": "\\ud800"}', "key 'a' holds half a surrogate pair, which is no character"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "is nested too deep"),
        ("[1, 2]", "is no JSON object: [1, 2]"),
        ('"a"', 'is no JSON object: "a"'),
        ("null", "is no JSON object: null"),
        ('{"a": 1', "is no JSON: Expecting ',' delimiter at character 8"),
        ('{"a": 007}', "is no JSON: Expecting ',' delimiter at character 8"),
        ("{'a': 1}", "is no JSON: " + IN_QUOTES),
        ('{"a": 1} {"a": 2}', "is no JSON: Extra data at character 10"),
        ('{"a": "x\0"}', "holds a NUL"),
        ('{"a": "x\ty"}', "is no JSON: Invalid control character at at character 9"),
    ],
)
def test_records(tmp_path: Path, line: str, found: Any) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"a": "0"}\n' + line + '\r\n\n{"b": "9"}\r', newline="")
    assert read(path)[0] == {1: ("0", None), 2: found, 3: (None, "9")}


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"a": "x\xff"}\n{"a": "y"}\n')
    assert read(path)[0] == {1: "is no text of the file's encoding", 2: ("y", None)}


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", EmptyInput),
        (b'[{"a": 1}]', UnreadableInput),
        (b' \n [\n{"a": 1}]', UnreadableInput),
        ('{"a": 1}'.encode("utf-16-le"), UnreadableInput),
        (b'{"a": "' + b"x" * 3_000_000 + b'"}', OversizedInput),
    ],
)
def test_files_that_are_refused(tmp_path: Path, content: bytes, kind: type[NightjarError]) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(content)
    with pytest.raises(kind):
        read(path, limits={"record": "1 MiB"})


def test_private_characters_are_text(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"a": "\U0010f000\U0010feff"}\n{"a": "\U0010ff00"}\n', encoding="utf-8")
    rows, _ = read(path)
    assert rows == {1: ("\U0010f000\U0010feff", None), 2: "is no text of the file's encoding"}


def test_utf_16(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"a": "é"}\n', encoding="utf-16")
    assert read(path)[0] == {1: ("é", None)}


# Of the last private characters, each says that a byte was no text.
TEXT = st.text(st.characters(max_codepoint=0x10FEFF, exclude_categories=["Cs"]))
VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.dictionaries(st.sampled_from("ab"), VALUES)), st.booleans())
def test_what_python_writes_is_read(
    tmp_path: Path, records: list[dict[str, Any]], ascii_only: bool
) -> None:
    path = tmp_path / "in.jsonl"
    lines = [json.dumps(r, ensure_ascii=ascii_only, allow_nan=True) for r in records]
    path.write_text("\n".join(["", *lines]), encoding="utf-8", errors="surrogatepass", newline="")
    rows, _ = read(path) if lines else ({}, None)

    def text(value: Any) -> Any:
        return value if value is None or isinstance(value, str) else json.dumps(value)

    for number, record in enumerate(records, 1):
        if "Infinity" in lines[number - 1] and any(isinstance(v, float) for v in record.values()):
            continue
        assert rows[number] == tuple(text(record.get(name)) for name in "ab")
