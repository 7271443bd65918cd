"""A control database for each file. Helper modules are imported by their plain names."""

from __future__ import annotations

import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import pytest

from agentdb_mcp.embedded import EmbeddedPostgres
from agentdb_mcp.models import Secret
from agentdb_mcp.store import IdentityStore
from agentdb_mcp.store.control import create_database

sys.path.insert(0, str(Path(__file__).parent))

from token_servers import Clock, Process


@pytest.fixture(scope="module")
async def uri(postgres: EmbeddedPostgres) -> Secret:
    """A control database of this file's own; tests differ by their user."""
    name = f"control_{secrets.token_hex(6)}"
    await create_database(postgres.uri(), name)
    return postgres.uri(name)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def process(uri: Secret, clock: Clock) -> AsyncIterator[Process]:
    """Follows no notices."""
    process = Process(uri, clock)
    yield process
    await process.control.close()


@pytest.fixture
async def servers(uri: Secret, clock: Clock) -> AsyncIterator[list[Process]]:
    """Two that follow."""
    async with AsyncExitStack() as stack:
        processes = [Process(uri, clock) for _ in range(2)]
        for each in processes:
            stack.push_async_callback(each.control.close)
            await stack.enter_async_context(each.tokens.following())
        yield processes


@pytest.fixture
async def admin(process: Process, uri: Secret) -> AsyncIterator[asyncpg.Connection]:
    async with process.control.connection():
        pass  # brings it up to date
    connection = await asyncpg.connect(uri.reveal())
    yield connection
    await connection.close()


@pytest.fixture
async def user(process: Process) -> str:
    """With a workspace `<user>-notes`."""
    identity, user_id = IdentityStore(process.control), f"u{secrets.token_hex(6)}"
    await identity.ensure_user(user_id)
    await identity.ensure_workspace(f"{user_id}-notes", "Notes", user_id)
    return user_id
