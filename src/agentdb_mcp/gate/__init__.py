"""The gate: SQL text → facts → decision. Pure: no I/O, no clock; the walls in Postgres do the guarding."""

from __future__ import annotations

from agentdb_mcp.gate.classify import classify
from agentdb_mcp.gate.decide import decide, decide_transaction
from agentdb_mcp.gate.text import TextLimits, read_statement

__all__ = ["TextLimits", "classify", "decide", "decide_transaction", "read_statement"]
