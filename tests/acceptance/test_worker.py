"""`agentdb-mcp worker` as platforms run it: several beside each other, killed and ended at will."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

import asyncpg
import pytest

from agentdb_mcp.local_stack import LocalStack

if TYPE_CHECKING:
    from tests.acceptance.conftest import CommandFactory, StartFactory

HALF_MADE = """
    INSERT INTO workspace_database (workspace_id, user_id, project_name, updated_at)
    VALUES ($1, 'ada', 'agent-' || $1, now() - interval '1 hour')
"""
WITHOUT_A_PROVIDER = ["owners", "prune-audit", "prune-ledger", "prune-tokens", "settle-budgets", "variables"]
DUE_AGAIN = "UPDATE agentdb_job SET next_run_at = now(), lease_expires_at = NULL"


@pytest.fixture
async def control(stack: LocalStack, command: CommandFactory) -> AsyncIterator[asyncpg.Connection]:
    environ = stack.environ()
    assert (await command(environ, "users", "create", "ada")).code == 0
    connection = await asyncpg.connect(environ["AGENTDB_CONTROL_URL"])
    await connection.execute(
        "INSERT INTO workspace (id, name, owner_id) VALUES ('w1', 'One', 'ada'), ('w2', 'Two', 'ada')"
        " ON CONFLICT DO NOTHING"
    )
    yield connection
    await connection.close()


async def test_workers_mend_what_was_left_whoever_of_them_dies(
    stack: LocalStack,
    control: asyncpg.Connection,
    start: StartFactory,
    command: CommandFactory,
    projects: Callable[[], Awaitable[list[str]]],
    until: Callable[..., Awaitable[None]],
    left_of: Callable[[int], list[str]],
) -> None:
    environ = stack.environ()
    await control.execute(HALF_MADE, "w1")
    async with start(environ, "worker") as one, start(environ, "worker") as other:

        async def ready(workspace_id: str) -> bool:
            status = await control.fetchval(
                "SELECT status FROM workspace_database WHERE workspace_id = $1", workspace_id
            )
            return status == "ready" and f"agent-{workspace_id}" in await projects()

        async def noted() -> bool:
            return bool(
                await control.fetchval("SELECT last_run_at IS NOT NULL FROM agentdb_job WHERE name = 'reconcile'")
            )

        await until(lambda: ready("w1"), within=60)
        await until(noted)
        one.kill()
        await control.execute(HALF_MADE, "w2")
        await control.execute(DUE_AGAIN)
        await until(lambda: ready("w2"), within=60)
        other.terminate()
        await until(lambda: other.returncode is not None)
        assert other.returncode == 0
        assert left_of(other.pid) == []
        assert other.stdout is not None
        assert await other.stdout.read() == b""
    done = await command(environ, "doctor")
    assert "ok    job reconcile: last ran at 2" in done.out


async def test_a_worker_needs_a_control_database(command: CommandFactory) -> None:
    without = await command({}, "worker")
    assert without.code == 2
    assert "AGENTDB_CONTROL_URL" in without.one_line


async def test_a_worker_without_a_provider_still_keeps_budgets(
    stack: LocalStack, start: StartFactory, control: asyncpg.Connection, until: Callable[..., Awaitable[None]]
) -> None:
    await control.execute("DELETE FROM agentdb_job")
    async with start({"AGENTDB_CONTROL_URL": stack.environ()["AGENTDB_CONTROL_URL"]}, "worker") as worker:

        async def ran() -> bool:
            rows = await control.fetch("SELECT name FROM agentdb_job WHERE last_run_at IS NOT NULL")
            return {row["name"] for row in rows} >= set(WITHOUT_A_PROVIDER)

        await until(ran)
        worker.terminate()
        await until(lambda: worker.returncode is not None)
        assert worker.returncode == 0
    rows = await control.fetch("SELECT name, last_error FROM agentdb_job ORDER BY name")
    assert list(map(tuple, rows)) == [(name, None) for name in WITHOUT_A_PROVIDER]


def test_serve_does_not_load_the_jobs() -> None:
    program = (
        "import sys; from agentdb_mcp.cli import main\n"
        "try: main()\n"
        "finally: print(*sorted(name for name in sys.modules if name.startswith('agentdb_mcp.')), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "serve"],
        env={"AGENT_DB_URL": "postgresql://u:p@127.0.0.1:1/d"},
        input="",
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    loaded = done.stderr.split()
    assert "agentdb_mcp.mcp_server.stdio" in loaded
    assert not [name for name in loaded if name.startswith(("agentdb_mcp.jobs", "agentdb_mcp.store.jobs"))]
