"""Which requests over HTTP are answered without the SDK: those of which it would say nothing more."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.types import Scope as AsgiScope

from agentdb_mcp.mcp_server.http_plain import PlainCalls
from agentdb_mcp.mcp_server.plain import PlainCall

HEADERS = {
    "accept": "application/json, text/event-stream",
    "content-type": "application/json",
    "mcp-protocol-version": "2025-11-25",
}
CALL: dict[str, Any] = {
    "jsonrpc": "2.0",
    "id": 7,
    "method": "tools/call",
    "params": {"name": "execute_sql", "arguments": {"sql": "SELECT 1"}},
}


def read(body: object, headers: dict[str, str] = HEADERS) -> PlainCall | None:
    sent = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope: AsgiScope = {"type": "http", "headers": sent}
    return PlainCalls(None).read(scope, body if isinstance(body, bytes) else json.dumps(body).encode())


@pytest.mark.parametrize("identifier", [7, -1, 0, 10**30, "7", ""])
def test_a_call_of_a_tool_is_plain(identifier: int | str) -> None:
    assert read(CALL | {"id": identifier}) == PlainCall(identifier, "execute_sql", {"sql": "SELECT 1"})
    assert read(CALL | {"id": identifier, "params": {"name": "get_budget"}}) == PlainCall(identifier, "get_budget", {})


@pytest.mark.parametrize(
    "headers",
    [
        {"accept": "application/json"},
        {"accept": "text/html, Application/JSON;q=0.5"},
        {"content-type": "application/json; charset=utf-8"},
        {"mcp-protocol-version": "2025-06-18"},
        {"last-event-id": "1"},
    ],
    ids=str,
)
def test_headers_of_the_same_meaning_are_as_good(headers: dict[str, str]) -> None:
    assert read(CALL, HEADERS | headers) is not None


@pytest.mark.parametrize(
    "headers",
    [
        {"accept": "text/event-stream"},
        {"accept": "*/*"},
        {"content-type": "text/plain"},
        {"content-type": "application/json, text/plain"},
        {"mcp-protocol-version": "2025-03-26"},
        {"mcp-protocol-version": "2026-07-28"},
        {"mcp-protocol-version": ""},
    ],
    ids=str,
)
def test_other_headers_are_for_the_sdk_to_judge(headers: dict[str, str]) -> None:
    assert read(CALL, HEADERS | headers) is None


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_is_missing_or_there_twice_is_for_the_sdk_to_judge(name: str) -> None:
    assert read(CALL, {each: value for each, value in HEADERS.items() if each != name}) is None
    twice = [(each.encode(), value.encode()) for each, value in [*HEADERS.items(), (name, HEADERS[name])]]
    assert PlainCalls(None).read({"type": "http", "headers": twice}, json.dumps(CALL).encode()) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"\xef\xbb\xbf" + json.dumps(CALL).encode(),
        [CALL],
        *(CALL | {"id": identifier} for identifier in (True, None, 1.0, [1])),
        {name: value for name, value in CALL.items() if name != "id"},
        CALL | {"jsonrpc": "1.0"},
        CALL | {"method": "ping"},
        CALL | {"more": 1},
        CALL | {"params": None},
        CALL | {"params": {"name": "no_such_tool"}},
        *(CALL | {"params": CALL["params"] | more} for more in ({"_meta": {}}, {"task": {}}, {"arguments": None})),
    ],
    ids=str,
)
def test_whatever_is_more_or_less_than_a_call_is_the_sdk_s(body: object) -> None:
    assert read(body) is None
