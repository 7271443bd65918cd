"""Any Postgres cluster as a provider: a database and its owner role for each project."""

from agentdb_mcp.providers.postgres.provider import PostgresProvider

__all__ = ["PostgresProvider"]
