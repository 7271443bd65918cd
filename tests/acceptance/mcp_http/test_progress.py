"""How far a copy is, told over HTTP where answers are event streams; and a client that goes away in its midst."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from serving import LEGACY, MODERN, WAYS, Holder, modern
from serving import request as message

from agentdb_mcp.local_stack import LocalStack
from copying_sides import STALLING, outside

if TYPE_CHECKING:
    from tests.acceptance.mcp_http.conftest import Shared


def copying(query: str, table: str, *, mode: str = "create", **more: Any) -> dict[str, Any]:
    arguments = {"from_database": "agent", "query": query, "to_table": table, "mode": mode}
    return {"name": "copy_rows", "arguments": arguments} | more


def asked(version: str, params: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """A call in either era, with a token for progress."""
    if version == LEGACY:
        return message("tools/call", params | {"_meta": {"progressToken": "t"}}), {}
    body, headers = modern("tools/call", params)
    body["params"]["_meta"]["progressToken"] = "t"
    return body, headers


@pytest.mark.parametrize("version", [LEGACY, MODERN])
@pytest.mark.parametrize("way", WAYS)
async def test_progress_is_told_in_event_streams_and_harms_no_other_answer(
    shared: Shared, holder: Holder, way: str, version: str
) -> None:
    server = await shared(way)
    table = f"told_{way}_{version}"
    async with server.wire(holder) as wire:
        if version == LEGACY:
            await wire.initialize()
        body, headers = asked(version, copying("SELECT generate_series(1, 5000) AS id", table))
        answer = await wire.send(body, **headers)
    if answer.headers["content-type"].startswith("text/event-stream"):
        lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
        *told, last = [json.loads(line) for line in lines]
        assert {each["method"] for each in told} == {"notifications/progress"}
        assert {each["params"]["progressToken"] for each in told} == {"t"}
        steps = [each["params"]["progress"] for each in told]
        assert steps == sorted(set(steps))
        assert (steps[0], steps[-1]) == (0, 5000)
    else:
        assert way.endswith("json")
        last = answer.json()
    assert last["result"]["structuredContent"]["rows"] == 5000


@pytest.mark.parametrize("way", ["stateless-json", "sessions-sse"])
async def test_a_copy_ends_with_the_connection_of_its_client_and_leaves_nothing(
    shared: Shared, holder: Holder, stack: LocalStack, way: str
) -> None:
    server = await shared(way)
    async with server.wire(holder) as wire:
        await wire.initialize()
        named = {"name": "execute_sql", "arguments": {"sql": "SELECT current_database()", "database": "global"}}
        found = await wire.call("tools/call", named)
        async with outside(stack.postgres, found["result"]["structuredContent"]["rows"][0][0]) as target:
            body, headers = asked(LEGACY, copying(STALLING, f"left_{way}"))
            async with anyio.create_task_group() as clients:
                clients.start_soon(lambda: wire.send(body, **headers))
                await target.arriving()
                clients.cancel_scope.cancel()
            await target.quiet()
            assert f"left_{way}" not in await target.tables()
