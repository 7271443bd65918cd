"""Texts that must not be parsed, statements in one text, and properties of any text at all."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentdb_mcp.errors import InvalidArgument, StatementRefused
from agentdb_mcp.gate import TextLimits, classify
from agentdb_mcp.gate.agreement import same_cut
from agentdb_mcp.gate.tokens import scan
from agentdb_mcp.models import Kind, StatementFacts
from agentdb_mcp.policy import load_policy

LIMITS = TextLimits()

WRITES = [
    "insert into t values (1)",
    "update t set v = 'a'",
    "delete from t",
    "merge into t using u on true when matched then delete",
    "create table x (i int)",
    "drop table t",
    "truncate t",
    "copy t from stdin",
    "select * into x from t",
    "select 1 from t for update",
    "select nextval('sq')",
    "with x as (delete from t returning 1) select 1 from x",
]
PIECES = [
    *WRITES,
    "select 1",
    "select",
    "with x as (",
    ")",
    "(",
    "[",
    "]",
    "explain",
    "analyze",
    "from t",
    "union",
    ";",
    ",",
    "'",
    '"',
    "''",
    "E'",
    "\\",
    "\\'",
    "$$",
    "$a$",
    "$1",
    "--",
    "\n",
    "\r",
    "/*",
    "*/",
    "/*/**/",
    "U&'",
    "\u00a0",
    "\u2028",
    "\ufeff",
    "\u212a",
    "é",
    "{",
    "as",
    "into",
    "f(",
    "now()",
    "array[",
    "case",
    "end",
]


def classified(sql: str) -> StatementFacts | None:
    try:
        return classify(sql, LIMITS)
    except (InvalidArgument, StatementRefused):
        return None


@pytest.mark.parametrize("sql", ["", "  \n", ";", " ; ;", "-- nothing", "/* a */ -- b", "/*/**/1--*/"])
def test_an_empty_text_is_an_invalid_argument(sql: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^The SQL is empty\.$"):
        classify(sql, LIMITS)


@pytest.mark.parametrize(("sql", "words"), [("select 1\0", "NUL byte"), ("select '\ud800'", "surrogate")])
def test_characters_that_cannot_be_sent_are_an_invalid_argument(sql: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        classify(sql, LIMITS)


def test_a_text_is_measured_in_bytes() -> None:
    limits = TextLimits(max_sql_bytes=20)
    assert classify("select 'äöüä'", limits).certain
    with pytest.raises(StatementRefused, match="is 25 bytes long; at most 20"):
        classify("select 'äöüäöüää'", limits)


@pytest.mark.parametrize(
    "sql",
    [
        "select " + "(" * 101 + "1" + ")" * 101,
        "select " + "a[" * 101 + "1" + "]" * 101,
        "select " + "case when true then " * 101 + "1" + " end" * 101,
        "select " + "(" * 2_000,
    ],
    ids=["brackets", "subscripts", "CASE", "never closed"],
)
def test_over_nested_texts_are_refused(sql: str) -> None:
    with pytest.raises(StatementRefused, match="nested more than 100 levels"):
        classify(sql, LIMITS)


def test_brackets_in_strings_and_side_by_side_are_no_nesting() -> None:
    assert classify("select '" + "(" * 500 + "'", LIMITS).certain
    assert classify("select 1 where 1 in (1)" + " or 1 in (1)" * 300, LIMITS).certain


@pytest.mark.parametrize("sql", ["select 1 " + "/*" * 1_001, "do $$" + "/* */" * 1_001 + "$$"])
def test_too_many_comment_openers_are_refused_also_in_strings(sql: str) -> None:
    with pytest.raises(StatementRefused, match="more than 1000 comments"):
        classify(sql, LIMITS)


@pytest.mark.parametrize(
    ("sql", "count"),
    [
        ("select 1; select 2", 2),
        ("commit; insert into t values (1)", 2),
        ("table t; insert into t values (1);", 2),
        ("select 'a\\'; drop table t; --'", 2),
        ("select 1; ; select 2; select 3", 3),
        ("create function f() returns int begin atomic select 1; end; drop table t", 2),
    ],
)
def test_several_statements_are_refused_with_a_way_out(sql: str, count: int) -> None:
    with pytest.raises(StatementRefused, match=f"holds {count} statements") as refused:
        classify(sql, LIMITS)
    assert "execute_transaction" in (refused.value.hint or "")


@pytest.mark.parametrize(
    "sql",
    ["select ';'", 'select 1 as ";"', "select $$;$$", "select 1 /* ; */", "select 1; -- done", "select E'\\';'"],
)
def test_a_semicolon_that_ends_nothing_does_not_count(sql: str) -> None:
    assert classify(sql, LIMITS).kinds == {Kind.READ}


def test_the_default_limits_are_those_of_the_shipped_policy() -> None:
    assert TextLimits.of(load_policy(None).limits) == LIMITS


@given(st.text())
@example("select 1\0")
@example("\ud800")
def test_no_text_raises_anything_but_the_two_refusals(sql: str) -> None:
    classified(sql)


@given(st.lists(st.sampled_from(PIECES), max_size=12), st.sampled_from(["", " "]))
def test_no_mixture_of_sql_raises_anything_but_the_two_refusals(pieces: list[str], between: str) -> None:
    classified(between.join(pieces))


@given(st.lists(st.sampled_from(PIECES), max_size=8), st.sampled_from(WRITES), st.sampled_from(["", " "]))
def test_text_before_and_after_never_turns_a_write_into_a_certain_read(
    pieces: list[str], write: str, between: str
) -> None:
    """Unless the write ended up inside a comment or a quoted part, or is only explained."""
    sql = between.join([*pieces, "\n", write])
    facts = classified(sql)
    if facts is None or not facts.certain or facts.kinds != {Kind.READ}:
        return
    words = [token.text for token in scan(sql).tokens if token.kind == "word"]
    writing = {"insert", "delete", "merge", "into", "copy", "drop"} | ({"truncate"} - set(words[1:]))
    assert words[0] == "explain" or not writing & set(words)  # `SELECT truncate t` reads a column of that name


@given(st.lists(st.sampled_from(PIECES), max_size=10), st.sampled_from(["", " "]))
def test_what_is_not_certain_says_why(pieces: list[str], between: str) -> None:
    facts = classified(between.join(pieces))
    assert facts is None or facts.certain or facts.why


@given(st.text(alphabet="ab'\"$-/*\\\nE;() ", max_size=60))
def test_tokens_are_in_order_and_inside_the_text(sql: str) -> None:
    ends = 0
    for token in scan(sql).tokens:
        assert ends <= token.start < token.end <= len(sql)
        ends = token.end


@pytest.mark.parametrize(
    ("sql", "theirs", "same"),
    [
        ("a 'b c'", [(0, 1), (2, 7)], True),
        ("a 'b c'", [(0, 1), (2, 4), (5, 7)], False),
        ("a /* b */ c", [(0, 1), (10, 11)], True),
        ("a /* b */ c", [(0, 1), (5, 6), (10, 11)], False),
        ("a -- b", [(0, 1)], True),
        ("a b", [(0, 1)], False),
        ("order by", [(0, 8)], True),
        ("a$$b", [(0, 1), (1, 4)], False),
        ("a->>'b'", [(0, 1), (1, 4), (4, 7)], True),
        ("$1", [(0, 1), (1, 2)], True),
    ],
)
def test_two_ways_to_cut_a_text_are_compared(sql: str, theirs: list[tuple[int, int]], same: bool) -> None:
    assert same_cut(sql, scan(sql).tokens, theirs) is same
