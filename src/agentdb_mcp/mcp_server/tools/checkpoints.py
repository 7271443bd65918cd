"""Tools that keep states of the database, go back to them, and try statements without keeping what they do."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from agentdb_mcp.costs import MICROCENTS_PER_CENT
from agentdb_mcp.errors import NotAllowed
from agentdb_mcp.mcp_server import rendering, schemas
from agentdb_mcp.mcp_server.arguments import Arguments
from agentdb_mcp.mcp_server.rendering import Rendered
from agentdb_mcp.mcp_server.tools.base import Operations, Tool
from agentdb_mcp.models import Checkpoint, Scope
from agentdb_mcp.services import Checkpoints
from agentdb_mcp.services.checkpoints import Kept, Overview, age, at

Wanted = Annotated[str, Field(min_length=1, max_length=100, description="Its id, or its name.")]


class CreateCheckpoint(Arguments):
    name: str = Field(default="", max_length=63, pattern=r"^[^\x00-\x1f\x7f]*$", description="To know it by.")


class ListCheckpoints(Arguments):
    pass


class RestoreCheckpoint(Arguments):
    checkpoint: Wanted
    confirm: bool = Field(default=False, description="Without it, only says what would be lost.")


class DeleteCheckpoint(Arguments):
    checkpoint: Wanted


async def _create_checkpoint(do: Operations, scope: Scope, given: CreateCheckpoint) -> Rendered:
    made, overview = await _checkpoints(do).create(do.tenant, scope, given.name)
    fields = {"checkpoint": _fields(made)} | _costs(overview)
    return rendering.told(fields, f"Kept {_line(made)}\n{_summary(overview)}")


async def _list_checkpoints(do: Operations, scope: Scope, _: ListCheckpoints) -> Rendered:
    overview = await _checkpoints(do).overview(do.tenant, scope)
    fields = {"checkpoints": [_fields(each) for each in overview.kept]} | _costs(overview)
    return rendering.told(fields, "\n".join([*map(_line, overview.kept), _summary(overview)]))


async def _restore_checkpoint(do: Operations, scope: Scope, given: RestoreCheckpoint) -> Rendered:
    service = _checkpoints(do)
    if given.confirm:
        kept = await service.restore(do.tenant, scope, given.checkpoint)
        text = f"The database is again as it was at {at(kept.checkpoint.created_at)}; all sessions before that ended."
        return rendering.told({"restored": True, "checkpoint": _fields(kept)}, text)
    loss = await service.look_before_restore(do.tenant, scope, given.checkpoint)
    made = loss.kept.checkpoint
    would_lose = (
        f"Nothing was changed. Restoring takes the whole database back to {at(made.created_at)}, {age(loss.since)} ago:"
        f" everything written since is lost, by {loss.writing_calls} calls that may have written, as far as the audit"
        " log knows, and running statements and sessions end, those of other agents too."
        f" It held {made.size_bytes:,} bytes then; {loss.size_bytes:,} were seen last. To be able to come back, make a"
        " checkpoint first. To go on, call restore_checkpoint with the same checkpoint and confirm=true."
    )
    fields = {
        "restored": False,
        "checkpoint": _fields(loss.kept),
        "age_seconds": int(loss.since.total_seconds()),
        "writing_calls_since": loss.writing_calls,
        "size_bytes_now": loss.size_bytes,
        "would_lose": would_lose,
    }
    return rendering.told(fields, would_lose)


async def _delete_checkpoint(do: Operations, scope: Scope, given: DeleteCheckpoint) -> Rendered:
    dropped = await _checkpoints(do).delete(do.tenant, scope, given.checkpoint)
    fields = {"deleted": {"id": dropped.id, "name": dropped.name}}
    return rendering.told(fields, f"Deleted the checkpoint {rendering.framed(dropped.name, ' ')}")


def _checkpoints(do: Operations) -> Checkpoints:
    if do.checkpoints is None:
        raise NotAllowed(
            "This database was brought by its URL, so nothing here keeps or restores it.",
            hint="Use the backups of whoever runs it.",
        )
    return do.checkpoints


def _fields(kept: Kept) -> dict[str, Any]:
    made: Checkpoint = kept.checkpoint
    return {
        "id": made.id,
        "name": made.name,
        "created_at": at(made.created_at),
        "expires_at": at(made.expires_at),
        "size_bytes": made.size_bytes,
        "month_cents": _cents(kept.month_microcents),
    }


def _costs(overview: Overview) -> dict[str, Any]:
    return {
        "most": overview.most,
        "keep_days": overview.keep_days,
        "month_cents": _cents(overview.month_microcents),
        "next": {
            "size_bytes": overview.size_bytes,
            "month_cents": _cents(overview.next_month_microcents),
            "ends_sessions": overview.ends_sessions,
        },
    }


def _line(kept: Kept) -> str:
    """What a caller wrote stands in a frame."""
    made = kept.checkpoint
    until = f", until {at(made.expires_at)}" if made.expires_at else ""
    return (
        f"{made.id} of {at(made.created_at)}{until}: {made.size_bytes:,} bytes,"
        f" {_price(kept.month_microcents)} a month, named {rendering.framed(made.name, ' ')}"
    )


def _summary(overview: Overview) -> str:
    one_more = (
        f"One more would hold about {overview.size_bytes:,} bytes and cost"
        f" {_price(overview.next_month_microcents)} a month"
        if overview.size_bytes
        else "What one more would hold is not known yet; it costs by its size"
    )
    ending = ", and making it ends all sessions for a moment" if overview.ends_sessions else ""
    return (
        f"{len(overview.kept)} of {overview.most} checkpoints, {_price(overview.month_microcents)} a month from the"
        f" budget. {one_more}{ending}. Each is kept {overview.keep_days} days."
    )


def _cents(microcents: int) -> float:
    return round(microcents / MICROCENTS_PER_CENT, 4)


def _price(microcents: int) -> str:
    return f"${microcents / MICROCENTS_PER_CENT / 100:.4f}"


TOOLS = (
    Tool(
        "create_checkpoint",
        "Keep the database as it is now",
        "Keep the whole database, to go back to; list_checkpoints tells the cost.",
        CreateCheckpoint,
        schemas.CHECKPOINT,
        _create_checkpoint,
        read_only=False,
        idempotent=False,
    ),
    Tool(
        "list_checkpoints",
        "List checkpoints",
        "What is kept, until when, and the cost of each and of one more.",
        ListCheckpoints,
        schemas.CHECKPOINTS,
        _list_checkpoints,
    ),
    Tool(
        "restore_checkpoint",
        "Go back to a checkpoint",
        "Put the whole database back; everything written since is lost.",
        RestoreCheckpoint,
        schemas.RESTORED,
        _restore_checkpoint,
        read_only=False,
        destructive=True,
        idempotent=False,
    ),
    Tool(
        "delete_checkpoint",
        "Delete a checkpoint",
        "To make room for another, or to pay less.",
        DeleteCheckpoint,
        schemas.DELETED,
        _delete_checkpoint,
        read_only=False,
        destructive=True,
        idempotent=False,
    ),
)
