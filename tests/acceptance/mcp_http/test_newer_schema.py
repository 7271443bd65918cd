"""A newer version's migration lands in the control database: servers and workers of this version go on beside it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

import anyio
import asyncpg
import pytest
from serving import SERVICE_KEY, Holder, HttpServer

from agentdb_mcp.local_stack import local_stack
from agentdb_mcp.store import migrations

if TYPE_CHECKING:
    from tests.acceptance.conftest import CommandFactory, StartFactory

ServeHttp = Callable[..., AbstractAsyncContextManager[HttpServer]]
Until = Callable[..., Awaitable[None]]
KNOWN = migrations.all_migrations()
NEXT = KNOWN[-1].version + 1
# What a newer version may do while older ones run: columns with and without a default, a table, an index.
ADDED = """
    ALTER TABLE {0} ADD COLUMN next_note text, ADD COLUMN next_count integer NOT NULL DEFAULT 7;
    CREATE INDEX ON {0} (next_note);
"""


@pytest.fixture(scope="module")
async def environ(anyio_backend: str) -> AsyncIterator[dict[str, str]]:
    """Of a stack that no other tests use."""
    async with local_stack() as running:
        yield running.environ() | {"AGENTDB_SERVICE_KEY": SERVICE_KEY}


@pytest.fixture
async def control(environ: dict[str, str]) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(environ["AGENTDB_CONTROL_URL"])
    yield connection
    await connection.close()


async def migrate_as_the_next_version(control: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = await control.fetch("SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 2200")
    assert len(tables) >= 11
    sql = "CREATE TABLE agentdb_next (id text PRIMARY KEY);" + "".join(ADDED.format(row[0]) for row in tables)
    step = migrations.Migration(NEXT, "next", sql)
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "all_migrations", lambda: [*KNOWN, step])
        assert await migrations.apply(control) == [step]


async def call(server: HttpServer, holder: Holder, tool: str, **arguments: Any) -> dict[str, Any]:
    async with server.wire(holder) as wire:
        result = (await wire.call("tools/call", {"name": tool, "arguments": arguments}))["result"]
    assert not result.get("isError"), result
    found: dict[str, Any] = result["structuredContent"]
    return found


async def get(server: HttpServer, path: str) -> dict[str, Any]:
    answer = await server.backend.get(path)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def live(server: HttpServer, until: Until) -> Holder:
    """A user's life with all that reads and writes our tables, up to the removal of the workspace."""
    holder = await server.holder(name="a laptop")
    for sql in ("CREATE TABLE kept (n integer)", "INSERT INTO kept VALUES (1)"):
        await call(server, holder, "execute_sql", sql=sql)
    await call(server, holder, "execute_sql", sql="CREATE TABLE shared (n integer)", database="global")
    made = await call(server, holder, "create_checkpoint", name="before")
    assert made["checkpoint"]["name"] == "before"
    assert len((await call(server, holder, "list_checkpoints"))["checkpoints"]) == 1
    assert (await call(server, holder, "get_budget"))["state"] == "ok"
    user = f"/api/users/{holder.user_id}"
    assert len((await get(server, f"{user}/usage"))["breakdown"]) == 2
    assert "days" in await get(server, f"{user}/usage/history")
    tier = await server.backend.put(f"{user}/tier", json={"tier": "free", "custom_budget_cents": 900})
    assert tier.status_code == 200, tier.text
    await server.post(f"{user}/period", {}, status=200)
    await server.post("/api/sync", {}, status=200)

    async def written() -> bool:
        entries = (await get(server, f"{user}/activity"))["entries"]
        return {entry["tool"] for entry in entries} >= {"execute_sql", "create_checkpoint"}

    await until(written)
    await revoke(server, holder)
    removed = await server.backend.delete(f"/api/workspaces/{holder.workspace_id}")
    assert removed.status_code == 202, removed.text

    async def gone() -> bool:
        return (await server.backend.delete(f"/api/workspaces/{holder.workspace_id}")).status_code == 204

    await until(gone, within=60)
    return holder


async def revoke(server: HttpServer, holder: Holder) -> None:
    assert (await server.backend.delete(f"/api/tokens/{holder.token_id}")).status_code == 204
    async with server.wire(holder) as wire:
        assert (await wire.send("{}")).status_code == 401


async def delete_user(server: HttpServer, user_id: str, until: Until) -> None:
    async def gone() -> bool:
        return (await server.backend.delete(f"/api/users/{user_id}")).status_code == 204

    await until(gone, within=60)


async def test_servers_and_workers_go_on_beside_a_newer_version(
    environ: dict[str, str],
    control: asyncpg.Connection,
    serve_http: ServeHttp,
    start: StartFactory,
    command: CommandFactory,
    until: Until,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serve_http("stateless-json", **environ) as server:
        earlier = await server.holder()
        await call(server, earlier, "execute_sql", sql="CREATE TABLE calls (n integer)")
        calls, over = 0, anyio.Event()

        async def keep_calling() -> None:
            nonlocal calls
            while not over.is_set():
                await call(server, earlier, "execute_sql", sql=f"INSERT INTO calls VALUES ({calls})")
                calls += 1

        async with anyio.create_task_group() as group:
            group.start_soon(keep_calling)
            await until(lambda: calls > 0)
            await migrate_as_the_next_version(control, monkeypatch)
            seen = calls
            await until(lambda: calls > seen)
            over.set()
        lived = [await live(server, until)]

        # One that is started again during the roll-out, and a worker.
        async with serve_http("stateless-json", **environ) as again, start(environ, "worker"):
            rows = await call(again, earlier, "execute_sql", sql="SELECT count(*), max(n) FROM calls")
            assert rows["rows"] == [[calls, calls - 1]]
            lived.append(await live(again, until))
            jobs = "SELECT count(*) >= 9 AND bool_and(last_run_at IS NOT NULL) FROM agentdb_job"
            await until(lambda: control.fetchval(jobs))
        assert await control.fetch("SELECT name, last_error FROM agentdb_job WHERE last_error IS NOT NULL") == []
        for holder in [earlier, *lived]:
            await delete_user(server, holder.user_id, until)
        assert "internal" not in server.stderr()

    done = await command(environ, "migrate")
    assert (done.code, done.out) == (0, "Up to date.\n")
    done = await command(environ, "audit", "verify")
    assert done.code == 0, done.out
    done = await command(environ, "doctor", "--json")
    assert done.code == 0, done.out
    findings = {finding["check"]: finding for finding in json.loads(done.out)["findings"]}
    assert findings["migrations"]["ok"] is None
    assert f"newer than this version: it has step {NEXT:04}" in findings["migrations"]["message"]
    columns = "SELECT next_note, next_count FROM db_audit_log UNION SELECT next_note, next_count FROM agentdb_job"
    assert [tuple(row) for row in await control.fetch(columns)] == [(None, 7)]
