"""A tool's call as operators see it: its request's id in log lines and the audit log, and its span."""

from __future__ import annotations

import re
import secrets
from types import TracebackType
from typing import Any, Self

from mcp.server.context import ServerRequestContext
from mcp_types import CallToolRequestParams, CallToolResult

from agentdb_mcp.logs import Identified, request_id
from agentdb_mcp.mcp_server.tools import TOOLS
from agentdb_mcp.models import Scope, Tenant
from agentdb_mcp.telemetry import span

_NAMES = frozenset(tool.name for tool in TOOLS)
# Of one server over stdio: a client's own ids begin anew with each.
_PROCESS = secrets.token_hex(4)
_PLAIN_ID = re.compile(r"[A-Za-z0-9._-]{1,32}")


class ToolCall:
    """For the time of the block. The id is that of the HTTP request; over stdio the client's own, after one of ours."""

    __slots__ = ("_identified", "_span")

    def __init__(
        self,
        context: ServerRequestContext[Any],
        params: CallToolRequestParams,
        fixed_scope: Scope | None,
        tenant: Tenant,
    ) -> None:
        over_http = request_id()
        self._identified = Identified(over_http or _stdio_id(context.request_id))
        name = params.name if params.name in _NAMES else ""
        self._span = span(f"tools/call {name}".rstrip(), "server", traceparent=_traceparent(context))
        if self._span.recording:
            wanted = fixed_scope or (params.arguments or {}).get("database", Scope.AGENT)
            self._tell(name, wanted if wanted in tuple(Scope) else None, tenant, over_http)

    def _tell(self, name: str, scope: object, tenant: Tenant, over_http: str | None) -> None:
        told: dict[str, str] = {
            "mcp.method.name": "tools/call",
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": name,
            "network.transport": "tcp" if over_http else "pipe",
        }
        if scope is not None:
            told["agentdb.database.scope"] = str(scope)
        if tenant.workspace_id is not None:
            told["agentdb.workspace.id"] = tenant.workspace_id
        self._span.set(told)

    def answer(self, result: CallToolResult) -> CallToolResult:
        """The result, passed on."""
        if self._span.recording:
            error = (result.structured_content or {}).get("error", {}) if result.is_error else {}
            code = error.get("code", "tool_error") if result.is_error else "ok"
            self._span.set({"agentdb.outcome": code})
            if result.is_error:
                self._span.fail(code)
        return result

    def __enter__(self) -> Self:
        self._identified.__enter__()
        self._span.__enter__()
        if self._span.recording:
            self._span.set({"agentdb.request.id": request_id() or ""})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        self._span.__exit__(kind, error, frames)
        self._identified.__exit__(kind, error, frames)


def _stdio_id(given: object) -> str:
    if type(given) is int:
        return f"{_PROCESS}-{given}"
    text = str(given)
    return f"{_PROCESS}-{text if _PLAIN_ID.fullmatch(text) else secrets.token_hex(4)}"


def _traceparent(context: ServerRequestContext[Any]) -> str | None:
    """What a client put into the request's `_meta`."""
    given = (context.meta or {}).get("traceparent")
    return given if isinstance(given, str) else None
