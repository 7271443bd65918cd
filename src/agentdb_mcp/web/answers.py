"""What REST answers, each with an example; usage is beside it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from agentdb_mcp.models import Scope, TokenScope


def like(*examples: dict[str, Any]) -> ConfigDict:
    """A model's configuration with examples for the document."""
    return ConfigDict(extra="forbid", json_schema_extra={"examples": list(examples)})


def like_camel(*examples: dict[str, Any]) -> ConfigDict:
    """As the platform's own pages spell fields."""
    return like(*examples) | ConfigDict(alias_generator=to_camel, populate_by_name=True)


_DATABASE = {
    "scope": "agent",
    "status": "ready",
    "workspace_id": "w1",
    "user_id": "u1",
    "paused": False,
    "access_mode": "unrestricted",
    "ownership": "platform",
}


class DatabaseState(BaseModel):
    """One database: `status` is pending, provisioning, ready, deleting or deleted; none if it was never made."""

    model_config = like(_DATABASE)

    scope: Scope
    status: Literal["none", "pending", "provisioning", "ready", "deleting", "deleted"]
    workspace_id: str | None = None
    user_id: str | None = None
    paused: bool = False
    access_mode: str = "unrestricted"
    ownership: str = "platform"


class UserState(BaseModel):
    """The databases that are not deleted."""

    model_config = like({"user_id": "u1", "databases": [_DATABASE]})

    user_id: str
    databases: list[DatabaseState]


class Token(BaseModel):
    """`token` is shown this once."""

    model_config = like(
        {
            "id": "0b0c5f3e-8f6e-4a53-9f5e-1d6a2b9f4c11",
            "token": "adb_…",
            "user_id": "u1",
            "workspace_id": "w1",
            "scopes": ["mcp"],
            "expires_at": "2026-12-23T12:00:00+00:00",
        }
    )

    id: str
    token: str
    user_id: str
    workspace_id: str | None
    scopes: list[TokenScope]
    expires_at: str | None


class MaskedConnection(BaseModel):
    """Never more than this: nobody but the server sees a connection string."""

    model_config = like({"connection": "postgresql://…:…@…/…", "status": "ready"})

    connection: str
    status: str


class ColumnInfo(BaseModel):
    name: str
    type: str
    nullable: bool
    primary_key: bool


class TableInfo(BaseModel):
    schema_name: str = Field(serialization_alias="schema")
    name: str
    type: str
    rows: int | None = Field(description="An estimate, of tables that were analyzed.")
    size_bytes: int | None
    comment: str | None
    columns: list[ColumnInfo]


_COLUMN = {"name": "id", "type": "integer", "nullable": False, "primary_key": True}


class Tables(BaseModel):
    model_config = like(
        {
            "tables": [
                {
                    "schema": "public",
                    "name": "notes",
                    "type": "table",
                    "rows": 120,
                    "size_bytes": 16_384,
                    "comment": "What was noted.",
                    "columns": [_COLUMN],
                }
            ],
            "notes": [],
        }
    )

    tables: list[TableInfo]
    notes: list[str] = []


class ResultColumn(BaseModel):
    name: str
    type: str
    encoding: str | None = None


class Rows(BaseModel):
    """As the tool `execute_sql` answers."""

    model_config = like(
        {
            "columns": [{"name": "id", "type": "int4", "encoding": None}],
            "rows": [[1], [2]],
            "row_count": 2,
            "truncated": False,
            "command_tag": "SELECT 2",
            "duration_ms": 1.5,
            "more": None,
            "notes": [],
            "budget_note": None,
        }
    )

    columns: list[ResultColumn]
    rows: list[list[Any]]
    row_count: int
    truncated: bool
    command_tag: str
    duration_ms: float
    more: str | None = None
    notes: list[str] = []
    budget_note: str | None = None


class SyncResult(BaseModel):
    """`error_percent`: by how much estimates missed the billed compute, negative where they were too low."""

    model_config = like({"projects": 3, "hours": 12, "error_percent": 1.25})

    projects: int
    hours: int
    error_percent: float | None


class SystemServer(BaseModel):
    """One of the two hidden MCP servers that every workspace has."""

    model_config = like_camel()

    id: str
    name: str
    scope: Scope
    transport: str
    url: str
    tool_count: int


class SystemServers(BaseModel):
    model_config = like(
        {
            "servers": [
                {
                    "id": "agentdb-agent",
                    "name": "Agent Database",
                    "scope": "agent",
                    "transport": "streamable-http",
                    "url": "https://databases.example.com/mcp/agent",
                    "toolCount": 7,
                }
            ]
        }
    )

    servers: list[SystemServer]


class SystemTool(BaseModel):
    """A tool as `tools/list` gives it, with the server that it is of."""

    model_config = like_camel()

    server_id: str
    server_name: str
    name: str
    title: str
    description: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]
    annotations: dict[str, Any]


class SystemTools(BaseModel):
    model_config = like(
        {
            "tools": [
                {
                    "serverId": "agentdb-agent",
                    "serverName": "Agent Database",
                    "name": "list_schemas",
                    "title": "List schemas",
                    "description": "The schemas of the database.",
                    "inputSchema": {"type": "object", "properties": {}},
                    "outputSchema": {"type": "object"},
                    "annotations": {"readOnlyHint": True},
                }
            ]
        }
    )

    tools: list[SystemTool]


class TextPart(BaseModel):
    type: Literal["text"]
    text: str


class ToolResult(BaseModel):
    """MCP's CallToolResult."""

    model_config = like_camel(
        {
            "content": [{"type": "text", "text": "1 row"}],
            "structuredContent": {"row_count": 1},
            "isError": False,
        }
    )

    content: list[TextPart]
    structured_content: dict[str, Any] | None = None
    is_error: bool


class Health(BaseModel):
    model_config = like({"status": "ok"})

    status: Literal["ok", "stopping", "unavailable"]
