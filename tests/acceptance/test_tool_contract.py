"""What tools/list promises, and that answers and errors keep it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema import Draft202012Validator, ValidationError

if TYPE_CHECKING:
    from tests.acceptance.conftest import Serve, ServeFactory

READERS = {
    "get_schema",
    "list_schemas",
    "list_objects",
    "get_object_details",
    "get_top_queries",
    "analyze_db_health",
    "list_checkpoints",
    "get_budget",
    "get_rows",
    "explain_query",
    "analyze_query_indexes",
    "analyze_workload_indexes",
}
WRITERS = {"execute_sql", "execute_transaction", "copy_rows", "restore_checkpoint", "delete_checkpoint"}
OBJECT_TYPES = ["table", "view", "sequence", "extension"]
ARGUMENTS = {
    "get_schema": {"database", "tables"},
    "list_schemas": {"database"},
    "list_objects": {"database", "schema_name", "object_type"},
    "get_object_details": {"database", "schema_name", "object_name", "object_type"},
    "execute_sql": {"database", "sql", "params", "max_rows"},
    "execute_transaction": {"database", "statements"},
    "get_rows": {"database", "handle", "max_rows"},
    "copy_rows": {"from_database", "query", "to_table", "to_schema", "mode"},
    "try_migration": {"database", "statements"},
    "create_checkpoint": {"database", "name"},
    "list_checkpoints": {"database"},
    "restore_checkpoint": {"database", "checkpoint", "confirm"},
    "delete_checkpoint": {"database", "checkpoint"},
    "explain_query": {"database", "sql", "params", "analyze", "hypothetical_indexes"},
    "analyze_query_indexes": {"database", "queries", "max_index_size_mb", "method"},
    "analyze_workload_indexes": {"database", "max_index_size_mb", "method"},
    "get_top_queries": {"database", "sort_by", "limit"},
    "analyze_db_health": {"database", "health_type"},
}


def parts(schema: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema inside a schema, with where it stands."""
    if isinstance(schema, list):
        for item in schema:
            yield from parts(item, place)
        return
    if not isinstance(schema, dict):
        return
    yield place, schema
    for key in ("items", "anyOf", "oneOf", "allOf", "prefixItems"):
        yield from parts(schema.get(key), place)
    for key in ("properties", "$defs"):
        for name, inner in schema.get(key, {}).items():
            yield from parts(inner, f"{place}.{name}")


async def test_the_tools_are_listed_each_with_title_description_and_all_hints(agent: Serve) -> None:
    assert set(agent.tools) >= READERS | WRITERS
    for tool in agent.tools.values():
        assert tool["title"]
        assert len(tool["description"]) > 20
        hints = tool["annotations"]
        for hint in ("readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint"):
            assert isinstance(hints[hint], bool), (tool["name"], hint)


@pytest.mark.parametrize("name", sorted(READERS))
async def test_a_tool_that_only_looks_says_so(agent: Serve, name: str) -> None:
    hints = agent.tools[name]["annotations"]
    assert hints["readOnlyHint"] is True
    assert hints["destructiveHint"] is False
    assert hints["idempotentHint"] is True
    assert hints["openWorldHint"] is False


@pytest.mark.parametrize("name", sorted(WRITERS))
async def test_a_tool_that_runs_sql_warns_that_it_may_change_or_destroy(agent: Serve, name: str) -> None:
    hints = agent.tools[name]["annotations"]
    assert hints["readOnlyHint"] is False
    assert hints["destructiveHint"] is True
    assert hints["idempotentHint"] is False
    assert hints["openWorldHint"] is False


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
async def test_a_tool_takes_the_arguments_of_the_contract_and_no_others(agent: Serve, name: str) -> None:
    schema = agent.tools[name]["inputSchema"]
    Draft202012Validator.check_schema(schema)
    assert schema["type"] == "object"
    assert set(schema["properties"]) == ARGUMENTS[name]
    if name == "copy_rows":
        return
    database = schema["properties"]["database"]
    assert sorted(database["enum"]) == ["agent", "global"]
    assert database["default"] == "agent"
    assert "database" not in schema.get("required", [])


async def test_required_arguments_are_those_without_which_a_call_has_no_meaning(agent: Serve) -> None:
    required = {name: set(agent.tools[name]["inputSchema"].get("required", [])) for name in ARGUMENTS}
    assert required["execute_sql"] == {"sql"}
    assert required["execute_transaction"] == {"statements"}
    assert required["copy_rows"] == {"from_database", "query", "to_table"}
    assert required["list_schemas"] == set()
    assert required["get_rows"] == {"handle"}
    assert required["explain_query"] == {"sql"}
    assert required["analyze_query_indexes"] == {"queries"}
    assert required["analyze_workload_indexes"] == set()
    assert "object_name" in required["get_object_details"]


async def test_object_types_are_a_closed_list(agent: Serve) -> None:
    for name in ("list_objects", "get_object_details"):
        kind = agent.tools[name]["inputSchema"]["properties"]["object_type"]
        assert kind["enum"] == OBJECT_TYPES
        assert kind["default"] == "table"


async def test_unknown_arguments_are_refused_by_every_input_schema_at_every_depth(agent: Serve) -> None:
    for tool in agent.tools.values():
        for place, schema in parts(tool["inputSchema"]):
            if schema.get("type") == "object" and ("properties" in schema or not place):
                assert schema.get("additionalProperties") is False, (tool["name"], place)


async def test_every_argument_is_described(agent: Serve) -> None:
    for tool in agent.tools.values():
        for place, schema in parts(tool["inputSchema"]):
            for name, argument in schema.get("properties", {}).items():
                assert argument.get("description"), (tool["name"], place, name)


@pytest.mark.parametrize(
    ("name", "argument", "bounds"),
    [
        ("list_objects", "schema_name", {"minLength", "maxLength"}),
        ("get_object_details", "object_name", {"minLength", "maxLength"}),
        ("execute_sql", "sql", {"minLength", "maxLength"}),
        ("execute_sql", "params", {"maxItems"}),
        ("copy_rows", "query", {"minLength", "maxLength"}),
        ("copy_rows", "to_table", {"minLength", "maxLength"}),
        ("execute_sql", "max_rows", {"minimum", "maximum"}),
        ("get_rows", "handle", {"minLength", "maxLength"}),
        ("get_rows", "max_rows", {"minimum", "maximum"}),
        ("execute_transaction", "statements", {"minItems", "maxItems"}),
        ("explain_query", "sql", {"minLength", "maxLength"}),
        ("explain_query", "hypothetical_indexes", {"maxItems"}),
        ("analyze_query_indexes", "queries", {"minItems", "maxItems"}),
    ],
)
async def test_an_argument_tells_its_bounds(agent: Serve, name: str, argument: str, bounds: set[str]) -> None:
    schema = agent.tools[name]["inputSchema"]["properties"][argument]
    told = {key for _, part in parts(schema) for key in part}
    assert bounds <= told


async def test_output_schemas_are_sound_and_admit_neither_nonsense_nor_nothing(agent: Serve) -> None:
    for tool in agent.tools.values():
        schema = tool["outputSchema"]
        Draft202012Validator.check_schema(schema)
        assert schema["type"] == "object"
        for nonsense in ({}, {"error": {}}, {"error": {"code": 7, "message": "x", "retryable": False}}):
            with pytest.raises(ValidationError):
                Draft202012Validator(schema).validate(nonsense)


async def test_the_list_of_tools_is_the_same_every_time(agent: Serve) -> None:
    first, second = await agent.request("tools/list"), await agent.request("tools/list")
    assert first["result"] == second["result"]


@pytest.mark.parametrize(
    ("tool", "arguments", "named"),
    [
        ("execute_sql", {}, "sql"),
        ("execute_sql", {"sql": 1}, "sql"),
        ("execute_sql", {"sql": None}, "sql"),
        ("execute_sql", {"sql": ["SELECT 1"]}, "sql"),
        ("execute_sql", {"sql": "SELECT 1", "max_rows": "3"}, "max_rows"),
        ("execute_sql", {"sql": "SELECT 1", "max_rows": True}, "max_rows"),
        ("execute_sql", {"sql": "SELECT 1", "max_rows": 0}, "max_rows"),
        ("execute_sql", {"sql": "SELECT 1", "max_rows": -1}, "max_rows"),
        ("execute_sql", {"sql": "SELECT 1", "max_rows": 1.5}, "max_rows"),
        ("execute_sql", {"sql": "SELECT 1", "max_rows": 10**30}, "max_rows"),
        ("execute_sql", {"sql": "SELECT $1", "params": "x"}, "params"),
        ("execute_sql", {"sql": "SELECT $1", "params": {"a": 1}}, "params"),
        ("execute_sql", {"sql": "SELECT 1", "params": [None] * 1001}, "params"),
        ("execute_sql", {"sql": "SELECT 1", "query": "SELECT 1"}, "query"),
        ("execute_sql", {"sql": "SELECT 1", "database": "other"}, "database"),
        ("execute_sql", {"sql": "SELECT 1", "database": 7}, "database"),
        ("execute_sql", {"sql": "SELECT 1", "database": None}, "database"),
        ("execute_sql", {"sql": "SELECT 1", "database": []}, "database"),
        ("execute_sql", {"sql": "SELECT 1", "database": {}}, "database"),
        ("execute_transaction", {}, "statements"),
        ("execute_transaction", {"statements": []}, "statements"),
        ("execute_transaction", {"statements": "SELECT 1"}, "statements"),
        ("execute_transaction", {"statements": ["SELECT 1"]}, "statements"),
        ("execute_transaction", {"statements": [{"sql": "SELECT 1"}] * 51}, "statements"),
        ("execute_transaction", {"statements": [{"sql": "SELECT 1", "max_rows": 1}]}, "max_rows"),
        ("execute_transaction", {"statements": [{"params": []}]}, "sql"),
        ("get_schema", {"tables": "orders"}, "tables"),
        ("get_schema", {"tables": ["x"] * 51}, "tables"),
        ("try_migration", {}, "statements"),
        ("try_migration", {"statements": [{"sql": ""}]}, "sql"),
        ("try_migration", {"statements": [{"sql": "SELECT 1"}] * 51}, "statements"),
        ("create_checkpoint", {"name": 7}, "name"),
        ("create_checkpoint", {"name": "two\nlines"}, "name"),
        ("create_checkpoint", {"name": "x" * 64}, "name"),
        ("list_checkpoints", {"name": "x"}, "name"),
        ("restore_checkpoint", {}, "checkpoint"),
        ("restore_checkpoint", {"checkpoint": "none", "confirm": "yes"}, "confirm"),
        ("restore_checkpoint", {"checkpoint": "none-such"}, "none-such"),
        ("restore_checkpoint", {"checkpoint": "none-such", "confirm": True}, "none-such"),
        ("delete_checkpoint", {"checkpoint": "none-such"}, "none-such"),
        ("list_schemas", {"schema_name": "public"}, "schema_name"),
        ("list_objects", {"object_type": "index"}, "object_type"),
        ("list_objects", {"schema_name": ""}, "schema_name"),
        ("list_objects", {"schema_name": "x" * 64}, "schema_name"),
        ("get_object_details", {}, "object_name"),
        ("get_object_details", {"object_name": 1}, "object_name"),
        ("get_rows", {}, "handle"),
        ("get_rows", {"handle": ""}, "handle"),
        ("get_rows", {"handle": "x" * 101}, "handle"),
        ("get_rows", {"handle": "x", "max_rows": 0}, "max_rows"),
        ("copy_rows", {"from_database": "agent", "query": "SELECT 1"}, "to_table"),
        ("copy_rows", {"from_database": "agent", "query": "SELECT 1", "to_table": "x", "params": [1]}, "params"),
        ("get_top_queries", {"sort_by": "rows"}, "sort_by"),
        ("get_top_queries", {"limit": 0}, "limit"),
        ("get_top_queries", {"limit": 101}, "limit"),
        ("get_top_queries", {"limit": "10"}, "limit"),
        ("analyze_db_health", {"health_type": "index,poem"}, "poem"),
        ("analyze_db_health", {"health_type": ["index"]}, "health_type"),
        ("analyze_db_health", {"table": "t"}, "table"),
        ("get_budget", {"user_id": "somebody-else"}, "user_id"),
        ("explain_query", {}, "sql"),
        ("explain_query", {"sql": "SELECT 1", "hypothetical_indexes": [{"table": "t"}]}, "columns"),
        ("explain_query", {"sql": "SELECT 1", "hypothetical_indexes": [{"table": "t", "columns": []}]}, "columns"),
        (
            "explain_query",
            {"sql": "SELECT 1", "hypothetical_indexes": [{"table": "t", "columns": ["a"], "using": "magic"}]},
            "using",
        ),
        ("analyze_query_indexes", {"queries": []}, "queries"),
        ("analyze_query_indexes", {"queries": ["SELECT 1"] * 11}, "queries"),
        ("analyze_query_indexes", {"queries": ["SELECT 1"], "max_index_size_mb": 0}, "max_index_size_mb"),
        ("analyze_workload_indexes", {"method": "llm"}, "method"),
    ],
)
async def test_wrong_arguments_are_an_invalid_argument_that_names_them(
    agent: Serve, tool: str, arguments: dict[str, Any], named: str
) -> None:
    answer = await agent.call(tool, **arguments)
    assert answer.code == "invalid_argument"
    assert named in answer.error["message"]
    assert answer.error["hint"]


async def test_a_tenant_in_the_arguments_is_refused(agent: Serve) -> None:
    for name in ("user_id", "workspace_id", "connection_string"):
        answer = await agent.call("execute_sql", sql="SELECT 1", **{name: "another"})
        assert answer.code == "invalid_argument"


async def test_an_unknown_argument_is_not_quoted_at_length(agent: Serve) -> None:
    answer = await agent.call("execute_sql", sql="SELECT 1", **{"x" * 100_000: 1})
    assert answer.code == "invalid_argument"
    assert len(answer.text) < 2000


async def test_get_budget_tells_the_month_in_cents_and_by_database(agent: Serve) -> None:
    await agent.sql("SELECT 1")
    await agent.sql("SELECT 1", database="global")
    budget = (await agent.call("get_budget")).fields
    assert budget["limit_cents"] == 200
    assert budget["state"] == "ok"
    assert budget["remaining_cents"] == budget["limit_cents"] - budget["used_cents"]
    assert {item["scope"] for item in budget["databases"]} == {"agent", "global"}
    assert sum(item["cost_cents"] for item in budget["databases"]) == budget["used_cents"]
    assert {"read", "write", "schema"} <= set(budget["allowed"])
    assert budget["period_start"] < budget["period_end"]


@pytest.fixture(scope="module", params=["agent", "global"])
async def fixed(
    request: pytest.FixtureRequest, serve: ServeFactory, tenant: Callable[..., dict[str, str]]
) -> AsyncIterator[tuple[str, Serve]]:
    async with serve(tenant("shared-user", "shared-workspace"), "--scope", request.param) as server:
        yield request.param, server


async def test_a_fixed_scope_drops_the_argument_and_decides_the_database(
    fixed: tuple[str, Serve], agent: Serve
) -> None:
    scope, server = fixed
    assert set(server.tools) == set(agent.tools) - {"copy_rows"}, "which needs both"
    for tool in server.tools.values():
        assert "database" not in tool["inputSchema"]["properties"]
    own = (await server.sql("SELECT current_database()")).rows
    assert own == (await agent.sql("SELECT current_database()", database=scope)).rows
    for other in ("agent", "global"):
        answer = await server.refused("SELECT 1", database=other)
        assert answer.code == "invalid_argument"
        assert "database" in answer.error["message"]
