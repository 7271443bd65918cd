"""Databases that their users brought: a plain login of any name, and no admin beside it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from urllib.parse import quote

import anyio
import asyncpg
import pytest

from agentdb_mcp.embedded import EmbeddedPostgres
from agentdb_mcp.errors import StatementTimeout
from agentdb_mcp.execution import Call, Pools, Statement
from agentdb_mcp.models import DatabaseTarget, Limits, Result, Secret

LIMITS = Limits(timeout_s=10, max_rows=100, max_bytes=100_000)
DEAF = "DO $$BEGIN LOOP BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END$$"


@pytest.fixture(params=["plain", "me@work/a:b?c#d", "100%25", "Ünï 😀", "o'brien\"s"])
def login(request: pytest.FixtureRequest) -> str:
    return f"{request.param}-{secrets.token_hex(4)}"


@pytest.fixture
async def brought(
    postgres: EmbeddedPostgres, superuser: asyncpg.Connection, login: str
) -> AsyncIterator[DatabaseTarget]:
    """A database of the login's own, by a URL in which user and password are percent-encoded."""
    name, password, database = f'"{login.replace(chr(34), 2 * chr(34))}"', "p@ss/w:rd %41", f"b{secrets.token_hex(6)}"
    await superuser.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
    await superuser.execute(f"CREATE DATABASE {database} OWNER {name}")
    user = f"{quote(login, safe='')}:{quote(password, safe='')}"
    yield DatabaseTarget(f"url:{login}", Secret(f"postgresql://{user}@127.0.0.1:{postgres.port}/{database}"))
    await superuser.execute(f"DROP DATABASE {database} WITH (FORCE)")
    await superuser.execute(f"DROP ROLE {name}")


async def run(pools: Pools, target: DatabaseTarget, sql: str, limits: Limits = LIMITS) -> Result:
    (answer,) = await pools.run(target, Call([Statement(sql)], limits, read_only=False))
    return answer


async def backends(superuser: asyncpg.Connection, login: str, query: str) -> int:
    sql = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND query = $2 AND state = 'active'"
    return int(await superuser.fetchval(sql, login, query))


async def test_the_call_runs_as_that_login(pools: Pools, brought: DatabaseTarget, login: str) -> None:
    assert (await run(pools, brought, "SELECT current_user::text")).rows == [[login]]


async def test_what_does_not_listen_to_its_time_limit_is_terminated(
    pools: Pools, brought: DatabaseTarget, login: str, superuser: asyncpg.Connection
) -> None:
    await run(pools, brought, "SELECT 1")  # opening counts too
    with pytest.raises(StatementTimeout, match="was terminated"):
        await run(pools, brought, DEAF, Limits(0.2, 10, 1000))
    assert await backends(superuser, login, DEAF) == 0
    assert (await run(pools, brought, "SELECT 1")).rows == [[1]]


async def test_what_a_caller_who_went_away_was_running_is_terminated(
    pools: Pools, brought: DatabaseTarget, login: str, superuser: asyncpg.Connection
) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(run, pools, brought, DEAF, Limits(60, 10, 1000))
        with anyio.fail_after(30):
            while not await backends(superuser, login, DEAF):
                await anyio.sleep(0.02)
        group.cancel_scope.cancel()
    assert await backends(superuser, login, DEAF) == 0


async def test_the_watchdog_ends_that_call_and_no_other_of_the_same_login(
    pools: Pools, brought: DatabaseTarget
) -> None:
    other = await asyncpg.connect(brought.uri.reveal())
    await run(pools, brought, "SELECT 1")  # opening counts too
    with pytest.raises(StatementTimeout):
        await run(pools, brought, DEAF, Limits(0.2, 10, 1000))
    assert await other.fetchval("SELECT 1") == 1
    await other.close()
