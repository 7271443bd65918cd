"""MCP over streamable HTTP, both eras of the protocol: one server for every tenant, whose calls bring their own.

Whoever mounts an endpoint puts an `HttpCall` into the request's scope, after it has seen who calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Literal

import anyio
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.context import ServerRequestContext
from mcp.server.streamable_http import MCP_SESSION_ID_HEADER
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Send
from starlette.types import Scope as AsgiScope

from agentdb_mcp.mcp_server.http_calls import HttpCall, running
from agentdb_mcp.mcp_server.http_plain import PlainCalls
from agentdb_mcp.mcp_server.http_sessions import ENDED_S, HeldSessions
from agentdb_mcp.mcp_server.plain import PlainCall
from agentdb_mcp.mcp_server.server import build_server
from agentdb_mcp.mcp_server.tools import Operations
from agentdb_mcp.models import Scope
from agentdb_mcp.policy import LimitRules

Answers = Literal["json", "sse"]

# How long a call runs before somebody watches whether its client is still there.
WATCH_AFTER_S = 0.05

_KEY = "agentdb_mcp.call"


class McpEndpoint:
    """An ASGI application at one path.

    Stateless, every request stands for itself, so that any process answers it and a restart loses nothing. With
    `sessions` a client may also be notified, and cancel by a message; without them it cancels by going away.
    """

    def __init__(self, limits: LimitRules, fixed_scope: Scope | None, *, sessions: bool, answers: Answers) -> None:
        self._sessions = sessions
        self._manager = StreamableHTTPSessionManager(
            build_server(_of_request, limits, fixed_scope),
            json_response=answers == "json",
            stateless=not sessions,
            session_idle_timeout=ENDED_S,
        )
        self._held = HeldSessions()
        self._in_json = answers == "json"
        self._plain = PlainCalls(fixed_scope)
        self._streams: set[anyio.CancelScope] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """For the time that it serves."""
        async with self._manager.run():
            yield

    def end_streams(self) -> None:
        """Let go of clients that only listen."""
        for scope in self._streams:
            scope.cancel()

    async def handle(self, call: HttpCall, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Answer one request of the tenant's."""
        if scope["method"] != "POST" and not self._sessions:
            await Response(status_code=405, headers={"Allow": "POST"})(scope, receive, send)
            return
        scope[_KEY] = call
        scope["user"] = AuthenticatedUser(AccessToken(token="", client_id=call.principal, scopes=[]))
        if scope["method"] == "GET":
            await self._listen(scope, receive, send)
        elif (body := await _whole(receive)) is not None:
            await self._reply(call, body, scope, receive, send)

    async def _reply(self, call: HttpCall, body: bytes, scope: AsgiScope, receive: Receive, send: Send) -> None:
        session_id = _session_of(scope) if self._sessions else None
        plain = self._read_plain(call.principal, session_id, scope, body)
        async with _until_gone(call, receive) as gone:
            if plain is None:
                await self._answer(scope, _replayed(body, gone), send)
                return
            with self._held.used(call.principal, session_id):
                await self._plain.answer(call, plain, session_id, scope, send)

    def _read_plain(self, principal: str, session_id: str | None, scope: AsgiScope, body: bytes) -> PlainCall | None:
        """The plain call that a request is, if any; what its message cancels of those that run is ended at once."""
        if not self._in_json or scope["method"] != "POST":
            return None
        if self._sessions:
            if session_id is None or not self._held.has(principal, session_id):
                return None
            self._plain.cancel(session_id, body)
            if not self._held.is_lively(principal, session_id):
                return None
        return self._plain.read(scope, body)

    async def _listen(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        with anyio.CancelScope() as stream:
            self._streams.add(stream)
            try:
                await self._answer(scope, receive, send)
            finally:
                self._streams.discard(stream)

    async def _answer(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Let the SDK answer, and keep to the number of sessions that one principal may have open."""
        principal = scope[_KEY].principal
        session_id = _session_of(scope)

        async def note(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 400:
                await self._note(scope, principal, session_id, message)
            await send(message)

        with self._held.used(principal, session_id):
            await self._manager.handle_request(scope, receive, note)
        if scope["method"] == "DELETE" and session_id is not None and self._held.has(principal, session_id):
            self._held.ended(principal, session_id)
            self._plain.end(session_id)

    async def _note(self, scope: AsgiScope, principal: str, session_id: str | None, message: Message) -> None:
        if session_id is not None:
            self._held.answered(principal, session_id)
            return
        opened = Headers(raw=message["headers"]).get(MCP_SESSION_ID_HEADER)
        if opened is not None and (surplus := self._held.opened(principal, opened)) is not None:
            await self._end(surplus, scope)

    async def _end(self, session_id: str, scope: AsgiScope) -> None:
        """End a session the way its client would."""
        self._plain.end(session_id)
        headers = [(MCP_SESSION_ID_HEADER.encode(), session_id.encode())]
        await self._manager.handle_request({**scope, "method": "DELETE", "headers": headers}, _no_body, _nobody)


def _session_of(scope: AsgiScope) -> str | None:
    """The session that a request names; the SDK looks for none in the era of the protocol that has none."""
    headers = Headers(scope=scope)
    version = headers.get(MCP_PROTOCOL_VERSION_HEADER)
    return headers.get(MCP_SESSION_ID_HEADER) if version is None or version in HANDSHAKE_PROTOCOL_VERSIONS else None


@contextmanager
def _of_request(context: ServerRequestContext[Any]) -> Iterator[Operations]:
    request = context.request
    if not isinstance(request, Request):
        raise TypeError("a call without its request")
    with running(request.scope[_KEY], request.scope["request_id"]) as operations:
        yield operations


async def _no_body() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _nobody(_: Message) -> None:
    """Where an answer goes that nobody waits for."""


async def _whole(receive: Receive) -> bytes | None:
    """A request's body, or nothing where its client has gone."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


@asynccontextmanager
async def _until_gone(call: HttpCall, receive: Receive) -> AsyncIterator[anyio.Event]:
    """For the time of the block the call hears it when the client goes away; so does whoever waits for the event.

    Most calls end before anybody watches: that saves 0.06 ms.
    """
    gone = anyio.Event()

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        call.gone()
        gone.set()

    async with anyio.create_task_group() as group:
        watching = asyncio.get_running_loop().call_later(WATCH_AFTER_S, group.start_soon, watch)
        try:
            yield gone
        finally:
            watching.cancel()
            group.cancel_scope.cancel()


def _replayed(body: bytes, gone: anyio.Event) -> Receive:
    """The request once more, for whoever reads it next."""
    whole: Message | None = {"type": "http.request", "body": body, "more_body": False}

    async def replay() -> Message:
        nonlocal whole
        if (message := whole) is not None:
            whole = None
            return message
        await gone.wait()
        return {"type": "http.disconnect"}

    return replay
