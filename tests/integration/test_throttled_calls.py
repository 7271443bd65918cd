"""The policy's number of calls, in a window and at once, on running statements."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import asyncpg
import pytest

from agentdb_mcp.bootstrap import Application, open_application
from agentdb_mcp.errors import RateLimited, SqlError
from agentdb_mcp.execution import Statement
from agentdb_mcp.models import Scope, Secret, Tenant
from agentdb_mcp.settings import load_settings

Opener = Callable[[str], Awaitable[Application]]

ADA, BOB = Tenant("ada", "notes"), Tenant("bob", "notes")
HELD = "SELECT pg_advisory_xact_lock(4711)"


@pytest.fixture
async def open_with(project_uri: Secret, tmp_path: Path) -> AsyncIterator[Opener]:
    """Opens an application under these limits, on one database for any tenant."""
    async with AsyncExitStack() as exits:

        async def open_one(limits: str) -> Application:
            file = tmp_path / "policy.toml"
            file.write_text(f'name = "test"\nversion = "1"\n[limits]\n{limits}\n')
            settings = load_settings({"AGENT_DB_URL": project_uri.reveal(), "AGENTDB_POLICY": str(file)})
            return await exits.enter_async_context(open_application(settings))

        yield open_one


async def query(application: Application, tenant: Tenant, sql: str) -> list[list[object]]:
    return (await application.queries.execute(tenant, Scope.AGENT, [Statement(sql)])).results[0].rows


async def test_calls_past_the_windows_number_are_refused_and_another_tenants_are_not(open_with: Opener) -> None:
    application = await open_with("calls_per_window = 2\nwindow_s = 3600")
    assert await query(application, ADA, "SELECT 1") == [[1]]
    with pytest.raises(SqlError):
        await query(application, ADA, "SELECT 1 / 0")
    for _ in range(3):
        with pytest.raises(RateLimited, match=r"More than 2 calls in 3600 s\.") as refused:
            await query(application, ADA, "SELECT 1")
    assert refused.value.retryable
    assert "execute_transaction" in (refused.value.hint or "")
    assert await query(application, BOB, "SELECT 1") == [[1]]


async def test_catalog_reads_count_as_calls(open_with: Opener) -> None:
    application = await open_with("calls_per_window = 1\nwindow_s = 3600")
    await application.queries.catalog(ADA, Scope.AGENT, [Statement("SELECT 1")])
    with pytest.raises(RateLimited):
        await application.queries.catalog(ADA, Scope.AGENT, [Statement("SELECT 1")])
    with pytest.raises(RateLimited):
        await query(application, ADA, "SELECT 1")


async def test_the_statements_of_one_transaction_are_one_call(open_with: Opener) -> None:
    application = await open_with("calls_per_window = 2\nwindow_s = 3600")
    for _ in range(2):
        await application.queries.execute(ADA, Scope.AGENT, [Statement("SELECT 1")] * 5, transaction=True)
    with pytest.raises(RateLimited):
        await query(application, ADA, "SELECT 1")


async def test_calls_at_once_past_their_number_are_refused_until_one_ends(
    open_with: Opener, project_uri: Secret
) -> None:
    application = await open_with("concurrent_calls = 2")
    holder = await asyncpg.connect(project_uri.reveal())
    async with anyio.create_task_group() as group:
        await holder.execute("SELECT pg_advisory_lock(4711)")
        for _ in range(2):
            group.start_soon(query, application, ADA, HELD)
        with anyio.fail_after(30):
            while await holder.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted AND objid = 4711") < 2:
                await anyio.sleep(0.02)
        with pytest.raises(RateLimited, match="2 calls are running already") as refused:
            await query(application, ADA, "SELECT 1")
        assert refused.value.retryable
        assert "Wait for their answers" in (refused.value.hint or "")
        assert await query(application, BOB, "SELECT 1") == [[1]]
        await holder.execute("SELECT pg_advisory_unlock(4711)")
    assert await query(application, ADA, "SELECT 1") == [[1]]
    await holder.close()


async def test_a_caller_who_went_away_makes_room_for_the_next(open_with: Opener) -> None:
    application = await open_with("concurrent_calls = 1")
    await query(application, ADA, "SELECT 1")  # cancelled while it asks for TLS, the driver leaves an error behind
    with anyio.move_on_after(0.2):
        await query(application, ADA, "SELECT pg_sleep(60)")
    assert await query(application, ADA, "SELECT 1") == [[1]]


async def test_slow_readers_of_streams_leave_most_connections_to_calls(open_with: Opener) -> None:
    application = await open_with("max_connections = 8\npool_size = 8")
    reading, read_on = [anyio.Event(), anyio.Event()], anyio.Event()

    async def read(number: int) -> None:
        async def sink(_columns: object, _rows: object) -> None:
            reading[number].set()
            await read_on.wait()

        await application.queries.stream(ADA, Scope.AGENT, Statement("SELECT generate_series(1, 100)"), sink)

    async with anyio.create_task_group() as readers:
        for number, begun in enumerate(reading):
            readers.start_soon(read, number)
            await begun.wait()
        with pytest.raises(RateLimited) as refused:
            await read(0)
        assert refused.value.retryable
        assert await query(application, BOB, "SELECT 1") == [[1]]
        read_on.set()
    await read(0)


async def test_a_users_slow_exports_leave_connections_to_the_users_agents(open_with: Opener) -> None:
    application = await open_with("pool_size = 4")
    read_on = anyio.Event()

    async def read(reading: anyio.Event) -> None:
        async def sink(_columns: object, _rows: object) -> None:
            reading.set()
            await read_on.wait()

        await application.queries.stream(ADA, Scope.AGENT, Statement("SELECT generate_series(1, 100)"), sink)

    async with anyio.create_task_group() as readers:
        for reading in (anyio.Event(), anyio.Event()):
            readers.start_soon(read, reading)
            await reading.wait()
        with anyio.fail_after(20), pytest.raises(RateLimited):
            await read(anyio.Event())
        assert await query(application, ADA, "SELECT 1") == [[1]]
        read_on.set()
