"""MCP over streamable HTTP, both eras of the protocol: one server for every tenant, whose calls bring their own.

Whoever mounts an endpoint puts an `HttpCall` into the request's scope, after it has seen who calls.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import anyio
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.context import ServerRequestContext
from mcp.server.streamable_http import MCP_SESSION_ID_HEADER
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as AsgiScope

from agentdb_mcp.logs import Identified
from agentdb_mcp.mcp_server.http_sessions import IDLE_S, HeldSessions
from agentdb_mcp.mcp_server.server import build_server
from agentdb_mcp.mcp_server.tools import Operations
from agentdb_mcp.models import Scope
from agentdb_mcp.policy import LimitRules
from agentdb_mcp.services.origin import Origin, acting_as

Answers = Literal["json", "sse"]

_KEY = "agentdb_mcp.call"


@dataclass(slots=True)
class HttpCall:
    """One request of a tenant; `principal` is whose sessions are whose. `gone` cancels what runs for it, or will."""

    operations: Operations
    principal: str
    _running: set[anyio.CancelScope] = field(default_factory=set)
    _gone: bool = False

    def gone(self) -> None:
        self._gone = True
        for scope in self._running:
            scope.cancel()

    @contextmanager
    def run(self) -> Iterator[None]:
        """Do something for it, as long as its client is there."""
        with anyio.CancelScope() as scope:
            self._running.add(scope)
            if self._gone:
                scope.cancel()
            try:
                yield
            finally:
                self._running.discard(scope)


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
            session_idle_timeout=IDLE_S,
        )
        self._held = HeldSessions()
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
        else:
            await _until_gone(self._answer, call, scope, receive, send)

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
        if (session_id := Headers(scope=scope).get(MCP_SESSION_ID_HEADER)) is not None:
            with self._held.used(principal, session_id):
                await self._manager.handle_request(scope, receive, send)
            if scope["method"] == "DELETE":
                self._held.ended(principal, session_id)
            return

        async def note(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 400:
                opened = Headers(raw=message["headers"]).get(MCP_SESSION_ID_HEADER)
                if opened is not None and (surplus := self._held.opened(principal, opened)) is not None:
                    await self._end(surplus, scope)
            await send(message)

        await self._manager.handle_request(scope, receive, note)

    async def _end(self, session_id: str, scope: AsgiScope) -> None:
        """End a session the way its client would."""
        headers = [(MCP_SESSION_ID_HEADER.encode(), session_id.encode())]
        await self._manager.handle_request({**scope, "method": "DELETE", "headers": headers}, _no_body, _nobody)


@contextmanager
def _of_request(context: ServerRequestContext[Any]) -> Iterator[Operations]:
    request = context.request
    if not isinstance(request, Request):
        raise TypeError("a call without its request")
    call: HttpCall = request.scope[_KEY]
    with call.run(), acting_as(Origin("mcp", call.principal)), Identified(request.scope["request_id"]):
        yield call.operations


async def _no_body() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _nobody(_: Message) -> None:
    """Where an answer goes that nobody waits for."""


async def _until_gone(app: ASGIApp, call: HttpCall, scope: AsgiScope, receive: Receive, send: Send) -> None:
    """Run the application on the whole body, and tell the call when the client goes away before the answer."""
    messages: list[Message] = []
    while not messages or messages[-1].get("more_body"):
        messages.append(await receive())
        if messages[-1]["type"] == "http.disconnect":
            return
    disconnected = anyio.Event()

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        call.gone()
        disconnected.set()

    async def replay() -> Message:
        if messages:
            return messages.pop(0)
        await disconnected.wait()
        return {"type": "http.disconnect"}

    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        await app(scope, replay, send)
        group.cancel_scope.cancel()
