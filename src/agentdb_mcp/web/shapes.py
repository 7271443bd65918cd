"""What REST takes. Unknown fields are refused; each body has an example."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Path, Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from agentdb_mcp.models import TokenScope
from agentdb_mcp.settings import MAX_ID_LENGTH

# Postgres's text has no NUL, and nobody's id has control characters.
_ID = r"^[^\x00-\x1f\x7f]+$"
_NAME = r"^[^\x00-\x1f\x7f]*$"
# What is in a path is no part of another one.
_IN_PATH = r"^[^\x00-\x1f\x7f/]+$"
MAX_NAME_BYTES = 63


def _no_dots(identifier: str) -> str:
    if identifier in {".", ".."}:
        raise ValueError("an id is not a place in a path")
    return identifier


def _fits(name: str) -> str:
    """Postgres would cut it, and find whatever goes by what is left."""
    if len(name.encode()) > MAX_NAME_BYTES:
        raise ValueError(f"a name has at most {MAX_NAME_BYTES} bytes")
    return name


Identifier = Annotated[str, Field(min_length=1, max_length=MAX_ID_LENGTH, pattern=_IN_PATH), AfterValidator(_no_dots)]
Name = Annotated[
    str,
    Field(min_length=1, max_length=MAX_NAME_BYTES, pattern=r"^[^\x00]+$", description="63 bytes at most."),
    AfterValidator(_fits),
]
_NAME_IN_QUERY = Query(min_length=1, max_length=MAX_NAME_BYTES, pattern=r"^[^\x00]+$", description="63 bytes at most.")
TableName = Annotated[str, _NAME_IN_QUERY, AfterValidator(_fits)]
SchemaName = Annotated[str, _NAME_IN_QUERY, AfterValidator(_fits)]
UserId = Annotated[str, Path(alias="user_id", min_length=1, max_length=MAX_ID_LENGTH, pattern=_ID, examples=["u1"])]
WorkspaceId = Annotated[
    str, Path(alias="workspace_id", min_length=1, max_length=MAX_ID_LENGTH, pattern=_ID, examples=["w1"])
]
OfWorkspace = Annotated[
    str, Query(alias="workspaceId", min_length=1, max_length=MAX_ID_LENGTH, pattern=_ID, examples=["w1"])
]


def _like(example: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [example]})


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class NewUser(Body):
    model_config = _like({"user_id": "u1", "tier": "free"})

    user_id: Identifier = Field(examples=["u1"])
    tier: Identifier | None = Field(default=None, description="Else the policy's first.", examples=["free"])


class NewTier(Body):
    model_config = _like({"tier": "paid", "custom_budget_cents": 5000})

    tier: Identifier = Field(examples=["paid"])
    custom_budget_cents: int | None = Field(
        default=None, ge=0, le=10**12, description="A monthly limit of the user's own; null for the tier's."
    )


class NewWorkspace(Body):
    model_config = _like({"workspace_id": "w1", "user_id": "u1", "name": "Research"})

    workspace_id: Identifier = Field(examples=["w1"])
    user_id: Identifier = Field(description="The owner, who pays.", examples=["u1"])
    name: str | None = Field(default=None, max_length=200, pattern=_NAME, examples=["Research"])


class NewToken(Body):
    model_config = _like({"user_id": "u1", "workspace_id": "w1", "scopes": ["mcp"], "expires_in": 2_592_000})

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
    model_config = _like({"table": "notes", "limit": 50, "order_by": [{"column": "id"}]})

    table: Name = Field(examples=["notes"])
    schema_name: Name = Field(default="public", alias="schema")
    limit: int = Field(default=50, ge=1, le=1000)
    offset: int = Field(default=0, ge=0, le=2**62)
    order_by: list[OrderBy] = Field(default=[], max_length=32)


class Sql(Body):
    model_config = _like({"sql": "SELECT * FROM notes WHERE id = $1", "params": [1]})

    sql: str = Field(min_length=1, examples=["SELECT * FROM notes WHERE id = $1"])
    params: list[Any] = Field(default=[], max_length=1000, examples=[[1]])
    max_rows: int | None = Field(default=None, ge=1, le=1_000_000)


class ToolCall(Body):
    model_config = _like(
        {
            "serverId": "agentdb-agent",
            "toolName": "execute_sql",
            "arguments": {"sql": "SELECT 1"},
            "workspaceId": "w1",
        }
    )

    server_id: Literal["agentdb-agent", "agentdb-global"] = Field(alias="serverId", examples=["agentdb-agent"])
    tool_name: str = Field(alias="toolName", min_length=1, max_length=100, examples=["execute_sql"])
    arguments: dict[str, Any] = Field(default={}, examples=[{"sql": "SELECT 1"}])
    workspace_id: Identifier = Field(alias="workspaceId", examples=["w1"])
