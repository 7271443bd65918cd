"""The tool that moves rows from one of the tenant's databases to the other."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agentdb_mcp.mcp_server import rendering, schemas
from agentdb_mcp.mcp_server.arguments import Arguments, Name
from agentdb_mcp.mcp_server.rendering import Rendered
from agentdb_mcp.mcp_server.tools.base import Operations, Tool
from agentdb_mcp.models import Scope


class CopyRows(Arguments):
    from_database: Literal["agent", "global"] = Field(description="Where the query runs.")
    query: str = Field(min_length=1, description="A SELECT; columns go by name.")
    to_table: Name = Field(description="A table of the other database.")
    to_schema: Name = Field(default="public", description="Its schema.")
    mode: Literal["append", "replace", "create"] = Field(
        default="append", description="replace: DELETE its rows first; create: make the table."
    )


async def _copy_rows(do: Operations, _scope: Scope, given: CopyRows) -> Rendered:
    table = given.to_schema, given.to_table
    source = Scope(given.from_database)
    return rendering.copied(await do.copying.copy(do.tenant, source, given.query, table, given.mode, do.report))


TOOLS = (
    Tool(
        "copy_rows",
        "Copy rows to the other database",
        "Copy a query's rows from one database into a table of the other, any number, all or nothing.",
        CopyRows,
        schemas.COPIED,
        _copy_rows,
        read_only=False,
        destructive=True,
        idempotent=False,
        needs_both=True,
    ),
)
