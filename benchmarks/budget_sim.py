"""A month of agents that spend: by how much is a budget overspent, how wrong is the estimate, is anybody wronged?

`make bench-budget` drives the real services, two servers at once, against the local Neon API with a clock that jumps
and a consumption history that lags by 15 minutes. Bills are calculated here from what the API reports, refusals are
judged by a model of the computes that is kept here. Storage is simulated at a hundred times its price, so that what is
megabytes here stands for hundreds of them. Statements of the hostile agents run in real time.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import httpx
import typer

from agentdb_mcp.bootstrap import Application, open_application
from agentdb_mcp.errors import AgentDBError, BudgetExceeded
from agentdb_mcp.execution import Statement
from agentdb_mcp.jobs.table import settle_budgets
from agentdb_mcp.local_stack import LocalStack, local_stack
from agentdb_mcp.logs import configure_logging, get_logger
from agentdb_mcp.models import Scope, Tenant
from agentdb_mcp.neon_emulator import Behaviour
from agentdb_mcp.providers.neon import api
from agentdb_mcp.providers.neon.limiter import RateLimiter
from agentdb_mcp.settings import load_settings

log = get_logger(__name__)

HOUR = timedelta(hours=1)
# A whole hour, so that what is billed by the hour is of this period.
START = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
TAIL_S, CU = 300, Fraction(1, 4)
LIMIT_CENTS = 200
# What a database without data takes.
EMPTY_BYTES = Fraction(8_300_000)
PAUSED_CENTS = 220
# The share of the budget from which the hostile agents go on in real time.
ATTACK_FROM = Fraction(980, 1000)
DEAR = 100
CENTS_PER_CU_S = Fraction(106, 10) / 3600
WRITE, READ, LONG = "INSERT INTO t VALUES (1)", "SELECT count(*) FROM t", "INSERT INTO t SELECT 1 FROM pg_sleep(20)"
GROW = "INSERT INTO blobs SELECT repeat(md5(i::text), 30) FROM generate_series(1, 2000) AS i"
DEAR_STORAGE = f"""
name = "dear-storage"
[prices]
book = "dear-storage"
[price_books.dear-storage]
date = 2026-11-01
source = "invented: storage at a hundred times its price"
compute_per_cu_hour = "0.106"
storage_per_gb_month = "{0.35 * DEAR:.2f}"
history_per_gb_month = "0.20"
egress_per_gb = "0.10"
egress_free_gb = 500
branch_month = "1.50"
"""


@dataclass
class Awake:
    """A compute as Neon runs it: awake from a use until the suspend timeout after the last one."""

    until: float = 0.0
    seconds: float = 0.0

    def use(self, start: float, end: float) -> None:
        self.seconds += max(0.0, end + TAIL_S - max(start, self.until))
        self.until = max(self.until, end + TAIL_S)


@dataclass
class Agent:
    """One user's agents: which databases they have and when they do what."""

    kind: str
    databases: int
    minutes: float
    burst: int = 1
    limit_cents: int = LIMIT_CENTS
    reads_on: bool = False
    grows: bool = False
    model: dict[str, Awake] = field(default_factory=lambda: defaultdict(Awake))
    done: int = 0
    refused: int = 0
    wronged: int = 0
    given_up: bool = False

    @property
    def tenants(self) -> list[Tenant]:
        return [Tenant(self.kind, f"{self.kind}-{number}") for number in range(self.databases)]

    def spent_cents(self) -> Fraction:
        """By the model; compute alone."""
        return sum(Fraction(awake.seconds) for awake in self.model.values()) * CU * CENTS_PER_CU_S

    def next_after(self, moment: datetime, chance: random.Random) -> datetime:
        minutes = 60.0 if self.given_up else self.minutes * chance.uniform(0.8, 1.2)
        return moment + timedelta(minutes=minutes)


class SimulatedClock:
    """The local API's clock, which the servers go by as well."""

    def __init__(self, control: httpx.AsyncClient) -> None:
        self._control = control
        self._ahead = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self._ahead

    async def jump(self, to: datetime) -> None:
        if (ahead := (to - self()).total_seconds()) > 0:
            answer = await self._control.post("/clock", json={"advance_seconds": ahead})
            self._ahead = datetime.fromisoformat(answer.raise_for_status().json()["now"]) - datetime.now(UTC)


@dataclass
class World:
    stack: LocalStack
    clock: SimulatedClock
    servers: tuple[Application, Application]
    agents: list[Agent]
    chance: random.Random
    end: datetime

    async def begin(self) -> None:
        managed = self.servers[0].managed()
        for agent in self.agents:
            await managed.lifecycle.identity.ensure_user(agent.kind)
            await managed.usage.store.ensure(agent.kind, anchor=START)
            if agent.limit_cents != LIMIT_CENTS:
                await managed.usage.set_tier(agent.kind, "free", agent.limit_cents)
            for tenant in agent.tenants:
                await managed.lifecycle.create_workspace(
                    tenant.workspace_id or "", agent.kind, tenant.workspace_id or ""
                )
                await self.run(agent, tenant, "CREATE TABLE t (n int)")
                if agent.grows:
                    await self.run(agent, tenant, "CREATE TABLE blobs (body text)")

    async def run(self, agent: Agent, tenant: Tenant, sql: str) -> bool:
        """One call on one of the two servers; whether it was let run."""
        server = self.chance.choice(self.servers)
        started = self.clock().timestamp()
        try:
            await server.queries.execute(tenant, Scope.AGENT, [Statement(sql)])
        except BudgetExceeded:
            agent.refused += 1
            self._judge(agent, tenant, started)
            return False
        except AgentDBError as error:
            if error.code != "timeout":
                raise
        agent.done += 1
        agent.model[tenant.workspace_id or ""].use(started, self.clock().timestamp())
        return True

    def _judge(self, agent: Agent, tenant: Tenant, now: float) -> None:
        """A refusal is wrong where a second's statement would have left half a percent of the limit."""
        if agent.grows:
            return  # by design refused for what will be stored
        awake = agent.model[tenant.workspace_id or ""]
        more = Fraction(max(0.0, now + 1 + TAIL_S - max(now, awake.until))) * CU * CENTS_PER_CU_S
        kept = agent.databases * EMPTY_BYTES * 35 / 10**9  # a month of nearly empty databases
        if agent.spent_cents() + more + kept < agent.limit_cents * Fraction(995, 1000):
            agent.wronged += 1

    async def act(self, agent: Agent) -> None:
        if agent.kind == "hostile" and not agent.given_up and agent.spent_cents() > LIMIT_CENTS * ATTACK_FROM:
            await self.attack(agent)
            return
        outcomes = []
        for _ in range(agent.burst):
            for tenant in agent.tenants:
                outcomes.append(await self.run(agent, tenant, GROW if agent.grows else WRITE))
                if not outcomes[-1] and agent.reads_on:
                    outcomes.append(await self.run(agent, tenant, READ))
        agent.given_up = not any(outcomes)

    async def attack(self, agent: Agent) -> None:
        """Sixty-four statements at once, as long as each may run, a few times over unless none is let in."""
        for _ in range(5):
            outcomes: list[bool] = []

            async def one(tenant: Tenant, outcomes: list[bool] = outcomes) -> None:
                outcomes.append(await self.run(agent, tenant, LONG))

            async with anyio.create_task_group() as group:
                for tenant in itertools.islice(itertools.cycle(agent.tenants), 64):
                    group.start_soon(one, tenant)
            if not any(outcomes):
                agent.given_up = True
                return

    async def live(self) -> None:
        events = [(agent.next_after(START, self.chance), number) for number, agent in enumerate(self.agents)]
        heapq.heapify(events)
        jobs = START + HOUR / 4
        with typer.progressbar(length=int((self.end - START) / HOUR), label="hours", file=sys.stderr) as bar:
            while events[0][0] < self.end:
                moment, number = heapq.heappop(events)
                while jobs <= moment:
                    await self.clock.jump(jobs)
                    await self.flush()
                    await self.servers[1].managed().sync().run()
                    await settle_budgets(self.servers[1])
                    jobs += HOUR / 4
                    if jobs.minute == 0:
                        bar.update(1)
                        log.info("simulated", hour=f"{jobs:%m-%d %H}", ran=[agent.done for agent in self.agents])
                await self.clock.jump(moment)
                await self.act(self.agents[number])
                heapq.heappush(events, (self.agents[number].next_after(self.clock(), self.chance), number))
        await self.flush()
        await self.clock.jump(self.end + 3 * HOUR)
        await self.servers[1].managed().sync().run()

    async def flush(self) -> None:
        """As servers do every few seconds."""
        for server in self.servers:
            await server.managed().usage.budgets.flush()

    async def bill(self, agent: Agent, storage_price: Fraction) -> Fraction:
        """Cents of the month, from what the API reports."""
        managed = self.servers[0].managed()
        rows = [row for row in await managed.lifecycle.databases.of_user(agent.kind) if row.project_id]
        async with httpx.AsyncClient(
            base_url=self.stack.emulator.base_url, headers={"Authorization": f"Bearer {self.stack.emulator.api_key}"}
        ) as neon:
            answer = await neon.get(
                "/consumption_history/v2/projects",
                params={
                    "from": START.isoformat(),
                    "to": self.end.isoformat(),
                    "granularity": "daily",
                    "metrics": "compute_unit_seconds,root_branch_bytes_month",
                    "project_ids": ",".join(row.project_id or "" for row in rows),
                    "org_id": self.stack.emulator.org_id,
                    "limit": 100,
                },
            )
        sums: dict[str, Fraction] = defaultdict(Fraction)
        for project in answer.raise_for_status().json()["projects"]:
            for period in project["periods"]:
                for span in period["consumption"]:
                    for metric in span["metrics"]:
                        sums[metric["metric_name"]] += Fraction(str(metric["value"]))
        storage = sums["root_branch_bytes_month"] / 744 / 10**9 * storage_price
        return sums["compute_unit_seconds"] * CENTS_PER_CU_S + storage

    async def errors_by_day(self, agent: Agent) -> list[float]:
        """Percent by which the estimates of compute missed the figures of each day."""
        async with self.servers[0].managed().control.connection() as connection:
            rows = await connection.fetch(
                "SELECT sum(estimated_mcu_us) AS estimated, sum(compute_mcu_us) AS billed FROM db_usage_ledger"
                " WHERE user_id = $1 AND source = 'provider' GROUP BY date_trunc('day', hour)"
                " HAVING sum(compute_mcu_us) > 0",
                agent.kind,
            )
        return [float(100 * (row["estimated"] - row["billed"]) / row["billed"]) for row in rows]


def by_sync_alone(agent: Agent, end: datetime) -> Fraction:
    """What the same agent would spend if only synced figures stopped it: whole hours, known 90 minutes later."""
    agent = replace(agent, given_up=False)
    chance, awake, hours = random.Random(1), [Awake() for _ in range(agent.databases)], dict[int, float]()
    moment, spent = agent.next_after(START, chance), 0.0
    while moment < end:
        now = moment.timestamp()
        known = sum(seconds for hour, seconds in hours.items() if (hour + 1) * 3600 <= now - 5400)
        if known * float(CU * CENTS_PER_CU_S) < agent.limit_cents:
            before = sum(each.seconds for each in awake)
            for each in awake:
                each.use(now, now + 0.01)
            added = sum(each.seconds for each in awake) - before
            hours[int(now // 3600)] = hours.get(int(now // 3600), 0.0) + added
            spent += added
        moment = agent.next_after(moment, chance)
    return Fraction(spent) * CU * CENTS_PER_CU_S


@asynccontextmanager
async def world(agents: list[Agent], days: int, policy: Path | None) -> AsyncIterator[World]:
    behaviour = Behaviour(
        start_at=START,
        operation_seconds=0,
        cold_start_seconds=0,
        consumption_lag_seconds=900,
        tick_seconds=3600,
    )
    async with (
        local_stack(control=True, behaviour=behaviour) as stack,
        httpx.AsyncClient(base_url=stack.emulator.control_url or "", timeout=60) as control,
    ):
        clock = SimulatedClock(control)
        clock._ahead = datetime.fromisoformat((await control.get("/clock")).json()["now"]) - datetime.now(UTC)
        settings = load_settings(stack.environ() | ({"AGENTDB_POLICY": str(policy)} if policy else {}))
        async with (
            open_application(settings, clock=clock) as one,
            open_application(settings, clock=clock) as other,
        ):
            yield World(stack, clock, (one, other), agents, random.Random(1), START + timedelta(days=days))


AGENTS = (
    Agent("steady", 2, 45),
    Agent("bursty", 2, 360, burst=25),
    Agent("always-on", 1, 4),
    Agent("reads-on", 1, 4, reads_on=True),
    Agent("hostile", 10, 4),
)
STORING = (Agent("storage-heavy", 1, 60, grows=True),)


async def report(where: World, storage_price: Fraction) -> Iterator[str]:
    lines = []
    for agent in where.agents:
        bill = await where.bill(agent, storage_price)
        told = (await where.servers[0].managed().usage.report(agent.kind)).used_microcents
        errors = await where.errors_by_day(agent) or [0.0]
        line = PAUSED_CENTS if agent.reads_on else agent.limit_cents
        alone = by_sync_alone(agent, where.end) - agent.limit_cents
        over = max(Fraction(0), bill - line)
        allowed = max(Fraction(1), Fraction(line, 50))
        lines.append(
            f"{agent.kind:<14}{agent.done:>7}{agent.refused:>9}{agent.wronged:>7}{float(bill):>9.2f}{line:>6}"
            f"{float(over):>8.2f}{'' if over <= allowed else ' MISSED':<7}{max(0.0, float(alone)):>9.2f}"
            f"{statistics.median(errors):>9.2f}{max(errors, key=abs):>8.2f}{float(told / 10**6 - bill):>9.4f}"
        )
    return iter(lines)


async def main(options: argparse.Namespace) -> None:
    api.general_limiter = api.consumption_limiter = lambda: RateLimiter(per_second=1000, burst=1000)
    started = time.monotonic()
    print(
        "cents; overspent past the line (the limit, or where reads end too): aim 2 % or 1 cent; by sync alone beside it"
    )
    print(
        f"{'kind':<14}{'ran':>7}{'refused':>9}{'wrong':>7}{'bill':>9}{'line':>6}{'over':>8}{'':<7}{'sync':>9}"
        f"{'err %':>9}{'worst':>8}{'told-bill':>9}"
    )
    async with world([agent for agent in AGENTS if options.only in (None, agent.kind)], options.days, None) as shipped:
        if shipped.agents:
            await shipped.begin()
            await shipped.live()
            print("\n".join(await report(shipped, Fraction(35))))
    with TemporaryDirectory() as folder:
        policy = Path(folder) / "dear.toml"
        await anyio.Path(policy).write_text(DEAR_STORAGE)
        async with world([a for a in STORING if options.only in (None, a.kind)], options.days, policy) as dear:
            if dear.agents:
                await dear.begin()
                await dear.live()
                print("\n".join(await report(dear, Fraction(35) * DEAR)))
    print(f"{options.days} days in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=28, help="within one period")
    parser.add_argument("--only", default=None, help="one kind of agent")
    parser.add_argument("--verbose", action="store_true", help="log every simulated hour")
    configure_logging("text", "info" if parser.parse_args().verbose else "error")
    anyio.run(main, parser.parse_args())
