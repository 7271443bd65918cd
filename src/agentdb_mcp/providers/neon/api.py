"""One key's requests: limited together, repeated by kind, each failure one error.

423, 429 and 503 are repeated for any method; other 5xx and timeouts for all but POST. Neon has no idempotency key: a
POST whose outcome is unknown is an error, and the next attempt finds the project by its name.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import stamina
import stamina.instrumentation

from agentdb_mcp import metrics
from agentdb_mcp.errors import ProvisioningFailed
from agentdb_mcp.logs import get_logger
from agentdb_mcp.models import Secret
from agentdb_mcp.providers.neon import answers
from agentdb_mcp.providers.neon.limiter import RateLimiter, TooLong
from agentdb_mcp.telemetry import span, told

log = get_logger(__name__)

REQUEST_TIMEOUT_S = 30.0
OPERATIONS_TIMEOUT_S = 120.0
PAGE = 400
ATTEMPTS, ATTEMPTS_TIMEOUT_S, WAIT_MAX_S = 10, 90.0, 10.0
RETRY_AFTER_MAX_S = 60.0
# Of an API that is not there at all: callers' clients wait half a minute.
UNREACHED_ATTEMPTS = 3
# Without a Retry-After, a 429 keeps everybody away for so long.
SLOW_DOWN_S = 1.0

DONE = frozenset({"finished", "skipped"})
FAILED = frozenset({"failed", "error", "cancelled"})
# The request was never sent.
_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


def general_limiter() -> RateLimiter:
    """Never more than 700 a minute or 40 a second: burst + 60 × rate, and burst + rate."""
    return RateLimiter(per_second=11.0, burst=29)


def consumption_limiter() -> RateLimiter:
    """Never more than 50 a minute."""
    return RateLimiter(per_second=0.75, burst=5)


class NeonApi:
    """Sends requests with one key; answers are bodies."""

    def __init__(
        self, client: httpx.AsyncClient, *, general: RateLimiter | None = None, consumption: RateLimiter | None = None
    ) -> None:
        self._client = client
        self._general = general or general_limiter()
        self._consumption = consumption or consumption_limiter()

    async def call(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, Any] | None = None,
        json: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """One request with its repetitions; the answer's body."""
        body = await self.call_or_none(method, path, params=params, json=json, missing=frozenset())
        assert body is not None  # noqa: S101  (nothing counts as missing)
        return body

    async def call_or_none(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, Any] | None = None,
        json: dict[str, Any] | None = None,
        missing: frozenset[int] = frozenset({404}),
    ) -> dict[str, Any] | None:
        """The same; None where Neon does not know what the path names."""
        limiters = [self._general] + ([self._consumption] if path.startswith("/consumption_history/") else [])
        request = self._client.build_request(method, path, params=params, json=json)
        try:
            async for attempt in stamina.retry_context(
                on=_backoff, attempts=ATTEMPTS, timeout=ATTEMPTS_TIMEOUT_S, wait_max=WAIT_MAX_S
            ):
                with attempt:
                    response = await self._send(request, path, limiters, last=attempt.num >= UNREACHED_ATTEMPTS)
        except _Again as again:
            raise again.error from None
        if response.status_code in missing:
            return None
        if not response.is_success:
            raise answers.refusal(response)
        with answers.understood():
            body: dict[str, Any] = dict(response.json()) if response.content else {}
        return body

    async def _send(
        self, request: httpx.Request, path: str, limiters: list[RateLimiter], *, last: bool
    ) -> httpx.Response:
        """One attempt; on the `last` one an API that is not reached is an error."""
        asked = anyio.current_time()
        for limiter in limiters:
            try:
                await limiter.wait()
            except TooLong as wait:
                raise answers.rate_limited(wait.seconds) from None
        metrics.NEON_WAIT_SECONDS.add(by=anyio.current_time() - asked)
        try:
            response = await self._sent(request, path)
        except _UNSENT as error:
            metrics.NEON_REQUESTS.add(request.method, "unreached")
            raise _unreached(error, last=last) from None
        except httpx.HTTPError as error:
            metrics.NEON_REQUESTS.add(request.method, "no answer")
            if request.method == "POST":
                raise answers.unknown_outcome(error, path) from None
            raise _unreached(error, last=last) from None
        status = response.status_code
        metrics.NEON_REQUESTS.add(request.method, str(status))
        if status in answers.NOT_BEGUN or (status >= 500 and request.method != "POST"):
            raise _refused_for_now(response, limiters[-1])
        return response

    async def _sent(self, request: httpx.Request, path: str) -> httpx.Response:
        """One request, timed and told to whoever traces."""
        started = anyio.current_time()
        try:
            with span(*told.neon_request(request.method, path)) as step:
                response = await self._client.send(request)
                told.of_status(step, response.status_code)
                return response
        finally:
            metrics.NEON_REQUEST_SECONDS.observe(anyio.current_time() - started, request.method)

    async def pages(
        self, path: str, key: str, query: dict[str, Any], *, most: int | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """Every item of a list; its end is an empty page, one without another cursor, or the item number `most`."""
        query, told = dict(query), 0
        while True:
            answer = await self.call("GET", path, params=query)
            with answers.understood():
                page = list(answer[key])
                cursor = answer.get("pagination", {}).get("cursor")
            for item in page:
                yield item
            told += len(page)
            if not page or not cursor or cursor == query.get("cursor") or (most is not None and told >= most):
                return
            query["cursor"] = cursor

    async def finish(self, project_id: str, operations: list[dict[str, Any]]) -> None:
        """Wait for operations; the poll backs off to one a second."""
        pause = 0.05
        with anyio.move_on_after(OPERATIONS_TIMEOUT_S):
            for operation in operations:
                with answers.understood():
                    identifier, status = str(operation["id"]), operation["status"]
                    what = str(operation.get("action", ""))[:40]
                while status not in DONE:
                    if status in FAILED:
                        message = f"Neon's operation {what} {status}."
                        raise ProvisioningFailed(message, hint="Run it again.", retryable=True)
                    await anyio.sleep(pause)
                    pause = min(1.0, pause * 2)
                    answer = await self.call("GET", f"/projects/{project_id}/operations/{identifier}")
                    with answers.understood():
                        status = answer["operation"]["status"]
            return
        raise ProvisioningFailed("Neon did not finish in time.", hint="Run it again.", retryable=True)

    async def do(self, project_id: str, method: str, path: str, json: dict[str, Any] | None = None) -> dict[str, Any]:
        """A change, and the end of the operations that it began."""
        answer = await self.call(method, path, json=json)
        with answers.understood():
            operations = list(answer.get("operations", []))
        await self.finish(project_id, operations)
        return answer


@asynccontextmanager
async def neon_api(base_url: str, api_key: Secret) -> AsyncIterator[NeonApi]:
    """The requests of one key, with an HTTP client that is closed at the end of the block."""
    headers = {"Authorization": f"Bearer {api_key.reveal()}", "Accept": "application/json"}
    async with httpx.AsyncClient(base_url=base_url, headers=headers, timeout=REQUEST_TIMEOUT_S) as client:
        yield NeonApi(client)


class _Again(Exception):
    """Repeat the request, after `pause` seconds if given; if that is over, raise `error`."""

    def __init__(self, error: ProvisioningFailed, pause: float | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.pause = pause


def _unreached(error: httpx.HTTPError, *, last: bool) -> Exception:
    return answers.unreachable(error) if last else _Again(answers.unreachable(error))


def _refused_for_now(response: httpx.Response, limiter: RateLimiter) -> Exception:
    """How to go on; a 429 makes everybody wait, the others only their caller."""
    pause = answers.retry_after(response)
    if response.status_code == 429:
        limiter.slow_down(SLOW_DOWN_S if pause is None else pause)
    if pause is not None and pause > RETRY_AFTER_MAX_S:
        return answers.refusal(response)
    return _Again(answers.refusal(response), pause)


def _backoff(error: Exception) -> bool | float:
    """For stamina: whether to repeat, or after how many seconds."""
    return isinstance(error, _Again) and (error.pause or True)


def _log_repetition(details: stamina.instrumentation.RetryDetails) -> None:
    """In place of stamina's own warning."""
    log.info(
        "neon is asked again",
        attempt=details.retry_num + 1,
        after_s=round(details.wait_for, 1),
        because=str(details.caused_by),
    )


# Nothing else here uses stamina, whose hooks are the process's.
stamina.instrumentation.set_on_retry_hooks([_log_repetition])
