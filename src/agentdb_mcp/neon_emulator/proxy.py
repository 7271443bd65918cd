"""What stands in front of Postgres, as at Neon: it wakes computes, counts bytes and knows who is connected.

One protocol object a side and no task once both are joined: what comes in goes out in the same callback.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import cast

import anyio
from anyio.abc import TaskGroup

from agentdb_mcp.neon_emulator.computes import UNKNOWN_ENDPOINT, Computes, Refused
from agentdb_mcp.neon_emulator.errors import CLUSTER_ERRORS
from agentdb_mcp.neon_emulator.serving import listen
from agentdb_mcp.neon_emulator.startup import (
    CANCEL_REQUEST,
    GSS_REQUEST,
    SSL_REQUEST,
    NotPostgresError,
    Startup,
    code_of,
    error_packet,
    read_startup,
    take_packet,
)
from agentdb_mcp.neon_emulator.state import Endpoint
from agentdb_mcp.neon_emulator.tasks import task_group

GREETING_S = 30
FIND = """
SELECT endpoint.id
  FROM endpoint
  JOIN branch ON branch.id = endpoint.branch_id
  JOIN project ON project.id = endpoint.project_id AND project.state = 'ready'
  LEFT JOIN (SELECT DISTINCT role.project_id FROM role JOIN pg_roles ON pg_roles.oid = role.oid
              WHERE pg_roles.rolname = $1) AS by_role ON by_role.project_id = project.id
  LEFT JOIN (SELECT coalesce(known.project_id, owner.project_id) AS project_id, known.branch_id
               FROM pg_database
               LEFT JOIN database AS known ON known.oid = pg_database.oid
               LEFT JOIN role AS owner ON owner.oid = pg_database.datdba
              WHERE pg_database.datname = $2 LIMIT 1) AS by_name ON by_name.project_id = project.id
 WHERE CASE WHEN $3::text IS NULL THEN by_role.project_id IS NOT NULL OR by_name.project_id IS NOT NULL
            ELSE endpoint.id = $3 END
 ORDER BY by_role.project_id IS NULL, by_name.branch_id IS DISTINCT FROM branch.id, branch.parent_id IS NOT NULL
 LIMIT 1
"""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where Postgres is, and what decides about connections to it."""

    host: str
    port: int
    computes: Computes

    async def endpoint_of(self, startup: Startup) -> str | None:
        """None for roles and databases that no project has: Postgres itself says what it thinks of them."""
        user = startup.parameters.get("user", "")
        found: str | None = await self.computes.pool.fetchval(
            FIND, user, startup.parameters.get("database", user), startup.endpoint
        )
        if found is None and startup.endpoint is not None:
            raise Refused("XX000", UNKNOWN_ENDPOINT)
        return found


class _Side(asyncio.Protocol):
    """One side of a connection; `peer` is the other one's transport."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.peer: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _error: Exception | None) -> None:
        if self.peer is not None:
            self.peer.close()

    def pause_writing(self) -> None:
        """What this side cannot take any more, the other one must not read."""
        if self.peer is not None:
            self.peer.pause_reading()

    def resume_writing(self) -> None:
        if self.peer is not None:
            self.peer.resume_reading()


class _Server(_Side):
    """Postgres's side."""

    def __init__(self, client: _Client) -> None:
        super().__init__()
        self._client = client

    def data_received(self, data: bytes) -> None:
        self._client.count(len(data))
        if self.peer is not None:
            self.peer.write(data)


class _Client(_Side):
    """The client's side: reads the startup packet, then passes bytes on."""

    def __init__(self, upstream: Upstream, group: TaskGroup, clients: set[_Client]) -> None:
        super().__init__()
        self._upstream = upstream
        self._group = group
        self._clients = clients
        self._buffer = bytearray()
        self._more = anyio.Event()
        self._lost = False
        self._endpoint: Endpoint | None = None
        self.asking = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._clients.add(self)
        self._group.start_soon(self._open)

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._clients.discard(self)
        self._lost = True
        self._more.set()
        if self._endpoint is not None:
            self._upstream.computes.sessions[self._endpoint.id].discard(self)
            self._upstream.computes.touch(self._endpoint)

    def data_received(self, data: bytes) -> None:
        if self.peer is None:
            self._buffer += data
            self._more.set()
            return
        if self._endpoint is not None:
            self._upstream.computes.touch(self._endpoint)
        self.asking = True
        self.peer.write(data)

    def count(self, sent: int) -> None:
        self.asking = False
        if self._endpoint is not None:
            self._upstream.computes.usage.count_sent(self._endpoint.id, sent)
            self._upstream.computes.touch(self._endpoint)

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    async def _open(self) -> None:
        """From the first byte to the joining of both sides."""
        try:
            with anyio.fail_after(GREETING_S):
                startup = await self._greet()
            if startup is not None:
                if refusal := startup.unsupported():
                    raise Refused("08P01", refusal)
                await self._join(startup)
        except Refused as refused:
            self._end(error_packet(refused.sqlstate, refused.message))
        except (NotPostgresError, TimeoutError):
            self._end()
        except CLUSTER_ERRORS as error:
            logger.warning("a connection could not be passed on (%s)", type(error).__name__)
            self._end(error_packet("08006", "the compute cannot be reached"))
        except BaseException:
            self.abort()
            raise

    def _end(self, last: bytes = b"") -> None:
        if self.transport is not None:
            self.transport.write(last)
            self.transport.close()

    async def _greet(self) -> Startup | None:
        """The startup packet; None when there is nothing to join."""
        while True:
            packet = await self._packet()
            if packet is None or self.transport is None:
                return None
            match code_of(packet):
                case code if code in (SSL_REQUEST, GSS_REQUEST):
                    self.transport.write(b"N")
                case code if code == CANCEL_REQUEST:
                    await self._cancel(packet)
                    return None
                case _:
                    return read_startup(packet)

    async def _packet(self) -> bytes | None:
        while (packet := take_packet(self._buffer)) is None:
            if self._lost:
                return None
            self._more = anyio.Event()
            await self._more.wait()
        return packet

    async def _cancel(self, packet: bytes) -> None:
        """A cancel request goes to Postgres as it is, and its end is the answer."""
        async with await anyio.connect_tcp(self._upstream.host, self._upstream.port) as stream:
            await stream.send((len(packet) + 4).to_bytes(4, "big") + packet)
            with anyio.move_on_after(GREETING_S):
                with suppress(anyio.EndOfStream):
                    await stream.receive()
        self._end()

    async def _join(self, startup: Startup) -> None:
        endpoint_id = await self._upstream.endpoint_of(startup)
        endpoint = await self._upstream.computes.admit(endpoint_id) if endpoint_id is not None else None
        if self._lost or self.transport is None:
            return
        if endpoint is not None:
            self._endpoint = endpoint
            self._upstream.computes.sessions[endpoint.id].add(self)
        loop = asyncio.get_running_loop()
        target, server = await loop.create_connection(lambda: _Server(self), self._upstream.host, self._upstream.port)
        if self._lost or self.transport.is_closing():
            target.abort()
            return
        server.peer = self.transport
        target.write(startup.packet() + bytes(self._buffer))
        self._buffer.clear()
        self.peer = target


@asynccontextmanager
async def serve_proxy(upstream: Upstream, host: str, wanted_port: int) -> AsyncIterator[int]:
    """Pass connections on for the time of the block; gives the port. No connection outlives the block."""
    clients: set[_Client] = set()
    try:
        listener = listen(host, wanted_port)
    except OSError:  # taken meanwhile
        listener = listen(host, 0)

    async with task_group() as group:
        server = await asyncio.get_running_loop().create_server(
            lambda: _Client(upstream, group, clients), sock=listener
        )
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            group.cancel_scope.cancel()
            for client in list(clients):
                client.abort()
