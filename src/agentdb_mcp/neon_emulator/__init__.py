"""A local server that speaks Neon's API v2 on top of one real Postgres cluster.

It imports nothing of agentdb_mcp outside this package, so it cannot share the mistakes of the client that it tests.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import asyncpg

from agentdb_mcp.neon_emulator.app import PREFIX, build_app
from agentdb_mcp.neon_emulator.cluster import open_cluster
from agentdb_mcp.neon_emulator.handlers import Handlers
from agentdb_mcp.neon_emulator.location import SESSION, Location, locate
from agentdb_mcp.neon_emulator.naming import quoted
from agentdb_mcp.neon_emulator.projects import Projects
from agentdb_mcp.neon_emulator.serving import serve
from agentdb_mcp.neon_emulator.state import install, prepare_connection

__all__ = ["Emulator", "neon_emulator"]

POOL_SIZE = 8
CLOSE_TIMEOUT_S = 5


@dataclass(frozen=True, slots=True)
class Emulator:
    """A running emulator; paths such as `/projects` follow `base_url`."""

    base_url: str
    api_key: str = field(repr=False)
    org_id: str


class ClusterUnavailableError(Exception):
    """The cluster cannot be reached with the URI given; says how it failed, never where."""


@asynccontextmanager
async def neon_emulator(
    postgres_uri: str, *, host: str = "127.0.0.1", port: int = 0, api_key: str | None = None
) -> AsyncIterator[Emulator]:
    """Serve Neon's API for the time of the block, on the cluster whose superuser's URI is given.

    What it knows lives in the cluster's database `neon_emulator`: a later run on the same cluster finds every project
    and, unless one is given, the same API key. One emulator a cluster at a time.
    """
    location = locate(postgres_uri)
    async with _state_pool(location) as pool:
        installation = await install(pool)
        projects = Projects(installation, await open_cluster(pool, location))
        await projects.recover()
        key = api_key or installation.api_key
        async with serve(build_app(Handlers(projects), key), host, port) as actual_port:
            shown = f"[{host}]" if ":" in host else host
            yield Emulator(f"http://{shown}:{actual_port}{PREFIX}", key, installation.org_id)


@asynccontextmanager
async def _state_pool(location: Location) -> AsyncIterator[asyncpg.Pool]:
    """Connections to the emulator's own database, which is made when missing."""
    try:
        connection = await location.connect("postgres")
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError, ValueError) as error:
        raise ClusterUnavailableError(type(error).__name__) from None
    try:
        name = location.own_database
        if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name):
            await connection.execute(f"CREATE DATABASE {quoted(name)} TEMPLATE template0 ENCODING 'UTF8'")
    finally:
        await connection.close()
    pool = await asyncpg.create_pool(
        location.superuser_uri,
        database=location.own_database,
        min_size=1,
        max_size=POOL_SIZE,
        server_settings=SESSION,
        init=prepare_connection,
    )
    try:
        yield pool
    finally:
        with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSE_TIMEOUT_S):
            await pool.close()
        pool.terminate()
