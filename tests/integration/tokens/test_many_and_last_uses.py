"""API tokens over a real control database: guessers, many at once, last uses, and what stays."""

from __future__ import annotations

import hashlib
import logging
from datetime import datetime, timedelta

import anyio
import asyncpg
import pytest
from token_servers import (
    MCP,
    UNKNOWN,
    Clock,
    Process,
    closed_to_new_connections,
    cut,
    refuses,
    remembered,
    until,
)

from agentdb_mcp.errors import (
    AgentDBError,
    DatabaseUnavailable,
    NotAuthenticated,
    RateLimited,
)
from agentdb_mcp.models import Secret, TokenScope
from agentdb_mcp.services.tokens import LOOKUPS

# --- failed tries ---------------------------------------------------------------------------------------------------


async def test_a_client_that_guesses_is_stopped_before_the_control_database_is_asked(process: Process) -> None:
    outcomes: list[str] = []

    async def guess(number: int) -> None:
        try:
            await process.tokens.authenticate(f"adb_{number:043}", source="guesser")
        except AgentDBError as error:
            outcomes.append(error.code)

    async with anyio.create_task_group() as group:
        for number in range(200):
            group.start_soon(guess, number)
    assert outcomes.count("not_authenticated") + outcomes.count("rate_limited") == 200
    assert 20 <= process.store.lookups <= 20 + LOOKUPS
    with pytest.raises(RateLimited):
        await process.tokens.authenticate("no token at all", source="guesser")
    with pytest.raises(NotAuthenticated):
        await process.tokens.authenticate(UNKNOWN, source="somebody else")


@pytest.mark.parametrize("following", [True, False])
async def test_who_was_let_in_before_passes_beside_a_guesser_at_the_same_address(
    process: Process, servers: list[Process], user: str, clock: Clock, following: bool
) -> None:
    """New ones wait. An hour and a dozen guesses later that is the same."""
    server = servers[0] if following else process
    good, new = [await server.tokens.issue(user, None, MCP, None) for _ in range(2)]
    if following:
        await remembered(server, good)
    else:
        assert await server.accepts(good) is True
    for _ in range(20):
        with pytest.raises(NotAuthenticated):
            await server.tokens.authenticate(UNKNOWN, source="office")
    assert await server.accepts(good, source="office")
    clock.seconds += 59
    assert await server.accepts(good, source="office")
    with pytest.raises(RateLimited):
        await server.accepts(new, source="office")
    assert await server.accepts(new, source="elsewhere")
    clock.seconds += 1
    assert await server.accepts(new, source="office")


async def test_a_token_that_was_let_in_before_it_was_revoked_passes_no_limit(
    process: Process, servers: list[Process], user: str
) -> None:
    issued = await process.tokens.issue(user, None, MCP, None)
    assert await process.accepts(issued, source="a")
    assert await servers[0].tokens.revoke(issued.id)
    for _ in range(20):
        assert not await process.accepts(issued, source="a")
    with pytest.raises(RateLimited):
        await process.accepts(issued, source="a")


# --- many at once ---------------------------------------------------------------------------------------------------


async def test_many_calls_with_a_new_token_ask_once_or_twice(servers: list[Process], user: str) -> None:
    first, issued = [await servers[0].tokens.issue(user, None, MCP, None) for _ in range(2)]
    await remembered(servers[0], first)
    before = servers[0].store.lookups
    async with anyio.create_task_group() as group:
        for _ in range(100):
            group.start_soon(servers[0].accepts, issued)
    assert servers[0].store.lookups - before <= LOOKUPS
    assert await servers[0].asks_nothing(issued)


async def test_tokens_issued_used_and_revoked_at_once_stay_apart(
    servers: list[Process], user: str, process: Process
) -> None:
    wrong: list[str] = []

    async def live(number: int) -> None:
        server, other = servers[number % 2], servers[1 - number % 2]
        issued = await server.tokens.issue(user, None, MCP, None, f"n{number}")
        for each in (server, other):
            identity = await each.tokens.authenticate(issued.token.reveal(), source=issued.id)
            if identity.token_id != issued.id:
                wrong.append(issued.id)
        if number % 3:
            await server.tokens.revoke(issued.id)
            await until(lambda: refuses(other, issued))
        elif not await other.accepts(issued):
            wrong.append(issued.id)

    async with anyio.create_task_group() as group:
        for number in range(60):
            group.start_soon(live, number)
    assert wrong == []
    rows = await process.tokens.of_user(user)
    assert sum(row.revoked_at is None for row in rows) == 20


async def test_what_is_remembered_is_bounded(
    servers: list[Process], user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentdb_mcp.services.tokens.MAX_KNOWN", 3)
    issued = [await servers[0].tokens.issue(user, None, MCP, None) for _ in range(5)]
    for each in issued:
        await remembered(servers[0], each)
    assert len(servers[0].tokens._known) == len(servers[0].tokens._hashes) == 3
    assert [await servers[0].asks_nothing(each) for each in reversed(issued)] == [True, True, True, False, False]


# --- last used ------------------------------------------------------------------------------------------------------


async def last_used(process: Process, user: str) -> list[datetime | None]:
    return [row.last_used_at for row in await process.tokens.of_user(user)]


async def test_last_use_is_stored_when_the_server_ends(process: Process, user: str, clock: Clock) -> None:
    async with process.tokens.following():
        issued = await process.tokens.issue(user, None, MCP, None)
        assert await last_used(process, user) == [None]
        for _ in range(3):
            clock.now += timedelta(seconds=1)
            assert await process.accepts(issued)
        assert await last_used(process, user) == [None]
    assert await last_used(process, user) == [clock.now]


async def test_last_use_is_stored_when_the_server_is_cancelled(process: Process, user: str, clock: Clock) -> None:
    issued = await process.tokens.issue(user, None, MCP, None)
    with anyio.CancelScope() as scope:
        async with process.tokens.following():
            assert await process.accepts(issued)
            scope.cancel()
            await anyio.sleep_forever()
    assert await last_used(process, user) == [clock.now]


async def test_last_use_is_stored_while_the_server_runs(
    process: Process, user: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentdb_mcp.services.tokens.FLUSH_S", 0.01)
    issued = await process.tokens.issue(user, None, MCP, None)

    async def stored() -> bool:
        return await last_used(process, user) == [clock.now]

    async with process.tokens.following():
        assert await process.accepts(issued)
        await until(stored)


async def test_the_latest_use_of_all_servers_is_kept(servers: list[Process], user: str, clock: Clock) -> None:
    issued = await servers[0].tokens.issue(user, None, MCP, None)
    assert await servers[0].accepts(issued)
    clock.now += timedelta(seconds=5)
    latest = clock.now
    assert await servers[1].accepts(issued)
    await servers[1].tokens.flush()
    await servers[0].tokens.flush()
    assert await last_used(servers[0], user) == [latest]


async def test_a_last_use_whose_storing_is_cancelled_is_stored_later(
    process: Process, user: str, clock: Clock, admin: asyncpg.Connection
) -> None:
    token = await process.tokens.issue(user, None, MCP, None)
    assert await process.accepts(token)
    async with admin.transaction():
        await admin.execute("SELECT FROM agentdb_token WHERE id = $1 FOR UPDATE", token.id)
        with anyio.move_on_after(0.2) as storing:
            await process.tokens.flush()
        assert storing.cancelled_caught
    await process.tokens.flush()
    assert await last_used(process, user) == [clock.now]


async def test_use_that_cannot_be_stored_now_is_stored_later(
    process: Process, user: str, clock: Clock, superuser: asyncpg.Connection, uri: Secret
) -> None:
    issued = await process.tokens.issue(user, None, MCP, None)
    assert await process.accepts(issued)
    async with closed_to_new_connections(superuser, uri):
        await cut(superuser, uri)
        await process.tokens.flush()
    await process.tokens.flush()
    assert await last_used(process, user) == [clock.now]


# --- what stays -----------------------------------------------------------------------------------------------------


async def test_the_control_database_has_hashes_alone(process: Process, user: str, admin: asyncpg.Connection) -> None:
    issued = await process.tokens.issue(user, f"{user}-notes", [TokenScope.MCP, TokenScope.EXPLORER], 3600, "n")
    token = issued.token.reveal()
    assert await process.accepts(issued)
    await process.tokens.flush()
    tables = await admin.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    held = ""
    for (table,) in tables:
        held += "".join(row[0] for row in await admin.fetch(f'SELECT t::text FROM "{table}" AS t'))
    assert hashlib.sha256(token.encode()).hexdigest() in held
    for form in (token, token[4:], token.encode().hex(), token[4:].encode().hex()):
        assert form not in held


async def test_no_log_and_no_repr_shows_a_token(
    process: Process, user: str, superuser: asyncpg.Connection, uri: Secret, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    issued = await process.tokens.issue(user, None, MCP, None, "n")
    shown = [repr(issued), repr(process.tokens)]
    async with process.tokens.following():
        shown.append(repr(await process.tokens.authenticate(issued.token.reveal())))
        async with closed_to_new_connections(superuser, uri):
            await cut(superuser, uri)
            with pytest.raises(DatabaseUnavailable) as away:
                await process.tokens.authenticate(issued.token.reveal())
            with pytest.raises(DatabaseUnavailable):
                await process.tokens.authenticate(UNKNOWN)
        await process.tokens.revoke(issued.id)
        with pytest.raises(NotAuthenticated) as refused:
            await process.tokens.authenticate(issued.token.reveal())
    shown += [repr(refused.value), repr(away.value), repr(await process.tokens.of_user(user)), caplog.text]
    assert "token not checked" in caplog.text
    for text in shown:
        assert issued.token.reveal()[4:20] not in text
        assert UNKNOWN not in text


async def test_what_ended_a_month_ago_is_deleted_and_nothing_else(process: Process, user: str, clock: Clock) -> None:
    for name, life in (("expired", 60), ("revoked", None), ("expiring", 40 * 86_400), ("endless", None)):
        issued = await process.tokens.issue(user, None, MCP, life, name)
        if name == "revoked":
            await process.tokens.revoke(issued.id)
    clock.now += timedelta(days=30, seconds=1)
    await process.tokens.prune()
    assert {row.name for row in await process.tokens.of_user(user)} == {"expired", "expiring", "endless"}
    clock.now += timedelta(seconds=60)
    await process.tokens.prune()
    assert {row.name for row in await process.tokens.of_user(user)} == {"expiring", "endless"}
    clock.now += timedelta(days=20)
    await process.tokens.prune()
    assert {row.name for row in await process.tokens.of_user(user)} == {"expiring", "endless"}
