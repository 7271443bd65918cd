"""A running `serve --http`, what the platform's backend makes there, and requests as clients of MCP send them."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx
import httpx2
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client

from processes import Process

Json = dict[str, Any]
SERVICE_KEY = "the-backend-s-key-of-these-tests"
LEGACY, MODERN = "2025-11-25", "2026-07-28"
SERVING = "agentdb-mcp: serving at "
CANCELLED = -32800
ACCEPT = {"Accept": "application/json, text/event-stream"}

# The four ways in which MCP is spoken over HTTP, by the options that choose them.
WAYS = {
    "stateless-json": (),
    "stateless-sse": ("--sse",),
    "sessions-json": ("--sessions",),
    "sessions-sse": ("--sessions", "--sse"),
}
STATELESS = [way for way in WAYS if way.startswith("stateless")]
SESSIONS = [way for way in WAYS if way.startswith("sessions")]

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Holder:
    """Whoever holds a token of one workspace."""

    user_id: str
    workspace_id: str | None
    token: str
    token_id: str

    @property
    def authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


@dataclass(frozen=True)
class HttpServer:
    """A process that serves at `url`."""

    url: str
    process: Process
    log: Path
    sessions: bool
    backend: httpx.AsyncClient = field(repr=False)

    def stderr(self) -> str:
        return self.log.read_text(errors="replace")

    async def post(self, path: str, body: Json, *, status: int = 201) -> Json:
        """One call of the platform's backend, which must succeed."""
        answer = await self.backend.post(path, json=body)
        assert answer.status_code == status, answer.text
        found: Json = answer.json()
        return found

    async def holder(self, **more: Any) -> Holder:
        """A new user with a workspace and a token for it; `more` goes into the token."""
        number = next(_numbers)
        user_id, workspace_id = f"user-{number}", f"workspace-{number}"
        await self.post("/api/users", {"user_id": user_id})
        await self.post("/api/workspaces", {"workspace_id": workspace_id, "user_id": user_id, "name": "Agent"})
        return await self.token(user_id, workspace_id, **more)

    async def token(self, user_id: str, workspace_id: str | None, **more: Any) -> Holder:
        made = await self.post(
            "/api/tokens", {"user_id": user_id, "workspace_id": workspace_id, "scopes": ["mcp"]} | more
        )
        return Holder(user_id, workspace_id, made["token"], made["id"])

    @asynccontextmanager
    async def client(self, holder: Holder, path: str = "/mcp", *, mode: str = "auto") -> AsyncIterator[Client]:
        """The Python SDK's client."""
        async with (
            httpx2.AsyncClient(headers=holder.authorization, timeout=60, verify=False) as http,
            Client(streamable_http_client(self.url + path, http_client=http), mode=mode) as client,
        ):
            yield client

    @asynccontextmanager
    async def greeted(self, holder: Holder, path: str = "/mcp") -> AsyncIterator[Wire]:
        """A wire with its greeting behind it, and its session, if the server keeps any."""
        async with self.wire(holder, path) as wire:
            assert (await wire.initialize()).status_code == 200
            yield wire

    @asynccontextmanager
    async def wire(self, holder: Holder | None, path: str = "/mcp") -> AsyncIterator[Wire]:
        """A client that sends what it is told to."""
        headers = ACCEPT | (holder.authorization if holder else {})
        async with httpx.AsyncClient(base_url=self.url, headers=headers, timeout=60, verify=False) as http:
            yield Wire(http, path)


@dataclass
class Wire:
    """Single HTTP requests; after `initialize` they belong to its session, if the server keeps any."""

    http: httpx.AsyncClient
    path: str
    session: dict[str, str] = field(default_factory=dict)

    async def send(self, body: Any, **headers: str) -> httpx.Response:
        """POST it, as JSON unless it is text already."""
        content = body if isinstance(body, (str, bytes)) else json.dumps(body)
        return await self.http.post(
            self.path, content=content, headers={"Content-Type": "application/json"} | self.session | headers
        )

    async def initialize(self) -> httpx.Response:
        hello = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "wire", "version": "1"}}
        self.session = {}
        answer = await self.send(request("initialize", hello))
        self.session = {"MCP-Protocol-Version": LEGACY}
        if (identifier := answer.headers.get("mcp-session-id")) is not None:
            self.session["Mcp-Session-Id"] = identifier
        if answer.is_success:
            await self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return answer

    async def call(self, method: str, params: Json | None = None, *, request_id: int | None = None) -> Json:
        return message_of(await self.send(request(method, params, request_id=request_id)))

    async def sql(self, sql: str) -> Json:
        """The result of one statement."""
        result: Json = (await self.call("tools/call", execute(sql)))["result"]
        return result

    async def delete(self) -> httpx.Response:
        return await self.http.delete(self.path, headers=self.session)


def request(method: str, params: Json | None = None, *, request_id: int | None = None) -> Json:
    message: Json = {"jsonrpc": "2.0", "id": request_id or next(_numbers), "method": method}
    return message if params is None else message | {"params": params}


def execute(sql: str) -> Json:
    return {"name": "execute_sql", "arguments": {"sql": sql}}


def modern(method: str, params: Json | None = None) -> tuple[Json, dict[str, str]]:
    """A request of 2026-07-28, which stands for itself, and its headers."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientInfo": {"name": "wire", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    given = params or {}
    headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": method}
    if "name" in given:
        headers["Mcp-Name"] = given["name"]
    return request(method, given | {"_meta": meta}), headers


def message_of(answer: httpx.Response) -> Json:
    """The JSON-RPC message of an answer, whichever way it came."""
    if answer.headers["content-type"].startswith("text/event-stream"):
        data = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
        found: Json = json.loads(data[-1])
        return found
    whole: Json = answer.json()
    return whole


def first_line(log: Path) -> str:
    """Empty until it is there as a whole."""
    line, end, _ = log.read_text(errors="replace").partition("\n")
    return line if end else ""


async def serving_at(process: Process, log: Path) -> str:
    """The base URL, from the first line on stderr."""
    with anyio.fail_after(60):
        while not (line := first_line(log)):
            assert process.returncode is None, "the server ended before it served"
            await anyio.sleep(0.02)
    assert line.startswith(SERVING), line
    return line.removeprefix(SERVING)


def arguments(way: str, more: Sequence[str] = ()) -> list[str]:
    return ["serve", "--http", "--port", "0", *WAYS[way], *more]
