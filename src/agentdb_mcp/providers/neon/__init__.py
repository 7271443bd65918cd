"""Neon's API v2, in the cloud or from the local emulator; only the base URL differs."""

from agentdb_mcp.providers.neon.provider import NeonProvider, neon_provider

__all__ = ["NeonProvider", "neon_provider"]
