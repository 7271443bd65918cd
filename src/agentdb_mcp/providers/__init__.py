"""Who makes projects: one protocol, one package a provider, one registry."""

from agentdb_mcp.providers.base import Provider, project_name
from agentdb_mcp.providers.registry import NeonConfig, PostgresConfig, open_provider

__all__ = ["NeonConfig", "PostgresConfig", "Provider", "open_provider", "project_name"]
