"""What a call may spend, and what it spent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from agentdb_mcp.costs import MICROCENTS_PER_CENT
from agentdb_mcp.errors import AgentDBError, BudgetExceeded
from agentdb_mcp.logs import get_logger
from agentdb_mcp.models import BudgetState, Kind, Limits, Result, StatementFacts
from agentdb_mcp.services.bills import Bill
from agentdb_mcp.services.budgets import Budgets
from agentdb_mcp.services.databases import OpenDatabase
from agentdb_mcp.services.metering import Metering, iso
from agentdb_mcp.services.pausing import Pausing

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Allowance:
    """The state that a call is judged by and the seconds that it may run; no bill where it costs nobody anything."""

    state: BudgetState
    seconds: float
    bill: Bill | None = None
    reclaim_only: bool = False
    lowered: bool = False

    def check(self, facts: Sequence[StatementFacts]) -> None:
        """Raises BudgetExceeded where only space may be given back and the statements do something else."""
        if self.reclaim_only and not all(_reclaims(fact) for fact in facts):
            raise BudgetExceeded(
                "The data that is stored will use the rest of the budget up until the period ends.",
                hint=f"DROP what is not needed, which is still allowed. {self.until}",
            )

    def shortened(self, limits: Limits, statements: int) -> Limits:
        """The limits of each of so many statements, which together run no longer than this allows."""
        seconds = self.seconds / statements
        return limits if seconds >= limits.timeout_s else replace(limits, timeout_s=seconds)

    @property
    def until(self) -> str:
        """What is used, of what, until when; empty where there is no budget."""
        if self.bill is None:
            return ""
        used = self.bill.used_microcents // MICROCENTS_PER_CENT
        limit = self.bill.limit_microcents // MICROCENTS_PER_CENT
        said = f"Used ${used / 100:.2f} of ${limit / 100:.2f}; the period ends {iso(self.bill.period_end)}."
        if self.bill.used_microcents < self.bill.lines.warning and self.state is not BudgetState.OK:
            kept = self.bill.committed_microcents // MICROCENTS_PER_CENT
            said += f" The data that is stored now will cost ${kept / 100:.2f} until then."
        return said

    @property
    def note(self) -> str | None:
        """For every answer from `warning` on."""
        return None if self.state is BudgetState.OK or self.bill is None else f"Budget {self.state}. {self.until}"


@dataclass(frozen=True, slots=True)
class Spending:
    """Everything that a call on a metered database has to do with money."""

    budgets: Budgets
    metering: Metering
    pausing: Pausing

    @asynccontextmanager
    async def admit(
        self, payer: str, database_id: str, wanted_s: float, *, patient: bool = True
    ) -> AsyncIterator[Allowance]:
        """For the time of the block, nobody else of the same payer's spends what this call may.

        Waits for what others hold that is about to be free; a call that holds some already must not be `patient`.
        """
        async with self.budgets.admit(payer, database_id, wanted_s, patient=patient) as grant:
            if grant.state is not BudgetState.PAUSED and self.budgets.is_paused(payer, database_id):
                await self.pausing.settle(payer)
            bill = await self.budgets.bill(payer)
            seconds = grant.us / 1_000_000
            yield Allowance(grant.state, seconds, bill, grant.reclaim_only, lowered=seconds < wanted_s)

    async def check_new(self, payer: str) -> None:
        """Whether the payer's budget has room for a database that is to be made. Raises BudgetExceeded."""
        state, bill = await self.budgets.state(payer)
        if state in {BudgetState.EXCEEDED, BudgetState.PAUSED}:
            raise BudgetExceeded(
                "The database is not there yet and is not made now: the budget is used up.",
                hint=Allowance(state, 0, bill).until,
            )

    def now(self) -> datetime:
        return self.metering.clock()

    def running(self, payer: str, database_id: str) -> AbstractContextManager[Callable[[], None]]:
        """A use until the end of the block, from when what is yielded is called."""
        noted, woken = (partial(do, payer, database_id) for do in (self.budgets.note, self.budgets.woken))
        return self.metering.running(database_id, noted, woken)

    def note(self, payer: str, database_id: str, started: datetime, results: Sequence[Result], *, wrote: bool) -> None:
        """A use that began then and ends now."""
        sent = sum(result.bytes for result in results)
        self.budgets.note(payer, database_id, self.metering.note(database_id, started, sent, wrote=wrote))

    async def look_at_size(
        self, payer: str, database_id: str, measure: Callable[[], Awaitable[int]], *, freed: bool = False
    ) -> None:
        """See how large the database is now, where that is due. What fails is tried again after the next call.

        `freed` is for a call that gave space back: whoever did that to be let write again need not wait.
        """
        if not (freed or self.metering.wants_size(database_id)):
            return
        try:
            size = await measure()
        except AgentDBError as error:
            log.debug("size not seen", code=error.code)
        else:
            self.metering.note_size(database_id, size)
            self.budgets.note_growth(payer, database_id)


def _reclaims(fact: StatementFacts) -> bool:
    """A DROP is a schema change as well."""
    return fact.certain and Kind.RECLAIM in fact.kinds <= {Kind.RECLAIM, Kind.SCHEMA}


def metered(database: OpenDatabase) -> tuple[str, str] | None:
    """Who pays for the database and its id, or None: a plain URL costs the platform nothing."""
    if database.payer is None or database.row_id is None:
        return None
    return database.payer, database.row_id
