"""Spark SQL expressions from pipeline files: parsed and looked at before Spark sees them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

# Not repeatable, or a way out of the data: neither belongs in a feature.
_FORBIDDEN_CALLS = re.compile(
    "java_method|reflect|try_reflect|rand|randn|random|randstr|uniform|uuid|shuffle|now|curdate"
    "|current_date|current_time|current_timestamp|current_timezone|localtimestamp|sleep"
    "|input_file_name|input_file_block_start|input_file_block_length|monotonically_increasing_id"
    "|spark_partition_id|user|current_user|session_user|current_database|current_schema"
    "|current_catalog|version"
)
# Spark answers these without parentheses too.
_FORBIDDEN_WORDS = re.compile(
    "current_date|current_time|current_timestamp|localtimestamp|current_user|session_user|user"
)
# One row in, many rows out.
_GENERATORS = re.compile("(pos)?explode(_outer)?|inline(_outer)?|stack|json_tuple")


class ExpressionError(ValueError):
    """The text is not one Spark SQL expression over columns."""


@dataclass(frozen=True)
class Expression:
    """A parsed expression: its text and the columns that it reads."""

    text: str
    columns: frozenset[str]


def parse(text: str) -> Expression:
    """Parse one expression in Spark's dialect.

    Raises:
        ExpressionError: it is not one expression, reads another table, aggregates, or calls a
            function whose answer is not decided by the row alone.

    >>> sorted(parse("arr_delay >= 15 and dest <> 'BOS'").columns)
    ['arr_delay', 'dest']
    """
    import sqlglot
    from sqlglot import errors, exp

    try:
        statements = sqlglot.parse(f"SELECT {text}", dialect="spark")
        called = _forbidden(text)
    except errors.SqlglotError as error:
        reason = str(error).splitlines()[0]
        raise ExpressionError(f"is no Spark SQL expression: {reason}") from error
    except RecursionError as error:
        raise ExpressionError("is nested too deep") from error
    select = statements[0] if len(statements) == 1 else None
    if not isinstance(select, exp.Select) or len(select.expressions) != 1:
        raise ExpressionError("must be one expression")
    tree = select.expressions[0]
    if {k for k, v in select.args.items() if v} - {"expressions", "kind"}:
        raise ExpressionError("must be an expression over columns, with no clause of a query")
    if tree.find(exp.Query, exp.Table, exp.Star, exp.Alias) is not None:
        raise ExpressionError("must be an expression over columns: no query, table, * or alias")
    if (aggregate := tree.find(exp.AggFunc, exp.Window)) is not None:
        raise ExpressionError(f"reads other rows ({aggregate.sql(dialect='spark')})")
    if called is not None and _GENERATORS.fullmatch(called):
        raise ExpressionError(f"calls {called}, which makes many rows of one")
    if called is not None:
        raise ExpressionError(f"calls {called}, whose answer is not decided by the row alone")
    if tree.find(exp.Placeholder, exp.Parameter, exp.SessionParameter) is not None:
        raise ExpressionError("holds a parameter or a variable; write the value itself")
    for column in tree.find_all(exp.Column):
        if column.table:
            raise ExpressionError(f"names a table in {column.sql(dialect='spark')}")
    return Expression(text, frozenset(c.name for c in tree.find_all(exp.Column)))


def in_order(expressions: Mapping[str, Expression]) -> list[str]:
    """The names, each after the names that it reads; ties in alphabetical order.

    Raises:
        ExpressionError: two expressions read each other.
    """
    graph = {
        name: sorted(expression.columns & expressions.keys())
        for name, expression in sorted(expressions.items())
    }
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise ExpressionError("read each other: " + " -> ".join(error.args[1])) from error


def _forbidden(text: str) -> str | None:
    """The first forbidden function that the text calls; strings and comments call nothing."""
    import sqlglot

    tokens = [
        ("" if "STRING" in token.token_type.name else token.text.lower(), token.token_type.name)
        for token in sqlglot.tokenize(text, dialect="spark")
    ]
    for i, (word, kind) in enumerate(tokens):
        follows = [w for w, _ in tokens[i + 1 : i + 3]]
        called = follows[:1] == ["("]
        if called and (_FORBIDDEN_CALLS.fullmatch(word) or _GENERATORS.fullmatch(word)):
            return word
        if kind != "IDENTIFIER" and _FORBIDDEN_WORDS.fullmatch(word):
            return word
        if word == "unix_timestamp" and follows == ["(", ")"]:
            return word
    return None
