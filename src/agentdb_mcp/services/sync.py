"""The provider's figures in the place of our estimates.

Idempotent: an hour's figure replaces the one before. Whatever was missed is asked for again, from where each database's
figures end; Neon keeps hours for a week, days for two months.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from agentdb_mcp.logs import get_logger
from agentdb_mcp.models import Consumption, Quantities
from agentdb_mcp.policy import Policy
from agentdb_mcp.providers import Provider
from agentdb_mcp.services.budgets import Budgets
from agentdb_mcp.services.metering import Clock
from agentdb_mcp.services.pausing import Pausing
from agentdb_mcp.store import BilledProject, DatabaseStore, LedgerStore, SettledHour

Item = TypeVar("Item")

log = get_logger(__name__)

# Projects that one of Neon's answers may be about.
BATCH = 100
USERS_AT_ONCE = 200
HOUR = timedelta(hours=1)


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
        wanted.sort(key=_since)
        hours = estimated = billed = 0
        for number, batch in enumerate(_batches(wanted, BATCH)):
            found = await self._ask(batch, until)
            synced = {hour.database_id: until for hour in found}
            drift = await self.ledger.settle(found, synced, self.policy.compute.max_mcu)
            hours += len(found)
            estimated += drift.estimated_mcu_us
            billed += drift.billed_mcu_us
            progress(number * BATCH + len(batch), len(wanted))
        for users in _batches(sorted({each.user_id for each in wanted if each.user_id}), USERS_AT_ONCE):
            await self.pausing.follow(await self.budgets.look(users))
        return Synced(len(wanted), hours, estimated, billed)

    async def _ask(self, batch: Sequence[BilledProject], until: datetime) -> list[SettledHour]:
        spans = await self.provider.consumption([each.project_id for each in batch], _since(batch[0]), until)
        if all(span.compute_cu_seconds is None for span in spans):
            return []  # a provider that does not measure computes: estimates stand
        by_project = {each.project_id: each.database_id for each in batch}
        return [
            hour
            for span in spans
            if span.project_id in by_project and span.end <= until
            for hour in _by_hour(by_project[span.project_id], span)
        ]


def _since(project: BilledProject) -> datetime:
    return _hour(project.synced or project.created_at)


def _by_hour(database_id: str, span: Consumption) -> Iterable[SettledHour]:
    """A longer span in equal parts: days are all that is known of what is long ago."""
    whole, parts = Quantities.of(span), max(1, (span.end - span.start) // HOUR)
    for index in range(parts):
        share = Quantities(*(_part(getattr(whole, name), index, parts) for name in Quantities.__slots__))
        yield SettledHour(database_id, span.start + index * HOUR, share)


def _batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _part(amount: int, index: int, parts: int) -> int:
    return amount * (index + 1) // parts - amount * index // parts


def _hour(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
