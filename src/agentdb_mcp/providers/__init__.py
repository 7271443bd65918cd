"""Who makes projects: one protocol, one file a provider, one registry."""

from agentdb_mcp.providers.base import Provider, project_name
from agentdb_mcp.providers.registry import open_provider

__all__ = ["Provider", "open_provider", "project_name"]
