"""The tools, a module for each group: arguments, what they do, how they are described."""

from __future__ import annotations

from agentdb_mcp.mcp_server.tools import budget, checkpoints, copying, health, objects, schema, sql, trials
from agentdb_mcp.mcp_server.tools.base import Operations, Tool

__all__ = ["TOOLS", "Operations", "Tool"]

TOOLS = (
    *schema.TOOLS,
    *objects.TOOLS,
    *sql.TOOLS,
    *copying.TOOLS,
    *trials.TOOLS,
    *checkpoints.TOOLS,
    *health.TOOLS,
    *budget.TOOLS,
)
