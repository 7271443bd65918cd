"""API tokens over a real control database: who gets a token and what is not accepted."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from token_servers import (
    MCP,
    UNKNOWN,
    Clock,
    Process,
    remembered,
)

from agentdb_mcp.errors import (
    InvalidArgument,
    NotAuthenticated,
    NotFound,
)
from agentdb_mcp.models import Tenant, TokenScope
from agentdb_mcp.services.tokens import MAX_EXPIRES_IN_S
from agentdb_mcp.store import IdentityStore

# --- issuing --------------------------------------------------------------------------------------------------------


async def test_a_token_says_whose_it_is_and_what_it_is_for(process: Process, user: str, clock: Clock) -> None:
    issued = await process.tokens.issue(
        user, f"{user}-notes", [TokenScope.EXPLORER, TokenScope.MCP, TokenScope.MCP], 3600, "laptop"
    )
    assert re.fullmatch(r"adb_[A-Za-z0-9_-]{43}", issued.token.reveal())
    assert issued.scopes == (TokenScope.MCP, TokenScope.EXPLORER)
    identity = await process.tokens.authenticate(issued.token.reveal())
    assert identity.token_id == issued.id
    assert identity.tenant == Tenant(user, f"{user}-notes")
    assert identity.scopes == {TokenScope.MCP, TokenScope.EXPLORER}
    assert identity.expires_at == issued.expires_at == clock.now + timedelta(hours=1)
    [row] = await process.tokens.of_user(user)
    assert (row.id, row.name, row.created_at, row.revoked_at) == (issued.id, "laptop", clock.now, None)


async def test_a_token_without_workspace_is_for_all_of_the_users(process: Process, user: str) -> None:
    issued = await process.tokens.issue(user, None, MCP, None)
    identity = await process.tokens.authenticate(issued.token.reveal())
    assert (identity.tenant, identity.expires_at) == (Tenant(user, None), None)


async def test_nobody_gets_a_token_for_what_is_not_theirs(process: Process, user: str) -> None:
    other = f"{user}-other"
    await IdentityStore(process.control).ensure_user(other)
    with pytest.raises(NotFound, match="no user nobody"):
        await process.tokens.issue("nobody", None, MCP, None)
    with pytest.raises(NotFound, match="has no workspace missing") as missing:
        await process.tokens.issue(other, "missing", MCP, None)
    with pytest.raises(NotFound) as others:
        await process.tokens.issue(other, f"{user}-notes", MCP, None)
    assert others.value.message.replace(f"{user}-notes", "missing") == missing.value.message
    for odd in ("a\0b", "\ud800"):
        with pytest.raises(NotFound):
            await process.tokens.issue(odd, None, MCP, None)
        with pytest.raises(NotFound):
            await process.tokens.issue(user, odd, MCP, None)
    assert await process.tokens.of_user(other) == await process.tokens.of_user(user) == []


@pytest.mark.parametrize("seconds", [0, -1, MAX_EXPIRES_IN_S + 1, 10**30])
async def test_a_lifetime_out_of_bounds_is_refused(process: Process, user: str, seconds: int) -> None:
    with pytest.raises(InvalidArgument, match=f"1 to {MAX_EXPIRES_IN_S} seconds, not for {seconds}"):
        await process.tokens.issue(user, None, MCP, seconds)


async def test_the_bounds_themselves_are_allowed(process: Process, user: str, clock: Clock) -> None:
    lives = [await process.tokens.issue(user, None, MCP, seconds) for seconds in (1, MAX_EXPIRES_IN_S)]
    assert [each.expires_at and each.expires_at - clock.now for each in lives] == [
        timedelta(seconds=1),
        timedelta(seconds=MAX_EXPIRES_IN_S),
    ]


async def test_a_token_for_nothing_and_a_name_that_a_terminal_obeys_are_refused(process: Process, user: str) -> None:
    with pytest.raises(InvalidArgument, match="needs a scope"):
        await process.tokens.issue(user, None, [], None)
    for name in ("\x1b[31m", "a\0", "n" * 201, "\ud800"):
        with pytest.raises(InvalidArgument, match="name"):
            await process.tokens.issue(user, None, MCP, None, name)
    assert await process.tokens.of_user(user) == []


# --- what is not accepted -------------------------------------------------------------------------------------------


async def test_unknown_expired_and_revoked_are_refused_alike(process: Process, user: str, clock: Clock) -> None:
    expired, revoked, kept = [await process.tokens.issue(user, None, MCP, life) for life in (60, None, None)]
    assert await process.tokens.revoke(revoked.id)
    clock.now += timedelta(seconds=60)
    refusals = set()
    presented = [expired.token.reveal(), revoked.token.reveal(), UNKNOWN, "", "adb_", "ü" * 47, "\ud800", "a\0b"]
    presented += [kept.token.reveal()[:-1], kept.token.reveal() + "\n", f" {kept.token.reveal()}", kept.id]
    for text in presented:
        with pytest.raises(NotAuthenticated) as refused:
            await process.tokens.authenticate(text)
        refusals.add(repr(refused.value.as_dict()))
    assert len(refusals) == 1
    assert await process.accepts(kept)


async def test_a_token_expires_while_it_is_remembered(servers: list[Process], user: str, clock: Clock) -> None:
    issued = await servers[0].tokens.issue(user, None, MCP, 10)
    await remembered(servers[0], issued)
    clock.now += timedelta(seconds=9.999)
    assert await servers[0].asks_nothing(issued)
    clock.now += timedelta(seconds=0.001)
    assert not await servers[0].accepts(issued)


async def test_revoking_again_changes_nothing_and_what_is_anothers_does_not_exist(
    process: Process, user: str, clock: Clock
) -> None:
    issued = await process.tokens.issue(user, None, MCP, None)
    for token_id in ("missing", "a\0b", "\ud800", issued.id.upper(), issued.token.reveal()):
        assert not await process.tokens.revoke(token_id)
    assert not await process.tokens.revoke(issued.id, user_id="somebody else")
    assert not await process.tokens.revoke(issued.id, user_id="a\0b")
    assert await process.accepts(issued)
    assert await process.tokens.revoke(issued.id, user_id=user)
    first = clock.now
    clock.now += timedelta(hours=1)
    assert await process.tokens.revoke(issued.id)
    assert [row.revoked_at for row in await process.tokens.of_user(user)] == [first]
