"""What tests of the local Neon API share besides fixtures."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import anyio
import asyncpg
import httpx

from agentdb_mcp.embedded import embedded_postgres
from agentdb_mcp.neon_emulator import Behaviour, Emulator, neon_emulator

Json = dict[str, Any]
DAY_S = 86_400
GONE = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
METRICS = "compute_unit_seconds,root_branch_bytes_month,child_branch_bytes_month,public_network_transfer_bytes"


def client(base_url: str | None, key: str = "none") -> httpx.AsyncClient:
    assert base_url is not None
    return httpx.AsyncClient(base_url=base_url, headers={"Authorization": f"Bearer {key}"}, timeout=60)


def client_of(emulator: Emulator) -> httpx.AsyncClient:
    """As its first organization."""
    return client(emulator.base_url, emulator.api_key)


@contextlib.asynccontextmanager
async def controlled(behaviour: Behaviour) -> AsyncIterator[tuple[Emulator, httpx.AsyncClient, httpx.AsyncClient]]:
    """An emulator on a cluster of its own: the module's has a clock that other tests move."""
    async with (
        embedded_postgres() as postgres,
        neon_emulator(postgres.uri().reveal(), control=True, behaviour=behaviour) as emulator,
        client_of(emulator) as api,
        client(emulator.control_url) as control,
    ):
        yield emulator, api, control


@contextlib.asynccontextmanager
async def connected(uri: str, **options: object) -> AsyncIterator[asyncpg.Connection]:
    with anyio.CancelScope(shield=True):  # cancelled while it asks for TLS, the driver leaves an error behind
        connection = await asyncpg.connect(uri, **options)
    try:
        yield connection
    finally:
        with contextlib.suppress(*GONE, OSError, TimeoutError):
            await connection.close(timeout=5)


async def settled(api: httpx.AsyncClient, project_id: str) -> None:
    """Wait for the project's operations, as clients do."""
    with anyio.fail_after(60):
        while True:
            listed = (await api.get(f"/projects/{project_id}/operations")).json()["operations"]
            if all(operation["status"] == "finished" for operation in listed):
                return
            await anyio.sleep(0.01)


async def create(api: httpx.AsyncClient, name: str | None = None, **project: object) -> Json:
    response = await api.post("/projects", json={"project": ({"name": name} if name else {}) | project})
    assert response.status_code == 201, response.text
    body: Json = response.json()
    await settled(api, body["project"]["id"])
    return body


async def done(api: httpx.AsyncClient, method: str, path: str, **options: Any) -> Json:
    response = await api.request(method, path, **options)
    assert response.is_success, response.text
    await settled(api, path.split("/")[2])
    body: Json = response.json()
    return body


def assert_error(response: httpx.Response, status: int) -> Json:
    """Neon's one shape of errors."""
    body: Json = response.json()
    assert response.status_code == status, body
    assert body.keys() == {"request_id", "code", "message"}
    assert body["message"]
    return body


def base(created: Json) -> str:
    return f"/projects/{created['project']['id']}"


def endpoint_path(created: Json) -> str:
    return f"{base(created)}/endpoints/{created['endpoints'][0]['id']}"


def branch_path(created: Json) -> str:
    return f"{base(created)}/branches/{created['branch']['id']}"


def role_path(created: Json) -> str:
    return f"{branch_path(created)}/roles/{created['roles'][0]['name']}"


def uri_of(created: Json) -> str:
    uri: str = created["connection_uris"][0]["connection_uri"]
    return uri


async def state_of(api: httpx.AsyncClient, created: Json) -> str:
    state: str = (await api.get(endpoint_path(created))).json()["endpoint"]["current_state"]
    return state


async def advance(control: httpx.AsyncClient, seconds: float) -> datetime:
    response = await control.post("/clock", json={"advance_seconds": seconds})
    assert response.status_code == 200, response.text
    return datetime.fromisoformat(response.json()["now"])


async def consumed(api: httpx.AsyncClient, emulator: Emulator, now: datetime, **query: Any) -> httpx.Response:
    asked = {
        "from": (now - timedelta(hours=30)).isoformat(),
        "to": (now + timedelta(hours=1)).isoformat(),
        "granularity": "hourly",
        "org_id": emulator.org_id,
        "metrics": METRICS,
        "limit": 100,
        **query,
    }
    return await api.get("/consumption_history/v2/projects", params=asked)


def total(body: Json, metric: str) -> int:
    return sum(
        measured["value"]
        for project in body["projects"]
        for period in project["periods"]
        for frame in period["consumption"]
        for measured in frame["metrics"]
        if measured["metric_name"] == metric
    )
