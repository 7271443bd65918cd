"""Every route with every wrong credential: refused, nothing told, nothing changed. A new route has to be listed."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import httpx
import pytest
from fastapi.routing import iter_route_contexts
from platform_side import AS_SERVICE, SERVICE_KEY, UNLIMITED, Owner, Platform, bearer, client, from_afar, platform_on

from agentdb_mcp.local_stack import local_stack
from agentdb_mcp.mcp_server.tools import TOOLS

OPEN: frozenset[str] = frozenset()
SERVICE = frozenset({"service"})
EXPLORER = frozenset({"explorer"})
READERS = frozenset({"service", "explorer", "admin"})
ADMINS = frozenset({"service", "admin"})
SCOPES = ("mcp", "explorer", "admin")

# Who may call what; nobody in particular for what is open to all.
ROUTES: dict[str, frozenset[str]] = {
    "GET /healthz": OPEN,
    "GET /readyz": OPEN,
    "GET /docs": OPEN,
    "GET /openapi.json": OPEN,
    "GET /metrics": SERVICE,
    "POST /api/users": SERVICE,
    "GET /api/users/{user_id}": READERS,
    "DELETE /api/users/{user_id}": SERVICE,
    "PUT /api/users/{user_id}/tier": SERVICE,
    "POST /api/users/{user_id}/period": SERVICE,
    "GET /api/users/{user_id}/usage": READERS,
    "GET /api/users/{user_id}/usage/history": READERS,
    "GET /api/users/{user_id}/activity": READERS,
    "POST /api/workspaces": SERVICE,
    "DELETE /api/workspaces/{workspace_id}": SERVICE,
    "POST /api/tokens": ADMINS,
    "POST /api/explorer/links": SERVICE,
    "DELETE /api/tokens/{token_id}": ADMINS,
    "POST /api/sync": SERVICE,
    "GET /api/mcp/system-servers": SERVICE,
    "GET /api/mcp/system-tools": SERVICE,
    "POST /api/mcp/tools/execute": SERVICE,
    **{
        f"{method} {base}{rest}": allowed
        for base in ("/api/workspaces/{workspace_id}/database", "/api/users/{user_id}/global-database")
        for method, rest, allowed in (
            ("GET", "", READERS),
            ("GET", "/tables", EXPLORER),
            ("GET", "/connection", EXPLORER),
            ("GET", "/export", EXPLORER),
            ("POST", "/query", EXPLORER),
            ("POST", "/execute", EXPLORER),
        )
    },
}
MCP_PATHS = ("/mcp", "/mcp/agent", "/mcp/global")
REFUSED = {401, 403, 404}
# Whoever's token it is: what is not the caller's own is gone already.
SILENT = {"DELETE /api/tokens/{token_id}"}
HARM = "CREATE TABLE intruder (i int)"
# Columns that servers write by themselves: with every use of a token, and when a period's cost comes to another cent.
NOTED = [
    *("last_used_at", "last_sync", "updated_at"),
    *("total_cost_cents", "current_period_cost_cents", "current_period_cost_microcents"),
]


@dataclass(frozen=True, slots=True)
class Credential:
    """One way to present something."""

    name: str
    headers: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ids:
    user_id: str
    workspace_id: str
    token_id: str


@dataclass(slots=True)
class Scene:
    """A victim with two workspaces and tables, and somebody else with a workspace of their own."""

    platform: Platform
    document: dict[str, Any]
    control_url: str
    victim: Owner
    second: Owner
    other: Owner
    table: str
    tokens: dict[str, dict[str, Any]]
    http: httpx.AsyncClient

    @property
    def ids(self) -> Ids:
        return Ids(self.victim.user_id, self.victim.workspace_id, self.tokens["explorer"]["id"])

    async def rows(self) -> dict[str, list[str]]:
        """Everything in the control database, but for when tokens were used and what servers note meanwhile."""
        connection = await asyncpg.connect(self.control_url)
        names = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename !~ '^db_(usage|audit)'"
        found = {}
        for (name,) in await connection.fetch(names):
            sql = f'SELECT (to_jsonb(t) - $1::text[])::text FROM "{name}" AS t ORDER BY 1'
            found[name] = [row[0] for row in await connection.fetch(sql, NOTED)]
        await connection.close()
        return found

    async def send(self, route: str, credential: Credential, ids: Ids, sql: str = HARM) -> httpx.Response:
        method, path = route.split(" ")
        known = {"user_id": ids.user_id, "workspace_id": ids.workspace_id, "token_id": ids.token_id}
        params = dict(credential.params)
        if path.startswith("/api/mcp/system-"):
            params["workspaceId"] = ids.workspace_id
        if path.endswith("/export"):
            params["table"] = self.table
        headers = from_afar() | credential.headers
        body = self.body(method, path, ids, sql)
        return await self.http.request(
            method, path.format(**known), params=params, headers=headers, json=body if body else None
        )

    def body(self, method: str, path: str, ids: Ids, sql: str) -> dict[str, Any]:
        """The document's example, about these ids, with this statement."""
        operation = self.document["paths"].get(path, {}).get(method.lower(), {})
        content = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if content is None:
            return {}
        name = content["schema"]["$ref"].rpartition("/")[2]
        text = json.dumps(self.document["components"]["schemas"][name]["examples"][0])
        body: dict[str, Any] = json.loads(
            text.replace('"u1"', f'"{ids.user_id}"').replace('"w1"', f'"{ids.workspace_id}"')
        )
        if "sql" in body:
            body = {"sql": sql}
        if "table" in body:
            body = {"table": self.table}
        if "toolName" in body:
            body["arguments"] = {"sql": sql}
        return body


@pytest.fixture(scope="module")
async def scene(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    policy = tmp_path_factory.mktemp("policy") / "unlimited.toml"
    policy.write_text(UNLIMITED)
    async with local_stack() as stack:
        environ = stack.environ() | {
            "AGENTDB_SERVICE_KEY": SERVICE_KEY,
            "AGENTDB_POLICY": str(policy),
            "AGENTDB_TRUSTED_PROXIES": "127.0.0.1",
        }
        async with platform_on(environ) as platform, client(platform.url) as http:
            victim, other = await platform.register(), await platform.register()
            second = Owner(victim.user_id, f"w{secrets.token_hex(6)}")
            given = {"user_id": victim.user_id, "workspace_id": second.workspace_id, "name": "Confidential"}
            assert (await platform.http.post("/api/workspaces", json=given)).status_code == 201
            table = f"ledger_{secrets.token_hex(6)}"
            async with platform.holder(victim, bound=False) as owner:
                for base in (victim.agent, victim.shared, second.agent):
                    sql = f"CREATE TABLE {table} (i int)"
                    assert (await owner.post(f"{base}/execute", json={"sql": sql})).status_code == 200
            tokens = {scope: await platform.token(victim, scope, bound=False) for scope in SCOPES}
            scene = Scene(
                platform,
                platform.app.openapi(),
                environ["AGENTDB_CONTROL_URL"],
                victim,
                second,
                other,
                table,
                tokens,
                http,
            )
            yield scene


@pytest.fixture(scope="module")
async def nobodys(scene: Scene) -> list[Credential]:
    """What is no credential at all, wherever it is presented."""
    tokens = [("mcp", "explorer", "admin")]
    expired, revoked = [await scene.platform.token(scene.victim, *tokens[0], bound=False) for _ in range(2)]
    assert (await scene.platform.http.delete(f"/api/tokens/{revoked['id']}")).status_code == 204
    async with scene.platform.application.managed().control.connection() as connection:
        sql = "UPDATE agentdb_token SET created_at = now() - interval '2 h', expires_at = now() - interval '1 h'"
        await connection.execute(f"{sql} WHERE id = $1", expired["id"])
    good = await scene.platform.token(scene.victim, *tokens[0], bound=False)
    found = [
        Credential("none"),
        Credential("garbage", bearer("garbage")),
        Credential("one that never was", bearer(f"adb_{secrets.token_urlsafe(32)}")),
        Credential("expired", bearer(expired["token"])),
        Credential("revoked", bearer(revoked["token"])),
        Credential("a token's id", bearer(good["id"])),
        Credential("a token's beginning", bearer(good["token"][:-1])),
        Credential("a token as basic", {"Authorization": f"Basic {good['token']}"}),
        Credential("a token without scheme", {"Authorization": good["token"]}),
        Credential("a token where the service key belongs", {"x-internal-api-key": good["token"]}),
        Credential("a wrong service key", {"x-internal-api-key": SERVICE_KEY[:-1]}),
        Credential("another wrong service key", bearer(f"{SERVICE_KEY}x")),
        Credential("both, of which one is wrong", {"x-internal-api-key": SERVICE_KEY} | bearer(good["token"])),
    ]
    places = ("token", "access_token", "authorization", "api_key", "x-internal-api-key")
    for name, secret in (("token", good["token"]), ("service key", SERVICE_KEY)):
        cookies = "; ".join(f"{place}={secret}" for place in places)
        found.append(Credential(f"a {name} in the query", params=dict.fromkeys(places, secret)))
        found.append(Credential(f"a {name} as a cookie", {"Cookie": cookies}))
    return found


def guarded() -> Iterator[tuple[str, frozenset[str]]]:
    return ((route, allowed) for route, allowed in ROUTES.items() if allowed)


def told(answer: httpx.Response, *ids: Ids) -> tuple[int, str]:
    """Status and body, without the ids that were asked about."""
    text = answer.text.replace(answer.headers["x-request-id"], "…")
    for each in ids:
        for identifier in (each.user_id, each.workspace_id, each.token_id):
            text = text.replace(identifier, "…")
    return answer.status_code, text


def check(scene: Scene, answer: httpx.Response, what: str) -> None:
    """It is refused, and tells nothing."""
    assert answer.status_code in REFUSED, (what, answer.status_code, answer.text)
    shown = answer.text + repr(answer.headers)
    for secret in (scene.table, "Confidential", "Research", scene.second.workspace_id, SERVICE_KEY, "127.0.0.1:"):
        assert secret not in shown, what
    assert not re.search(r"postgres(ql)?://[^…]", shown), what


def nobody() -> Ids:
    return Ids(f"u{secrets.token_hex(6)}", f"w{secrets.token_hex(6)}", secrets.token_hex(16))


def test_every_route_is_listed_here_and_says_the_same_in_its_document(scene: Scene) -> None:
    found = set()
    for context in iter_route_contexts(scene.platform.app.routes):
        for method in context.methods or {"*"}:
            if method != "HEAD" and not str(context.path).startswith("/explorer"):  # tests/browser has its pages
                found.add(f"{method} {context.path}")
    assert found == ROUTES.keys() | {f"* {path}" for path in MCP_PATHS}
    for path, operations in scene.document["paths"].items():
        for method, operation in operations.items():
            ways = operation.get("security", [])
            allowed = {scope for way in ways for scope in way.get("token", [])}
            allowed |= {"service"} if any("serviceKey" in way for way in ways) else set()
            assert allowed == ROUTES[f"{method.upper()} {path}"], (method, path)


async def test_the_right_credentials_are_taken_everywhere(scene: Scene) -> None:
    """Without which nothing here would show anything."""
    before = await scene.rows()
    own = {scope: bearer(scene.tokens[scope]["token"]) for scope in SCOPES} | {"service": AS_SERVICE}
    for route, allowed in guarded():
        ids = nobody() if route.startswith("DELETE") else scene.ids
        for name in allowed:
            credential = Credential(name, own[name])
            answer = await scene.send(route, credential, ids, sql="SELECT 1")
            assert answer.status_code < 300, (route, name, answer.text)
    assert (await scene.rows()) != before


async def test_what_is_no_credential_is_refused_everywhere(scene: Scene, nobodys: list[Credential]) -> None:
    before = await scene.rows()
    for route, _ in guarded():
        for credential in nobodys:
            what = f"{route} with {credential.name}"
            answer = await scene.send(route, credential, scene.ids)
            check(scene, answer, what)
            assert answer.status_code == 401, what
            assert answer.headers["www-authenticate"] == "Bearer"
            ids = nobody()
            assert told(answer, scene.ids) == told(await scene.send(route, credential, ids), ids), what
    assert await scene.rows() == before
    await untouched(scene)


async def test_a_token_of_another_scope_and_the_key_in_a_tokens_place_are_refused(scene: Scene) -> None:
    before = await scene.rows()
    own = {scope: bearer(scene.tokens[scope]["token"]) for scope in SCOPES}
    own |= {"service": AS_SERVICE}
    for route, allowed in guarded():
        for name in own.keys() - allowed:
            what = f"{route} with {name}"
            credential = Credential(name, own[name])
            answer = await scene.send(route, credential, scene.ids)
            check(scene, answer, what)
            assert answer.status_code == 403, what
            ids = nobody()
            assert told(answer, scene.ids) == told(await scene.send(route, credential, ids), ids), what
    assert await scene.rows() == before
    await untouched(scene)


async def test_what_is_somebody_elses_is_as_if_it_were_not(scene: Scene) -> None:
    """By tokens with the right scope: of another user, bound and not, and of another workspace of the same user."""
    make = scene.platform.token
    tokens = {"another's": [(await make(scene.other, scope, bound=False), scope) for scope in ("explorer", "admin")]}
    tokens["another's workspace's"] = [(await make(scene.other, "explorer"), "explorer")]
    tokens["another workspace's"] = [(await make(scene.second, "explorer"), "explorer")]
    before = await scene.rows()
    asked = 0
    for route, allowed in guarded():
        for name, given in tokens.items():
            if name == "another workspace's" and "{workspace_id}" not in route:
                continue  # the user is the same
            for token, scope in given:
                if scope not in allowed:
                    continue
                what = f"{route} with {name} {scope}"
                credential = Credential(name, bearer(token["token"]))
                answer, ids = await scene.send(route, credential, scene.ids), nobody()
                nowhere = await scene.send(route, credential, ids)
                assert told(answer, scene.ids) == told(nowhere, ids), what
                if route not in SILENT:
                    check(scene, answer, what)
                    assert answer.status_code == 404, what
                asked += 1
    assert asked > 20
    assert await scene.rows() == before
    await untouched(scene)


async def untouched(scene: Scene) -> None:
    """The victim's databases are as they were, and the victim's tokens good."""
    headers = bearer(scene.tokens["explorer"]["token"])
    for base in (scene.victim.agent, scene.victim.shared, scene.second.agent):
        answer = await scene.http.get(f"{base}/tables", headers=headers)
        assert [table["name"] for table in answer.json()["tables"]] == [scene.table]


ARGUMENTS = {
    "get_schema": {},
    "list_schemas": {},
    "list_objects": {"schema_name": "public"},
    "get_object_details": {"schema_name": "public", "object_name": "ledger"},
    "execute_sql": {"sql": HARM},
    "get_rows": {"handle": "x.0"},
    "execute_transaction": {"statements": [{"sql": HARM}]},
    "copy_rows": {"from_database": "agent", "query": "SELECT 1 AS i", "to_table": "intruder", "mode": "create"},
    "try_migration": {"statements": [{"sql": HARM}]},
    "create_checkpoint": {},
    "list_checkpoints": {},
    "restore_checkpoint": {"checkpoint": "anything", "confirm": True},
    "delete_checkpoint": {"checkpoint": "anything"},
    "get_top_queries": {"sort_by": "total_time"},
    "analyze_db_health": {"health_type": "all"},
    "get_budget": {},
    "explain_query": {"sql": HARM},
    "analyze_query_indexes": {"queries": [HARM]},
    "analyze_workload_indexes": {},
}


def mcp_messages() -> Iterator[tuple[str, dict[str, Any]]]:
    start = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
    yield "initialize", {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": start}
    yield "tools/list", {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    for tool in TOOLS:
        params = {"name": tool.name, "arguments": ARGUMENTS[tool.name]}
        yield tool.name, {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}


def mcp_headers() -> dict[str, str]:
    return {
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2025-06-18",
    } | from_afar()


async def test_mcp_with_every_tool_is_for_tokens_of_its_scope_alone(scene: Scene, nobodys: list[Credential]) -> None:
    before = await scene.rows()
    wrong = [*nobodys, Credential("service", AS_SERVICE)]
    wrong += [Credential(scope, bearer(scene.tokens[scope]["token"])) for scope in ("explorer", "admin")]
    for path in MCP_PATHS:
        for name, message in mcp_messages():
            for credential in wrong:
                what = f"{path} {name} with {credential.name}"
                answer = await scene.http.post(
                    path, json=message, params=credential.params, headers=mcp_headers() | credential.headers
                )
                check(scene, answer, what)
                assert answer.status_code == (403 if credential in wrong[-3:] else 401), what
        for method in ("GET", "DELETE", "PUT", "PATCH", "OPTIONS", "HEAD"):
            for credential in wrong:
                answer = await scene.http.request(
                    method, path, params=credential.params, headers=mcp_headers() | credential.headers
                )
                assert answer.status_code in REFUSED | {405}, (method, path, credential.name)
    assert await scene.rows() == before
    await untouched(scene)


async def test_mcp_shows_the_holder_of_a_token_nothing_of_anybody_else(scene: Scene) -> None:
    for bound in (True, False):
        token = await scene.platform.token(scene.other, "mcp", bound=bound)
        for path in MCP_PATHS:
            for name, message in mcp_messages():
                answer = await scene.http.post(path, json=message, headers=mcp_headers() | bearer(token["token"]))
                assert answer.status_code == 200, (path, name, answer.text)
                for secret in (scene.table, "Confidential", *vars_of(scene)):
                    assert secret not in answer.text, (path, name)
    await untouched(scene)


def vars_of(scene: Scene) -> tuple[str, ...]:
    return scene.victim.user_id, scene.victim.workspace_id, scene.second.workspace_id
