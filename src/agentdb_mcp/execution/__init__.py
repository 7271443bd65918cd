"""Statements on tenants' databases, by asyncpg: logins, contained sessions, values, catalog reads."""

from agentdb_mcp.execution.connections import PoolSettings, Slot
from agentdb_mcp.execution.copying import Mode, Transfer
from agentdb_mcp.execution.pools import Pools
from agentdb_mcp.execution.session import Call, Statement
from agentdb_mcp.execution.wire import Sink

__all__ = ["Call", "Mode", "PoolSettings", "Pools", "Sink", "Slot", "Statement", "Transfer"]
