"""Where each user's period stands, and which statement it still pays for.

Totals are read when a user is first seen, then in the background and whenever another server says that they changed;
in between, what this server's own calls add is counted on top. A statement is judged without a query.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count

import anyio

from agentdb_mcp.costs import (
    Grant,
    Position,
    Prices,
    admit,
    compute_microcents,
    period_of,
    state_of,
    storage_microcents,
)
from agentdb_mcp.errors import AgentDBError
from agentdb_mcp.logs import get_logger
from agentdb_mcp.models import BudgetState
from agentdb_mcp.policy import Policy
from agentdb_mcp.services.bills import Bill, bill_of
from agentdb_mcp.services.flights import Flights
from agentdb_mcp.services.metering import Metering, to_us
from agentdb_mcp.services.noted import Noted, growth_us
from agentdb_mcp.store import BudgetRow, BudgetStore, DatabaseUsage, LedgerStore, no_such_user

log = get_logger(__name__)

# A statement that the budget pays for less long than this is not begun.
LEAST_US = 1_000_000
# A statement that could run so long, but for others that run, begins without waiting for them.
ENOUGH_US = 5_000_000
# Refreshed in the background while used; forgotten after so many rounds without use.
IDLE_ROUNDS = 60
# Users that are known, those that were used last.
MOST_ACCOUNTS = 5000
# Users whose bills are read by one query, and who are read again in one round, those first that were read longest ago:
# who is not is read at the next use.
USERS_AT_ONCE = 100
USERS_A_ROUND = 500


@dataclass(slots=True)
class Account:
    """What this server knows of one user's period."""

    bill: Bill
    read: int  # the number of the reading that the bill is of; a later one began later
    noted: Noted = field(default_factory=Noted)
    read_at: datetime | None = None
    idle_rounds: int = 0
    running: dict[str, dict[int, int]] = field(default_factory=dict)  # until when, by database and ticket
    released: anyio.Event = field(default_factory=anyio.Event)

    def begin(self, database_id: str, ticket: int, until_us: int) -> None:
        """What runs keeps the database awake until then."""
        self.running.setdefault(database_id, {})[ticket] = until_us

    def end(self, database_id: str, ticket: int) -> None:
        if tickets := self.running.get(database_id):
            tickets.pop(ticket, None)
            if not tickets:
                del self.running[database_id]
        self.changed()

    def changed(self) -> None:
        """Whoever waits for some of the budget looks again."""
        self.released.set()
        self.released = anyio.Event()


class Budgets:
    """States of users' budgets, and reservations for what runs."""

    def __init__(self, policy: Policy, metering: Metering, ledger: LedgerStore, budgets: BudgetStore) -> None:
        self._policy = policy
        self._prices = Prices.of(policy.prices)
        self._mcu = policy.compute.max_mcu
        self._tail_us = policy.compute.suspend_timeout_s * 1_000_000
        self.metering = metering
        self._ledger = ledger
        self._budgets = budgets
        self._clock = metering.clock
        self._accounts: dict[str, Account] = {}  # used longest ago first
        self._reading: Flights[str] = Flights()
        self._tickets = count()
        self._woken: set[str] = set()
        self._wake = anyio.Event()
        self._in_use = anyio.Event()
        self._readings = 0  # that have begun

    # --- judging ----------------------------------------------------------------------------------------------------

    def is_paused(self, user_id: str, database_id: str) -> bool:
        """Whether the provider was told to pause the database, as far as is known here."""
        account = self._accounts.get(user_id)
        return account is not None and database_id in account.bill.paused

    async def bill(self, user_id: str) -> Bill:
        """As it was read last, a few seconds ago at most."""
        return (await self._account(user_id)).bill

    async def state(self, user_id: str) -> tuple[BudgetState, Bill]:
        """Where the user's period stands now, and the bill that was read last."""
        account = await self._account(user_id)
        return state_of(self._position(account, 0), account.bill.lines), account.bill

    def states(self) -> dict[BudgetState, int]:
        """How many of the users whom this process knows are in each state."""
        found = dict.fromkeys(BudgetState, 0)
        for account in self._accounts.values():
            found[state_of(self._position(account, 0), account.bill.lines)] += 1
        return found

    @asynccontextmanager
    async def admit(
        self, user_id: str, database_id: str, wanted_s: float, *, patient: bool = True
    ) -> AsyncIterator[Grant]:
        """What the budget allows one call on the database; for the time of the block, others cannot spend the same.

        Unless `patient`, it does not wait for others to leave some.
        """
        account, wanted_us = await self._account(user_id), int(wanted_s * 1_000_000)
        if patient:
            grant = await self._granted(account, database_id, wanted_us)
        else:
            grant = self._judge(account, database_id, wanted_us, others=True)
        ticket = next(self._tickets)
        if grant.us:
            account.begin(database_id, ticket, to_us(self._clock()) + grant.us + self._tail_us)
        try:
            yield grant
        finally:
            account.end(database_id, ticket)

    def woken(self, user_id: str, database_id: str) -> None:
        """A use of the database begins. If it was asleep, other servers are soon to know that it is not."""
        account, now_us = self._accounts.get(user_id), to_us(self._clock())
        if account is not None and self._awake_until(account, database_id, now_us) <= now_us:
            self._woken.add(user_id)
            self._wake.set()

    def note(self, user_id: str, database_id: str, extra_us: int) -> None:
        """A call that ends now keeps the database awake for so much longer, by what this server saw of it."""
        if (account := self._accounts.get(user_id)) is not None:
            until_us = to_us(self._clock()) + self._tail_us
            awake_us = min(extra_us, max(0, until_us - account.bill.awake_until_us(database_id)))
            account.noted.use(database_id, self._readings, awake_us)

    def note_growth(self, user_id: str, database_id: str) -> None:
        """The size of a database of the user's was seen."""
        if (account := self._accounts.get(user_id)) is not None:
            grown_us = growth_us(database_id, account.bill, self.metering, to_us(self._clock()))
            account.noted.growth(database_id, self._readings, grown_us)

    async def _granted(self, account: Account, database_id: str, wanted_us: int) -> Grant:
        """Waits where others that run hold what is left, and may leave some of it."""
        if (grant := self._final(account, database_id, wanted_us)) is not None:
            return grant
        with anyio.move_on_after(wanted_us / 1_000_000):
            while True:
                await account.released.wait()
                if (grant := self._final(account, database_id, wanted_us)) is not None:
                    return grant
        return self._judge(account, database_id, wanted_us, others=True)

    def _final(self, account: Account, database_id: str, wanted_us: int) -> Grant | None:
        """What is granted now; None where waiting for others may change it."""
        grant = self._judge(account, database_id, wanted_us, others=True)
        if not account.running:
            return grant
        alone = self._judge(account, database_id, wanted_us, others=False)
        return grant if grant.state is alone.state and grant.us >= min(alone.us, ENOUGH_US) else None

    def _judge(self, account: Account, database_id: str, wanted_us: int, *, others: bool) -> Grant:
        now_us = to_us(self._clock())
        covered_us, reserved_us = self._awake_until(account, database_id, now_us), 0
        for running, tickets in account.running.items() if others else ():
            known_us = covered_us if running == database_id else self._awake_until(account, running, now_us)
            until_us = max(known_us, *tickets.values())
            reserved_us += until_us - known_us
            if running == database_id:
                covered_us = until_us
        return admit(
            self._position(account, compute_microcents(reserved_us * self._mcu, self._prices)),
            account.bill.lines,
            self._prices,
            self._mcu,
            wanted_us=wanted_us,
            least_us=min(wanted_us, LEAST_US),
            spare_us=covered_us - now_us - self._tail_us,
        )

    def _awake_until(self, account: Account, database_id: str, now_us: int) -> int:
        return max(now_us, self.metering.meter.awake_until(database_id), account.bill.awake_until_us(database_id))

    def _position(self, account: Account, reserved: int) -> Position:
        grown_us = account.noted.grown_us
        since = compute_microcents(account.noted.awake_us * self._mcu, self._prices)
        grown = storage_microcents(abs(grown_us), self._prices)
        bill = account.bill
        committed = bill.committed_microcents + (grown if grown_us > 0 else -grown)
        return Position(bill.used_microcents + since, max(0, committed), reserved)

    # --- reading ----------------------------------------------------------------------------------------------------

    async def _account(self, user_id: str) -> Account:
        """Known and fresh, or read now; what is known goes on while it cannot be read."""
        account = self._accounts.get(user_id)
        self._in_use.set()
        if account is None:
            await self._budgets.ensure(user_id, anchor=self._clock())
        elif self._fresh(account):
            return self._used(user_id)
        async with self._reading.of(user_id):
            account = self._accounts.get(user_id)
            if account is None or not self._fresh(account):
                try:
                    if not await self.refresh([user_id]):  # the user was deleted meanwhile, or is anew
                        await self._budgets.ensure(user_id, anchor=self._clock())
                        if not await self.refresh([user_id]):
                            raise no_such_user(user_id)
                except AgentDBError as error:
                    if account is None or not error.retryable:
                        raise
                    log.warning("budget not refreshed", code=error.code)
                    account.read_at = self._clock()
                    self._accounts.setdefault(user_id, account)  # forgotten meanwhile
        return self._used(user_id)

    def _used(self, user_id: str) -> Account:
        account = self._accounts[user_id] = self._accounts.pop(user_id)
        account.idle_rounds = 0
        return account

    def _fresh(self, account: Account) -> bool:
        now, read_at = self._clock(), account.read_at
        age = timedelta(seconds=2 * self._policy.metering.flush_s)
        return read_at is not None and abs(now - read_at) <= age and now < account.bill.period_end

    async def refresh(self, user_ids: Collection[str]) -> list[Bill]:
        """Store what is noted and read the users' periods. Raises DatabaseUnavailable, InvalidArgument."""
        self.metering.note_running()
        self._readings += 1
        read = self._readings
        await self.metering.flush()
        now = self._clock()
        bills = await self.look(user_ids)
        for bill in bills:
            self._take(bill, now, read)
        return bills

    async def look(self, user_ids: Collection[str]) -> list[Bill]:
        """Read and record the users' periods; remembers nothing here, for work that goes over everybody."""
        rows = await self._budgets.read(user_ids)
        bills = await self._bills(rows, self._clock())
        changed = [bill for row, bill in zip(rows, bills, strict=True) if row.stored_as != bill.stored_as]
        await self._budgets.record([bill.figures for bill in changed])
        return bills

    async def _bills(self, rows: Sequence[BudgetRow], now: datetime) -> list[Bill]:
        periods = [period_of(row.anchor, now) for row in rows]
        windows = [(row.user_id, start, None) for row, (start, _) in zip(rows, periods, strict=True)]
        used: defaultdict[int, list[DatabaseUsage]] = defaultdict(list)
        for each in await self._ledger.usage(windows, now, self._mcu) if windows else ():
            used[each.window].append(each)
        return [
            bill_of(row, period, used[index], now, self._policy, self._prices)
            for index, (row, period) in enumerate(zip(rows, periods, strict=True))
        ]

    def _take(self, bill: Bill, now: datetime, read: int) -> None:
        account = self._accounts.get(bill.user_id)
        if account is None:
            self._accounts[bill.user_id] = Account(bill, read, read_at=now)
        elif read > account.read:  # else what is known was read later than this
            account.noted = account.noted.beyond(bill, read, self.metering, to_us(now))
            account.bill, account.read, account.read_at = bill, read, now
            account.changed()

    # --- in the background ------------------------------------------------------------------------------------------

    async def flush(self) -> None:
        """Store what is noted, if that can be done."""
        self.metering.note_running()
        try:
            await self.metering.flush()
        except AgentDBError as error:
            log.warning("metered use not stored yet", code=error.code)

    async def keep(self, follow: Callable[[list[Bill]], Awaitable[None]]) -> None:
        """Store and read again what is in use, until cancelled; `follow` is told whose projects are to be told.

        Nobody waits for that: a provider that is slow keeps no use from being stored.
        """
        following: set[str] = set()

        async def told(bill: Bill) -> None:
            try:
                await follow([bill])
            finally:
                following.discard(bill.user_id)

        async with anyio.create_task_group() as group:
            while True:
                await anyio.sleep(self._policy.metering.flush_s)
                self._forget_idle()
                users = heapq.nsmallest(USERS_A_ROUND, self._accounts, key=lambda user: self._accounts[user].read)
                for bill in await self._refreshed(users):
                    if bill.unsettled and bill.user_id not in following:
                        following.add(bill.user_id)
                        group.start_soon(told, bill)

    async def keep_telling(self) -> None:
        """Store at once what a database uses that was asleep, and tell the other servers, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            users, self._woken = self._woken, set()
            try:
                self.metering.note_running()
                await self.metering.flush()
                await self._budgets.tell_used(users)
            except AgentDBError as error:  # it is stored with the next round
                log.warning("other servers not told of use", code=error.code)

    async def _refreshed(self, user_ids: Collection[str]) -> list[Bill]:
        """As `refresh`, a few at a time; with nobody to read, what is noted is stored all the same."""
        users, bills = list(user_ids), list[Bill]()
        for start in range(0, max(1, len(users)), USERS_AT_ONCE):
            try:
                bills += await self.refresh(users[start : start + USERS_AT_ONCE])
            except AgentDBError as error:
                log.warning("budgets not refreshed", code=error.code)
        return bills

    def _forget_idle(self) -> None:
        spare = len(self._accounts) - MOST_ACCOUNTS
        for user_id, account in list(self._accounts.items()):
            account.idle_rounds += 1
            if not account.running and (account.idle_rounds > IDLE_ROUNDS or spare > 0):
                del self._accounts[user_id]
                spare -= 1

    async def keep_listening(self) -> None:
        """Read again whom another server says that something changed for, until cancelled; from the first call on."""
        await self._in_use.wait()
        async with aclosing(self._budgets.changes()) as changes:
            async for user_id in changes:
                if known := self._accounts.keys() & ({user_id} if user_id else self._accounts.keys()):
                    await self._refreshed(known)
