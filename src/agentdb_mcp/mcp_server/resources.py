"""MCP resources: the schema of each database as text. Listing them opens no connection."""

from __future__ import annotations

from urllib.parse import unquote

from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    TextResourceContents,
)

from agentdb_mcp.errors import AgentDBError
from agentdb_mcp.mcp_server import rendering
from agentdb_mcp.mcp_server.tools.base import Operations
from agentdb_mcp.mcp_server.tools.schema import read_schema
from agentdb_mcp.models import Scope

_SCHEME, _PART = "agentdb://", "/schema"
_WHOSE = {Scope.AGENT: "the agent's own database", Scope.GLOBAL: "the database that the user's agents share"}
_TYPE = "text/plain"


def list_resources(fixed_scope: Scope | None) -> list[Resource]:
    """The schema of each database that the server serves."""
    return [
        Resource(
            uri=f"{_SCHEME}{scope}{_PART}",
            name=f"{scope}-schema",
            title=f"Schema of {_WHOSE[scope]}",
            description="Tables and views as DDL; past ten tables, a line for each.",
            mime_type=_TYPE,
        )
        for scope in _scopes(fixed_scope)
    ]


def list_templates(fixed_scope: Scope | None) -> list[ResourceTemplate]:
    """One table of each database."""
    return [
        ResourceTemplate(
            uri_template=f"{_SCHEME}{scope}{_PART}/{{table}}",
            name=f"{scope}-table",
            title=f"A table of {_WHOSE[scope]}",
            description="One table or view as DDL; `schema.name` outside public.",
            mime_type=_TYPE,
        )
        for scope in _scopes(fixed_scope)
    ]


async def read_resource(operations: Operations, uri: str, fixed_scope: Scope | None) -> ReadResourceResult:
    """The text, framed as what somebody wrote. Raises MCPError, with the same sentences as the tools' errors."""
    scope, tables = _parse(uri, fixed_scope)
    try:
        found = await read_schema(operations, scope, tables)
    except AgentDBError as error:
        rendered = rendering.error(error)
        code = INVALID_PARAMS if tables and error.sqlstate else INTERNAL_ERROR
        raise MCPError(code, rendered.text, rendered.structured["error"]) from None
    text = rendering.framed(found.text)
    return ReadResourceResult(contents=[TextResourceContents(uri=uri, mime_type=_TYPE, text=text)])


def _parse(uri: str, fixed_scope: Scope | None) -> tuple[Scope, list[str]]:
    for scope in _scopes(fixed_scope):
        base = f"{_SCHEME}{scope}{_PART}"
        if uri == base:
            return scope, []
        if uri.startswith(f"{base}/") and (table := unquote(uri.removeprefix(f"{base}/"))):
            return scope, [table]
    raise MCPError(
        INVALID_PARAMS, f"There is no resource {uri[:200]!r}; resources/list names them.", {"uri": uri[:200]}
    )


def _scopes(fixed_scope: Scope | None) -> tuple[Scope, ...]:
    return (fixed_scope,) if fixed_scope else tuple(Scope)
