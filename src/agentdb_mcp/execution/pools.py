"""One small pool a database, opened on demand; the deadline and the watchdog of every call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import anyio
import asyncpg
from asyncpg.pool import PoolConnectionProxy

from agentdb_mcp.errors import AgentDBError, DatabaseUnavailable, SqlError
from agentdb_mcp.execution import layout
from agentdb_mcp.execution.errors import CONNECTION_ERRORS, ENDED_BY_SERVER, connection_error
from agentdb_mcp.execution.guard import GuardedConnection
from agentdb_mcp.execution.login import REAP_TIMEOUT_S, open_session, reap
from agentdb_mcp.execution.session import BrokenSession, Call, StaleSession, run_call
from agentdb_mcp.execution.types import BUILTIN_TYPES, TypeInfo
from agentdb_mcp.logs import get_logger
from agentdb_mcp.models import DatabaseTarget, Result

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """Connections a database, seconds until an idle one is closed, and how long a call waits for its turn."""

    size: int = 4
    idle_s: float = 300.0
    acquire_timeout_s: float = 30.0
    grace_s: float = 2.0


class DatabasePool:
    """The sessions of one database."""

    def __init__(self, target: DatabaseTarget, settings: PoolSettings, pool: asyncpg.Pool) -> None:
        self._target = target
        self._settings = settings
        self._pool = pool
        # One for each session of the pool: whoever has one waits for nothing but a connection being opened.
        self._turns = anyio.Semaphore(settings.size)
        self._types: dict[int, TypeInfo] = dict(BUILTIN_TYPES)

    async def run(self, call: Call) -> list[Result]:
        """Run one call, on a fresh connection if an idle one turns out to be dead."""
        await self._wait_for_turn()
        try:
            return await self._run_on_living(call)
        finally:
            self._turns.release()

    async def _run_on_living(self, call: Call) -> list[Result]:
        opening = 0.0
        last: AgentDBError = DatabaseUnavailable("The database cannot be reached.", retryable=True)
        for _ in range(self._settings.size + 1):
            started = anyio.current_time()
            borrowed = await self._acquire(call.limits.timeout_s, opening)
            opening += anyio.current_time() - started
            try:
                first, *others = await self._run_once(borrowed, call)
            except StaleSession as stale:
                log.debug("an idle connection had died", reason=stale.error.code)
                last = stale.error
            else:
                return [replace(first, opening_s=opening), *others]
        raise last

    async def _run_once(self, borrowed: PoolConnectionProxy, call: Call) -> list[Result]:
        """Whatever happens, the session is clean afterwards or gone."""
        session: GuardedConnection = borrowed._con  # noqa: SLF001  (the proxy answers nothing once it is broken)
        pid = session.get_server_pid()
        clean = gone = False
        try:
            results = await run_call(
                session, call, self._types, sealed=self._target.role is not None, grace_s=self._settings.grace_s
            )
            clean = not session.is_closed()
            if not call.read_only:  # types may have been renamed or dropped
                self._types = dict(BUILTIN_TYPES)
        except StaleSession:
            raise
        except BrokenSession as broken:
            gone = session.is_closed() and broken.error.sqlstate in ENDED_BY_SERVER
            raise _ran(broken.error) from None
        except AgentDBError:
            clean = True  # the call has failed, its reset has not
            raise
        except CONNECTION_ERRORS as error:
            raise _ran(connection_error(error)) from None
        except (UnicodeError, LookupError) as error:  # the driver's own, of text that is not UTF-8
            if isinstance(error, KeyError | IndexError):
                raise
            raise SqlError(
                "The answer could not be read: client_encoding must stay UTF8.",
                hint="Leave client_encoding alone; convert values with convert_from() and convert_to().",
            ) from None
        finally:
            with anyio.CancelScope(shield=True):
                if not clean:
                    session.terminate()
                    if not gone:  # looking for a backend would wake the compute that was suspended
                        await self._reap(pid)
                await self._pool.release(borrowed)
        return results

    async def _wait_for_turn(self) -> None:
        with anyio.move_on_after(self._settings.acquire_timeout_s):
            await self._turns.acquire()
            return
        raise DatabaseUnavailable("All sessions of the database are busy.", hint="Run it again.", retryable=True)

    async def _acquire(self, patience_s: float, spent_s: float) -> PoolConnectionProxy:
        """A session: an idle one, or a new one, for which a sleeping compute may have to wake."""
        try:
            with anyio.move_on_after(patience_s - spent_s):
                return await self._pool.acquire()
        except CONNECTION_ERRORS as error:
            raise connection_error(error) from None
        raise DatabaseUnavailable(
            f"The database took no connection within {patience_s:g} s: it may still be waking up.",
            hint="Run it again in a few seconds.",
            retryable=True,
        )

    async def _reap(self, pid: int) -> None:
        try:
            with anyio.fail_after(REAP_TIMEOUT_S):
                await reap(self._target, pid)
        except (*CONNECTION_ERRORS, asyncpg.PostgresError) as error:
            log.warning("watchdog could not end a backend", pid=pid, error=type(error).__name__)

    async def close(self) -> None:
        with anyio.move_on_after(self._settings.grace_s):
            await self._pool.close()
            return
        self._pool.terminate()


def _ran(error: AgentDBError) -> AgentDBError:
    if isinstance(error, DatabaseUnavailable):
        error.ran = True
    return error


async def _no_reset(_connection: asyncpg.Connection) -> None:
    """The call has reset its session itself (session.py)."""


class Pools:
    """All open databases of this process, by their target's key."""

    def __init__(self, settings: PoolSettings) -> None:
        self._settings = settings
        self._pools: dict[str, DatabasePool] = {}
        self._closed = False

    async def run(self, target: DatabaseTarget, call: Call) -> list[Result]:
        """Run the call on the target. Raises AgentDBError only."""
        return await (await self._pool(target)).run(call)

    async def install_extension(self, target: DatabaseTarget, name: str) -> None:
        """As the admin, for an extension that policy allows and the agent's role may not create."""
        await layout.install_extension(target, name)

    async def _pool(self, target: DatabaseTarget) -> DatabasePool:
        if self._closed:
            raise DatabaseUnavailable("The server is shutting down.", retryable=True)
        if target.key not in self._pools:
            pool = asyncpg.create_pool(
                min_size=0,
                max_size=self._settings.size,
                max_inactive_connection_lifetime=self._settings.idle_s,
                connect=_opener(target),
                connection_class=GuardedConnection,
                reset=_no_reset,
            )
            await pool  # opens nothing yet: min_size is 0
            self._pools[target.key] = DatabasePool(target, self._settings, pool)
        return self._pools[target.key]

    async def forget(self, key: str) -> None:
        """Close the pool of a database that was deleted or replaced."""
        if (pool := self._pools.pop(key, None)) is not None:
            await pool.close()

    async def close(self) -> None:
        """Close every connection; running calls get a moment to end."""
        self._closed = True
        async with anyio.create_task_group() as group:
            for pool in self._pools.values():
                group.start_soon(pool.close)
        self._pools.clear()


def _opener(target: DatabaseTarget) -> Callable[..., object]:
    async def connect(_dsn: object = None, **driver: object) -> asyncpg.Connection:
        return await open_session(target, **driver)

    return connect
