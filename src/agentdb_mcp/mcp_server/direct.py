"""The short way over stdio: the handshake, the tools and plain calls of them, answered without the SDK.

Loading the SDK is more than half of a start. Here goes what most clients send and nothing else does: a greeting in a
version of MCP whose answers are those below, and after it requests with no more in them than they need; or, from a
client that begins so, requests that stand for themselves. Everything else goes to the SDK, and with the greeting all
of it would.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import anyio
from anyio.abc import TaskGroup
from pydantic_core import from_json

from agentdb_mcp.mcp_server.described import CACHEABLE, COMPLETE, discovered, hello
from agentdb_mcp.mcp_server.encoding import to_json
from agentdb_mcp.mcp_server.plain import VERSIONS, Json, PlainCall, answer_to, plain_call, stateless_params
from agentdb_mcp.mcp_server.rendering import Rendered
from agentdb_mcp.mcp_server.seen import identified

# A tool's answer by its name and arguments, and whether it is an error.
CallTool = Callable[[str, Json], Awaitable[tuple[Rendered, bool]]]


class Output(Protocol):
    async def send(self, line: bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class Offer:
    """What is answered here: the tools as `tools/list` has them, and calls of them."""

    tools: list[Json]
    call: CallTool


class Direct:
    """Takes lines before the SDK sees them; what they ask for runs in `group` until that is cancelled."""

    def __init__(self, group: TaskGroup, offer: Offer, output: Output) -> None:
        self._greeting: list[bytes] = []
        self._handed_over = False
        self._group = group
        self._offer = offer
        self._output = output
        self._first = True
        self._open = False  # after a greeting
        self._stateless = False  # from a client that does not greet
        self._client: Json = {}  # what its first request said of it
        self._unasked = ""  # in the SDK's answer to what the client did not ask it
        self._running: dict[str, anyio.CancelScope] = {}

    def heard(self, answer: str) -> None:
        """An answer of the SDK's, which may be that to a greeting."""
        if self._open or '"protocolVersion"' not in answer:
            return
        match from_json(answer):
            case {"result": {"protocolVersion": version, "serverInfo": _}}:
                self._open = version in VERSIONS

    def hand_over(self) -> list[bytes]:
        """What the SDK must hear before the first line that is for it.

        The client's greeting, which was answered here, or a question by which it sees that there is none.
        """
        self._handed_over = True
        if not self._stateless:
            self._unasked = '"jsonrpc"' if self._greeting else ""  # its first answer is that to the greeting
            return self._greeting
        self._unasked = identifier = secrets.token_hex(16)
        question = {"id": identifier, "method": "server/discover", "params": {"_meta": self._client}}
        return [to_json({"jsonrpc": "2.0", **question})]

    def is_unasked(self, answer: str) -> bool:
        """Whether an answer of the SDK's is to what it was handed over, and not for the client."""
        if not self._unasked or self._unasked not in answer:
            return False
        self._unasked = ""
        return True

    def takes(self, line: bytes) -> bool:
        """Whether the line was one for here."""
        first, self._first = self._first, False
        if not (first or self._open or self._stateless):
            return False
        try:
            message = from_json(line)
        except ValueError:
            return False
        match message:
            case {"jsonrpc": "2.0", "id": int() | str() as identifier, "method": str() as method, **rest}:
                params = rest.get("params", {})
                if isinstance(identifier, bool) or rest.keys() - {"params"} or not isinstance(params, dict):
                    return False
                if method == "initialize":
                    self._stateless = False
                    return first and self._greet(identifier, params, line)
                if (own := stateless_params(params)) is not None:
                    if first:
                        self._stateless, self._client = True, params["_meta"]
                    return self._stateless and self._answers_stateless({**message, "params": own})
                return self._open and self._answers(message)
            case {"jsonrpc": "2.0", "method": "notifications/initialized", **rest}:
                return not rest and self._greeted(line)
            case {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": identifier}}:
                return self._cancel(identifier)
        return False

    def _greet(self, identifier: int | str, params: Json, line: bytes) -> bool:
        match params:
            case {
                "protocolVersion": str() as version,
                "capabilities": dict() as capabilities,
                "clientInfo": {"name": str(), "version": str()},
                **rest,
            } if version in VERSIONS and not rest and all(isinstance(each, dict) for each in capabilities.values()):
                self._open = True
                self._greeting.append(line)
                self._give(identifier, hello(version))
                return True
        return False

    def _greeted(self, line: bytes) -> bool:
        """The second half of a greeting; one that the SDK answered is the SDK's."""
        if self._handed_over or len(self._greeting) != 1:
            return False
        self._greeting.append(line)
        return True

    def _answers(self, request: Json) -> bool:
        identifier, method, params = request["id"], request["method"], request.get("params")
        if method == "tools/call":
            return self._start(plain_call(request))
        if params or method not in {"ping", "tools/list"}:
            return False
        self._give(identifier, {"tools": self._offer.tools} if method == "tools/list" else {})
        return True

    def _answers_stateless(self, request: Json) -> bool:
        identifier, method, params = request["id"], request["method"], request["params"]
        if method == "tools/call":
            return self._start(plain_call(request), COMPLETE)
        if params or method not in {"server/discover", "tools/list"}:
            return False
        self._give(identifier, {"tools": self._offer.tools, **CACHEABLE} if method == "tools/list" else discovered())
        return True

    def _start(self, call: PlainCall | None, more: Json | None = None) -> bool:
        if call is None:
            return False
        scope = anyio.CancelScope()
        self._running[str(call.identifier)] = scope
        self._group.start_soon(self._call, call, scope, more)
        return True

    def _cancel(self, identifier: object) -> bool:
        if (scope := self._running.get(str(identifier))) is None:
            return False
        scope.cancel()
        return True

    async def _call(self, call: PlainCall, scope: anyio.CancelScope, more: Json | None) -> None:
        """A call that was cancelled is not answered, as MCP demands."""
        with scope, identified(call.identifier):
            try:
                answer = answer_to(call.identifier, *await self._offer.call(call.name, call.arguments), more)
                await self._output.send(answer + b"\n")
            finally:
                if self._running.get(str(call.identifier)) is scope:
                    del self._running[str(call.identifier)]

    def _give(self, identifier: int | str, result: Json) -> None:
        line = to_json({"jsonrpc": "2.0", "id": identifier, "result": result}) + b"\n"
        self._group.start_soon(self._output.send, line)
