from __future__ import annotations

import contextlib
import secrets
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import anyio
import anyio.abc
import pytest

from agentdb_mcp.bootstrap import Application, open_application
from agentdb_mcp.embedded import EmbeddedPostgres
from agentdb_mcp.execution import Pools, PoolSettings, layout
from agentdb_mcp.local_stack import LocalStack, local_stack
from agentdb_mcp.models import DatabaseTarget, Secret
from agentdb_mcp.settings import load_settings
from agentdb_mcp.store.control import create_database


@pytest.fixture(scope="module")
async def stack(anyio_backend: str) -> AsyncIterator[LocalStack]:
    async with local_stack() as running:
        yield running


@pytest.fixture(scope="module")
async def environ(stack: LocalStack) -> dict[str, str]:
    """Settings with a control database of this file's own; tests differ by their user."""
    name = f"control_{secrets.token_hex(6)}"
    await create_database(stack.postgres.uri(), name)
    return stack.environ() | {"AGENTDB_CONTROL_URL": stack.postgres.uri(name).reveal()}


@pytest.fixture(scope="module")
async def application(environ: dict[str, str]) -> AsyncIterator[Application]:
    async with open_application(load_settings(environ)) as application:
        yield application


@pytest.fixture
async def pools() -> AsyncIterator[Pools]:
    pools = Pools(PoolSettings(size=4, grace_s=1.0))
    yield pools
    await pools.close()


@pytest.fixture
async def agent_database(project_uri: Secret) -> DatabaseTarget:
    """A platform database with the agent's sealed role."""
    role = layout.new_role_name()
    await layout.install(project_uri, role, connection_limit=8)
    return DatabaseTarget("agent", project_uri, role=role)


@dataclass(slots=True)
class Relay:
    """Stands between us and Postgres; from the moment a client sends the text on, it holds back or resets."""

    upstream: int
    port: int = 0
    mute_at: bytes | None = None
    reset_at: bytes | None = None
    reset_once: bytes | None = None
    sent: list[bytes] = field(default_factory=list)

    def in_front_of(self, uri: Secret) -> Secret:
        return Secret(uri.reveal().replace(f":{self.upstream}/", f":{self.port}/"))

    async def serve(self, client: anyio.abc.SocketStream) -> None:
        async with client, await anyio.connect_tcp("127.0.0.1", self.upstream) as server:
            muted = anyio.Event()
            async with anyio.create_task_group() as group:
                group.start_soon(self._questions, client, server, muted, group.cancel_scope)
                await self._answers(server, client, muted)
                group.cancel_scope.cancel()

    async def _questions(
        self,
        client: anyio.abc.SocketStream,
        server: anyio.abc.SocketStream,
        muted: anyio.Event,
        both: anyio.CancelScope,
    ) -> None:
        with contextlib.suppress(anyio.BrokenResourceError):
            async for data in client:
                self.sent.append(data)
                if self.mute_at is not None and self.mute_at in data:
                    muted.set()
                once = self.reset_once is not None and self.reset_once in data
                if once or (self.reset_at is not None and self.reset_at in data):
                    self.reset_once = None
                    raw: socket.socket = client.extra(anyio.abc.SocketAttribute.raw_socket)
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    break
                await server.send(data)
        both.cancel()

    async def _answers(
        self, server: anyio.abc.SocketStream, client: anyio.abc.SocketStream, muted: anyio.Event
    ) -> None:
        with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            async for data in server:
                if not muted.is_set():
                    await client.send(data)


@pytest.fixture
async def relay(postgres: EmbeddedPostgres) -> AsyncIterator[Relay]:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        relay = Relay(postgres.port, listener.extra(anyio.abc.SocketAttribute.local_port))
        group.start_soon(listener.serve, relay.serve)
        yield relay
        group.cancel_scope.cancel()


@pytest.fixture
def relayed_database(relay: Relay, agent_database: DatabaseTarget) -> DatabaseTarget:
    """The agent's database behind the relay."""
    return replace(agent_database, key="relayed", uri=relay.in_front_of(agent_database.uri))
