"""The short way of a plain `tools/call` over stdio: from its line to the tool, from the answer to its line.

The SDK validates, wraps and copies every message several times, which costs more than all that we do around the
database. Here goes a request that has a tool's name and arguments and nothing else, once the handshake, which is the
SDK's, has agreed on a version whose answers are those below. Everything else goes to the SDK, as all of it would.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import anyio
from anyio.abc import TaskGroup
from pydantic_core import from_json

from agentdb_mcp.mcp_server.encoding import to_json
from agentdb_mcp.mcp_server.rendering import Rendered
from agentdb_mcp.mcp_server.seen import identified

# The versions of MCP with a handshake and structured answers.
VERSIONS = frozenset({"2025-06-18", "2025-11-25"})

Json = dict[str, Any]
# A tool's answer by its name and arguments, and whether it is an error; None where there is no such tool.
CallTool = Callable[[str, Json], Awaitable[tuple[Rendered, bool]]]


class Output(Protocol):
    async def send(self, line: bytes) -> None: ...


class Direct:
    """Takes lines before the SDK sees them, and runs their calls in `group` until that is cancelled."""

    def __init__(self, group: TaskGroup, call: CallTool, knows: Callable[[str], bool], output: Output) -> None:
        self._group = group
        self._call = call
        self._knows = knows
        self._output = output
        self._open = False
        self._running: dict[str, anyio.CancelScope] = {}

    def heard(self, answer: str) -> None:
        """An answer of the SDK's, which may be that to the handshake."""
        if self._open or '"protocolVersion"' not in answer:
            return
        match from_json(answer):
            case {"result": {"protocolVersion": version, "serverInfo": _}}:
                self._open = version in VERSIONS

    def takes(self, line: bytes) -> bool:
        """Whether the line was one for here; it is being answered then, or was a cancellation."""
        if not self._open or not (b'"tools/call"' in line or b'"notifications/cancelled"' in line):
            return False
        try:
            message = from_json(line)
        except ValueError:
            return False
        match message:
            case {
                "jsonrpc": "2.0",
                "id": int() | str() as identifier,
                "method": "tools/call",
                "params": dict() as params,
            }:
                return len(message) == 4 and self._start(identifier, params)
            case {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": identifier}}:
                return self._cancel(identifier)
        return False

    def _start(self, identifier: int | str, params: Json) -> bool:
        name, arguments = params.get("name"), params.get("arguments", {})
        if isinstance(identifier, bool) or params.keys() - {"name", "arguments"}:
            return False
        if not (isinstance(name, str) and isinstance(arguments, dict) and self._knows(name)):
            return False
        scope = anyio.CancelScope()
        self._running[str(identifier)] = scope
        self._group.start_soon(self._answer, identifier, name, arguments, scope)
        return True

    def _cancel(self, identifier: object) -> bool:
        if (scope := self._running.get(str(identifier))) is None:
            return False
        scope.cancel()
        return True

    async def _answer(self, identifier: int | str, name: str, arguments: Json, scope: anyio.CancelScope) -> None:
        """A call that was cancelled is not answered, as MCP demands."""
        with scope, identified(identifier):
            try:
                answer, is_error = await self._call(name, arguments)
                result = {
                    "content": [{"type": "text", "text": answer.text}],
                    "structuredContent": answer.structured,
                    "isError": is_error,
                }
                await self._output.send(to_json({"jsonrpc": "2.0", "id": identifier, "result": result}) + b"\n")
            finally:
                if self._running.get(str(identifier)) is scope:
                    del self._running[str(identifier)]
