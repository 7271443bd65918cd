"""The way into the control database: a pool opened on first use, and one place where driver errors become ours."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass

import anyio
import asyncpg

from agentdb_mcp import connection_uri
from agentdb_mcp.errors import AgentDBError, DatabaseUnavailable, Internal
from agentdb_mcp.logs import get_logger
from agentdb_mcp.models import Secret
from agentdb_mcp.store import migrations

log = get_logger(__name__)

CONNECT_TIMEOUT_S = 10.0
RELEASE_TIMEOUT_S = 2.0
POOL_SIZE = 4
# The second is what the driver raises for a connection that ends at the wrong moment.
CLIENT_ERRORS = (asyncpg.InterfaceError, asyncpg.InternalClientError)
# Seconds between attempts to listen again, the first and the longest.
RECONNECT_S = (0.2, 10.0)
# Begins the notice by which a listener hears that it listens.
PROBE = "probe "


@dataclass(frozen=True, slots=True)
class Notice:
    """What somebody notified on a channel."""

    channel: str
    payload: str


class ControlDatabase:
    """Connections to the control database; opens nothing until the first one is asked for."""

    def __init__(self, uri: Secret, *, migrate: bool = True) -> None:
        self._uri = uri
        self._migrate = migrate
        self._pool: asyncpg.Pool | None = None
        self._opening = anyio.Lock()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection outside of any transaction. Raises DatabaseUnavailable, or Internal for what we did wrong."""
        try:
            pool = await self._open()
            async with _borrow(pool) as connection:
                yield connection
        except AgentDBError:
            raise
        except (asyncpg.PostgresError, *CLIENT_ERRORS, OSError, TimeoutError, ValueError) as error:
            raise control_error(error) from None

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[asyncpg.Connection]:
        """All or nothing. Beginning and end are not cancelled, so that no connection goes back half-way."""
        async with self.connection() as connection:
            transaction = connection.transaction()
            with anyio.CancelScope(shield=True):
                await transaction.start()
            try:
                yield connection
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await transaction.rollback()
                raise
            with anyio.CancelScope(shield=True):
                await transaction.commit()

    async def listen(self, *channels: str, on_lost: Callable[[], None] = lambda: None) -> AsyncGenerator[Notice | None]:
        """What is notified on the channels, until cancelled; None whenever it listens anew and may have missed some.

        That it listens is proven by a notice of its own: through a pooler that keeps no session, none would arrive.
        `on_lost` is called at once when it ceases to listen, and may be called more than once.
        """
        pause = RECONNECT_S[0]
        while True:
            try:
                async with aclosing(self._listen_once(channels, on_lost)) as notices:
                    async for notice in notices:
                        pause = RECONNECT_S[0]
                        yield notice
            except (asyncpg.PostgresError, *CLIENT_ERRORS, OSError, TimeoutError, AgentDBError) as error:
                log.warning("notifications interrupted", error=type(error).__name__)
            await anyio.sleep(pause)
            pause = min(RECONNECT_S[1], 2 * pause)

    async def _listen_once(self, channels: Sequence[str], on_lost: Callable[[], None]) -> AsyncGenerator[Notice | None]:
        await self._open()  # brings the tables up to date
        connection = await _connect(
            connection_uri.for_driver(self._uri),
            timeout=CONNECT_TIMEOUT_S / 2,
            statement_cache_size=0,
            server_settings={"application_name": "agentdb-mcp listener"},
        )
        send, receive = anyio.create_memory_object_stream[Notice](1000)
        ceased = anyio.Event()
        probe = PROBE + secrets.token_hex(8)

        def cease(_: object = None) -> None:
            ceased.set()
            send.close()
            on_lost()

        def offer(_connection: object, _pid: object, channel: str, payload: str) -> None:
            """A listener that is a thousand notices behind begins anew."""
            try:
                send.send_nowait(Notice(channel, payload))
            except anyio.WouldBlock:
                cease()
            except anyio.ClosedResourceError:
                pass

        try:
            connection.add_termination_listener(cease)
            for channel in channels:
                await connection.add_listener(channel, offer)
            async with self.connection() as other:
                await other.execute("SELECT pg_notify($1, $2)", channels[0], probe)
            async for notice in receive:
                if notice.payload == probe and not ceased.is_set():
                    yield None
                elif not notice.payload.startswith(PROBE):
                    yield notice
        finally:
            cease()
            receive.close()
            connection.terminate()

    async def _open(self) -> asyncpg.Pool:
        async with self._opening:
            if self._pool is None:
                pool = asyncpg.create_pool(
                    connection_uri.for_driver(self._uri),
                    min_size=0,
                    max_size=POOL_SIZE,
                    timeout=CONNECT_TIMEOUT_S,
                    command_timeout=30,
                    statement_cache_size=0,
                    connect=_connect,
                    # Sim's times are UTC and do not say so.
                    server_settings={"application_name": "agentdb-mcp control", "TimeZone": "UTC"},
                )
                await pool
                try:
                    if self._migrate:
                        async with _borrow(pool) as connection:
                            await migrations.apply(connection)
                except BaseException:
                    pool.terminate()
                    raise
                self._pool = pool
            return self._pool

    async def close(self) -> None:
        if self._pool is not None:
            with anyio.move_on_after(2, shield=True):
                await self._pool.close()
            self._pool.terminate()


@asynccontextmanager
async def _borrow(pool: asyncpg.Pool) -> AsyncIterator[asyncpg.Connection]:
    """Gives the connection back uncancelled: the driver would go on behind us and complain of a pool that closes.

    One that cannot be given back is lost to the pool, which opens another; what was done on it stands.
    """
    connection = await pool.acquire(timeout=CONNECT_TIMEOUT_S)
    try:
        yield connection
    finally:
        with anyio.CancelScope(shield=True), suppress(asyncpg.PostgresError, *CLIENT_ERRORS, OSError, TimeoutError):
            await pool.release(connection, timeout=RELEASE_TIMEOUT_S)


async def _connect(*where: object, **how: object) -> asyncpg.Connection:
    """Bounded by its timeout and not cancelled: in the middle of negotiating TLS the driver would complain of it."""
    with anyio.CancelScope(shield=True):
        return await asyncpg.connect(*where, **how)


def control_error(error: BaseException) -> AgentDBError:
    """Names the kind of failure; never the address or the login."""
    retryable = False
    match error:
        case asyncpg.InvalidPasswordError() | asyncpg.InvalidAuthorizationSpecificationError():
            what = "The control database refused the login."
        case (
            asyncpg.TooManyConnectionsError()
            | asyncpg.CannotConnectNowError()
            | asyncpg.AdminShutdownError()
            | asyncpg.CrashShutdownError()
            | asyncpg.ObjectNotInPrerequisiteStateError()
        ):
            what, retryable = "The control database takes no connection now.", True
        case asyncpg.DeadlockDetectedError() | asyncpg.SerializationError():
            what, retryable = "Two changes of the same things met in the control database; this one was undone.", True
        case asyncpg.InvalidCatalogNameError():
            what = "The control database does not exist."
        case (
            asyncpg.PostgresConnectionError()
            | asyncpg.InterfaceError()
            | asyncpg.InternalClientError()
            | OSError()
            | TimeoutError()
            | ValueError()
        ):
            what, retryable = "The control database cannot be reached.", True
        case asyncpg.UndefinedTableError() | asyncpg.UndefinedColumnError():
            what = "The control database is not up to date: run `agentdb-mcp migrate`."
        case asyncpg.InsufficientPrivilegeError():
            what = "The control database does not let this login do that."
        case _:
            return Internal(f"The control database failed ({type(error).__name__}).")
    return DatabaseUnavailable(
        what, retryable=retryable, hint="Whoever runs the platform: check AGENTDB_CONTROL_URL with `doctor`."
    )


async def create_database(admin_uri: Secret, name: str) -> None:
    """Make the control database where it is missing, closed to everybody else (for the local stack)."""
    try:
        connection = await asyncpg.connect(connection_uri.for_driver(admin_uri), timeout=CONNECT_TIMEOUT_S)
        try:
            if not await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", name):
                await connection.execute(f'CREATE DATABASE "{name}"')
                await connection.execute(f'REVOKE ALL ON DATABASE "{name}" FROM PUBLIC')
        finally:
            await connection.close()
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
        raise control_error(error) from None
