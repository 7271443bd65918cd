"""A control database and the local Neon API whose clocks a test moves together, and an application on both."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from agentdb_mcp.bootstrap import Application, open_application
from agentdb_mcp.execution import Statement
from agentdb_mcp.local_stack import LocalStack
from agentdb_mcp.models import BudgetReport, Scope, Tenant
from agentdb_mcp.providers.neon import NeonProvider
from agentdb_mcp.services import Synced, utc_now
from agentdb_mcp.settings import load_settings
from agentdb_mcp.store import DatabaseRow, MeteredHour
from agentdb_mcp.store.control import create_database

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
HISTORY = "/consumption_history/v2/projects"
# What the shipped policy takes for one CU-hour, in micro-cents.
CU_HOUR = 10_600_000
CU_HOUR_S = 3600
FREE = 200_000_000


@dataclass
class Clock:
    """Our servers' time: as far ahead of the machine's as the local Neon API's."""

    ahead: timedelta = timedelta(0)

    def __call__(self) -> datetime:
        return utc_now() + self.ahead


@dataclass(frozen=True)
class Agent:
    """A user with one agent database, made at `made`; the hour of `since` is the first after its making."""

    tenant: Tenant
    row: DatabaseRow
    made: datetime
    since: datetime

    @property
    def user_id(self) -> str:
        assert self.tenant.user_id
        return self.tenant.user_id

    @property
    def project_id(self) -> str:
        assert self.row.project_id
        return self.row.project_id


@dataclass
class Cloud:
    """What a test needs of all of it; `asked` are the consumption requests that were sent."""

    environ: dict[str, str]
    clock: Clock
    application: Application
    db: asyncpg.Connection = field(repr=False)
    api: httpx.AsyncClient = field(repr=False)
    control: httpx.AsyncClient = field(repr=False)
    asked: list[httpx.QueryParams] = field(default_factory=list)

    @property
    def provider(self) -> NeonProvider:
        provider = self.application.managed().provider
        assert isinstance(provider, NeonProvider)
        return provider

    async def advance(self, by: timedelta) -> datetime:
        """Move both clocks; the time that it is then."""
        answer = await self.control.post("/clock", json={"advance_seconds": by.total_seconds()})
        self.clock.ahead = datetime.fromisoformat(answer.raise_for_status().json()["now"]) - utc_now()
        return self.clock()

    async def fail(self, **fault: Any) -> int:
        answer = await self.control.post("/faults", json=fault)
        identifier: int = answer.raise_for_status().json()["id"]
        return identifier

    async def heal(self) -> None:
        (await self.control.delete("/faults")).raise_for_status()

    async def hits(self, fault_id: int) -> int:
        faults = (await self.control.get("/faults")).json()["faults"]
        return next(fault["hits"] for fault in faults if fault["id"] == fault_id)

    async def agents(self, count: int) -> list[Agent]:
        """So many users with a database each; then it is twenty to an hour, computes sleep and periods begin."""
        if self.clock().minute >= 50:  # what is awake now sleeps before the next hour
            await self.advance(hour_of(self.clock()) + HOUR - self.clock())
        managed, made = self.application.managed(), self.clock()
        tenants, rows = list[Tenant](), list[DatabaseRow]()
        for _ in range(count):
            tenant = Tenant(f"u{secrets.token_hex(4)}", f"w{secrets.token_hex(4)}")
            assert tenant.user_id
            assert tenant.workspace_id
            await managed.lifecycle.identity.ensure_user(tenant.user_id)
            tenants.append(tenant)
            rows.append(await managed.lifecycle.create_workspace(tenant.workspace_id, tenant.user_id, "Notes"))
        now = await self.advance(hour_of(self.clock()) + 100 * HOUR / 60 - self.clock())
        await self.db.execute(
            "UPDATE workspace_database SET created_at = $2, updated_at = $2 WHERE id = ANY ($1)",
            [row.id for row in rows],
            made,
        )
        await self.db.execute(
            "UPDATE user_db_budget SET period_anchor = $2, current_period_start = $2 WHERE user_id = ANY ($1)",
            [tenant.user_id for tenant in tenants],
            hour_of(now),
        )
        return [Agent(tenant, row, made, hour_of(now)) for tenant, row in zip(tenants, rows, strict=True)]

    async def agent(self) -> Agent:
        return (await self.agents(1))[0]

    async def use(self, agent: Agent, hour: datetime, *compute_unit_seconds: float) -> None:
        """Let Neon have measured so much more compute in each hour from this one on."""
        await self.add(
            {
                "project_id": agent.project_id,
                "hour": (hour + number * HOUR).isoformat(),
                "compute_unit_seconds": seconds,
            }
            for number, seconds in enumerate(compute_unit_seconds)
        )

    async def add(self, entries: Iterable[dict[str, object]]) -> None:
        answer = await self.control.post("/consumption", json=list(entries))
        assert answer.status_code == 204, answer.text

    async def estimate(self, agent: Agent, hour: datetime, seconds: float) -> None:
        """Let a server have seen the database awake for the first seconds of an hour."""
        span = (hour, hour + timedelta(seconds=seconds))
        await self.application.managed().usage.ledger.store("a server", [MeteredHour(agent.row.id, hour, (span,))])

    async def sync(self) -> Synced:
        return await self.application.managed().sync().run()

    async def report(self, agent: Agent) -> BudgetReport:
        return await self.application.managed().usage.report(agent.user_id)

    async def used(self, agent: Agent) -> int:
        return (await self.report(agent)).used_microcents

    async def sql(self, agent: Agent, sql: str) -> list[list[object]]:
        answer = await self.application.queries.execute(agent.tenant, Scope.AGENT, [Statement(sql)])
        return answer.results[0].rows

    async def ledger(self, agent: Agent) -> list[tuple[datetime, int]]:
        """The provider's compute by hour since its making, in milli-CU × seconds."""
        rows = await self.db.fetch(
            "SELECT hour, compute_mcu_us FROM db_usage_ledger WHERE database_id = $1 AND source = 'provider'"
            " AND hour >= $2 ORDER BY hour",
            agent.row.id,
            agent.since,
        )
        return [(row["hour"], int(row["compute_mcu_us"]) // 1_000_000) for row in rows]

    async def synced(self, agent: Agent) -> datetime | None:
        moment: datetime | None = await self.db.fetchval(
            "SELECT last_consumption_sync FROM workspace_database WHERE id = $1", agent.row.id
        )
        return moment

    async def neon(self, agent: Agent) -> tuple[int, list[str]]:
        """The quota of active seconds of the project at Neon, and its computes' states."""
        project = (await self.api.get(f"/projects/{agent.project_id}")).raise_for_status().json()["project"]
        quota = (project.get("settings") or {}).get("quota") or {}
        listed = (await self.api.get(f"/projects/{agent.project_id}/endpoints")).raise_for_status().json()
        return quota.get("active_time_seconds") or 0, [each["current_state"] for each in listed["endpoints"]]


def hour_of(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)


def watch(application: Application, asked: list[httpx.QueryParams]) -> None:
    """Note the consumption requests that are sent."""
    provider = application.managed().provider
    assert isinstance(provider, NeonProvider)

    async def note(request: httpx.Request) -> None:
        if request.url.path.endswith(HISTORY):
            asked.append(request.url.params)

    for client in {organization.api._client for organization in provider._organizations}:
        client.event_hooks["request"].append(note)


@asynccontextmanager
async def cloud_on(
    stack: LocalStack, policy: Path | None = None, ahead: timedelta | None = None, **more: str
) -> AsyncIterator[Cloud]:
    """A control database of its own; the local Neon API's projects and faults are removed at the end."""
    name = f"control_{secrets.token_hex(6)}"
    await create_database(stack.postgres.uri(), name)
    environ = stack.environ() | {"AGENTDB_CONTROL_URL": stack.postgres.uri(name).reveal()} | more
    environ = {key: value for key, value in environ.items() if value}
    if policy is not None:
        environ["AGENTDB_POLICY"] = str(policy)
    headers = {"Authorization": f"Bearer {stack.emulator.api_key}"}
    async with (
        httpx.AsyncClient(base_url=stack.emulator.base_url, headers=headers, timeout=60) as api,
        httpx.AsyncClient(base_url=stack.emulator.control_url or "", timeout=60) as control,
    ):
        now = datetime.fromisoformat((await control.get("/clock")).json()["now"])
        clock = Clock(now - utc_now())
        async with open_application(load_settings(environ), clock=clock) as application:
            await application.managed().lifecycle.identity.has_user("nobody")  # migrates
            db = await asyncpg.connect(environ["AGENTDB_CONTROL_URL"])
            cloud = Cloud(environ, clock, application, db, api, control)
            watch(application, cloud.asked)
            try:
                yield cloud
            finally:
                await db.close()
                await cloud.heal()
                for project in await cloud.provider.projects(""):
                    await cloud.provider.delete(project.id)


def ids(asked: Sequence[httpx.QueryParams]) -> list[str]:
    return [each for params in asked for each in params["project_ids"].split(",")]
