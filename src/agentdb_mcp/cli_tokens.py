"""`tokens`: what programs that call over HTTP identify themselves with."""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentdb_mcp.cli_running import Json, print_answer, run
from agentdb_mcp.models import TokenScope

if TYPE_CHECKING:
    from agentdb_mcp.bootstrap import Application
    from agentdb_mcp.services import IssuedToken
    from agentdb_mcp.store import TokenRow

tokens = typer.Typer(
    help="API tokens: for a user, maybe one workspace, and what they may be used for.", no_args_is_help=True
)

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"([0-9]{1,12})([smhd]?)")


def seconds_of(duration: str) -> int:
    """Of `30d`, `12h`, `90m`, `45s` or plain seconds. Raises typer.BadParameter."""
    if (found := _DURATION.fullmatch(duration)) is None:
        raise typer.BadParameter(f"{duration!r} is no duration: give one as 30d, 12h, 90m or as seconds.")
    return int(found[1]) * _SECONDS[found[2]]


@tokens.command("create")
def create(
    user_id: str,
    workspace: Annotated[str | None, typer.Option(help="Bind it to one of the user's workspaces.")] = None,
    scope: Annotated[list[TokenScope] | None, typer.Option(help="What it is for; mcp unless given.")] = None,
    expires_in: Annotated[
        str | None, typer.Option(metavar="30d|12h|SECONDS", help="Until it is revoked unless given.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="To tell it from others.")] = None,
    as_json: Json = False,
) -> None:
    """Make a token. Prints it on stdout, this once; everything else goes to stderr."""
    seconds = None if expires_in is None else seconds_of(expires_in)

    async def work(application: Application) -> IssuedToken:
        scopes = scope or [TokenScope.MCP]
        return await application.managed().tokens.issue(user_id, workspace, scopes, seconds, name)

    issued = run(work, quiet=True)
    fields = {
        "id": issued.id,
        "token": issued.token.reveal(),
        "user_id": issued.user_id,
        "workspace_id": issued.workspace_id,
        "scopes": list(issued.scopes),
        "expires_at": _iso(issued.expires_at),
    }
    print_answer(fields, issued.token.reveal(), as_json)
    until = f"until {_iso(issued.expires_at)}" if issued.expires_at else "until it is revoked"
    note = f"Token {issued.id} for {', '.join(issued.scopes)}, valid {until}. It is not shown again: keep it now."
    if not as_json:
        print(note, file=sys.stderr)


@tokens.command("list")
def list_tokens(user_id: str, as_json: Json = False) -> None:
    """Show a user's tokens, the newest first; those that ended up to a month ago are among them."""

    async def work(application: Application) -> tuple[list[TokenRow], datetime]:
        managed = application.managed()
        return await managed.tokens.of_user(user_id), managed.usage.clock()

    rows, now = run(work, quiet=True)
    if as_json:
        print(json.dumps({"tokens": [_fields(row, now) for row in rows]}))
    else:
        from agentdb_mcp.cli_tables import print_table, token_table

        print_table(token_table(rows, now))


@tokens.command("revoke")
def revoke(token_id: str, as_json: Json = False) -> None:
    """End a token now, in every server. One that is revoked already stays so."""

    async def work(application: Application) -> None:
        from agentdb_mcp.errors import NotFound

        if not await application.managed().tokens.revoke(token_id):
            raise NotFound(f"There is no token {token_id}.", hint="`agentdb-mcp tokens list USER` shows their ids.")

    run(work, quiet=True)
    print_answer({"id": token_id, "revoked": True}, f"Token {token_id} is revoked.", as_json)


def _fields(row: TokenRow, now: datetime) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "user_id": row.user_id,
        "workspace_id": row.workspace_id,
        "scopes": list(row.scopes),
        "state": row.ended(now) or "valid",
        "created_at": _iso(row.created_at),
        "expires_at": _iso(row.expires_at),
        "revoked_at": _iso(row.revoked_at),
        "last_used_at": _iso(row.last_used_at),
    }


def _iso(at: datetime | None) -> str | None:
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z") if at else None
