"""Checkpoints of a tenant's database: kept states that it can go back to, what they cost and what a restore loses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

import anyio

from agentdb_mcp.costs import Prices, cost_microcents
from agentdb_mcp.errors import AgentDBError, BudgetExceeded, InvalidArgument, NotAllowed
from agentdb_mcp.execution import Pools, Statement
from agentdb_mcp.logs import get_logger
from agentdb_mcp.models import AccessMode, Checkpoint, Kind, Quantities, Scope, Tenant
from agentdb_mcp.policy import Policy
from agentdb_mcp.providers import Provider
from agentdb_mcp.services import recording
from agentdb_mcp.services.calls import Calls
from agentdb_mcp.services.databases import Databases, OpenDatabase
from agentdb_mcp.services.metering import Clock, iso
from agentdb_mcp.services.provisioning import Provisioning
from agentdb_mcp.services.recording import recorded
from agentdb_mcp.services.spending import Spending
from agentdb_mcp.store import AuditStore, Claim, DatabaseRow

log = get_logger(__name__)

# What Neon's prices call a month.
MONTH = timedelta(hours=744)
# Within its lease, for noting what a call that failed left behind.
COUNT_S = 5.0


@dataclass(frozen=True, slots=True)
class Kept:
    """A checkpoint, and micro-cents for keeping it a month."""

    checkpoint: Checkpoint
    month_microcents: int


@dataclass(frozen=True, slots=True)
class Overview:
    """What is kept, the oldest first, and what one more would hold and cost; a `size_bytes` of 0 is not known."""

    kept: tuple[Kept, ...]
    most: int
    keep_days: int
    size_bytes: int
    next_month_microcents: int
    ends_sessions: bool

    @property
    def month_microcents(self) -> int:
        return sum(each.month_microcents for each in self.kept)


@dataclass(frozen=True, slots=True)
class Loss:
    """What a restore takes away, as far as it is known without looking into the database."""

    kept: Kept
    since: timedelta
    size_bytes: int
    # Calls that may have written since, by the audit log, which is some seconds late.
    writing_calls: int


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """For databases that a provider of ours made. Raises NotAllowed for others."""

    policy: Policy
    calls: Calls
    databases: Databases
    provisioning: Provisioning
    spending: Spending
    audit: AuditStore
    pools: Pools
    clock: Clock

    async def overview(self, tenant: Tenant, scope: Scope) -> Overview:
        """Whatever the budget says; wakes no compute but of a database whose size is not known."""
        with self._counted(tenant, scope, "list_checkpoints", Kind.READ):
            database, row, provider = await self._reach(tenant, scope)
            return await self._overview(database, row, provider)

    async def create(self, tenant: Tenant, scope: Scope, name: str = "") -> tuple[Kept, Overview]:
        """Keep the data as it is now, under a name that tells the time if none is given.

        Raises NotAllowed, InvalidArgument, BudgetExceeded, ProvisioningFailed.
        """
        with self._counted(tenant, scope, "create_checkpoint", Kind.SERVER):
            self._check_enabled()
            database, row, provider = await self._reach(tenant, scope)
            name = name or f"checkpoint {iso(self.clock())}"
            async with self._allowed_to_write(database):
                await self._check_size(database, provider)
                made = await self.provisioning.alone(row, lambda claim, at: self._make(claim, at, name))
            await self._changed(tenant, database)
            return self._kept(made, provider), await self._overview(database, row, provider)

    async def look_before_restore(self, tenant: Tenant, scope: Scope, wanted: str) -> Loss:
        """What restoring this checkpoint, by its id or name, would take away; changes nothing."""
        with self._counted(tenant, scope, "restore_checkpoint", Kind.READ):
            database, row, provider = await self._reach(tenant, scope)
            found = _named(await provider.checkpoints(row.project_id or ""), wanted)
            now = self.clock()
            writing = await self.audit.count_writing(tenant.user_id or "", row.id, found.created_at)
            size = await self._size_seen(database)
            return Loss(self._kept(found, provider), now - found.created_at, size, writing)

    async def restore(self, tenant: Tenant, scope: Scope, wanted: str) -> Kept:
        """Put back what the checkpoint kept; sessions end. What came after it is lost."""
        with self._counted(tenant, scope, "restore_checkpoint", Kind.SERVER):
            self._check_enabled()
            database, row, provider = await self._reach(tenant, scope)
            async with self._allowed_to_write(database):
                try:
                    found = await self.provisioning.alone(row, lambda claim, at: self._put_back(claim, at, wanted))
                finally:
                    self._forget(tenant, database)
            await self._changed(tenant, database)
            return self._kept(found, provider)

    async def delete(self, tenant: Tenant, scope: Scope, wanted: str) -> Checkpoint:
        """Forget one checkpoint, whatever the budget says: it makes the database cheaper. Raises NotAllowed."""
        with self._counted(tenant, scope, "delete_checkpoint", Kind.SERVER):
            database, row, _ = await self._reach(tenant, scope)
            self._check_writable(database)
            dropped = await self.provisioning.alone(row, lambda claim, at: self._drop(claim, at, wanted))
            await self._changed(tenant, database)
            return dropped

    async def follow(self) -> None:
        """Drop what has expired, and note what is left, of every database that has checkpoints.

        Raises the first error, after everything was tried.
        """
        errors: list[AgentDBError] = []
        for row in await self.provisioning.databases.with_checkpoints():
            try:
                await self.provisioning.alone(row, self._refresh)
            except AgentDBError as error:
                log.warning("checkpoints not looked at", project=row.project_name, code=error.code)
                errors.append(error)
        if errors:
            raise errors[0]

    # --- what one process does at a time ----------------------------------------------------------------------------

    async def _make(self, claim: Claim, provider: Provider, name: str) -> Checkpoint:
        project_id, rules = claim.row.project_id or "", self.policy.checkpoints
        await provider.tidy(project_id)
        there = await provider.checkpoints(project_id)
        if name in {each.name for each in there}:
            raise InvalidArgument(
                f"There is a checkpoint {name!r} already.",
                hint="A call of yours that failed may have made it: list_checkpoints shows when. Else choose another.",
            )
        if len(there) >= rules.max_per_database:
            raise NotAllowed(
                f"The database has {len(there)} checkpoints, and policy allows {rules.max_per_database}.",
                hint="Delete one with delete_checkpoint first.",
            )
        async with self._counting(claim, provider):
            made = await provider.checkpoint(project_id, name, self.clock() + timedelta(days=rules.keep_days))
        log.info("checkpoint made", project=claim.row.project_name)
        return made

    async def _put_back(self, claim: Claim, provider: Provider, wanted: str) -> Checkpoint:
        project_id = claim.row.project_id or ""
        await provider.tidy(project_id)
        found = _named(await provider.checkpoints(project_id), wanted)
        project = await provider.restore(project_id, found.id)
        await self.provisioning.reopen(claim, project.branch_id)
        log.info("checkpoint restored", project=claim.row.project_name)
        return found

    async def _drop(self, claim: Claim, provider: Provider, wanted: str) -> Checkpoint:
        project_id = claim.row.project_id or ""
        found = _named(await provider.checkpoints(project_id), wanted)
        async with self._counting(claim, provider):
            await provider.drop_checkpoint(project_id, found.id)
        return found

    @asynccontextmanager
    async def _counting(self, claim: Claim, provider: Provider) -> AsyncIterator[None]:
        """Note what is kept after the block, however that ends: a checkpoint may be there that nobody was told of."""
        try:
            yield
        except BaseException:
            with anyio.move_on_after(COUNT_S, shield=True), suppress(AgentDBError):
                await self._refresh(claim, provider)
            raise
        with anyio.CancelScope(shield=True):
            await self._refresh(claim, provider)

    async def _refresh(self, claim: Claim, provider: Provider) -> None:
        await provider.tidy(claim.row.project_id or "")
        there = await provider.checkpoints(claim.row.project_id or "")
        await self.provisioning.databases.record_checkpoints(claim, sum(each.size_bytes for each in there))

    # --- around it --------------------------------------------------------------------------------------------------

    async def _reach(self, tenant: Tenant, scope: Scope) -> tuple[OpenDatabase, DatabaseRow, Provider]:
        database = await self.databases.open(tenant, scope)
        provider = self.provisioning.provider
        recording.reached(database.row_id)
        row = await self.databases.row_of(database)
        if row is None or row.project_id is None or database.payer is None or provider is None:
            raise NotAllowed(
                "This database was not made here but brought by its URL, so nothing here keeps or restores it.",
                hint="Use the backups of whoever runs it.",
            )
        return database, row, provider

    @contextmanager
    def _counted(self, tenant: Tenant, scope: Scope, what: str, kind: Kind) -> Iterator[None]:
        """Written down and counted like a call that runs statements. Raises RateLimited."""
        with recorded(self.calls.recorder, tenant, scope, [Statement(what)], kind), self.calls.one(tenant):
            yield

    @asynccontextmanager
    async def _allowed_to_write(self, database: OpenDatabase) -> AsyncIterator[None]:
        self._check_writable(database)
        async with self.calls.allowance(database, self.policy.limits.timeout_s) as allowance:
            if allowance.reclaim_only or not self.calls.may_write(database, allowance.state):
                raise BudgetExceeded("This is not possible: the budget is used up.", hint=allowance.until or None)
            yield

    def _check_writable(self, database: OpenDatabase) -> None:
        if AccessMode.RESTRICTED in (database.access_mode, self.policy.access.mode):
            raise NotAllowed(
                "This is not possible: access is read-only.", hint="list_checkpoints shows those that there are."
            )

    def _check_enabled(self) -> None:
        if not self.policy.checkpoints.enabled:
            raise NotAllowed("Policy allows no checkpoints.", hint="list_checkpoints shows those that there are.")

    async def _check_size(self, database: OpenDatabase, provider: Provider) -> None:
        """Only of whole copies: snapshots take a moment, however large a database is."""
        if not provider.copies_whole:
            return
        size, most = await self.calls.size(database), self.policy.checkpoints.max_copy_bytes
        if size > most:
            raise NotAllowed(
                f"A checkpoint is a whole copy here, and the database's {size:,} bytes are more than the {most:,}"
                " that policy allows.",
                hint="DROP what is not needed, or copy the tables that matter.",
            )

    async def _overview(self, database: OpenDatabase, row: DatabaseRow, provider: Provider) -> Overview:
        rules = self.policy.checkpoints
        kept = tuple(self._kept(each, provider) for each in await provider.checkpoints(row.project_id or ""))
        size = await self._size_seen(database)
        return Overview(
            kept,
            rules.max_per_database if rules.enabled else 0,
            rules.keep_days,
            size,
            self._month(size, provider),
            provider.copies_whole,
        )

    async def _size_seen(self, database: OpenDatabase) -> int:
        """Of the database without its checkpoints, from what the budget knows."""
        (bill,) = await self.spending.budgets.refresh([database.payer or ""])
        row = await self.databases.row_of(database)  # as what was seen: after the last change of its checkpoints
        seen = (usage.size_bytes for usage, _ in bill.by_database if usage.database_id == database.row_id)
        if size := max(0, max(seen, default=0) - (row.checkpoint_bytes if row else 0)):
            return size
        try:  # nobody has seen it yet, so it was used a moment ago and is awake
            return await self.calls.size(database)
        except AgentDBError as error:
            log.debug("size not seen", code=error.code)
            return 0

    def _kept(self, checkpoint: Checkpoint, provider: Provider) -> Kept:
        return Kept(checkpoint, self._month(checkpoint.size_bytes, provider))

    def _month(self, size_bytes: int, provider: Provider) -> int:
        """Snapshots are billed as history is, whole copies as any storage."""
        held = size_bytes * (MONTH // timedelta(microseconds=1))
        used = Quantities(storage_byte_us=held) if provider.copies_whole else Quantities(history_byte_us=held)
        return cost_microcents(used, Prices.of(self.policy.prices))

    def _forget(self, tenant: Tenant, database: OpenDatabase) -> None:
        """No session of before and nothing that was remembered of it is used again."""
        self.databases.forget(tenant, database.scope)
        self.pools.forget(database.target.key)

    async def _changed(self, tenant: Tenant, database: OpenDatabase) -> None:
        """What is stored now counts from now on."""
        self.databases.forget(tenant, database.scope)
        await self.calls.look_at_size(await self.databases.open(tenant, database.scope))


def _named(there: Sequence[Checkpoint], wanted: str) -> Checkpoint:
    """By its id, or by its name where one alone has it."""
    found = [each for each in there if each.id == wanted] or [each for each in there if each.name == wanted]
    if len(found) == 1:
        return found[0]
    raise InvalidArgument(
        f"There {'is no checkpoint' if not found else 'are several checkpoints'} {wanted[:80]!r}.",
        hint="list_checkpoints tells their ids.",
    )


def age(since: timedelta) -> str:
    """For people: the largest unit that fits."""
    seconds = max(0, int(since.total_seconds()))
    for name, length in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            return f"{seconds // length} {name}{'' if seconds // length == 1 else 's'}"
    return f"{seconds} second{'' if seconds == 1 else 's'}"


def at(moment: datetime | None) -> str | None:
    return None if moment is None else iso(moment)
