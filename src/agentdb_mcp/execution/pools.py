"""Running calls on databases that are opened on demand: the deadline and the watchdog of every call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import asyncpg

from agentdb_mcp import metrics
from agentdb_mcp.errors import AgentDBError, DatabaseUnavailable, SqlError
from agentdb_mcp.execution import layout
from agentdb_mcp.execution.connections import Connections, PoolSettings, Slot
from agentdb_mcp.execution.errors import CONNECTION_ERRORS, ENDED_BY_SERVER, connection_error
from agentdb_mcp.execution.guard import GuardedConnection
from agentdb_mcp.execution.login import REAP_TIMEOUT_S, open_session, reap
from agentdb_mcp.execution.session import BrokenSession, Call, StaleSession, run_call
from agentdb_mcp.execution.types import BUILTIN_TYPES
from agentdb_mcp.logs import get_logger
from agentdb_mcp.models import DatabaseTarget, Result
from agentdb_mcp.telemetry import told, traced

log = get_logger(__name__)

# Connections that a call tries: an idle one that turns out to be dead, and fresh ones.
ATTEMPTS = 5


class Pools:
    """All open databases of this process, by their target's key."""

    def __init__(self, settings: PoolSettings) -> None:
        self._settings = settings
        self._connections = Connections(settings)

    async def run(
        self, target: DatabaseTarget, call: Call, slot: Slot | None = None, begun: Callable[[], None] = lambda: None
    ) -> list[Result]:
        """Run the call on the target, on a fresh connection if an idle one is dead. Raises AgentDBError only.

        A `slot` is one of the target's that the caller holds already. `begun` is called once the database has answered
        and the caller's own is about to run.
        """
        if slot is not None:
            return await self._run_on_living(slot, target, call, begun)
        async with self._connections.slot(target.key) as own:
            return await self._run_on_living(own, target, call, begun)

    @asynccontextmanager
    async def two_slots(self, first: DatabaseTarget, second: DatabaseTarget) -> AsyncIterator[tuple[Slot, Slot]]:
        """One of each, for a call that runs on both at once. Raises DatabaseUnavailable."""
        async with self._connections.two_slots(first.key, second.key) as slots:
            yield slots

    async def install_extension(self, target: DatabaseTarget, name: str) -> None:
        """As the admin, for an extension that policy allows and the agent's role may not create."""
        await layout.install_extension(target, name)

    def forget(self, key: str) -> None:
        """Close what is open of a database that was deleted or replaced; calls that run on it may end."""
        self._connections.forget(key)

    async def close(self) -> None:
        """Close every connection; running calls get a moment to end."""
        await self._connections.close()

    async def _run_on_living(
        self, slot: Slot, target: DatabaseTarget, call: Call, begun: Callable[[], None]
    ) -> list[Result]:
        opening = 0.0
        last: AgentDBError = DatabaseUnavailable("The database cannot be reached.", retryable=True)
        for _ in range(ATTEMPTS):
            if slot.connection is None:
                started = anyio.current_time()
                slot.connection = await _open(target, call.limits.timeout_s, opening)
                # It may be another database by now, brought back from a checkpoint.
                slot.database.types = dict(BUILTIN_TYPES)
                metrics.CONNECTION_OPEN_SECONDS.observe(anyio.current_time() - started)
                opening += anyio.current_time() - started
            try:
                first, *others = await self._run_once(slot, slot.connection, target, call, begun)
            except StaleSession as stale:
                log.debug("an idle connection had died", reason=stale.error.code)
                last = stale.error
            else:
                return [replace(first, opening_s=opening) if opening else first, *others]
        raise last

    async def _run_once(
        self, slot: Slot, session: GuardedConnection, target: DatabaseTarget, call: Call, begun: Callable[[], None]
    ) -> list[Result]:
        """Whatever happens, the session is clean afterwards or gone."""
        pid = session.get_server_pid()
        clean = gone = False
        try:
            sealed, grace_s = target.role is not None, self._settings.grace_s
            results = await run_call(session, call, slot.database.types, begun, sealed=sealed, grace_s=grace_s)
            clean = not session.is_closed()
            if not call.read_only:  # types may have been renamed or dropped
                slot.database.types = dict(BUILTIN_TYPES)
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
            if not clean:
                slot.close()
                if not gone:  # looking for a backend would wake the compute that was suspended
                    with anyio.CancelScope(shield=True):
                        await _reap(target, pid)
        return results


@traced("connection.open", "client", told.POSTGRES)
async def _open(target: DatabaseTarget, patience_s: float, spent_s: float) -> GuardedConnection:
    """A new session, for which a sleeping compute may have to wake."""
    with anyio.move_on_after(patience_s - spent_s):
        return await open_session(target, connection_class=GuardedConnection)
    raise DatabaseUnavailable(
        f"The database took no connection within {patience_s:g} s: it may still be waking up.",
        hint="Run it again in a few seconds.",
        retryable=True,
    )


@traced("watchdog", "client", told.POSTGRES)
async def _reap(target: DatabaseTarget, pid: int) -> None:
    try:
        with anyio.fail_after(REAP_TIMEOUT_S):
            await reap(target, pid)
        metrics.KILLED.add("ended")
    except (*CONNECTION_ERRORS, asyncpg.PostgresError) as error:
        metrics.KILLED.add("failed")
        log.warning("watchdog could not end a backend", pid=pid, error=type(error).__name__)


def _ran(error: AgentDBError) -> AgentDBError:
    if isinstance(error, DatabaseUnavailable):
        error.ran = True
    return error
