"""Make a database exist, or cease to exist, once, whoever asks and whoever dies on the way.

Row first, then project, then URI, then ready; removal by a tombstone that stays until the project is gone. A claim on
the row (lease and fence, store/databases.py) makes one flight of all callers in all processes; the project's name is
what an unknown outcome is looked up by.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import anyio

from agentdb_mcp import metrics
from agentdb_mcp.credentials.cipher import Cipher
from agentdb_mcp.errors import AgentDBError, ConfigurationError, DatabaseUnavailable, ProvisioningFailed
from agentdb_mcp.execution import layout
from agentdb_mcp.logs import get_logger, register_secret
from agentdb_mcp.models import DatabaseStatus, Project, ProjectSettings, Scope
from agentdb_mcp.providers import Provider, project_name
from agentdb_mcp.services.variables import Variables
from agentdb_mcp.store import Claim, DatabaseRow, DatabaseStore
from agentdb_mcp.telemetry import traced

log = get_logger(__name__)

T = TypeVar("T")

LEASE_S = 60.0
WAIT_S = 150.0
# For a turn with a database, and to clean up after what failed.
TURN_S, TIDY_S = 20.0, 5.0
_BEGINNING = [DatabaseStatus.PENDING, DatabaseStatus.PROVISIONING]
_GONE = {DatabaseStatus.DELETING, DatabaseStatus.DELETED}


@dataclass(frozen=True, slots=True)
class Provisioning:
    """The saga. `provider` and `cipher` are None where the platform configured none."""

    databases: DatabaseStore
    provider: Provider | None
    cipher: Cipher | None
    connection_limit: int
    # What a new project is made with, by who pays for it.
    settings: Callable[[str | None], Awaitable[ProjectSettings]]
    variables: Variables

    @traced("provisioning.ensure")
    async def ensure(self, scope: Scope, owner_id: str) -> DatabaseRow:
        """The ready row of a declared database: made by us, or waited for while another process makes it."""
        name = project_name(scope, owner_id)
        pause = 0.05
        with anyio.move_on_after(WAIT_S):
            while True:
                row = await self.databases.find(scope, name)
                if row is None or row.status in _GONE:
                    raise _deleted(scope)
                if row.status is DatabaseStatus.READY:
                    return row
                claim = await self.databases.claim(scope, name, _BEGINNING, LEASE_S)
                if claim is not None:
                    await self._claimed(claim, self._make)
                    continue
                await anyio.sleep(pause)
                pause = min(1.0, pause * 1.5)
        raise ProvisioningFailed(
            "The database is still being made by another process.", hint="Run it again in a minute.", retryable=True
        )

    async def remove(self, row: DatabaseRow) -> None:
        """Tombstone, then project, then deleted; waits while another process does it.

        Databases that users brought are only forgotten.
        """
        await self.databases.tombstone(row)
        pause = 0.05
        with anyio.move_on_after(WAIT_S):
            while await self._still_there(row):
                claim = await self.databases.claim(row.scope, row.project_name, [DatabaseStatus.DELETING], LEASE_S)
                if claim is not None:
                    await self._claimed(claim, self._unmake)
                    return
                await anyio.sleep(pause)
                pause = min(1.0, pause * 1.5)
            return
        raise ProvisioningFailed(
            "The database is still being removed by another process.", hint="Run it again in a minute.", retryable=True
        )

    async def alone(self, row: DatabaseRow, work: Callable[[Claim, Provider], Awaitable[T]]) -> T:
        """Do something with a ready database's project that one process does at a time; waits for its turn.

        What fails is tidied up. Where that fails too, or we die, the lease runs out, which `reconcile` sees.
        """
        provider, _ = self._configured()
        claim = await self._turn(row)
        done: list[T] = []
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._keep_lease, claim)
                done.append(await work(claim, provider))
                group.cancel_scope.cancel()
            await self.databases.release(claim, None)
        except BaseException as wrapped:  # noqa: BLE001  (it is raised again, unwrapped)
            error = _only(wrapped)
            with anyio.CancelScope(shield=True), anyio.move_on_after(TIDY_S, shield=True):
                try:
                    await provider.tidy(claim.row.project_id or "")
                    error = await self._release(claim, error)
                except AgentDBError as failure:
                    log.warning("not tidied up", project=row.project_name, code=failure.code)
            raise error from None
        return done[0]

    async def _turn(self, row: DatabaseRow) -> Claim:
        pause = 0.05
        with anyio.move_on_after(TURN_S):
            while True:
                claim = await self.databases.claim(row.scope, row.project_name, [DatabaseStatus.READY], LEASE_S)
                if claim is not None:
                    return claim
                if not await self._still_there(row):
                    raise _deleted(row.scope)
                await anyio.sleep(pause)
                pause = min(1.0, pause * 1.5)
        raise ProvisioningFailed(
            "Another process makes or restores a checkpoint of the database.", hint="Run it again.", retryable=True
        )

    async def look_again(self, row: DatabaseRow) -> None:
        """Mend what an interrupted `alone` left."""

        async def mend(claim: Claim, provider: Provider) -> None:
            await provider.tidy(claim.row.project_id or "")
            await self.reopen(claim, None)

        await self.alone(row, mend)

    @traced("provisioning.reopen")
    async def reopen(self, claim: Claim, branch_id: str | None) -> None:
        """Write down the way in anew: a restore may have brought back an older password and older rights."""
        provider, cipher = self._configured()
        row = claim.row
        project = Project(row.project_id or "", row.project_name, branch_id)
        access, role = await provider.access(project), row.role_name or ""
        register_secret(access.uri)
        await layout.install(access.uri, role, connection_limit=self.connection_limit)
        await self.databases.record_project(claim, project.id, branch_id)
        await self.databases.record_ready(claim, cipher.encrypt(access.uri), access.database_name, role)

    async def _still_there(self, row: DatabaseRow) -> bool:
        now = await self.databases.find(row.scope, row.project_name)
        return now is not None and now.generation == row.generation and now.status is not DatabaseStatus.DELETED

    async def _claimed(self, claim: Claim, work: Callable[[Claim], Awaitable[None]]) -> None:
        """Do the work while the lease is kept alive; give the lease back if it fails."""
        kind = "remove" if claim.row.status in _GONE else "make"
        started, outcome = anyio.current_time(), "done"
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._keep_lease, claim)
                await work(claim)
                group.cancel_scope.cancel()
        except BaseException as wrapped:  # noqa: BLE001  (it is raised again, unwrapped)
            error = _only(wrapped)
            with anyio.CancelScope(shield=True), anyio.move_on_after(5, shield=True):
                error = await self._release(claim, error)
            outcome = error.code if isinstance(error, AgentDBError) else "interrupted"
            raise error from None
        finally:
            metrics.PROVISIONED.add(kind, outcome)
            metrics.PROVISIONING_SECONDS.observe(anyio.current_time() - started, kind)

    async def _keep_lease(self, claim: Claim) -> None:
        """Renew it until the work ends; losing the row ends the work."""
        while True:
            await anyio.sleep(LEASE_S / 3)
            await self.databases.renew(claim, LEASE_S)

    async def _release(self, claim: Claim, error: BaseException) -> BaseException:
        """Give the lease back; gives what to raise: a row that was lost is why the work on it failed."""
        code = error.code if isinstance(error, AgentDBError) else "interrupted"
        try:
            await self.databases.release(claim, code)
        except ProvisioningFailed as lost:
            log.info("work on a row that was lost", project=claim.row.project_name, code=code)
            return await self._how_lost(claim, lost) if isinstance(error, AgentDBError) else error
        except AgentDBError as failure:  # the lease ends by itself
            log.warning("lease not released", project=claim.row.project_name, code=failure.code)
        return error

    async def _how_lost(self, claim: Claim, lost: ProvisioningFailed) -> AgentDBError:
        if claim.row.status in _GONE:  # it was being removed, and somebody else goes on with that
            return lost
        try:
            row = await self.databases.find(claim.row.scope, claim.row.project_name)
        except AgentDBError:
            return lost
        return _deleted(claim.row.scope) if row is None or row.status in _GONE else lost

    @traced("provisioning.make")
    async def _make(self, claim: Claim) -> None:
        provider, cipher = self._configured()
        row = claim.row
        found = await provider.find(row.project_name)
        project = found[0] if found else await provider.create(row.project_name, await self.settings(row.user_id))
        await self.databases.record_project(claim, project.id, project.branch_id)
        access = await provider.access(project)
        register_secret(access.uri)
        role = row.role_name or layout.new_role_name()
        await layout.install(access.uri, role, connection_limit=self.connection_limit)
        await self.databases.record_ready(claim, cipher.encrypt(access.uri), access.database_name, role)
        log.info("database ready", project=row.project_name, adopted=bool(found))

    @traced("provisioning.remove")
    async def _unmake(self, claim: Claim) -> None:
        if claim.row.ownership == "platform":
            provider, _ = self._configured()
            for project in await provider.find(claim.row.project_name):
                await provider.delete(project.id)
        if claim.row.owner_id is not None:
            await self.variables.remove(claim.row.scope, claim.row.owner_id)
        await self.databases.record_deleted(claim)
        log.info("database deleted", project=claim.row.project_name)

    def _configured(self) -> tuple[Provider, Cipher]:
        if self.provider is None:
            raise ProvisioningFailed(
                "No database exists yet and none can be made: there is no Neon key.",
                hint="Whoever runs the platform: set NEON_API_KEY or AGENTDB_PROVIDER_URL, or give the database's URL.",
            )
        if self.cipher is None:
            raise ConfigurationError(
                "AGENTDB_ENCRYPTION_KEYS is missing: connection strings are stored encrypted only.",
                hint="Set it to a key of 64 hexadecimal characters; `openssl rand -hex 32` prints one.",
            )
        return self.provider, self.cipher


def _deleted(scope: Scope) -> DatabaseUnavailable:
    return DatabaseUnavailable(
        f"The {scope} database was deleted.", hint="Whoever runs the platform can create it anew."
    )


def _only(error: BaseException) -> BaseException:
    """What a task group wrapped, if it is one thing."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
