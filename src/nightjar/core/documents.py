"""YAML files of the project: read safely, within bounds, and with the line of every key.

Scalars follow the YAML 1.2 core schema: `no`, `on` and `12:30` stay text. Repeated keys, anchors,
tags and deep nesting are refused.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from nightjar.core.errors import Fault, SpecError

MAX_BYTES = 1_000_000
MAX_DEPTH = 40

Location = tuple[str | int, ...]

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS = {"null": None, "true": True, "false": False}


@dataclass(frozen=True)
class Document:
    """One YAML file: its plain values, and where each of them stands."""

    path: Path
    name: str
    data: Any
    lines: Mapping[Location, int] = field(repr=False)

    def fault(self, at: Location, problem: str, suggestion: str = "") -> Fault:
        """A fault at `at`, or at the nearest enclosing key that the file holds."""
        while at and at not in self.lines:
            at = at[:-1]
        return Fault(self.name, self.lines.get(at, 1), problem, suggestion)


def load(path: Path, name: str | None = None) -> Document:
    """Read `path`.

    Raises:
        SpecError: the file is missing, too large, not UTF-8, or not the YAML described above.
    """
    shown = name or path.name
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise _refused(shown, 1, f"cannot be read: {error.strerror}") from error
    if len(raw) > MAX_BYTES:
        raise _refused(shown, 1, f"is {len(raw)} bytes; at most {MAX_BYTES} are read")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _refused(shown, 1, f"is not UTF-8 at byte {error.start}") from error
    lines: dict[Location, int] = {}
    try:
        _refuse_constructs(text, shown)
        node = yaml.compose(text, Loader=_Loader)
        data = None if node is None else _plain(node, (), lines, shown)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise _refused(shown, line, f"is not YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise _refused(shown, 1, f"is not YAML: {error}") from error
    return Document(path, shown, data, lines)


def _refuse_constructs(text: str, shown: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _refused(shown, line, "anchors and aliases are not read; write the value out")
        if tag := getattr(event, "tag", None):
            raise _refused(shown, line, f"tag {tag} is not read; write the plain value")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise _refused(shown, line, f"is nested more than {MAX_DEPTH} deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _plain(node: yaml.Node, at: Location, lines: dict[Location, int], shown: str) -> Any:
    line = node.start_mark.line + 1
    lines.setdefault(at, line)
    if isinstance(node, yaml.ScalarNode):
        plain = node.style not in ("'", '"', "|", ">")
        return _scalar(node.value) if plain else node.value
    if isinstance(node, yaml.SequenceNode):
        return [_plain(child, (*at, i), lines, shown) for i, child in enumerate(node.value)]
    assert isinstance(node, yaml.MappingNode)
    result: dict[Hashable, Any] = {}
    for key_node, value_node in node.value:
        key_line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise _refused(shown, key_line, "a key must be a plain word")
        key = key_node.value
        if key in result:
            raise _refused(shown, key_line, f"key '{key}' stands twice; keep one of them")
        lines[(*at, key)] = key_line
        result[key] = _plain(value_node, (*at, key), lines, shown)
    return result


def _scalar(text: str) -> Any:
    if text in ("", "~"):
        return None
    if text.lower() in _WORDS and text in (text.lower(), text.title(), text.upper()):
        return _WORDS[text.lower()]
    if _INT.fullmatch(text) and len(text) < 400:
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def _refused(shown: str, line: int, problem: str) -> SpecError:
    return SpecError(faults=[Fault(shown, line, problem)])
