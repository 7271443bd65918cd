"""Published versions of the TypeScript SDK list and call every tool, over HTTP in each way and over stdio."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema import Draft202012Validator
from node import node, packages, run_script
from serving import LEGACY, MODERN, SESSIONS, WAYS, Holder

if TYPE_CHECKING:
    from tests.acceptance.mcp_http.conftest import Shared

Json = dict[str, Any]
CLIENTS = Path(__file__).parent / "clients"
# Sim Studio's client, which also `make test` runs; those of its forks and of today take `make mcp-clients`.
OF_SIM, OLD, CURRENT = "sdk-1.29.0", "sdk-1.20.2", "@modelcontextprotocol/client"
PROTOCOLS = {OF_SIM: LEGACY, OLD: "2025-06-18", CURRENT: LEGACY}

# Every tool with arguments that are right and some that are not, and the code that these are refused with.
CALLS: dict[str, tuple[Json, Json, str]] = {
    "execute_transaction": (
        {
            "statements": [
                {"sql": "CREATE TABLE IF NOT EXISTS people (id int PRIMARY KEY, name text)"},
                {"sql": "INSERT INTO people VALUES (1, $1) ON CONFLICT DO NOTHING", "params": ["ada"]},
            ]
        },
        {"statements": []},
        "invalid_argument",
    ),
    "execute_sql": (
        {"sql": "SELECT name FROM people, generate_series(1, 2) WHERE id = $1", "params": [1], "max_rows": 1},
        {"sql": "SELECT nothing FROM people"},
        "sql_error",
    ),
    "get_rows": ({"handle": "the last handle"}, {"handle": "x.1"}, "invalid_argument"),
    "get_schema": ({"tables": ["people"]}, {"tables": ["nobody"]}, "sql_error"),
    "list_schemas": ({}, {"surprise": 1}, "invalid_argument"),
    "list_objects": ({"schema_name": "public"}, {"schema_name": "public", "object_type": "poem"}, "invalid_argument"),
    "get_object_details": (
        {"schema_name": "public", "object_name": "people"},
        {"schema_name": "public", "object_name": "nobody"},
        "sql_error",
    ),
    "copy_rows": (
        {"from_database": "global", "query": "SELECT 1 AS id, 'ada' AS name", "to_table": "people", "mode": "replace"},
        {"from_database": "global", "query": "SELECT nothing FROM nobody", "to_table": "people"},
        "sql_error",
    ),
    "try_migration": (
        {"statements": [{"sql": "ALTER TABLE people ADD COLUMN age int"}]},
        {"statements": []},
        "invalid_argument",
    ),
    # In this order: what one makes, the last one deletes.
    "create_checkpoint": ({"name": "kept"}, {"name": "x" * 64}, "invalid_argument"),
    "list_checkpoints": ({}, {"surprise": 1}, "invalid_argument"),
    "restore_checkpoint": ({"checkpoint": "kept", "confirm": True}, {"checkpoint": "lost"}, "invalid_argument"),
    "delete_checkpoint": ({"checkpoint": "kept"}, {"checkpoint": "lost"}, "invalid_argument"),
    "explain_query": (
        {"sql": "SELECT name FROM people WHERE id = 1"},
        {"sql": "SELECT nothing FROM people"},
        "sql_error",
    ),
    "analyze_query_indexes": ({"queries": ["SELECT name FROM people"]}, {"queries": []}, "invalid_argument"),
    "analyze_workload_indexes": ({}, {"method": "magic"}, "invalid_argument"),
    "get_top_queries": ({"limit": 5}, {"limit": 0}, "invalid_argument"),
    "analyze_db_health": ({"health_type": "index"}, {"health_type": "poem"}, "invalid_argument"),
    "get_budget": ({}, {"surprise": 1}, "invalid_argument"),
}
PATHS = ["/mcp", "/mcp/agent", "/mcp/global"]


@pytest.fixture(scope="module")
def modules(request: pytest.FixtureRequest) -> Path:
    node()
    return packages(CLIENTS, must=request.config.getoption("markexpr") == "long")


def calls_at(path: str) -> dict[str, tuple[Json, Json, str]]:
    """A server of one database copies nothing to the other."""
    return {name: call for name, call in CALLS.items() if path == "/mcp" or name != "copy_rows"}


def given(sdk: str, path: str, **more: Any) -> Json:
    calls = [[name, arguments] for name, (right, wrong, _) in calls_at(path).items() for arguments in (right, wrong)]
    return {"sdk": sdk, "calls": [*calls, ["no_such_tool", {}]]} | more


def check(seen: Json, path: str) -> None:
    """Every tool was there, and answered as it should."""
    assert seen["server"] == "agentdb-mcp"
    assert seen["problems"] == []
    tools = {tool["name"]: tool for tool in seen["tools"]}
    calls = calls_at(path)
    assert set(tools) == set(calls), "every tool is called here"
    *answers, unknown = seen["answers"]
    assert unknown["code"] == -32602
    assert "no_such_tool" in unknown["thrown"]
    for number, (name, (_, _, code)) in enumerate(calls.items()):
        right, wrong = answers[2 * number : 2 * number + 2]
        assert not right.get("isError"), (name, right)
        assert wrong["isError"], (name, wrong)
        for answer in (right, wrong):
            Draft202012Validator(tools[name]["outputSchema"]).validate(answer["structuredContent"])
            assert [block["type"] for block in answer["content"]] == ["text"]
        error = wrong["structuredContent"]["error"]
        assert error["code"] == code
        assert error["message"].rstrip(".") in wrong["content"][0]["text"]
    names = answers[2 * list(calls).index("execute_sql")]
    assert names["structuredContent"]["rows"] == [["ada"]]
    assert "ada" in names["content"][0]["text"]


@pytest.mark.parametrize(
    ("way", "path"),
    [("stateless-json", path) for path in PATHS] + [(way, "/mcp") for way in list(WAYS)[1:]],
)
async def test_the_client_of_sim_studio_works_over_http(
    shared: Shared, holder: Holder, modules: Path, way: str, path: str
) -> None:
    await works_over_http(shared, holder, modules, way, path, OF_SIM)


@pytest.mark.long
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("sdk", "mode"),
    [(OF_SIM, None), (OLD, None), (CURRENT, None), (CURRENT, "auto")],
    ids=["1.29.0", "1.20.2", "2 legacy", "2"],
)
async def test_every_client_works_over_http(
    shared: Shared, holder: Holder, modules: Path, sdk: str, mode: str | None, way: str, path: str
) -> None:
    await works_over_http(shared, holder, modules, way, path, sdk, mode)


async def works_over_http(
    shared: Shared, holder: Holder, modules: Path, way: str, path: str, sdk: str, mode: str | None = None
) -> None:
    server = await shared(way)
    http = {"url": server.url + path, "token": holder.token}
    seen = await run_script(CLIENTS / "client.mjs", modules, given(sdk, path, http=http, mode=mode))
    check(seen, path)
    assert seen["protocol"] == (PROTOCOLS[sdk] if mode is None else MODERN)
    keeps_session = way in SESSIONS and mode is None
    assert (seen["session"] is not None) == keeps_session
    takes_database = "database" in seen["tools"][0]["inputSchema"]["properties"]
    assert takes_database == (path == "/mcp")


@pytest.mark.long
@pytest.mark.parametrize(
    ("sdk", "mode"),
    [(OF_SIM, None), (OLD, None), (CURRENT, None), (CURRENT, "auto")],
    ids=["1.29.0", "1.20.2", "2 legacy", "2"],
)
async def test_every_client_works_over_stdio(
    tenant: Callable[..., dict[str, str]], modules: Path, sdk: str, mode: str | None
) -> None:
    environ = tenant("stdio-user", "stdio-workspace") | {"PATH": os.environ["PATH"]}
    stdio = {"command": sys.executable, "args": ["-m", "agentdb_mcp", "serve"], "env": environ}
    check(await run_script(CLIENTS / "client.mjs", modules, given(sdk, "/mcp", stdio=stdio, mode=mode)), "/mcp")
