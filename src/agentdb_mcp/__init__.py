"""A Postgres database for every AI agent, over MCP."""

__version__ = "0.1.0"
