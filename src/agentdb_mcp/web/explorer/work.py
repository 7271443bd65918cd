"""What pages work with: the product's services for one session, checked and bounded call by call."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, TypeVar
from urllib.parse import quote

from agentdb_mcp.errors import NotFound
from agentdb_mcp.execution import Statement
from agentdb_mcp.models import BudgetReport, DatabaseStatus, DayCost, Scope, Tenant
from agentdb_mcp.services import Browse, Queries
from agentdb_mcp.services.origin import Origin, acting_as
from agentdb_mcp.store import AuditDecision, AuditEntry, DatabaseRow
from agentdb_mcp.web.explorer.session import Session, Sessions
from agentdb_mcp.web.state import State

T = TypeVar("T")
TICKET_S = 60
MAX_TICKETS = 1000
DAYS = 30
# In the audit log: the pages' source, and the tool of what they read by themselves in order to show it.
SOURCE, LOOK = "explorer", "look"


BEGINNING = frozenset({DatabaseStatus.PENDING, DatabaseStatus.PROVISIONING})
# Of the codes that are recorded; more than a code is not.
_REASONS = {
    "provisioning_failed": "The provider of databases did not make it.",
    "database_unavailable": "It was made, and could not be reached.",
    "configuration": "A setting of the platform is missing or wrong.",
    "interrupted": "The server ended while it was being made.",
}


def reason_of(row: DatabaseRow) -> str | None:
    """Why making or removing the database failed last, where nobody does it now; in words, without a detail."""
    if row.leased or row.last_error is None or row.status is DatabaseStatus.READY:
        return None
    if row.status not in BEGINNING:
        return "Removing it failed; the platform tries again."
    return f"{_REASONS.get(row.last_error, 'It could not be made.')} Opening it tries again."


@dataclass(frozen=True, slots=True)
class Place:
    """One of the user's databases, as pages name it."""

    scope: Scope
    tenant: Tenant
    name: str
    path: str


@dataclass(frozen=True, slots=True)
class Ticket:
    """A file that a session may fetch once: the statement stays here, and out of every address."""

    session_id: str
    place: Place
    statement: Statement
    name: str
    form: Literal["csv", "json"]
    until: float


@dataclass(frozen=True, slots=True)
class Seen:
    """A database on the overview. `cost_microcents` of the period; `reason` why its making or removal failed."""

    place: Place
    state: str
    reason: str | None
    size_bytes: int | None
    cost_microcents: int
    last_use: datetime | None


@dataclass(slots=True)
class Explorer:
    """The server's one."""

    state: State
    sessions: Sessions
    tickets: dict[str, Ticket] = field(default_factory=dict)

    def ticket(
        self, session: Session, place: Place, statement: Statement, name: str, form: Literal["csv", "json"]
    ) -> str:
        """The address of a file."""
        now = time.monotonic()
        self.tickets = {key: each for key, each in self.tickets.items() if each.until > now}
        if len(self.tickets) >= MAX_TICKETS:
            self.tickets.pop(next(iter(self.tickets)))
        key = secrets.token_urlsafe(24)
        self.tickets[key] = Ticket(session.id, place, statement, name, form, now + TICKET_S)
        return f"/explorer/download/{key}"

    def redeem(self, key: str, session: Session) -> Ticket:
        """Raises NotFound."""
        ticket = self.tickets.get(key)
        if ticket is None or ticket.session_id != session.id or ticket.until < time.monotonic():
            raise NotFound("There is no such file any more.", hint="Export it again.")
        del self.tickets[key]
        return ticket


@dataclass(frozen=True, slots=True)
class Work:
    """One session's calls."""

    explorer: Explorer
    session: Session

    @property
    def browse(self) -> Browse:
        return self.explorer.state.browse

    @property
    def queries(self) -> Queries:
        return self.explorer.state.application.queries

    @asynccontextmanager
    async def calling(self, tool: str | None = None) -> AsyncIterator[None]:
        """For the time of one call. Raises NotAuthenticated when the session has ended, RateLimited."""
        await self.explorer.sessions.check(self.session)
        self.explorer.sessions.touch(self.session)
        origin = Origin(SOURCE, self.session.id, tool)
        with acting_as(origin), self.session.throttle.call(Tenant(self.session.id)):
            yield

    async def do(self, work: Callable[[], Awaitable[T]]) -> T:
        """Raises AgentDBError."""
        async with self.calling():
            return await work()

    async def look(self, read: Callable[[], Awaitable[T]]) -> T:
        """What a page reads by itself in order to show it. Raises AgentDBError."""
        async with self.calling(LOOK):
            return await read()

    async def places(self) -> list[Place]:
        """The global database first, then the agents' by name: of a token for one workspace, that one."""
        user_id, bound = self.session.user_id, self.session.tenant.workspace_id
        names = await self.explorer.state.managed.lifecycle.identity.names_of_workspaces(user_id)
        agents = [self._agent(each, name) for each, name in names.items() if bound in (None, each)]
        return [self.everybodys(), *sorted(agents, key=lambda place: place.name.casefold())]

    def everybodys(self) -> Place:
        return Place(Scope.GLOBAL, self.session.tenant, "Global database", "/global")

    def _agent(self, workspace_id: str, name: str) -> Place:
        tenant = Tenant(self.session.user_id, workspace_id)
        return Place(Scope.AGENT, tenant, name or workspace_id, f"/agent/{quote(workspace_id, safe='')}")

    async def agent(self, workspace_id: str) -> Place:
        """Raises NotFound for what is not there, or not this session's."""
        found = next(
            (
                each
                for each in await self.places()
                if each.tenant.workspace_id == workspace_id and each.scope is Scope.AGENT
            ),
            None,
        )
        if found is None:
            raise NotFound(
                f"There is no workspace {workspace_id[:80]!r}, or none of yours.", hint="Go to the overview."
            )
        return found

    async def budget(self) -> BudgetReport:
        return await self.explorer.state.managed.usage.report(self.session.user_id)

    async def history(self) -> list[DayCost]:
        """Of the last 30 days; of a token for one workspace, its own and the global database's."""
        usage = self.explorer.state.managed.usage
        today = usage.clock().date()
        found = await usage.history(self.session.user_id, today - timedelta(DAYS - 1), today)
        bound = self.session.tenant.workspace_id
        return [each for each in found if bound is None or each.database.workspace_id in (None, bound)]

    async def overview(self, report: BudgetReport) -> list[Seen]:
        """Each database with its state and what it cost."""
        managed = self.explorer.state.managed
        rows = {
            (row.scope, row.owner_id): row for row in await managed.lifecycle.databases.of_user(self.session.user_id)
        }
        costs = {(each.scope, each.workspace_id): each for each in report.by_database}
        seen = []
        for place in await self.places():
            workspace_id = place.tenant.workspace_id if place.scope is Scope.AGENT else None
            row = rows.get((place.scope, workspace_id or self.session.user_id))
            cost = costs.get((place.scope, workspace_id))
            last = await self._last_use(place)
            state = self._state(row, last)
            reason = reason_of(row) if row is not None else None
            size = cost.size_bytes if cost and cost.size_bytes else None
            seen.append(Seen(place, state, reason, size, cost.cost_microcents if cost else 0, last))
        return seen

    def _state(self, row: DatabaseRow | None, last: datetime | None) -> str:
        if row is None:
            return "not made yet"
        if row.paused:
            return "paused"
        if row.status is DatabaseStatus.READY:
            awake = self.explorer.state.application.policy.compute.suspend_timeout_s
            now = self.explorer.state.managed.usage.clock()
            return "connected" if last is not None and (now - last).total_seconds() < awake else "suspended"
        if row.status in BEGINNING and not row.leased and row.last_error is not None:
            return "failed"
        return "not made yet" if row.status is DatabaseStatus.PENDING else str(row.status)

    async def _last_use(self, place: Place) -> datetime | None:
        audit, workspace_id = self.explorer.state.managed.audit, None
        if place.scope is Scope.AGENT:
            workspace_id = place.tenant.workspace_id
        found = await audit.entries(self.session.user_id, workspace_id=workspace_id, scope=place.scope, limit=1)
        return found[0].at if found else None

    async def activity(
        self, place: Place | None, decision: AuditDecision | None, before: int | None, limit: int, *, looks: bool
    ) -> list[AuditEntry]:
        """A page of the audit log, the newest first: of an agent, in the global database, or all that may be seen.

        With `looks` also what these pages read by themselves.
        """
        bound, scope = self.session.tenant.workspace_id, None
        if place is not None and place.scope is Scope.AGENT:
            bound = place.tenant.workspace_id
        elif place is not None:
            scope = Scope.GLOBAL
        audit = self.explorer.state.managed.audit
        return await audit.entries(
            self.session.user_id, workspace_id=bound, scope=scope, decision=decision, before=before, limit=limit,
            without=None if looks else (SOURCE, LOOK),
        )  # fmt: skip
