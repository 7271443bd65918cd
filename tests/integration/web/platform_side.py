"""What the platform's backend does: it knows the service key, and makes users, workspaces and tokens."""

from __future__ import annotations

import contextlib
import itertools
import json
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import anyio
import httpx

from agentdb_mcp.bootstrap import Application, open_application
from agentdb_mcp.settings import load_settings
from agentdb_mcp.web.app import HttpOptions, build_app
from agentdb_mcp.web.serving import serve

SERVICE_KEY = "service-key-0123456789-abcdef"
AS_SERVICE = {"Authorization": f"Bearer {SERVICE_KEY}"}
UNLIMITED = 'name = "unlimited"\n[limits]\nexplorer_calls_per_window = 0\n'
_addresses = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Owner:
    """A user with a workspace, both fresh."""

    user_id: str
    workspace_id: str

    @property
    def agent(self) -> str:
        return f"/api/workspaces/{self.workspace_id}/database"

    @property
    def shared(self) -> str:
        return f"/api/users/{self.user_id}/global-database"


@dataclass(frozen=True, slots=True)
class Platform:
    """`http` sends the service key; a token's holder is another client of the same server."""

    url: str
    http: httpx.AsyncClient
    application: Application
    app: Any

    async def register(self) -> Owner:
        owner = fresh()
        given = {"user_id": owner.user_id}
        answer = await self.http.post("/api/users", json=given)
        assert answer.status_code == 201, answer.text
        given |= {"workspace_id": owner.workspace_id, "name": "Research"}
        answer = await self.http.post("/api/workspaces", json=given)
        assert answer.status_code == 201, answer.text
        return owner

    async def token(self, owner: Owner, *scopes: str, bound: bool = True, **more: Any) -> dict[str, Any]:
        workspace = {"workspace_id": owner.workspace_id} if bound else {}
        given = {"user_id": owner.user_id, "scopes": list(scopes or ["explorer"]), **workspace, **more}
        answer = await self.http.post("/api/tokens", json=given)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    @contextlib.asynccontextmanager
    async def holder(self, owner: Owner, *scopes: str, bound: bool = True) -> AsyncIterator[httpx.AsyncClient]:
        """Whoever holds a new token of these scopes, explorer unless told."""
        token = (await self.token(owner, *scopes, bound=bound))["token"]
        async with client(self.url, {"Authorization": f"Bearer {token}"}) as holding:
            yield holding


def fresh() -> Owner:
    return Owner(f"u{secrets.token_hex(6)}", f"w{secrets.token_hex(6)}")


def client(url: str, headers: dict[str, str] | None = None) -> httpx.AsyncClient:
    """Of an address of its own, so that nobody is taken for a guesser because of somebody else's guesses."""
    return httpx.AsyncClient(base_url=url, headers=from_afar() | (headers or {}), timeout=60)


def from_afar() -> dict[str, str]:
    """What the proxy on this machine says of a client that nobody has seen yet."""
    number = next(_addresses)
    return {"x-forwarded-for": f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"}


@contextlib.asynccontextmanager
async def platform_on(environ: dict[str, str], **options: Any) -> AsyncIterator[Platform]:
    """A server of its own; `options` are those of HttpOptions."""
    settings = load_settings(environ)
    async with open_application(settings) as application:
        app = build_app(application, HttpOptions(**options))
        async with serve(app, "127.0.0.1", 0) as url, client(url, AS_SERVICE) as http:
            yield Platform(url, http, application, app)


async def eventually(met: Callable[[], Any], *, within_s: float = 30) -> Any:
    """What `met` gives once it is true."""
    with anyio.fail_after(within_s):
        while not (found := await met()):
            await anyio.sleep(0.05)
    return found


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def in_ascii(given: object) -> dict[str, Any]:
    """A body, lone surrogates and all, for httpx's `post`."""
    return {"content": json.dumps(given).encode(), "headers": {"content-type": "application/json"}}


def error_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The error of an answer, which has the one shape there is."""
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert {"code", "message", "request_id"} <= error.keys()
    assert answer.headers["x-request-id"] == error["request_id"]
    return error
