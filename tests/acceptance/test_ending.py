"""Everything ends when asked, at once, with exit code 0, and leaves nothing running."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import asyncpg
import httpx2
import psutil
import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

from agentdb_mcp.local_stack import LocalStack

if TYPE_CHECKING:
    from tests.acceptance.conftest import Serve, ServeFactory, StartFactory

WAYS = [
    pytest.param(signal.SIGTERM, id="SIGTERM"),
    pytest.param(signal.SIGINT, id="SIGINT"),
    pytest.param(None, id="end of input"),
]
SLEEP = "SELECT pg_sleep(60)"

Until = Callable[..., Awaitable[None]]


@pytest.fixture(scope="session")
def serve(fresh_serve: ServeFactory) -> ServeFactory:
    """Each starts from nothing."""
    return fresh_serve


@pytest.fixture(scope="module")
async def outside(stack: LocalStack) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(stack.postgres.uri().reveal())
    yield connection
    await connection.close()


@pytest.mark.parametrize("way", WAYS[:2])
async def test_serve_ends_before_it_had_anything_to_do(
    serve: ServeFactory, tenant: Callable[..., dict[str, str]], left_of: Callable[[int], list[str]], way: Any
) -> None:
    async with serve(tenant("ender", "ended")) as server:
        assert await server.end(way) == 0
        assert left_of(server.pid) == []
        assert "Traceback" not in server.stderr()


@pytest.mark.parametrize("way", WAYS)
async def test_serve_ends_while_a_statement_runs_and_its_backends_are_gone(
    serve: ServeFactory,
    tenant: Callable[..., dict[str, str]],
    left_of: Callable[[int], list[str]],
    outside: asyncpg.Connection,
    until: Until,
    way: Any,
) -> None:
    async with serve(tenant("ender", "ended")) as server:
        await server.sql("SELECT 1", database="global")
        ((role,),) = (await server.sql("SELECT current_user")).rows
        await server.send_call("execute_sql", sql=SLEEP)

        async def sleeps() -> bool:
            return bool(
                await outside.fetchval(
                    "SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND query = $2 AND state = 'active'",
                    role,
                    SLEEP,
                )
            )

        async def backends_are_gone() -> bool:
            return not await outside.fetchval("SELECT count(*) FROM pg_stat_activity WHERE usename = $1", role)

        await until(sleeps)
        assert await server.end(way) == 0
        await until(backends_are_gone, within=10)
        assert left_of(server.pid) == []
        assert "Traceback" not in server.stderr()


async def test_input_that_ends_in_the_middle_of_a_line_ends_serve_too(
    serve: ServeFactory, tenant: Callable[..., dict[str, str]]
) -> None:
    async with serve(tenant("ender", "ended")) as server:
        assert server.process.stdin is not None
        server.process.stdin.write(b'{"jsonrpc": "2.0", "id": 9, "met')
        assert await server.end() == 0


async def test_a_client_that_closes_both_ends_leaves_no_server(
    serve: ServeFactory, tenant: Callable[..., dict[str, str]]
) -> None:
    async with serve(tenant("ender", "ended")) as server:
        await server.send_call("execute_sql", sql="SELECT repeat('x', 500000)")
        server.process._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]
        assert await server.end() == 0
        assert "Traceback" not in server.stderr()


def postgres_of(pid: int) -> list[psutil.Process]:
    """The Postgres servers that a process started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [child for child in psutil.Process(pid).children() if "-D" in _words(child)]
    return []


def _words(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


def data_directory(process: psutil.Process) -> str:
    words = _words(process)
    return words[words.index("-D") + 1]


def running_on(directory: str) -> list[int]:
    """Who in /proc has this data directory in its command line, or works in it."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            inside = process.cwd().startswith(directory) if os.access(f"/proc/{process.pid}/cwd", os.R_OK) else False
            if process.status() != psutil.STATUS_ZOMBIE and (inside or directory in process.cmdline()):
                found.append(process.pid)
    return found


async def test_a_killed_demo_leaves_no_postgres_behind(
    start: StartFactory, until: Until, left_of: Callable[[int], list[str]]
) -> None:
    async with start({}, "demo", "--json") as demo:
        assert demo.stdout is not None
        while b"creates a table" not in await demo.stdout.readline():
            pass
        (postgres,) = postgres_of(demo.pid)
        directory = data_directory(postgres)
        assert running_on(directory)
        demo.kill()
        await until(lambda: not running_on(directory) and not left_of(demo.pid))
        shutil.rmtree(Path(directory).parent)


async def first_json(process: Any) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(await process.stdout.readline())
    return fields


async def use(serve: ServeFactory, entry: dict[str, Any], sql: str) -> Serve:
    """Connect as the printed client configuration says, and run one statement."""
    assert entry["args"][-1] == "serve"
    async with serve(entry["env"]) as server:
        await server.sql(sql)
        return server


async def tables_over_http(entry: dict[str, Any]) -> list[str]:
    """As an MCP client configured so sees them."""
    async with (
        httpx2.AsyncClient(headers=entry["headers"], timeout=60) as client,
        streamable_http_client(entry["url"], http_client=client) as (reader, writer),
        ClientSession(reader, writer) as session,
    ):
        await session.initialize()
        answer = await session.call_tool("list_objects", {"schema_name": "public"})
        assert answer.structured_content is not None
        return [found["name"] for found in answer.structured_content["objects"]]


async def ran_its_jobs(entry: dict[str, Any]) -> bool:
    """Whether a worker completed every job on the control database that a client configuration leads to."""
    lines = (await anyio.Path(entry["env"]["AGENTDB_ENV_FILE"]).read_text()).splitlines()
    connection = await asyncpg.connect(dict(line.split("=", 1) for line in lines)["AGENTDB_CONTROL_URL"])
    jobs = await connection.fetch("SELECT last_run_at IS NOT NULL AND last_error IS NULL AS done FROM agentdb_job")
    await connection.close()
    return bool(jobs) and all(job["done"] for job in jobs)


async def test_up_prints_clients_that_work_survives_a_kill_and_ends_by_sigterm(
    start: StartFactory,
    serve: ServeFactory,
    until: Until,
    left_of: Callable[[int], list[str]],
    new_data_dir: Path,
) -> None:
    arguments = ("up", "--data-dir", str(new_data_dir), "--port", "0", "--json")
    async with start({}, *arguments) as up:
        report = await first_json(up)
        clients = report["mcpServers"]
        assert len(clients) == 2
        name, entry = next(iter(clients.items()))
        await use(serve, entry, "CREATE TABLE survivor (id int)")
        over_http = report["mcpServersOverHttp"][name]
        assert await tables_over_http(over_http) == ["survivor"]
        (postgres,) = postgres_of(up.pid)
        directory = data_directory(postgres)
        assert str(new_data_dir) in directory
        up.kill()
        await until(lambda: not running_on(directory) and not left_of(up.pid))
    async with start({}, *arguments) as up:
        report = await first_json(up)
        entry = report["mcpServers"][name]
        await use(serve, entry, "TABLE survivor")
        assert report["mcpServersOverHttp"][name]["headers"] == over_http["headers"]
        assert await tables_over_http(report["mcpServersOverHttp"][name]) == ["survivor"]
        await until(lambda: ran_its_jobs(entry))
        up.terminate()
        await until(lambda: up.returncode is not None)
        assert up.returncode == 0
        assert running_on(directory) == []
        assert left_of(up.pid) == []


async def test_a_killed_neon_emulator_leaves_no_postgres_behind(start: StartFactory, until: Until) -> None:
    async with start({}, "neon-emulator") as emulator:
        await first_json(emulator)
        (postgres,) = postgres_of(emulator.pid)
        directory = data_directory(postgres)
        emulator.kill()
        await until(lambda: not running_on(directory))
        shutil.rmtree(Path(directory).parent)
