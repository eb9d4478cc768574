"""Expressions: what they read, what they may not do, and their order."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nightjar.core.expressions import Expression, ExpressionError, in_order, parse


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("a", {"a"}),
        ("a + b * 2", {"a", "b"}),
        ("`odd name` is null", {"odd name"}),
        ("case when a then b else 'c' end", {"a", "b"}),
        ("a in (1, 2)", {"a"}),
        ("cast(a as decimal(9, 2)) -- b", {"a"}),
        ("a - interval 2 hours", {"a"}),
        ("transform(a, x -> x + b)", {"a", "b"}),
        ("concat('rand()', \"now()\", a)", {"a"}),
        ("a = 'current_date'", {"a"}),
        ("unix_timestamp(a)", {"a"}),
        ("version = uuid", {"version", "uuid"}),
        ("1", set()),
    ],
)
def test_columns(text: str, columns: set[str]) -> None:
    assert parse(text) == Expression(text, frozenset(columns))


@pytest.mark.parametrize(
    "text",
    [
        "rand()",
        "`rand` ()",
        "RANDN(3)",
        "r'\\' || rand() || 'x'",
        "a /* it's */ + rand() /* it's */",
        "uuid()",
        "shuffle(a)",
        "now()",
        "current_date",
        "current_timestamp()",
        "unix_timestamp()",
        "unix_timestamp( )",
        "current_user()",
        "input_file_name()",
        "java_method('java.lang.System', 'exit', 0)",
        "reflect('java.util.UUID', 'randomUUID')",
        "try_reflect('a', 'b')",
        "monotonically_increasing_id()",
        "explode(a)",
        "stack(2, a, b)",
    ],
)
def test_calls_that_the_row_alone_does_not_decide(text: str) -> None:
    with pytest.raises(ExpressionError, match="calls"):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "(select 1)",
        "exists(select 1)",
        "a in (select b from t)",
        "a from t",
        "a where b",
        "a limit 1",
        "a union select 2",
        "distinct a",
        "*",
        "t.a",
        "a as b",
        "a, b",
        "a; b",
        "sum(a)",
        "count(*)",
        "max(a) over (partition by b)",
        "lag(a)",
        "",
        "a +",
        "select a",
        ":a",
        "?",
        "${env:HOME}",
        "{{a}}",
        "(" * 3000 + "a" + ")" * 3000,
    ],
)
def test_not_one_expression_over_columns(text: str) -> None:
    with pytest.raises(ExpressionError):
        parse(text)


def test_order_follows_what_is_read_then_the_alphabet() -> None:
    texts = {"a": "c + 1", "b": "1", "c": "d + x", "d": "x"}
    order = in_order({name: parse(text) for name, text in texts.items()})
    assert sorted(order) == sorted(texts)
    assert order.index("d") < order.index("c") < order.index("a")
    assert in_order({n: parse("x") for n in "cab"}) == ["a", "b", "c"]


@pytest.mark.parametrize("texts", [{"a": "a + 1"}, {"a": "b", "b": "c", "c": "a"}])
def test_cycles_are_named(texts: dict[str, str]) -> None:
    with pytest.raises(ExpressionError) as caught:
        in_order({name: parse(text) for name, text in texts.items()})
    assert all(name in str(caught.value) for name in texts)


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.text(max_size=40),
        st.lists(
            st.sampled_from(
                (
                    *("a", "b", "(", ")", ",", "+", "'", '"', "`", "select", "from", "case"),
                    *("when", "end", "1", "/*", "*/", "--", "\\", "[", "]", "->", "::", "is"),
                )
            ),
            max_size=12,
        ).map(" ".join),
    )
)
@example("\x00")
def test_any_text_is_an_expression_or_an_expression_error(text: str) -> None:
    with contextlib.suppress(ExpressionError):
        assert parse(text).text == text
