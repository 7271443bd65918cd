"""Values on their way out of and into a real Postgres."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from agentdb_mcp.embedded import EmbeddedPostgres
from agentdb_mcp.errors import InvalidArgument
from agentdb_mcp.execution import Call, Pools, PoolSettings, Statement
from agentdb_mcp.models import DatabaseTarget, Limits, Result, Secret

LIMITS = Limits(timeout_s=10, max_rows=1000, max_bytes=10**7)


@pytest.fixture(scope="module")
async def session(postgres: EmbeddedPostgres) -> AsyncIterator[tuple[Pools, DatabaseTarget]]:
    pools = Pools(PoolSettings())
    yield pools, DatabaseTarget("values", Secret(postgres.uri().reveal()))
    await pools.close()


async def query(session: tuple[Pools, DatabaseTarget], sql: str, *params: object) -> Result:
    pools, target = session
    (result,) = await pools.run(target, Call([Statement(sql, params)], LIMITS))
    json.dumps(result.rows, allow_nan=False)
    return result


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("NULL::int", None),
        ("true", True),
        ("1::int2", 1),
        ("9007199254740991::int8", 9007199254740991),
        ("9007199254740992::int8", "9007199254740992"),
        ("'-9223372036854775808'::int8", "-9223372036854775808"),
        ("1.10::numeric", "1.10"),
        ("'NaN'::numeric", "NaN"),
        ("0.1::float4", 0.1),
        ("0.1::float8", 0.1),
        ("'Infinity'::float8", "Infinity"),
        ("'NaN'::float8", "NaN"),
        ("'2024-02-29 12:00:00.5'::timestamp", "2024-02-29T12:00:00.5"),
        ("'2024-02-29 12:00+02'::timestamptz", "2024-02-29T10:00:00+00:00"),
        ("'infinity'::timestamptz", "infinity"),
        ("'-infinity'::date", "-infinity"),
        ("'0044-03-15 BC'::date", "0044-03-15 BC"),
        ("'0044-03-15 12:00 BC'::timestamp", "0044-03-15T12:00:00 BC"),
        ("'294276-12-31 23:59'::timestamp", "294276-12-31T23:59:00"),
        ("'5874897-12-31'::date", "5874897-12-31"),
        ("'24:00'::time", "24:00:00"),
        ("'1 year 2 days'::interval", "1 year 2 days"),
        ("'\\x00ff'::bytea", "AP8="),
        ("'{\"a\": [1, 2.5, null]}'::jsonb", {"a": [1, 2.5, None]}),
        ("'{\"n\": 12345678901234567890}'::jsonb", {"n": "12345678901234567890"}),
        ("'0.1234567890123456789'::jsonb", "0.1234567890123456789"),
        ("'\"\\ud800\"'::json", '"\\ud800"'),
        ("ARRAY[1,NULL,3]", [1, None, 3]),
        ("ARRAY[['a','b,c'],['d\"e','{}']]", [["a", "b,c"], ['d"e', "{}"]]),
        ("ARRAY['NULL', NULL, '', '\\']", ["NULL", None, "", "\\"]),
        ("ARRAY[]::text[]", []),
        ("ARRAY['{\"a\":1}'::jsonb]", [{"a": 1}]),
        ("ARRAY[9007199254740993]::int8[]", ["9007199254740993"]),
        ("'[0:1]={1,2}'::int[]", "[0:1]={1,2}"),
        ("ARRAY['(1,1),(0,0)'::box]", ["(1,1),(0,0)"]),
        ("int4range(1, 5)", "[1,5)"),
        ("ROW(1, 'a b')", '(1,"a b")'),
        ("'c'::\"char\"", "c"),
        ("'a'::char(3)", "a  "),
        ("'192.168.0.1/24'::inet", "192.168.0.1/24"),
        ("pg_sleep(0)", None),
        ("repeat('é', 3)", "ééé"),
    ],
)
async def test_values_keep_their_meaning(session: tuple[Pools, DatabaseTarget], expression: str, value: object) -> None:
    result = await query(session, f"SELECT {expression}")
    assert result.rows == [[value]]


@pytest.mark.parametrize(
    ("type_name", "value", "text"),
    [
        ("int", 5, "5"),
        ("int", 5.0, "5"),
        ("int", "5", "5"),
        ("bigint", "9007199254740993", "9007199254740993"),
        ("numeric", "1.10", "1.10"),
        ("float8", 1.5, "1.5"),
        ("text", 'it\'s \\ "quoted"', 'it\'s \\ "quoted"'),
        ("text", None, None),
        ("bool", False, "false"),
        ("timestamptz", "2024-01-01T00:00:00Z", "2024-01-01 00:00:00+00"),
        ("bytea", "AP8=", "\\x00ff"),
        ("bytea", "\\x00ff", "\\x00ff"),
        ("jsonb", {"a": [1, "x"]}, '{"a": [1, "x"]}'),
        ("jsonb", [1, 2], "[1, 2]"),
        ("text[]", ["a,b", None, 'q"\\', "NULL", ""], '{"a,b",NULL,"q\\"\\\\","NULL",""}'),
        ("int[]", [[1, 2], [3, 4]], "{{1,2},{3,4}}"),
        ("jsonb[]", [{"a": 1}, [2]], '{"{\\"a\\": 1}",[2]}'),
        ("int4range", "[1,5)", "[1,5)"),
    ],
)
async def test_parameters_take_json_values(
    session: tuple[Pools, DatabaseTarget], type_name: str, value: object, text: str | None
) -> None:
    result = await query(session, f"SELECT $1::{type_name}::text", value)
    assert result.rows == [[text]]


@pytest.mark.parametrize("value", ["no base64!", "a\0b", "\ud800"])
async def test_a_value_that_cannot_be_sent_is_named(session: tuple[Pools, DatabaseTarget], value: str) -> None:
    kind = "bytea" if "!" in value else "text"
    with pytest.raises(InvalidArgument, match=r"params\[0\]"):
        await query(session, f"SELECT $1::{kind}", value)


async def test_types_that_an_agent_made_come_and_go_as_text(session: tuple[Pools, DatabaseTarget]) -> None:
    for sql in (
        "CREATE TYPE mood AS ENUM ('happy', 'sad')",
        "CREATE TYPE pair AS (x int, y text)",
        "CREATE DOMAIN positive AS int CHECK (value > 0)",
        "CREATE TABLE made (m mood, p pair, d positive, ms mood[])",
    ):
        pools, target = session
        await pools.run(target, Call([Statement(sql)], LIMITS, read_only=False))
    pools, target = session
    insert = "INSERT INTO made VALUES ($1, $2, $3, $4) RETURNING *"
    call = Call([Statement(insert, ["happy", "(1,a)", 3, ["sad", None]])], LIMITS, read_only=False)
    (result,) = await pools.run(target, call)
    assert result.rows == [["happy", "(1,a)", 3, ["sad", None]]]
    assert [column.type for column in result.columns] == ["mood", "pair", "integer", "mood[]"]


async def test_columns_with_one_name_keep_their_values_apart(session: tuple[Pools, DatabaseTarget]) -> None:
    result = await query(session, "SELECT 1 AS a, 2 AS a")
    assert result.rows == [[1, 2]]


async def test_bytes_say_how_they_are_written(session: tuple[Pools, DatabaseTarget]) -> None:
    result = await query(session, "SELECT 'a'::bytea AS b")
    assert (result.columns[0].type, result.columns[0].encoding) == ("bytea", "base64")


async def test_json_too_deep_to_handle_stays_text(session: tuple[Pools, DatabaseTarget]) -> None:
    result = await query(session, "SELECT (repeat('[', 500) || repeat(']', 500))::json")
    assert result.rows == [["[" * 500 + "]" * 500]]
