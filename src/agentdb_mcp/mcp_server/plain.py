"""Calls of tools that are no more than that: what is answered without the SDK, over stdio and over HTTP.

The SDK validates, wraps and copies every message several times, which costs more than all that we do around the
database. Anything with more in it (a progress token, a traceparent, a tool that there is not) is the SDK's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentdb_mcp.mcp_server.calling import has_tool
from agentdb_mcp.mcp_server.described import STATELESS
from agentdb_mcp.mcp_server.encoding import to_json
from agentdb_mcp.mcp_server.rendering import Rendered

# The versions of MCP with a handshake and structured answers.
VERSIONS = frozenset({"2025-06-18", "2025-11-25"})

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PlainCall:
    """A JSON-RPC request of one of our tools."""

    identifier: int | str
    name: str
    arguments: Json


def plain_call(message: object) -> PlainCall | None:
    """The call that a message is, where it is nothing else."""
    match message:
        case {
            "jsonrpc": "2.0",
            "id": int() | str() as identifier,
            "method": "tools/call",
            "params": {"name": str() as name, **more},
            **rest,
        } if not rest and not isinstance(identifier, bool) and has_tool(name):
            arguments = more.pop("arguments", {})
            if isinstance(arguments, dict) and not more:
                return PlainCall(identifier, name, arguments)
    return None


def stateless_params(params: Json) -> Json | None:
    """Those of a request that stands for itself, without what it says of its client; None where that is more or other.

    Nothing here depends on the client's name and capabilities; whether they are well-formed is the SDK's to know,
    where there is more to them than this.
    """
    match params:
        case {
            "_meta": {
                "io.modelcontextprotocol/protocolVersion": str() as version,
                "io.modelcontextprotocol/clientCapabilities": dict() as capabilities,
                "io.modelcontextprotocol/clientInfo": {"name": str(), "version": str(), **info},
                **more,
            },
            **rest,
        } if version == STATELESS and not (more or info) and all(each == {} for each in capabilities.values()):
            return rest
    return None


def answer_to(
    identifier: int | str, answer: Rendered, is_error: bool, more: Mapping[str, object] | None = None
) -> bytes:
    """With what else the version of MCP says in a result."""
    result = {
        "content": [{"type": "text", "text": answer.text}],
        "structuredContent": answer.structured,
        "isError": is_error,
        **(more or {}),
    }
    return to_json({"jsonrpc": "2.0", "id": identifier, "result": result})
