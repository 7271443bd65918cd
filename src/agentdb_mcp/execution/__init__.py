"""Statements on tenants' databases, by asyncpg: logins, contained sessions, values, catalog reads."""

from agentdb_mcp.execution.beyond import pack, unpack
from agentdb_mcp.execution.connections import PoolSettings
from agentdb_mcp.execution.pools import Pools
from agentdb_mcp.execution.session import Call, Statement
from agentdb_mcp.execution.wire import Sink

__all__ = ["Call", "PoolSettings", "Pools", "Sink", "Statement", "pack", "unpack"]
