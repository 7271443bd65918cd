"""The platform's backend: makes the tenants, and all the while others that come and go."""

from __future__ import annotations

import itertools
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import anyio

from benchmarks.soak.client import Answer, Client, Ears, Figures
from benchmarks.soak.house import House
from benchmarks.soak.tenant import Agent

ATTEMPTS = 60
MADE_AT_ONCE = 6
SCOPES = ["mcp", "explorer"]


@dataclass
class Platform:
    house: House
    ears: Ears
    figures: Figures
    backend: Client
    turns: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.dice = random.Random(0)

    async def insist(self, what: str, method: str, path: str, body: Any = None, *, secret: bool = False) -> Answer:
        """As a platform would: again while it is told to. Raises RuntimeError where that does not work."""
        for _ in range(ATTEMPTS):
            answer = await self.backend.rest(method, path, body, secret=secret)
            self.figures.note(what, answer)
            if answer.ok:
                return answer
            if not answer.retryable:
                break
            await anyio.sleep(self.dice.uniform(0.1, 1))
        raise RuntimeError(f"{what} did not work; at last: {answer.code} {answer.said[:200]}")

    async def register(self, user: str, workspace: str) -> str:
        """A user with a workspace; a token for it."""
        await self.insist("create user", "POST", "/api/users", {"user_id": user})
        body = {"workspace_id": workspace, "user_id": user, "name": "Soak"}
        await self.insist("create workspace", "POST", "/api/workspaces", body)
        return await self.token(user, workspace)

    async def token(self, user: str, workspace: str) -> str:
        body = {"user_id": user, "workspace_id": workspace, "scopes": SCOPES, "expires_in": 86_400}
        token: str = (await self.insist("create token", "POST", "/api/tokens", body, secret=True)).body["token"]
        self.ears.secrets.add(token)
        return token

    def client(self, bearer: str) -> Client:
        return Client(self.house.servers, self.turns, self.ears, bearer)

    async def make(self, tenants: int, pace_s: float, made: Callable[[], object]) -> list[Agent]:
        """Tenants whose databases are there; every fifth is idle most of the time, longer than connections are kept."""
        limiter, agents = anyio.CapacityLimiter(MADE_AT_ONCE), dict[int, Agent]()

        async def one(number: int) -> None:
            async with limiter:
                user, workspace = f"soak-user-{number}", f"soak-workspace-{number}"
                client = self.client(await self.register(user, workspace))
                agents[number] = Agent(number, client, self.figures, pace_s * (10 if number % 5 == 4 else 1))
                await agents[number].prepare()
                made()

        async with anyio.create_task_group() as group:
            for number in range(tenants):
                group.start_soon(one, number)
        return [agents[number] for number in range(tenants)]

    async def churn(self, over: anyio.Event, pause_s: float) -> None:
        """Users who come, use their database once and go; the same of a token."""
        for number in itertools.count(1):
            if over.is_set():
                return
            user, workspace = f"soak-guest-{number}", f"soak-visit-{number}"
            async with self.client(await self.register(user, workspace)) as client:
                agent = Agent(number, client, self.figures, 1)
                await agent.tool("a guest's read", "execute_sql", sql="SELECT 1")
            await self.insist("delete workspace", "DELETE", f"/api/workspaces/{workspace}")
            await self.insist("delete user", "DELETE", f"/api/users/{user}")
            await self._until(over, pause_s)

    async def watch(self, over: anyio.Event, pause_s: float) -> None:
        """What a platform asks now and then."""
        asked: tuple[tuple[str, Callable[[], Awaitable[Answer]]], ...] = (
            ("GET /metrics", lambda: self.backend.rest("GET", "/metrics")),
            ("GET /readyz", lambda: self.backend.rest("GET", "/readyz")),
            ("POST /api/sync", lambda: self.backend.rest("POST", "/api/sync")),
        )
        for what, ask in itertools.cycle(asked):
            if over.is_set():
                return
            answer = await ask()
            self.figures.note(what, answer, *(("status 503",) if what == "GET /readyz" else ()))
            await self._until(over, pause_s)

    async def _until(self, over: anyio.Event, seconds: float) -> None:
        with anyio.move_on_after(seconds * self.dice.uniform(0.5, 1.5)):
            await over.wait()
