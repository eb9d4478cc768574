"""Spark SQL expressions from pipeline files: parsed and looked at before Spark sees them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

# Not repeatable, or a way out of the data: neither belongs in a feature.
_FORBIDDEN = re.compile(
    r"\b(java_method|reflect|try_reflect|rand|randn|random|uuid|shuffle|now|current_date"
    r"|current_timestamp|current_timezone|curdate|localtimestamp|unix_timestamp\s*\(\s*\)"
    r"|input_file_name|input_file_block_start|monotonically_increasing_id|spark_partition_id"
    r"|current_user|session_user|current_database|current_catalog|version)\b",
    re.IGNORECASE,
)


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
    except errors.SqlglotError as error:
        reason = str(error).splitlines()[0]
        raise ExpressionError(f"is no Spark SQL expression: {reason}") from error
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
    if (match := _FORBIDDEN.search(_without_strings(text))) is not None:
        raise ExpressionError(f"calls {match[0]}, whose answer is not decided by the row alone")
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


def _without_strings(text: str) -> str:
    return re.sub(r"'(?:[^'\\]|\\.|'')*'|\"(?:[^\"\\]|\\.)*\"", "''", text)
