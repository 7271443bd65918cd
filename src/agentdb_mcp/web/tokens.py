"""Tokens: made and revoked by the platform's backend, or by their user's own `admin` token, never wider than it is."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path

from agentdb_mcp.errors import NotAllowed
from agentdb_mcp.models import TokenScope
from agentdb_mcp.web.answers import Token
from agentdb_mcp.web.auth import Caller, service_or_token
from agentdb_mcp.web.errors import responses
from agentdb_mcp.web.routes import GuardedRoute
from agentdb_mcp.web.shapes import NewToken
from agentdb_mcp.web.state import State, state

router = APIRouter(prefix="/api/tokens", tags=["tokens"], responses=responses(), route_class=GuardedRoute)

Admin = Annotated[Caller, Depends(service_or_token(TokenScope.ADMIN))]
Serving = Annotated[State, Depends(state)]
TokenId = Annotated[str, Path(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]


@router.post("", status_code=201)
async def create_token(given: NewToken, caller: Admin, serving: Serving) -> Token:
    """Make a token, which is shown this once. A workspace's reaches its database and the user's global one."""
    _check(given, caller)
    issued = await serving.managed.tokens.issue(
        given.user_id, given.workspace_id, given.token_scopes(), given.expires_in, given.name
    )
    return Token(
        id=issued.id,
        token=issued.token.reveal(),
        user_id=issued.user_id,
        workspace_id=issued.workspace_id,
        scopes=list(issued.scopes),
        expires_at=issued.expires_at.isoformat() if issued.expires_at else None,
    )


@router.delete("/{token_id}", status_code=204)
async def revoke_token(token_id: TokenId, caller: Admin, serving: Serving) -> None:
    """Revoke a token, in every process at once; what is gone stays gone."""
    await serving.managed.tokens.revoke(token_id, user_id=caller.token.tenant.user_id if caller.token else None)


def _check(given: NewToken, caller: Caller) -> None:
    caller.user(given.user_id)
    if caller.token is not None and TokenScope.ADMIN in given.token_scopes():
        raise NotAllowed("A token makes no tokens that make tokens.", hint="The platform's backend makes those.")
