"""Neon's API v2, in the cloud or from the local emulator; only the base URL differs (facts: Neon's OpenAPI v2).

Reads are repeated on 423, 429 and 5xx; a POST never blindly, since Neon has no idempotency key: an unknown outcome is
an error, and the next attempt finds the project by its name. Bodies of answers never reach a message.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import httpx
import stamina

from agentdb_mcp.errors import ProvisioningFailed
from agentdb_mcp.models import Project, ProjectAccess, Secret

REQUEST_TIMEOUT_S = 30.0
OPERATIONS_TIMEOUT_S = 120.0
PAGE = 400
_DONE = frozenset({"finished", "skipped"})
_FAILED = frozenset({"failed", "error", "cancelled"})
# The server has not begun: safe to repeat for any method.
_NOT_BEGUN = frozenset({423, 429, 503})


class NeonProvider:
    """One organization's projects."""

    def __init__(self, client: httpx.AsyncClient, org_id: str | None, compute_cu: float) -> None:
        self._client = client
        self._org_id = org_id
        self._compute_cu = compute_cu

    async def find(self, name: str) -> list[Project]:
        found: list[Project] = []
        query: dict[str, Any] = {"search": name, "limit": PAGE} | ({"org_id": self._org_id} if self._org_id else {})
        while True:
            answer = await self._call("GET", "/projects", params=query)
            with _understood():
                page = answer["projects"]
                found += [_project(item) for item in page if item["name"] == name]
                cursor = answer.get("pagination", {}).get("cursor")
            if not page or not cursor:
                return sorted(found, key=lambda project: project.created_at or "")
            query["cursor"] = cursor

    async def create(self, name: str) -> Project:
        project: dict[str, Any] = {
            "name": name,
            # Opaque: on a cluster that projects share, its catalogs list every database and role to everyone.
            "branch": {"database_name": f"d_{secrets.token_hex(8)}", "role_name": f"o_{secrets.token_hex(8)}"},
            "default_endpoint_settings": {
                "autoscaling_limit_min_cu": 0.25,
                "autoscaling_limit_max_cu": self._compute_cu,
            },
        }
        if self._org_id:
            project["org_id"] = self._org_id
        answer = await self._call("POST", "/projects", json={"project": project})
        with _understood():
            created = _project(answer["project"], answer.get("branch"))
            operations = list(answer.get("operations", []))
        await self._finish(created.id, operations)
        return created

    async def access(self, project: Project) -> ProjectAccess:
        branch_id = project.branch_id or await self._default_branch(project.id)
        operations = await self._call("GET", f"/projects/{project.id}/operations")
        with _understood():  # what failed once is history; what runs is waited for
            running = [item for item in operations["operations"] if item["status"] not in _DONE | _FAILED]
        await self._finish(project.id, running)
        listed = await self._call("GET", f"/projects/{project.id}/branches/{branch_id}/databases")
        with _understood():
            name, owner = str(listed["databases"][0]["name"]), str(listed["databases"][0]["owner_name"])
        answer = await self._call(
            "GET",
            f"/projects/{project.id}/connection_uri",
            params={"database_name": name, "role_name": owner, "pooled": "false"},
        )
        with _understood():
            return ProjectAccess(Secret(str(answer["uri"])), name, owner)

    async def delete(self, project_id: str) -> None:
        await self._call("DELETE", f"/projects/{project_id}", missing_is_fine=True)

    async def check(self) -> None:
        await self._call("GET", "/projects", params={"limit": 1} | ({"org_id": self._org_id} if self._org_id else {}))

    async def _default_branch(self, project_id: str) -> str:
        answer = await self._call("GET", f"/projects/{project_id}/branches")
        with _understood():
            defaults = [item["id"] for item in answer["branches"] if item.get("default", item.get("primary"))]
            return str(defaults[0])

    async def _finish(self, project_id: str, operations: list[dict[str, Any]]) -> None:
        """Wait for operations; the poll backs off to one a second."""
        pause = 0.05
        with anyio.move_on_after(OPERATIONS_TIMEOUT_S):
            for operation in operations:
                with _understood():
                    identifier, status = str(operation["id"]), operation["status"]
                    what = str(operation.get("action", ""))[:40]
                while status not in _DONE:
                    if status in _FAILED:
                        message = f"Neon's operation {what} {status}."
                        raise ProvisioningFailed(message, hint="Run it again.", retryable=True)
                    await anyio.sleep(pause)
                    pause = min(1.0, pause * 2)
                    answer = await self._call("GET", f"/projects/{project_id}/operations/{identifier}")
                    with _understood():
                        status = answer["operation"]["status"]
            return
        raise ProvisioningFailed("Neon did not finish in time.", hint="Run it again.", retryable=True)

    async def _call(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, Any] | None = None,
        json: dict[str, Any] | None = None,
        missing_is_fine: bool = False,
    ) -> dict[str, Any]:
        """One request with its repetitions; the answer's body."""
        try:
            async for attempt in stamina.retry_context(on=_backoff, attempts=6, timeout=60.0, wait_max=10.0):
                with attempt:
                    response = await self._send(method, path, params=params, json=json)
        except _Again as again:
            raise again.error from None
        if response.status_code == 404 and missing_is_fine:
            return {}
        if not response.is_success:
            raise _error(response)
        with _understood():
            body: dict[str, Any] = dict(response.json()) if response.content else {}
        return body

    async def _send(
        self, method: str, path: str, *, params: dict[str, Any] | None, json: dict[str, Any] | None
    ) -> httpx.Response:
        try:
            response = await self._client.request(method, path, params=params, json=json)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise _Again(_unreachable(error)) from None
        except httpx.HTTPError as error:
            if method == "POST":
                raise ProvisioningFailed(
                    f"Neon did not answer a {method} ({type(error).__name__}); its outcome is unknown.",
                    hint="Run it again: the project is looked for by its name first.",
                    retryable=True,
                ) from None
            raise _Again(_unreachable(error)) from None
        if response.status_code in _NOT_BEGUN or (response.status_code >= 500 and method != "POST"):
            raise _Again(_error(response), retry_after=_retry_after(response))
        return response


@asynccontextmanager
async def neon_provider(
    *, base_url: str, api_key: Secret, org_id: str | None, compute_cu: float
) -> AsyncIterator[NeonProvider]:
    """The provider with its HTTP client, which is closed at the end of the block."""
    async with httpx.AsyncClient(
        base_url=base_url,
        headers={"Authorization": f"Bearer {api_key.reveal()}", "Accept": "application/json"},
        timeout=REQUEST_TIMEOUT_S,
    ) as client:
        yield NeonProvider(client, org_id, compute_cu)


@contextmanager
def _understood() -> Iterator[None]:
    """Reading an answer: one of another shape is an error of the service, or of the address."""
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        raise ProvisioningFailed(
            "Neon's answer is not one that this version understands.", hint="Check NEON_API_HOST."
        ) from None


class _Again(Exception):
    """Repeat the request, after `retry_after` seconds if given; if that is over, raise `error`."""

    def __init__(self, error: ProvisioningFailed, retry_after: float | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.retry_after = retry_after


def _backoff(error: Exception) -> bool | float:
    """For stamina: whether to repeat, or after how many seconds."""
    return isinstance(error, _Again) and (error.retry_after or True)


def _project(item: dict[str, Any], branch: dict[str, Any] | None = None) -> Project:
    return Project(item["id"], item["name"], branch["id"] if branch else None, item.get("created_at"))


def _retry_after(response: httpx.Response) -> float | None:
    text = response.headers.get("Retry-After", "")
    return min(60.0, float(text)) if text.isascii() and text.isdigit() else None


def _unreachable(error: httpx.HTTPError) -> ProvisioningFailed:
    return ProvisioningFailed(
        f"Neon's API cannot be reached ({type(error).__name__}).", hint="Run it again later.", retryable=True
    )


_MEANING = {
    401: "Neon refused the API key.",
    402: "Neon wants a payment for this.",
    403: "Neon's key or plan does not allow this.",
    404: "Neon does not know this project or organization.",
    412: "Neon's plan does not accept these settings.",
    422: "Neon's limit of projects is reached, or it does not accept the request.",
    423: "Another operation runs on the project at Neon.",
    429: "Neon's rate limit is reached.",
}


def _error(response: httpx.Response) -> ProvisioningFailed:
    """What the status means, with Neon's request id for its support; never the body."""
    status = response.status_code
    try:
        request_id = str(response.json().get("request_id") or "")[:64]
    except (ValueError, AttributeError):
        request_id = ""
    request_id = request_id or response.headers.get("x-neon-ret-request-id", "")[:64]
    return ProvisioningFailed(
        f"{_MEANING.get(status, 'Neon failed.')} (HTTP {status}{', request ' + request_id if request_id else ''})",
        hint="Whoever runs the platform: check NEON_API_KEY and NEON_ORG_ID with `agentdb-mcp doctor`."
        if status in {401, 403, 404}
        else "Run it again later.",
        retryable=status in _NOT_BEGUN or status >= 500,
    )
