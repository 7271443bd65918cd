"""Who makes projects: one protocol, one package a provider, one registry."""

from agentdb_mcp.providers.base import Provider, project_name
from agentdb_mcp.providers.registry import NeonConfig, open_provider

__all__ = ["NeonConfig", "Provider", "open_provider", "project_name"]
