"""A budget that is lifted, in every running server at once; and what a killed server had stored."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import asyncpg
import pytest

from agentdb_mcp.local_stack import LocalStack

if TYPE_CHECKING:
    from tests.acceptance.conftest import Answer, Serve, ServeFactory

FLUSH_S = 0.5
TAIL = timedelta(seconds=300)
# Storage that costs what the free tier pays for, and a little more; less than what pauses.
OVERSPENT_BYTE_US = 205 * 1_000_000 * 10**9 * 744 * 3_600_000_000 // 35_000_000
OVERSPEND = """
    INSERT INTO db_usage_ledger (database_id, hour, source, user_id, compute_mcu_us, storage_byte_us, history_byte_us,
                                 egress_bytes, branch_us)
    SELECT id, date_trunc('hour', now()) - interval '3 hours', 'provider', user_id, 0, $2, 0, 0, 0
      FROM workspace_database WHERE user_id = $1 LIMIT 1
"""
CHANGE = """
import sys
import anyio
from agentdb_mcp.bootstrap import open_application
from agentdb_mcp.settings import load_settings

async def main():
    async with open_application(load_settings()) as application:
        usage = application.managed().usage
        await usage.report(sys.argv[1])
        sys.stdin.readline()
        await (usage.reset(sys.argv[1]) if sys.argv[2] == "reset" else usage.set_tier(sys.argv[1], sys.argv[2]))

anyio.run(main)
"""


@pytest.fixture
async def control(stack: LocalStack) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(stack.environ()["AGENTDB_CONTROL_URL"])
    yield connection
    await connection.close()


async def change(environ: dict[str, str], user: str, to: str) -> None:
    """In a process of its own, which is ready when the change is asked for."""
    command = [sys.executable, "-c", CHANGE, user, to]
    done = await anyio.run_process(command, env=environ, input=b"\n", stdout=subprocess.DEVNULL, check=False)
    assert done.returncode == 0, done.stderr.decode()


async def write(server: Serve) -> Answer:
    return await server.call("execute_sql", sql="INSERT INTO t VALUES (1)")


async def test_what_lifts_a_budget_is_known_to_every_server_at_once(
    stack: LocalStack,
    serve: ServeFactory,
    tenant: Callable[..., dict[str, str]],
    control: asyncpg.Connection,
    until: Callable[..., Awaitable[None]],
    tmp_path: Path,
) -> None:
    """The policy here looks at budgets every ten minutes: only the notice can be so quick."""
    policy = tmp_path / "slow.toml"
    policy.write_text('name = "slow"\n[metering]\nflush_s = 600.0\n')
    user = "lifted"
    environ = tenant(user, "lifted-0", AGENTDB_POLICY=str(policy))
    start = datetime.now(UTC) - timedelta(days=2)
    async with AsyncExitStack() as exits:
        servers = [
            await exits.enter_async_context(serve(environ | {"AGENTDB_WORKSPACE_ID": f"lifted-{number}"}))
            for number in range(3)
        ]

        async def refuses(server: Serve) -> bool:
            answer = await write(server)
            assert not answer.is_error or answer.code == "budget_exceeded"
            return answer.is_error

        async def allows(server: Serve) -> bool:
            return not await refuses(server)

        async def exceed() -> None:
            await control.execute(
                "UPDATE user_db_budget SET tier = 'free', period_anchor = $2 WHERE user_id = $1", user, start
            )
            await control.execute("SELECT pg_notify('agentdb_budget', $1)", user)
            for server in servers:
                await until(lambda server=server: refuses(server))

        for server in servers:
            await server.sql("CREATE TABLE t (id int)")
        await control.execute(OVERSPEND, user, OVERSPENT_BYTE_US)
        for to in ("reset", "paid"):
            await exceed()
            await change(environ, user, to)
            for server in servers:
                await until(lambda server=server: allows(server))

        # A notice that comes while nobody listens is made up for.
        await exceed()
        await control.execute("UPDATE user_db_budget SET tier = 'paid' WHERE user_id = $1", user)
        await control.execute(  # after the change, which they find when they listen again
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'agentdb-mcp listener'"
        )
        for server in servers:
            await until(lambda server=server: allows(server))


async def stored(control: asyncpg.Connection, environ: dict[str, str]) -> list[tuple[datetime, datetime]]:
    """The use that the ledger has of the workspace's database, from when to when, without the time until it sleeps."""
    spans = await control.fetchval(
        "SELECT range_agg(l.active) FROM db_usage_ledger AS l JOIN workspace_database AS d ON d.id = l.database_id"
        " WHERE d.workspace_id = $1",
        environ["AGENTDB_WORKSPACE_ID"],
    )
    return [(span.lower, span.upper - TAIL) for span in spans or ()]


@pytest.mark.parametrize(
    "sql",
    [
        pytest.param("SELECT 1", id="short statements", marks=pytest.mark.long),
        pytest.param("SELECT pg_sleep(1.5)", id="long statements"),
    ],
)
async def test_a_killed_server_has_stored_all_but_the_last_interval(
    serve: ServeFactory,
    tenant: Callable[..., dict[str, str]],
    control: asyncpg.Connection,
    until: Callable[..., Awaitable[None]],
    tmp_path: Path,
    sql: str,
) -> None:
    policy = tmp_path / "quick.toml"
    policy.write_text(f'name = "quick"\n[metering]\nflush_s = {FLUSH_S}\n')
    environ = tenant(f"killed-{len(sql)}", f"killed-{len(sql)}", AGENTDB_POLICY=str(policy))
    answered, seen = list[datetime](), list[datetime]()
    async with serve(environ) as server, anyio.create_task_group() as group:
        await server.sql("SELECT 1")
        began = datetime.now(UTC)

        async def load() -> None:
            while True:
                await server.sql(sql)
                answered.append(datetime.now(UTC))

        async def all_but_the_last_interval_is_stored() -> bool:
            """Of the statement that runs, where they are long: its part before the newest flush."""
            looked = datetime.now(UTC)
            spans = await stored(control, environ)
            since = answered[-1] if answered and "sleep" in sql else began + timedelta(seconds=2 * FLUSH_S)
            seen.extend(span[1] for span in spans)
            due = max(since + timedelta(seconds=FLUSH_S / 2), looked - timedelta(seconds=2 * FLUSH_S))
            return bool(spans and answered) and spans[-1][1] > due

        group.start_soon(load)
        await until(all_but_the_last_interval_is_stored)
        group.cancel_scope.cancel()
        server.process.send_signal(signal.SIGKILL)
        killed = datetime.now(UTC)
        await server.process.wait()
    assert answered
    ((first, last),) = await stored(control, environ)
    assert first <= began
    assert max(seen) <= last <= killed
