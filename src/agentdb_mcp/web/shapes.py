"""What REST takes and answers. Unknown fields are refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict, Field

from agentdb_mcp.models import Scope, TokenScope
from agentdb_mcp.settings import MAX_ID_LENGTH

# Postgres's text has no NUL, and nobody's id has control characters.
_ID = r"^[^\x00-\x1f\x7f]+$"
_NAME = r"^[^\x00-\x1f\x7f]*$"
Identifier = Annotated[str, Field(min_length=1, max_length=MAX_ID_LENGTH, pattern=_ID)]
Name = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[^\x00]+$")]
UserId = Annotated[str, Path(alias="user_id", min_length=1, max_length=MAX_ID_LENGTH, pattern=_ID, examples=["u1"])]
WorkspaceId = Annotated[
    str, Path(alias="workspace_id", min_length=1, max_length=MAX_ID_LENGTH, pattern=_ID, examples=["w1"])
]
OfWorkspace = Annotated[
    str, Query(alias="workspaceId", min_length=1, max_length=MAX_ID_LENGTH, pattern=_ID, examples=["w1"])
]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class NewUser(Body):
    user_id: Identifier = Field(examples=["u1"])
    tier: Identifier | None = Field(default=None, description="Else the policy's first.", examples=["free"])


class NewTier(Body):
    tier: Identifier = Field(examples=["paid"])
    custom_budget_cents: int | None = Field(
        default=None, ge=0, le=10**12, description="A monthly limit of the user's own; null for the tier's."
    )


class NewWorkspace(Body):
    workspace_id: Identifier = Field(examples=["w1"])
    user_id: Identifier = Field(description="The owner, who pays.", examples=["u1"])
    name: str | None = Field(default=None, max_length=200, pattern=_NAME, examples=["Research"])


class NewToken(Body):
    user_id: Identifier = Field(examples=["u1"])
    workspace_id: Identifier | None = Field(default=None, description="Bind it to this workspace.", examples=["w1"])
    scopes: list[Literal["mcp", "explorer", "admin"]] = Field(min_length=1, max_length=3, examples=[["mcp"]])
    expires_in: int | None = Field(
        default=None,
        ge=1,
        le=10 * 366 * 86_400,
        description="Seconds; without it, it does not expire.",
        examples=[2_592_000],
    )
    name: str | None = Field(
        default=None, max_length=200, pattern=r"^[^\x00]*$", description="For people to know it by."
    )

    def token_scopes(self) -> list[TokenScope]:
        return [TokenScope(scope) for scope in dict.fromkeys(self.scopes)]


class OrderBy(Body):
    column: Name = Field(examples=["id"])
    descending: bool = False


class TablePage(Body):
    table: Name = Field(examples=["notes"])
    schema_name: Name = Field(default="public", alias="schema")
    limit: int = Field(default=50, ge=1, le=1000)
    offset: int = Field(default=0, ge=0, le=2**62)
    order_by: list[OrderBy] = Field(default=[], max_length=32)

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True)


class Sql(Body):
    sql: str = Field(min_length=1, examples=["SELECT * FROM notes WHERE id = $1"])
    params: list[Any] = Field(default=[], max_length=1000, examples=[[1]])
    max_rows: int | None = Field(default=None, ge=1, le=1_000_000)


class ToolCall(Body):
    server_id: Literal["agentdb-agent", "agentdb-global"] = Field(alias="serverId", examples=["agentdb-agent"])
    tool_name: str = Field(alias="toolName", min_length=1, max_length=100, examples=["execute_sql"])
    arguments: dict[str, Any] = Field(default={}, examples=[{"sql": "SELECT 1"}])
    workspace_id: Identifier = Field(alias="workspaceId", examples=["w1"])


class DatabaseState(BaseModel):
    """One database: `status` is pending, provisioning, ready, deleting or deleted; none if it was never made."""

    scope: Scope
    status: str = Field(examples=["ready"])
    workspace_id: str | None = None
    user_id: str | None = None
    paused: bool = False
    access_mode: str = "unrestricted"
    ownership: str = "platform"


class UserState(BaseModel):
    user_id: str
    databases: list[DatabaseState]


class Token(BaseModel):
    """`token` is shown this once."""

    id: str
    token: str
    user_id: str
    workspace_id: str | None
    scopes: list[TokenScope]
    expires_at: str | None


class MaskedConnection(BaseModel):
    """Never more than this: nobody but the server sees a connection string."""

    connection: str = Field(examples=["postgresql://…:…@…/…"])
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


class Tables(BaseModel):
    tables: list[TableInfo]
    notes: list[str] = []


class ResultColumn(BaseModel):
    name: str
    type: str
    encoding: str | None = None


class Rows(BaseModel):
    """As the tool `execute_sql` answers."""

    columns: list[ResultColumn]
    rows: list[list[Any]]
    row_count: int
    truncated: bool
    command_tag: str
    duration_ms: float
    more: str | None = None
    notes: list[str] = []
    budget_note: str | None = None


class SystemServer(BaseModel):
    """One of the two hidden MCP servers that every workspace has."""

    id: str
    name: str
    scope: Scope
    transport: str
    url: str
    tool_count: int = Field(serialization_alias="toolCount")


class SystemServers(BaseModel):
    servers: list[SystemServer]


class SystemTools(BaseModel):
    """Each tool as `tools/list` gives it, with its `serverId` and `serverName`."""

    tools: list[dict[str, Any]]


class ToolResult(BaseModel):
    """MCP's CallToolResult."""

    content: list[dict[str, Any]]
    structured_content: dict[str, Any] | None = Field(default=None, serialization_alias="structuredContent")
    is_error: bool = Field(serialization_alias="isError")


class Health(BaseModel):
    status: Literal["ok", "stopping", "unavailable"]
