"""Which lines over stdio are answered without the SDK, and what the SDK hears of them when it comes."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest

from agentdb_mcp.mcp_server.direct import Direct, Offer

CLIENT = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "unit", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "unit", "version": "1"}}


class Sent:
    def __init__(self) -> None:
        self.lines: list[Any] = []

    async def send(self, line: bytes) -> None:
        self.lines.append(json.loads(line))


async def answer(name: str, arguments: dict[str, Any]) -> Any:
    raise NotImplementedError


def line(method: str, params: object = None, identifier: int = 1) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": identifier, "method": method, "params": params}).encode()


async def taken(*lines: bytes) -> tuple[Direct, list[bool], list[Any]]:
    sent = Sent()
    async with anyio.create_task_group() as group:
        direct = Direct(group, Offer([], answer), sent)
        return direct, [direct.takes(each) for each in lines], sent.lines


@pytest.mark.parametrize("first", ["server/discover", "tools/list"])
async def test_requests_that_stand_for_themselves_need_no_sdk(first: str) -> None:
    direct, took, sent = await taken(
        line(first, {"_meta": CLIENT}),
        line("tools/list", {"_meta": CLIENT}),
        line("tools/list", {}),
        line("resources/list", {"_meta": CLIENT}),
        line("tools/list", {"_meta": CLIENT | {"example.com/other": "x"}}),
    )
    assert took == [True, True, False, False, False]
    assert all(each["result"]["resultType"] == "complete" for each in sent)
    (question,) = direct.hand_over()
    asked = json.loads(question)
    assert (asked["method"], asked["params"]) == ("server/discover", {"_meta": CLIENT})
    assert not direct.is_unasked('{"jsonrpc":"2.0","id":1,"result":{}}')
    assert direct.is_unasked(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": {}}))
    assert not direct.is_unasked(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": {}}))


async def test_after_a_greeting_requests_that_stand_for_themselves_are_the_sdks() -> None:
    greeting = line("initialize", HELLO)
    direct, took, _ = await taken(greeting, line("ping", {}), line("tools/list", {"_meta": CLIENT}))
    assert took == [True, True, False]
    assert direct.hand_over() == [greeting]
    assert direct.is_unasked('{"jsonrpc":"2.0","id":1,"result":{}}')
    assert not direct.is_unasked('{"jsonrpc":"2.0","id":2,"result":{}}')


async def test_what_does_not_begin_so_is_the_sdks_from_the_start() -> None:
    direct, took, sent = await taken(line("resources/list", {}), line("tools/list", {}), line("ping", {}))
    assert (took, sent, direct.hand_over()) == ([False, False, False], [], [])
    assert not direct.is_unasked('{"jsonrpc":"2.0","id":1,"result":{}}')
