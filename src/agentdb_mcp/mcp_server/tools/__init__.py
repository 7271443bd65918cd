"""The tools, a module for each group: arguments, what they do, how they are described."""

from __future__ import annotations

from agentdb_mcp.mcp_server.tools import (
    analysis,
    budget,
    checkpoints,
    copying,
    health,
    migration,
    objects,
    schema,
    sql,
)
from agentdb_mcp.mcp_server.tools.base import Operations, Tool

__all__ = ["TOOLS", "Operations", "Tool"]

TOOLS = (
    *schema.TOOLS,
    *objects.TOOLS,
    *sql.TOOLS,
    *copying.TOOLS,
    *migration.TOOLS,
    *checkpoints.TOOLS,
    *analysis.TOOLS,
    *health.TOOLS,
    *budget.TOOLS,
)
