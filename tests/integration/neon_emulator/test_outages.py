"""The local Neon API outlives outages of its cluster."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import asyncpg
import httpx
import pytest
from emulating import assert_error, client_of, connected, create, uri_of

from agentdb_mcp.embedded import EmbeddedPostgres
from agentdb_mcp.neon_emulator import Behaviour, neon_emulator
from agentdb_mcp.neon_emulator.location import OWN_DATABASE

END = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
     WHERE application_name = 'neon_emulator' AND state = 'idle'
"""

HALF_MADE = "SELECT count(*) FROM project WHERE state = 'creating'"
END_WAITING = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
     WHERE application_name = 'neon_emulator' AND wait_event_type = 'Lock'
"""
WAITS = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE $1 AND wait_event_type = 'Lock')"
ALONE = """
    SELECT NOT EXISTS (SELECT FROM pg_stat_activity
                        WHERE application_name = 'neon_emulator' AND query NOT LIKE 'CREATE DATABASE%')
"""
DROPPED = "SELECT NOT EXISTS (SELECT FROM database JOIN pg_database USING (oid) WHERE project_id = $1)"
CHANGED = "SELECT xmin::text::int8 FROM pg_authid WHERE rolname = $1 AND xmin::text::int8 <> $2"
IN_THE_WAY = "kept CONNECTION '' PUBLICATION none WITH (connect = false, slot_name = NONE)"  # of DROP DATABASE
MADE = "SELECT datname FROM pg_database UNION ALL SELECT rolname FROM pg_roles ORDER BY 1"

QUICK = Behaviour(tick_seconds=0.1)


class Relay:
    """Passes bytes on to a server; while `let_go` is cleared, the ends of its connections are kept back."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._away = False
        self.let_go = asyncio.Event()
        self.let_go.set()

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """As if the server were not there: its connections end, and no new one comes to be."""
        self._away = True
        for writer in self._writers:
            writer.transport.abort()
        yield
        self._away = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._away:
            writer.transport.abort()
            return
        self._writers.add(writer)
        try:
            await self._relay(reader, writer)
        finally:
            self._writers.discard(writer)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, to_upstream = await asyncio.open_connection("127.0.0.1", self._to)
        with contextlib.suppress(OSError):
            await asyncio.gather(_pass_on(reader, to_upstream), self._back(upstream, writer))
        to_upstream.close()
        writer.close()

    async def _back(self, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await upstream.read(65_536):
                writer.write(data)
        await self.let_go.wait()
        writer.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
    writer.close()


@contextlib.asynccontextmanager
async def relayed(port: int) -> AsyncIterator[tuple[Relay, int]]:
    relay = Relay(port)
    server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    async with server:
        yield relay, server.sockets[0].getsockname()[1]


async def test_connections_that_say_goodbye_and_stay_open_do_not_end_the_api(
    postgres: EmbeddedPostgres, caplog: pytest.LogCaptureFixture
) -> None:
    """On a restart a connection may be used between the server's last words and its end."""
    caplog.set_level(logging.WARNING)
    async with relayed(postgres.port) as (relay, port):
        uri = postgres.uri().reveal().replace(f":{postgres.port}/", f":{port}/")
        async with (
            neon_emulator(uri, behaviour=Behaviour(tick_seconds=0.2)) as emulator,
            client_of(emulator) as api,
            connected(postgres.uri().reveal()) as superuser,
        ):
            created = await create(api)
            with anyio.fail_after(60):
                while "fallen due failed (InternalClientError)" not in caplog.text:
                    relay.let_go.clear()
                    for _ in range(10):
                        await superuser.execute(END)
                        await anyio.sleep(0.05)
                    relay.let_go.set()  # whoever asked just when a connection's last words came waits for its end
            with anyio.fail_after(30):
                while (await api.get("/projects")).status_code != 200:
                    await anyio.sleep(0.01)
            async with connected(uri_of(created)) as connection:
                assert await connection.fetchval("SELECT 1") == 1


async def until(superuser: asyncpg.Connection, question: str, *arguments: object) -> Any:
    """What the question finds, once it finds something."""
    with anyio.fail_after(20):
        while not (found := await superuser.fetchval(question, *arguments)):
            await anyio.sleep(0.01)
    return found


async def undone(superuser: asyncpg.Connection, before: list[asyncpg.Record]) -> None:
    """Wait until nothing more is there than before."""
    with anyio.fail_after(20):
        while await superuser.fetch(MADE) != before or await superuser.fetchval(HALF_MADE):
            await anyio.sleep(0.05)


async def test_a_project_whose_creation_an_outage_ended_is_undone_when_it_is_over(postgres: EmbeddedPostgres) -> None:
    """The outage comes when the database is made and its row is not, and lasts until the call is answered."""
    async with relayed(postgres.port) as (relay, port):
        uri = postgres.uri().reveal().replace(f":{postgres.port}/", f":{port}/")
        async with (
            neon_emulator(uri, behaviour=Behaviour(tick_seconds=0.1)) as emulator,
            client_of(emulator) as api,
            connected(postgres.uri(OWN_DATABASE).reveal()) as superuser,
        ):
            before = await superuser.fetch(MADE)
            async with superuser.transaction(), contextlib.AsyncExitStack() as outage:
                await superuser.execute("LOCK TABLE database IN EXCLUSIVE MODE")
                async with anyio.create_task_group() as group:
                    group.start_soon(assert_fails, api)
                    with anyio.fail_after(60):
                        while len(await superuser.fetch(MADE)) != len(before) + 2:
                            await anyio.sleep(0.01)
                    outage.enter_context(relay.away())
            await undone(superuser, before)
            await create(api)


async def test_an_outage_while_the_server_makes_a_database_leaves_nothing_behind(postgres: EmbeddedPostgres) -> None:
    """The server goes on with a statement whose client is gone: the database comes while its role is dropped."""
    own = postgres.uri(OWN_DATABASE).reveal()
    async with relayed(postgres.port) as (relay, port):
        uri = postgres.uri().reveal().replace(f":{postgres.port}/", f":{port}/")
        async with (
            neon_emulator(uri, behaviour=QUICK) as emulator,
            client_of(emulator) as api,
            connected(own) as first,
            connected(own) as then,
            connected(own) as superuser,
        ):
            before = await superuser.fetch(MADE)
            async with anyio.create_task_group() as group, then.transaction():
                async with first.transaction():
                    await first.execute("LOCK TABLE pg_database IN SHARE MODE")
                    group.start_soon(assert_fails, api)
                    await until(superuser, WAITS, "CREATE DATABASE%")
                    await then.execute("LOCK TABLE pg_shdepend IN SHARE MODE")  # who depends on which role
                with relay.away():
                    await until(superuser, ALONE)
                await until(superuser, WAITS, "DROP OWNED%")
            await undone(superuser, before)


async def test_a_project_half_undone_is_hidden_at_once_and_undone_later(postgres: EmbeddedPostgres) -> None:
    """Its creation fails after all is made, and its undoing after its database is dropped."""
    own = postgres.uri(OWN_DATABASE).reveal()
    async with (
        neon_emulator(postgres.uri().reveal(), behaviour=QUICK) as emulator,
        client_of(emulator) as api,
        connected(own) as first,
        connected(own) as then,
        connected(own) as superuser,
    ):
        before = await superuser.fetch(MADE)
        async with then.transaction():
            async with anyio.create_task_group() as group:
                async with first.transaction():
                    await first.execute("LOCK TABLE database IN EXCLUSIVE MODE")
                    group.start_soon(assert_fails, api)
                    await until(superuser, WAITS, "INSERT INTO database%")
                    await then.execute("LOCK TABLE operation IN EXCLUSIVE MODE")
                await until(superuser, WAITS, "UPDATE operation%")
                project_id = await superuser.fetchval("SELECT id FROM project ORDER BY seq DESC LIMIT 1")
                await superuser.execute(END_WAITING)
                await until(superuser, DROPPED, project_id)
                await until(superuser, WAITS, "DELETE FROM project%")
                await superuser.execute(END_WAITING)
            assert (await api.get(f"/projects/{project_id}")).status_code == 404
        await undone(superuser, before)


async def test_what_cannot_be_undone_is_warned_of_once(
    postgres: EmbeddedPostgres, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        neon_emulator(postgres.uri().reveal(), behaviour=QUICK) as emulator,
        client_of(emulator) as api,
        connected(postgres.uri(OWN_DATABASE).reveal()) as superuser,
    ):
        before = await superuser.fetch(MADE)
        created = await create(api)
        project_id, role = created["project"]["id"], created["roles"][0]["name"]
        async with connected(postgres.uri(created["databases"][0]["name"]).reveal()) as inside:
            await inside.execute(f"CREATE SUBSCRIPTION {IN_THE_WAY}")
            await superuser.execute("UPDATE project SET state = 'creating' WHERE id = $1", project_id)
            tried = 0
            for _ in range(4):  # each one changes the role
                tried = await until(superuser, CHANGED, role, tried)
            assert len([record for record in caplog.records if project_id in record.getMessage()]) == 1
            await inside.execute("DROP SUBSCRIPTION kept")
        await undone(superuser, before)


async def assert_fails(api: httpx.AsyncClient) -> None:
    assert_error(await api.post("/projects", json={"project": {}}), 500)


async def test_a_deleted_project_whose_dropping_an_outage_cut_off_is_purged(postgres: EmbeddedPostgres) -> None:
    """Postgres calls its database invalid, and ends whoever alters it."""
    behaviour = Behaviour(tick_seconds=0.1, kept_after_delete_seconds=3)
    async with (
        neon_emulator(postgres.uri().reveal(), behaviour=behaviour) as emulator,
        client_of(emulator) as api,
        connected(postgres.uri().reveal()) as superuser,
    ):
        before = await superuser.fetch(MADE)
        created = await create(api)
        await api.delete(f"/projects/{created['project']['id']}")
        invalid = "UPDATE pg_database SET datconnlimit = -2 WHERE datname = $1"
        assert await superuser.execute(invalid, created["databases"][0]["name"]) == "UPDATE 1"
        with anyio.fail_after(60):
            while await superuser.fetch(MADE) != before:
                await anyio.sleep(0.05)
