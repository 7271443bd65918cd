"""Which columns of a table a query's go to, and when Postgres has answered in the midst of a COPY."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentdb_mcp.errors import AgentDBError
from agentdb_mcp.execution.copy_columns import (
    SourceColumn,
    check_no_followers,
    columns_to_fill,
    columns_to_make,
    source_columns,
)
from agentdb_mcp.execution.types import TypeInfo
from agentdb_mcp.execution.wire import _Answered
from agentdb_mcp.models import Scope

TABLE = ("public", "orders")


def column(name: str, *, extension: str | None = None, array: bool = False) -> SourceColumn:
    return SourceColumn(name, "thing", "public", "thing", extension, array)


def message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + (len(body) + 4).to_bytes(4, "big") + body


def test_a_type_that_is_found_is_used_and_of_arrays_that_of_the_elements() -> None:
    made, notes = columns_to_make([column("a"), column("b", array=True)], ['"S"."t"', "pg_catalog.int4"], Scope.GLOBAL)
    assert [each.sql for each in made] == ['"S"."t"', "pg_catalog.int4[]"]
    assert notes == []


def test_a_type_that_is_missing_is_text_unless_an_extension_brings_it() -> None:
    made, notes = columns_to_make([column("a"), column("b", array=True)], [None, None], Scope.AGENT)
    assert [each.sql for each in made] == ["pg_catalog.text", "pg_catalog.text[]"]
    assert len(notes) == 2
    with pytest.raises(AgentDBError, match="the agent database lacks the extension vector") as caught:
        columns_to_make([column("a", extension="vector")], [None], Scope.AGENT)
    assert "CREATE EXTENSION vector" in (caught.value.hint or "")


def test_a_column_that_is_missing_is_named_with_the_nearest() -> None:
    found = [["r", name, "text", False, False, False] for name in ("customer", "total", "placed_at")]
    filled, notes = columns_to_fill([column("total"), column("customer")], found, TABLE, Scope.GLOBAL)
    assert [each.name for each in filled] == ["total", "customer"]
    assert notes == []
    for wrong, near in (("costumer", "'customer'"), ("place_at", "'placed_at'")):
        with pytest.raises(AgentDBError, match=f"no column '{wrong}'; the nearest is {near}"):
            columns_to_fill([column(wrong)], found, TABLE, Scope.GLOBAL)
    with pytest.raises(AgentDBError, match=r"no column 'x'\.$"):
        columns_to_fill([column("x")], found, TABLE, Scope.GLOBAL)


def test_a_table_without_columns_lacks_them_all_and_no_table_is_said_to_be_none() -> None:
    with pytest.raises(AgentDBError, match="no column 'x'"):
        columns_to_fill([column("x")], [["r", None, None, None, None, False]], TABLE, Scope.GLOBAL)
    with pytest.raises(AgentDBError, match=r"no table public\.orders in the global database"):
        columns_to_fill([column("x")], [], TABLE, Scope.GLOBAL)


def test_a_query_names_each_of_its_columns_once() -> None:
    info = TypeInfo(25, "text")
    found = [[25, "pg_catalog", "text", None, False]]
    assert source_columns([("a", info), ("b", info)], found)[1].base == "text"
    for columns, said in (
        ([("a", info), ("a", info)], "two columns 'a'"),
        ([("a", info), ("?column?", info)], "Column 2 of the query has no name"),
        ([("?column?", info), ("?column?", info)], "Column 1 of the query has no name"),
        ([], "gives no columns"),
    ):
        with pytest.raises(AgentDBError, match=said):
            source_columns(columns, found)


def test_what_other_tables_would_lose_is_named() -> None:
    check_no_followers([], TABLE)
    with pytest.raises(AgentDBError, match=r"Replacing the rows of public\.orders would change items .* items_fkey"):
        check_no_followers([["items_fkey", "items"]], TABLE)


@given(
    st.lists(st.tuples(st.sampled_from([b"G", b"N", b"S", b"A"]), st.binary(max_size=30)), max_size=6),
    st.sampled_from([b"E", b"C", b"Z", None]),
    st.integers(1, 7),
)
def test_an_answer_is_heard_wherever_the_network_cuts_and_a_notice_is_not_one(
    told: list[tuple[bytes, bytes]], answer: bytes | None, size: int
) -> None:
    heard = []
    listener = _Answered(lambda: heard.append(True))
    stream = b"".join(message(kind, body) for kind, body in told)
    if answer is not None:
        stream += message(answer, b"SFATAL\0")
    for at in range(0, len(stream), size):
        listener(stream[at : at + size])
    assert bool(heard) is (answer is not None)
    listener(b"")
    assert heard
