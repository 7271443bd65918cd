"""The provider's figures in the place of our estimates.

Idempotent: an hour's figure replaces the one before. Whatever was missed is asked for again, from where each database's
figures end; Neon keeps hours for a week, days for two months.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta

from agentdb_mcp import metrics
from agentdb_mcp.logs import get_logger
from agentdb_mcp.models import Quantities
from agentdb_mcp.policy import Policy
from agentdb_mcp.providers import Provider
from agentdb_mcp.services.budgets import Budgets
from agentdb_mcp.services.metering import Clock
from agentdb_mcp.services.pausing import Pausing
from agentdb_mcp.store import BilledDatabase, DatabaseStore, LedgerStore, SettledHour

log = get_logger(__name__)

# Projects that one of Neon's answers may be about.
BATCH = 100
HOUR = timedelta(hours=1)
_AMOUNTS = tuple(field.name for field in fields(Quantities))


# A database and the time that one of the provider's figures is about.
Stretch = tuple[str, datetime, datetime]


@dataclass(frozen=True, slots=True)
class Synced:
    """What a sync did: `projects` asked for and `hours` settled; `error_percent` is by how much compute was missed."""

    projects: int
    hours: int
    estimated_mcu_us: int
    billed_mcu_us: int

    @property
    def error_percent(self) -> float | None:
        if not self.billed_mcu_us:
            return None
        return 100 * (self.estimated_mcu_us - self.billed_mcu_us) / self.billed_mcu_us


@dataclass(frozen=True, slots=True)
class Sync:
    policy: Policy
    provider: Provider
    databases: DatabaseStore
    ledger: LedgerStore
    budgets: Budgets
    pausing: Pausing
    clock: Clock

    async def run(self, progress: Callable[[int, int], None] = lambda _done, _all: None) -> Synced:
        """Settle every whole hour that is over for long enough. Raises ProvisioningFailed, DatabaseUnavailable."""
        until = _hour(self.clock() - timedelta(seconds=self.policy.metering.settle_s))
        wanted = [each for each in await self.databases.billed() if _since(each) < until]
        wanted.sort(key=lambda each: (_since(each), each.user_id or ""))
        done = hours = estimated = billed = 0
        for batch in _batches(wanted):
            found = await self._ask(batch, until)
            synced = {hour.database_id: until for hour in found}
            drift = await self.ledger.settle(found, synced, self.policy.compute.max_mcu)
            await self.pausing.follow(await self.budgets.look({each.user_id for each in batch if each.user_id}))
            done += len(batch)
            hours += len(found)
            estimated += drift.estimated_mcu_us
            billed += drift.billed_mcu_us
            metrics.SYNCED_CU_SECONDS.add("estimate", by=drift.estimated_mcu_us / 1e9)
            metrics.SYNCED_CU_SECONDS.add("bill", by=drift.billed_mcu_us / 1e9)
            metrics.SYNCED.add("projects", by=len(batch))
            metrics.SYNCED.add("hours", by=len(found))
            progress(done, len(wanted))
        return Synced(len(wanted), hours, estimated, billed)

    async def _ask(self, batch: Sequence[BilledDatabase], until: datetime) -> list[SettledHour]:
        """What is not known of each; the one that was missed longest decides from when on all are asked about."""
        by_project = {project_id: each for each in batch for project_id in each.project_ids}
        spans = await self.provider.consumption(list(by_project), _since(batch[0]), until)
        if all(span.compute_cu_seconds is None for span in spans):
            return []  # a provider that does not measure computes: estimates stand
        used: defaultdict[Stretch, Quantities] = defaultdict(Quantities)
        since = {each.database_id: _since(each) for each in batch}
        for span in spans:
            each = by_project.get(span.project_id)
            if each is not None and since[each.database_id] < span.end <= until:
                used[each.database_id, span.start, span.end] += Quantities.of(span)
        begun = {database_id: start for database_id, start, _ in used if start < since[database_id]}
        known = await self.ledger.settled([(each, start, since[each]) for each, start in begun.items()])
        hours: list[SettledHour] = []
        for (database_id, start, end), whole in used.items():
            if start < since[database_id]:
                start, whole = since[database_id], _rest(whole, known.get(database_id, Quantities()))
            hours += _by_hour(database_id, start, end, whole)
        return hours


def _since(database: BilledDatabase) -> datetime:
    return _hour(database.synced or database.created_at)


def _by_hour(database_id: str, start: datetime, end: datetime, whole: Quantities) -> Iterable[SettledHour]:
    """A longer stretch in equal parts: days are all that is known of what is long ago."""
    parts = (end - start) // HOUR
    if parts <= 1:
        yield SettledHour(database_id, start, whole)
        return
    for index in range(parts):
        share = Quantities(*(_part(getattr(whole, name), index, parts) for name in _AMOUNTS))
        yield SettledHour(database_id, start + index * HOUR, share)


def _rest(whole: Quantities, known: Quantities) -> Quantities:
    """Of a day whose first hours are known; never less than nothing, as figures are rounded and revised."""
    return Quantities(*(max(0, getattr(whole, name) - getattr(known, name)) for name in _AMOUNTS))


def _batches(wanted: Iterable[BilledDatabase]) -> Iterator[list[BilledDatabase]]:
    """All projects of a database are in one."""
    batch: list[BilledDatabase] = []
    projects = 0
    for each in wanted:
        if batch and projects + len(each.project_ids) > BATCH:
            yield batch
            batch, projects = [], 0
        batch.append(each)
        projects += len(each.project_ids)
    if batch:
        yield batch


def _part(amount: int, index: int, parts: int) -> int:
    return amount * (index + 1) // parts - amount * index // parts


def _hour(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
