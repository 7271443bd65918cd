"""API tokens over a real control database: what ends a token, in every process at once."""

from __future__ import annotations

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
    without_notices,
)

from agentdb_mcp.embedded import EmbeddedPostgres
from agentdb_mcp.errors import (
    DatabaseUnavailable,
    NotAuthenticated,
)
from agentdb_mcp.models import Secret
from agentdb_mcp.services.tokens import FRESH_S

# --- in every process at once ---------------------------------------------------------------------------------------


async def test_what_one_process_revokes_all_refuse(servers: list[Process], user: str) -> None:
    issued = [await servers[0].tokens.issue(user, None, MCP, None) for _ in range(20)]
    for server in servers:
        for each in issued:
            await remembered(server, each)
    for each in issued[1:]:
        assert await servers[0].tokens.revoke(each.id)
        assert not await servers[0].accepts(each)
    for each in issued[1:]:
        await until(lambda each=each: refuses(servers[1], each))  # type: ignore[misc]
    assert await servers[1].accepts(issued[0])


async def test_a_user_whom_the_platform_deletes_has_no_token_left(
    servers: list[Process], user: str, admin: asyncpg.Connection
) -> None:
    """Deleting the row is all that the platform does: nobody calls us."""
    bound = await servers[0].tokens.issue(user, f"{user}-notes", MCP, None)
    free = await servers[0].tokens.issue(user, None, MCP, None)
    for server in servers:
        await remembered(server, bound)
        await remembered(server, free)
    await admin.execute("DELETE FROM workspace WHERE id = $1", f"{user}-notes")
    for server in servers:
        await until(lambda server=server: refuses(server, bound))  # type: ignore[misc]
        assert await server.accepts(free)
    await admin.execute('DELETE FROM "user" WHERE id = $1', user)
    for server in servers:
        await until(lambda server=server: refuses(server, free))  # type: ignore[misc]
    assert await admin.fetchval("SELECT count(*) FROM agentdb_token WHERE user_id = $1", user) == 0


async def test_a_server_whose_listener_is_cut_takes_nothing_from_memory(
    servers: list[Process], process: Process, user: str, superuser: asyncpg.Connection, uri: Secret
) -> None:
    """It cannot come back either: of what is revoked then, no notice tells it."""
    revoked, kept = [await process.tokens.issue(user, None, MCP, None) for _ in range(2)]
    for each in (revoked, kept):
        await remembered(servers[0], each)
    async with closed_to_new_connections(superuser, uri):
        await cut(superuser, uri, "agentdb-mcp listener")
        await process.tokens.revoke(revoked.id)
        assert not await servers[0].accepts(revoked)
        for _ in range(2):
            assert not await servers[0].asks_nothing(kept)
            assert await servers[0].accepts(kept)
    await remembered(servers[0], kept)
    assert not await servers[0].accepts(revoked)


async def test_what_is_revoked_while_the_listener_is_away_is_refused_once_it_is_back(
    servers: list[Process], process: Process, user: str, superuser: asyncpg.Connection, uri: Secret
) -> None:
    """Nobody presents the token meanwhile: only the memory of it could let it in."""
    revoked, other = [await process.tokens.issue(user, None, MCP, None) for _ in range(2)]
    await remembered(servers[0], revoked)
    async with closed_to_new_connections(superuser, uri):
        await cut(superuser, uri, "agentdb-mcp listener")
        await process.tokens.revoke(revoked.id)
    await remembered(servers[0], other)  # it listens again
    assert not await servers[0].accepts(revoked)


async def test_while_the_control_database_is_away_nobody_is_let_in_and_all_may_try_again(
    servers: list[Process], process: Process, user: str, superuser: asyncpg.Connection, uri: Secret
) -> None:
    issued = await process.tokens.issue(user, None, MCP, None)
    await remembered(servers[0], issued)
    async with closed_to_new_connections(superuser, uri):
        await cut(superuser, uri)
        for token in (issued.token.reveal(), UNKNOWN) * 15:
            with pytest.raises(DatabaseUnavailable, match="cannot be checked now") as refused:
                await servers[0].tokens.authenticate(token, source="a")
            assert refused.value.retryable
    assert await servers[0].accepts(issued, source="a")
    with pytest.raises(NotAuthenticated):  # what nobody could check did not count as failed
        await servers[0].tokens.authenticate(UNKNOWN, source="a")


async def test_a_token_revoked_while_it_is_looked_up_is_not_remembered(
    servers: list[Process], process: Process, user: str
) -> None:
    issued = await process.tokens.issue(user, None, MCP, None)
    other = await process.tokens.issue(user, None, MCP, None)
    await remembered(servers[0], other)
    read, told = anyio.Event(), anyio.Event()

    async def after_reading() -> None:
        read.set()
        await told.wait()

    servers[0].store.after_reading[issued.token] = after_reading
    async with anyio.create_task_group() as group:
        group.start_soon(servers[0].accepts, issued)
        await read.wait()
        await process.tokens.revoke(issued.id)
        await process.tokens.revoke(other.id)
        await until(lambda: refuses(servers[0], other))  # so its notice, and the one before, have come
        told.set()
    assert not await servers[0].accepts(issued)


async def test_behind_a_pooler_that_delivers_no_notice_nothing_is_taken_from_memory(
    process: Process, user: str, uri: Secret, clock: Clock, postgres: EmbeddedPostgres
) -> None:
    """To listen is answered as ever there."""
    issued, other = [await process.tokens.issue(user, None, MCP, None) for _ in range(2)]
    async with without_notices(postgres.port) as (port, withheld):
        pooled = Process(Secret(uri.reveal().replace(f":{postgres.port}/", f":{port}/") + "?sslmode=disable"), clock)
        async with pooled.tokens.following():
            await withheld.wait()
            await process.tokens.revoke(other.id)
            assert await pooled.accepts(issued)
            assert not await pooled.asks_nothing(issued)
            await process.tokens.revoke(issued.id)
            assert not await pooled.accepts(issued)
        await pooled.control.close()


async def test_without_following_every_check_asks(process: Process, user: str) -> None:
    issued = await process.tokens.issue(user, None, MCP, None)
    for _ in range(3):
        assert not await process.asks_nothing(issued)


async def test_a_token_is_looked_up_again_after_a_minute(servers: list[Process], user: str, clock: Clock) -> None:
    issued = await servers[0].tokens.issue(user, None, MCP, None)
    await remembered(servers[0], issued)
    clock.seconds += FRESH_S
    assert not await servers[0].asks_nothing(issued)
    assert await servers[0].asks_nothing(issued)
