"""A tool's call as operators see it: its request's id in log lines and the audit log, and its span."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Any

from agentdb_mcp.logs import Identified, request_id
from agentdb_mcp.mcp_server.rendering import Rendered
from agentdb_mcp.models import Scope, Tenant
from agentdb_mcp.services.origin import STDIO, current_origin
from agentdb_mcp.telemetry import Span, span

# Of one server over stdio: a client's own ids begin anew with each.
_PROCESS = secrets.token_hex(4)
_PLAIN_ID = re.compile(r"[A-Za-z0-9._-]{1,32}")


def identified(given: object) -> Identified:
    """For a request that a client gave this JSON-RPC id: that of the HTTP request; over stdio one of ours with it."""
    if (known := request_id()) is not None:
        return Identified(known)
    if type(given) is not int:
        given = given if isinstance(given, str) and _PLAIN_ID.fullmatch(given) else secrets.token_hex(4)
    return Identified(f"{_PROCESS}-{given}")


def traceparent(meta: Mapping[str, Any] | None) -> str | None:
    """What a client put into the request's `_meta`."""
    given = (meta or {}).get("traceparent")
    return given if isinstance(given, str) else None


def tool_span(
    name: str, arguments: Mapping[str, Any], fixed_scope: Scope | None, tenant: Tenant, parent: str | None
) -> Span:
    """Of a call of the tool, which is one of ours."""
    step = span(f"tools/call {name}", "server", traceparent=parent)
    if step.recording:
        told = {
            "mcp.method.name": "tools/call",
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": name,
            "network.transport": "pipe" if current_origin().principal == STDIO.principal else "tcp",
            "agentdb.request.id": request_id() or "",
        }
        scope = fixed_scope or arguments.get("database", Scope.AGENT)
        if scope in tuple(Scope):
            told["agentdb.database.scope"] = str(scope)
        if tenant.workspace_id is not None:
            told["agentdb.workspace.id"] = tenant.workspace_id
        step.set(told)
    return step


def told(step: Span, answer: Rendered, is_error: bool) -> tuple[Rendered, bool]:
    """The answer, passed on."""
    if step.recording:
        code = str(answer.structured["error"]["code"]) if is_error else "ok"
        step.set({"agentdb.outcome": code})
        if is_error:
            step.fail(code)
    return answer, is_error
