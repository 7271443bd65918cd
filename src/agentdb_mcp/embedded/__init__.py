"""A real Postgres as a direct child process, for `up`, `demo`, `neon-emulator` and the tests."""

from agentdb_mcp.embedded.server import EmbeddedPostgres, embedded_postgres

__all__ = ["EmbeddedPostgres", "embedded_postgres"]
