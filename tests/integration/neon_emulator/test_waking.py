"""Computes of the local Neon API fall asleep and wake."""

from __future__ import annotations

import anyio
import asyncpg
import httpx
import pytest
from emulating import DAY_S, GONE, advance, connected, controlled, create, done, endpoint_path, state_of, uri_of

from agentdb_mcp.neon_emulator import Behaviour


async def test_suspending_ends_connections_and_a_new_one_wakes_the_compute(api: httpx.AsyncClient) -> None:
    created = await create(api)
    async with connected(uri_of(created)) as old:
        assert await old.fetchval("SELECT 1") == 1
        logged: list[str] = []
        old.add_termination_listener(lambda _connection: logged.append("ended"))
        body = await done(api, "POST", f"{endpoint_path(created)}/suspend")
        assert [operation["action"] for operation in body["operations"]] == ["suspend_compute"]
        assert await state_of(api, created) == "idle"
        with pytest.raises(GONE):
            await old.fetchval("SELECT 1")
        assert logged == ["ended"]
    async with connected(uri_of(created)) as new:
        assert await new.fetchval("SELECT 1") == 1
    assert await state_of(api, created) == "active"
    assert (await done(api, "POST", f"{endpoint_path(created)}/start"))["operations"] == []
    await done(api, "POST", f"{endpoint_path(created)}/suspend")
    assert len((await done(api, "POST", f"{endpoint_path(created)}/start"))["operations"]) == 1
    assert len((await done(api, "POST", f"{endpoint_path(created)}/restart"))["operations"]) == 2


async def test_a_statement_that_runs_when_the_compute_is_suspended_fails_with_57p01(
    api: httpx.AsyncClient, superuser: asyncpg.Connection
) -> None:
    created = await create(api)
    runs = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(30)' AND state = 'active')"
    async with connected(uri_of(created)) as busy, anyio.create_task_group() as group:

        async def suspend() -> None:
            with anyio.fail_after(25):
                while not await superuser.fetchval(runs):
                    await anyio.sleep(0.01)
            await done(api, "POST", f"{endpoint_path(created)}/suspend")

        group.start_soon(suspend)
        with pytest.raises(asyncpg.PostgresConnectionError) as ended:
            await busy.execute("SELECT pg_sleep(30)")
    cause = ended.value.__cause__
    assert isinstance(cause, asyncpg.AdminShutdownError)
    assert str(cause) == "terminating connection due to administrator command"


async def test_what_is_idle_falls_asleep_and_what_is_busy_does_not(
    api: httpx.AsyncClient, control: httpx.AsyncClient
) -> None:
    idle, busy = await create(api), await create(api)
    async with connected(uri_of(idle)) as one, connected(uri_of(busy)) as other:
        assert await one.fetchval("SELECT 1") == 1
        await other.execute("BEGIN")
        await advance(control, 301)
        assert await state_of(api, idle) == "idle"
        assert await state_of(api, busy) == "active"
        assert await other.fetchval("SELECT 1") == 1
    change = {"endpoint": {"suspend_timeout_seconds": -1}}
    await done(api, "PATCH", endpoint_path(busy), json=change)
    await advance(control, DAY_S)
    assert await state_of(api, busy) == "active"


async def test_waking_takes_the_cold_start_that_was_chosen() -> None:
    behaviour = Behaviour(operation_seconds=0, cold_start_seconds=60)
    async with controlled(behaviour) as (_, api, control):
        created = await create(api)
        await done(api, "POST", f"{endpoint_path(created)}/suspend")
        async with anyio.create_task_group() as group:
            answers: list[int] = []

            async def ask() -> None:
                async with connected(uri_of(created)) as waking:
                    answers.append(await waking.fetchval("SELECT 1"))

            group.start_soon(ask)
            with anyio.fail_after(25):
                while await state_of(api, created) != "init":
                    await anyio.sleep(0.01)
            assert answers == []
            await advance(control, 60)
        assert answers == [1]
