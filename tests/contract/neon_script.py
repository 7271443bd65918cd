"""A transport that answers as it is told, in place of Neon, and providers on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import anyio.lowlevel
import httpx

from agentdb_mcp.models import Project
from agentdb_mcp.providers.neon import NeonProvider
from agentdb_mcp.providers.neon.api import NeonApi, consumption_limiter, general_limiter
from agentdb_mcp.providers.neon.limiter import RateLimiter
from agentdb_mcp.providers.neon.organization import Organization

Transport = Callable[[httpx.Request], httpx.Response]
Answer = httpx.Response | Exception
KEY = "napi_secret_key"
BASE = "https://api.neon.example/api/v2"
PROJECT = Project("calm-river-12345678", "agent-w", "br-calm-12345678")
MADE = {"id": PROJECT.id, "name": PROJECT.name, "created_at": "2026-01-01T00:00:00Z"}
CREATED = {"project": MADE, "branch": {"id": PROJECT.branch_id}, "operations": []}
DATABASES = {"databases": [{"name": "d_1", "owner_name": "o_1"}]}
URI = {"uri": "postgresql://o_1:pw@ep-1.neon.example/d_1"}


class Script:
    """Answers to requests in their order; the last one is repeated."""

    def __init__(self, *answers: Answer | Callable[[httpx.Request], httpx.Response]) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers[min(len(self.requests), len(self.answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else answer(request)

    @property
    def count(self) -> int:
        return len(self.requests)


def ok(body: object, status: int = 200) -> httpx.Response:
    return httpx.Response(status, json=body)


def refusal(status: int, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"request_id": "req-1", "code": "", "message": "secret detail"}, headers=headers)


def operation(status: str) -> dict[str, str]:
    return {"id": "op-1", "action": "start_compute", "status": status}


class Routes:
    """Answers by method and path; a list answers in its order, what is not listed is unknown to Neon."""

    def __init__(self, answers: dict[str, object]) -> None:
        self.answers = answers
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.get(f"{request.method} {request.url.path.removeprefix('/api/v2')}")
        if isinstance(answer, list):
            answer = answer.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx.Response):
            return answer
        return refusal(404) if answer is None else ok(answer)

    @property
    def calls(self) -> list[str]:
        return [f"{request.method} {request.url.path.removeprefix('/api/v2')}" for request in self.requests]


class FakeTime:
    """A clock that only waiting moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        await anyio.lowlevel.checkpoint()
        self.now += seconds

    def limiter(self, like: RateLimiter) -> RateLimiter:
        """The same limits on this clock."""
        return RateLimiter(per_second=like._per_second, burst=like._burst, clock=self, sleep=self.sleep)


@asynccontextmanager
async def api_on(transport: Transport, time: FakeTime | None = None) -> AsyncIterator[NeonApi]:
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(
        transport=httpx.MockTransport(transport), base_url=BASE, headers=headers, timeout=5
    ) as client:
        time = time or FakeTime()
        yield NeonApi(client, general=time.limiter(general_limiter()), consumption=time.limiter(consumption_limiter()))


@asynccontextmanager
async def provider_on(
    transport: Transport, org_id: str | None = "org-1", time: FakeTime | None = None
) -> AsyncIterator[NeonProvider]:
    async with api_on(transport, time) as api:
        yield NeonProvider([Organization(api, "default", org_id, 0.25)])


@asynccontextmanager
async def two_organizations(free: Transport, paid: Transport) -> AsyncIterator[NeonProvider]:
    async with AsyncExitStack() as stack:
        apis = [await stack.enter_async_context(api_on(transport)) for transport in (free, paid)]
        pairs = zip(apis, ("free", "paid"), strict=True)
        yield NeonProvider([Organization(api, kind, f"org-{kind}", 0.25) for api, kind in pairs])
