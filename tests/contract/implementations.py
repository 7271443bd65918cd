"""Every provider, each with its far side running. A new implementation joins by one line in IMPLEMENTATIONS."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import anyio
import asyncpg

from agentdb_mcp.embedded import EmbeddedPostgres
from agentdb_mcp.models import ProjectAccess, Secret
from agentdb_mcp.neon_emulator import neon_emulator
from agentdb_mcp.providers import NeonConfig, PostgresConfig, Provider, open_provider
from agentdb_mcp.settings import NeonOrganization

WRONG_KEY = Secret("napi_" + "0" * 40)


@dataclass(frozen=True, slots=True)
class Service:
    """A provider's far side, running: opens a provider on it with the right key, or with another one."""

    connect: Callable[[Secret | None], AbstractAsyncContextManager[Provider]]
    # What no message may show.
    private: tuple[str, ...]
    # Whether a name is one project's, so that creating it again returns it.
    names_are_unique: bool
    # Whether a deleted project can be brought back.
    recovers: bool


@asynccontextmanager
async def neon(postgres: EmbeddedPostgres) -> AsyncIterator[Service]:
    async with neon_emulator(postgres.uri().reveal()) as emulator:

        def connect(key: Secret | None) -> AbstractAsyncContextManager[Provider]:
            organization = NeonOrganization("default", key or Secret(emulator.api_key), emulator.org_id)
            return open_provider(NeonConfig(emulator.base_url, (organization,), compute_cu=0.25))

        private = (emulator.api_key, emulator.base_url, urlsplit(emulator.base_url).netloc)
        yield Service(connect, private, names_are_unique=False, recovers=True)


@asynccontextmanager
async def cluster(postgres: EmbeddedPostgres) -> AsyncIterator[Service]:
    def connect(key: Secret | None) -> AbstractAsyncContextManager[Provider]:
        uri = postgres.uri().reveal()
        return open_provider(
            PostgresConfig(Secret(uri.replace(postgres.password.reveal(), key.reveal()) if key else uri))
        )

    private = (postgres.password.reveal(), "127.0.0.1", str(postgres.port))
    yield Service(connect, private, names_are_unique=True, recovers=False)


IMPLEMENTATIONS = {"neon": neon, "postgres": cluster}


async def connections_left(superuser: asyncpg.Connection) -> list[str]:
    """Ours, and those to other databases than the cluster's own, once those that are ending have ended."""
    names: list[str] = []
    with anyio.move_on_after(30):
        while True:
            rows = await superuser.fetch(
                "SELECT datname, application_name FROM pg_stat_activity WHERE backend_type = 'client backend'"
                " AND (datname <> ALL (ARRAY['postgres', 'neon_emulator']) OR application_name LIKE 'agentdb-mcp%')"
            )
            names = [f"{row['datname']}: {row['application_name']}" for row in rows]
            if not names:
                break
            await anyio.sleep(0.02)
    return names


@asynccontextmanager
async def connected(access: ProjectAccess) -> AsyncIterator[asyncpg.Connection]:
    with anyio.CancelScope(shield=True):  # cancelled while it asks for TLS, the driver leaves an error behind
        connection = await asyncpg.connect(access.uri.reveal())
    try:
        yield connection
    finally:
        await connection.close()


async def ask(access: ProjectAccess, sql: str) -> object:
    async with connected(access) as connection:
        return await connection.fetchval(sql)
