"""From a tool's name and arguments to its answer."""

from __future__ import annotations

from typing import Any

from agentdb_mcp.errors import (
    AgentDBError,
    ConfigurationError,
    DatabaseUnavailable,
    Internal,
    InvalidArgument,
    NotAllowed,
)
from agentdb_mcp.logs import get_logger
from agentdb_mcp.mcp_server import rendering, seen
from agentdb_mcp.mcp_server.arguments import parse
from agentdb_mcp.mcp_server.tools import TOOLS, Operations, Tool
from agentdb_mcp.models import Scope
from agentdb_mcp.services.origin import using_tool

log = get_logger(__name__)

_BY_NAME = {tool.name: tool for tool in TOOLS}


def has_tool(name: str) -> bool:
    return name in _BY_NAME


async def run_tool(
    operations: Operations,
    name: str,
    arguments: dict[str, Any],
    fixed_scope: Scope | None = None,
    parent: str | None = None,
) -> tuple[rendering.Rendered, bool]:
    """Run a tool that there is; what goes wrong is an answer too. Also whether it is an error.

    `parent` is a W3C traceparent.
    """
    tool = _BY_NAME[name]
    with seen.tool_span(tool.name, arguments, fixed_scope, operations.tenant, parent) as step:
        return seen.told(step, *await _answer(tool, operations, arguments, fixed_scope))


async def _answer(
    tool: Tool, operations: Operations, arguments: dict[str, Any], fixed_scope: Scope | None
) -> tuple[rendering.Rendered, bool]:
    try:
        return await _call(tool, operations, arguments, fixed_scope), False
    except AgentDBError as caught:
        error = _for_caller(caught)
        log.info("call failed", tool=tool.name, code=error.code, sqlstate=error.sqlstate)
        return rendering.error(error), True
    except Exception:
        log.exception("call failed", tool=tool.name, code=Internal.code)
        failure = Internal(
            "The server failed; the details are in its log.",
            hint="Look whether it took effect before running it again.",
        )
        return rendering.error(failure), True


async def _call(
    tool: Tool, operations: Operations, given: dict[str, Any], fixed_scope: Scope | None
) -> rendering.Rendered:
    scope = fixed_scope or Scope.AGENT
    if tool.needs_both and fixed_scope is not None:
        raise NotAllowed(
            f"{tool.name} needs both databases, and this server serves {fixed_scope} alone.",
            hint="Whoever set it up: connect to the server of both (/mcp, or `serve` without --scope).",
        )
    if fixed_scope is None and "database" in given and not tool.needs_both:
        scope = _scope(given.pop("database"))
    arguments = parse(tool.arguments, given)
    with using_tool(tool.name):
        return await tool.handler(operations, scope, arguments)


def _for_caller(error: AgentDBError) -> AgentDBError:
    """A wrong setting that shows only now is, for an agent, a database that is not there."""
    if isinstance(error, ConfigurationError):
        return DatabaseUnavailable(error.message, hint=error.hint)
    return error


def _scope(value: object) -> Scope:
    if value not in tuple(Scope):
        raise InvalidArgument("database must be 'agent' or 'global'.", hint="Leave it out for your own database.")
    return Scope(str(value))
