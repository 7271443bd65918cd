"""The local Neon API outlives outages of its cluster."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import anyio
import pytest
from emulating import client_of, connected, create, uri_of

from agentdb_mcp.embedded import EmbeddedPostgres
from agentdb_mcp.neon_emulator import Behaviour, neon_emulator

END = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
     WHERE application_name = 'neon_emulator' AND state = 'idle'
"""


class Relay:
    """Passes bytes on to a server; while `let_go` is cleared, the ends of its connections are kept back."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.let_go = asyncio.Event()
        self.let_go.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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
            relay.let_go.clear()
            with anyio.fail_after(20):
                while "fallen due failed (InternalClientError)" not in caplog.text:
                    await superuser.execute(END)
                    await anyio.sleep(0.05)
            relay.let_go.set()
            with anyio.fail_after(10):
                while (await api.get("/projects")).status_code != 200:
                    await anyio.sleep(0.01)
            async with connected(uri_of(created)) as connection:
                assert await connection.fetchval("SELECT 1") == 1
