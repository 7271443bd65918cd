"""Everything over HTTP: MCP for agents, REST for the platform, health and metrics for operators."""
