"""A Postgres database for every AI agent, over MCP."""

from importlib.metadata import version

__version__ = version("agentdb-mcp")
