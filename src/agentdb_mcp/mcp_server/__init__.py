"""The tools over MCP. The only room that knows the SDK."""
