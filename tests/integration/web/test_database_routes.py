"""The explorer's routes: the same for both of a tenant's databases, read the way an agent's statement is."""

from __future__ import annotations

from typing import Any

import anyio
import httpx
import pytest
from platform_side import Owner, Platform, client, error_of, fresh, in_ascii, platform_on

LETTERS_65_BYTES = "é" * 32 + "x"


@pytest.fixture(params=["agent", "shared"])
def base(request: pytest.FixtureRequest, owner: Owner) -> str:
    """The path of one of the two databases."""
    path: str = getattr(owner, request.param)
    return path


async def run(http: httpx.AsyncClient, base: str, sql: str, *params: Any) -> dict[str, Any]:
    answer = await http.post(f"{base}/execute", json={"sql": sql, "params": list(params)})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def rows(http: httpx.AsyncClient, base: str, table: str, **given: Any) -> list[list[Any]]:
    answer = await http.post(f"{base}/query", json={"table": table, **given})
    assert answer.status_code == 200, answer.text
    found: list[list[Any]] = answer.json()["rows"]
    return found


async def test_tables_are_made_listed_and_read_page_by_page(explorer: httpx.AsyncClient, base: str) -> None:
    await run(explorer, base, "CREATE TABLE notes (id int PRIMARY KEY, body text)")
    await run(explorer, base, "INSERT INTO notes SELECT i, 'note ' || i FROM generate_series(1, 9) AS i")
    await run(explorer, base, "COMMENT ON TABLE notes IS 'what was noted'")
    tables = (await explorer.get(f"{base}/tables")).json()["tables"]
    notes = next(table for table in tables if table["name"] == "notes")
    assert (notes["schema"], notes["type"], notes["comment"]) == ("public", "table", "what was noted")
    assert notes["columns"] == [
        {"name": "id", "type": "integer", "nullable": False, "primary_key": True},
        {"name": "body", "type": "text", "nullable": True, "primary_key": False},
    ]
    order = [{"column": "id"}]
    assert [row[0] for row in await rows(explorer, base, "notes", limit=4, offset=4, order_by=order)] == [5, 6, 7, 8]
    order = [{"column": "id", "descending": True}]
    assert [row[0] for row in await rows(explorer, base, "notes", limit=2, order_by=order)] == [9, 8]
    assert await rows(explorer, base, "notes", offset=2**62) == []
    answer = await run(explorer, base, "SELECT body FROM notes WHERE id = $1", 3)
    assert (answer["rows"], answer["row_count"], answer["command_tag"]) == ([["note 3"]], 1, "SELECT 1")


async def test_any_name_is_a_name(explorer: httpx.AsyncClient, base: str) -> None:
    for schema, table, column in (
        ("public", 'a"b', 'c"; DROP SCHEMA public --'),
        ("Ünïcode 名", "表 'quoted'", "$1"),
        ("public", "ü" * 31, "x" * 63),
    ):
        quoted = ['"' + name.replace('"', '""') + '"' for name in (schema, table, column)]
        await run(explorer, base, f"CREATE SCHEMA IF NOT EXISTS {quoted[0]}")
        await run(explorer, base, f"CREATE TABLE {quoted[0]}.{quoted[1]} ({quoted[2]} int)")
        await run(explorer, base, f"INSERT INTO {quoted[0]}.{quoted[1]} VALUES (2), (1)")
        found = await rows(explorer, base, table, schema=schema, order_by=[{"column": column}])
        assert found == [[1], [2]], table
        listed = (await explorer.get(f"{base}/tables")).json()["tables"]
        assert (schema, table) in {(each["schema"], each["name"]) for each in listed}


async def test_a_name_that_postgres_would_cut_finds_no_other_table(explorer: httpx.AsyncClient, base: str) -> None:
    """Postgres keeps 63 bytes of a name, so that a longer one would find whatever goes by its beginning."""
    await run(explorer, base, f'CREATE TABLE "{LETTERS_65_BYTES}" (i int)')
    listed = {table["name"] for table in (await explorer.get(f"{base}/tables")).json()["tables"]}
    assert "é" * 31 in listed
    for given in (
        {"table": LETTERS_65_BYTES},
        {"table": "notes", "schema": LETTERS_65_BYTES},
        {"table": "notes", "order_by": [{"column": LETTERS_65_BYTES}]},
    ):
        error = error_of(await explorer.post(f"{base}/query", json=given), 400)
        assert "63 bytes" in error["message"]
    for name in ("table", "schema"):
        given = {"table": "notes", name: LETTERS_65_BYTES}
        assert "63 bytes" in error_of(await explorer.get(f"{base}/export", params=given), 400)["message"]
    await run(explorer, base, f'DROP TABLE "{"é" * 31}"')


async def test_what_postgres_refuses_says_where_and_why(explorer: httpx.AsyncClient, base: str) -> None:
    error = error_of(await explorer.post(f"{base}/execute", json={"sql": "SELECT * FROM nowhere"}), 422)
    assert (error["code"], error["sqlstate"], error["position"]) == ("sql_error", "42P01", 15)
    error = error_of(await explorer.post(f"{base}/query", json={"table": "nowhere"}), 422)
    assert error["sqlstate"] == "42P01"
    error = error_of(await explorer.post(f"{base}/execute", json={"sql": "COPY t TO PROGRAM 'id'"}), 403)
    assert error["code"] == "statement_refused"
    error = error_of(await explorer.post(f"{base}/execute", json={"sql": "SELECT 1; SELECT 2"}), 403)
    assert error["code"] == "statement_refused"


@pytest.mark.parametrize(
    "given",
    [
        {"sql": "SELECT 1", "database": "global"},
        {"sql": ""},
        {"sql": 1},
        {"sql": "SELECT 1", "params": {}},
        {"sql": "SELECT 1", "max_rows": 0},
        {"sql": "SELECT 1", "max_rows": 1001},
        {"sql": "SELECT 1", "max_rows": True},
        {"sql": "SELECT 1\0"},
        {"sql": "SELECT '\ud800'"},
        {"sql": "SELECT $1::text", "params": ["\0"]},
        {"sql": "SELECT $1::text", "params": ["\ud800"]},
        {"sql": "SELECT $1::text", "params": [{"\ud800": 1}]},
        {"sql": "SELECT $1::int", "params": [10**30]},
        {"sql": "SELECT $1::int", "params": ["one"]},
        {"sql": "SELECT $1::int", "params": []},
        {"sql": "SELECT 1", "params": [1]},
        {"sql": "SELECT " + "(" * 200 + "1" + ")" * 200},
    ],
)
async def test_what_cannot_run_is_the_callers_mistake(
    explorer: httpx.AsyncClient, owner: Owner, given: dict[str, Any]
) -> None:
    answer = await explorer.post(f"{owner.agent}/execute", **in_ascii(given))
    assert 400 <= answer.status_code < 500, answer.text
    error_of(answer, answer.status_code)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'"sql"',
        b"{",
        b"\xff\xfe",
        b'{"sql": "SELECT 1", "sql": "SELECT 2"}',
        b'{"sql": "SELECT 1", "params": [{"a": 1, "a": 2}]}',
        b'{"sql": "SELECT $1::float8", "params": [NaN]}',
        b'{"sql": "SELECT 1", "max_rows": 1' + b"0" * 5000 + b"}",
        b'{"sql": "SELECT $1::text", "params": [1' + b"0" * 4400 + b"]}",
        b'{"sql": "SELECT 1", "params": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"sql": "SELECT 1", "params": [' + b'{"a":' * 20_000 + b"1" + b"}" * 20_000 + b"]}",
        b'{"sql": "SELECT $1::jsonb", "params": [' + b"[" * 900 + b"]" * 900 + b"]}",
        b'{"\\ud800": 1, "sql": "SELECT 1"}',
        b'{"sql": "\\ud800"}',
        b'{"sql": "SELECT 1\\u0000"}',
    ],
)
async def test_json_that_is_none_or_has_no_one_meaning_is_refused(
    explorer: httpx.AsyncClient, owner: Owner, body: bytes
) -> None:
    answer = await explorer.post(f"{owner.agent}/execute", content=body, headers={"content-type": "application/json"})
    if b"jsonb" in body and answer.status_code == 200:
        return
    assert 400 <= answer.status_code < 500, answer.text[:300]
    error_of(answer, answer.status_code)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "é/é"])
async def test_a_body_of_another_type_is_not_read_as_json(explorer: httpx.AsyncClient, owner: Owner, kind: str) -> None:
    """So that no form of another site's page can send one."""
    headers = {"content-type": kind.encode("latin-1")}
    answer = await explorer.post(f"{owner.agent}/execute", content=b'{"sql": "SELECT 1"}', headers=headers)
    assert error_of(answer, 400)["code"] == "invalid_argument"


async def test_a_connection_is_shown_masked_and_nothing_is_made_for_it(
    platform: Platform, explorer: httpx.AsyncClient, base: str
) -> None:
    answer = await explorer.get(f"{base}/connection")
    assert answer.json() == {"connection": "postgresql://…:…@…/…", "status": "ready"}
    assert (await explorer.get(base)).json()["status"] == "ready"


async def test_databases_that_nobody_used_yet_are_made_by_the_first_statement_alone(
    platform: Platform, environ: dict[str, str]
) -> None:
    """A platform with tables of its own has users whom nobody registered with us."""
    owner = fresh()
    identity = platform.application.managed().lifecycle.identity
    await identity.ensure_user(owner.user_id)
    await identity.ensure_workspace(owner.workspace_id, "Lazy", owner.user_id)
    async with platform.holder(owner) as explorer:
        for path in (owner.agent, owner.shared):
            assert (await explorer.get(path)).json()["status"] == "none"
            assert (await explorer.get(f"{path}/connection")).json()["status"] == "none"
        query = {"workspaceId": owner.workspace_id}
        servers = (await platform.http.get("/api/mcp/system-servers", params=query)).json()["servers"]
        tools = (await platform.http.get("/api/mcp/system-tools", params=query)).json()["tools"]
        assert [server["name"] for server in servers] == ["Agent Database", "Global Database"]
        assert [server["url"] for server in servers] == [f"{platform.url}/mcp/{scope}" for scope in ("agent", "global")]
        for server in servers:
            names = [tool["name"] for tool in tools if tool["serverId"] == server["id"]]
            assert len(names) == server["toolCount"]
            assert {"execute_sql", "get_budget"} <= set(names)
        assert all("database" not in tool["inputSchema"]["properties"] for tool in tools)
        provider = platform.application.managed().provider
        assert provider is not None
        for name in (f"agent-{owner.workspace_id}", f"global-{owner.user_id}"):
            assert await provider.find(name) == []
        assert (await platform.http.get(f"/api/users/{owner.user_id}")).json()["databases"] == []
        for path in (owner.agent, owner.shared):
            assert (await run(explorer, path, "SELECT 1"))["rows"] == [[1]]
            assert (await explorer.get(path)).json()["status"] == "ready"


async def test_listing_servers_and_tools_opens_no_connection(platform: Platform, stack: Any) -> None:
    owner = await platform.register()
    for path in ("system-servers", "system-tools"):
        answer = await platform.http.get(f"/api/mcp/{path}", params={"workspaceId": owner.workspace_id})
        assert answer.status_code == 200
    control = platform.application.managed().control
    row = await platform.application.managed().lifecycle.database("agent", owner.workspace_id)  # type: ignore[arg-type]
    assert row is not None
    async with control.connection() as connection:
        logins = await connection.fetchval("SELECT count(*) FROM pg_stat_activity WHERE usename = $1", row.role_name)
    assert logins == 0


async def test_the_platforms_backend_runs_tools_for_an_agent(platform: Platform, owner: Owner) -> None:
    async def call(server: str, tool: str, **arguments: Any) -> httpx.Response:
        given = {
            "serverId": server,
            "toolName": tool,
            "arguments": arguments,
            "workspaceId": owner.workspace_id,
        }
        return await platform.http.post("/api/mcp/tools/execute", **in_ascii(given))

    answer = (await call("agentdb-agent", "execute_sql", sql="SELECT 41 + 1 AS answer")).json()
    assert (answer["isError"], answer["structuredContent"]["rows"]) == (False, [[42]])
    assert "42" in answer["content"][0]["text"]
    databases = set()
    for server in ("agentdb-agent", "agentdb-global"):
        answer = (await call(server, "execute_sql", sql="SELECT current_database()")).json()
        databases.add(answer["structuredContent"]["rows"][0][0])
    assert len(databases) == 2
    answer = await call("agentdb-agent", "execute_sql", sql="SELEC 1")
    assert (answer.status_code, answer.json()["isError"]) == (200, True)
    assert answer.json()["structuredContent"]["error"]["code"] == "sql_error"
    answer = await call("agentdb-agent", "execute_sql", sql="SELECT 1", database="global")
    assert answer.json()["structuredContent"]["error"]["code"] == "invalid_argument"
    assert error_of(await call("agentdb-agent", "nothing"), 404)["code"] == "not_found"
    assert error_of(await call("agentdb-agent", "\ud800"), 400)
    assert error_of(await call("another", "execute_sql"), 400)


async def test_ten_calls_in_ten_seconds_are_a_users_over_both_databases(environ: dict[str, str], tmp_path: Any) -> None:
    shipped = {name: value for name, value in environ.items() if name != "AGENTDB_POLICY"}
    async with platform_on(shipped) as platform:
        owner, other = await platform.register(), await platform.register()
        async with platform.holder(owner) as explorer, platform.holder(other) as another:
            statuses = []
            for number in range(12):
                path = (owner.agent, owner.shared)[number % 2]
                answer = await explorer.post(f"{path}/execute", json={"sql": "SELECT 1"})
                statuses.append(answer.status_code)
            assert statuses == [200] * 10 + [429] * 2
            error = error_of(answer, 429)
            assert (error["code"], error["retryable"]) == ("rate_limited", True)
            assert 1 <= int(answer.headers["retry-after"]) <= 10
            assert (await explorer.get(f"{owner.agent}/tables")).status_code == 429
            assert (await explorer.post(f"{owner.agent}/query", json={"table": "t"})).status_code == 429
            assert (await another.post(f"{other.agent}/execute", json={"sql": "SELECT 1"})).status_code == 200


async def test_a_budget_that_is_used_up_refuses_writes_and_a_new_period_lifts_that(platform: Platform) -> None:
    owner = await platform.register()
    user = f"/api/users/{owner.user_id}"
    async with platform.holder(owner) as explorer:
        await run(explorer, owner.agent, "CREATE TABLE t (i int)")
        await platform.http.put(f"{user}/tier", json={"tier": "free", "custom_budget_cents": 0})
        answer = await explorer.post(f"{owner.agent}/execute", json={"sql": "INSERT INTO t VALUES (1)"})
        assert error_of(answer, 402)["code"] == "budget_exceeded"
        assert (await explorer.get(f"{user}/usage")).json()["budget"]["exceeded"] is True
        await platform.http.put(f"{user}/tier", json={"tier": "paid"})
        with anyio.fail_after(30):
            while (await explorer.post(f"{owner.agent}/execute", json={"sql": "INSERT INTO t VALUES (1)"})).is_error:
                await anyio.sleep(0.1)


async def test_a_workspace_that_another_user_owns_now_is_gone_for_who_had_it(
    platform: Platform, environ: dict[str, str]
) -> None:
    owner, other = await platform.register(), await platform.register()
    async with platform.holder(owner) as before, platform.holder(owner, bound=False) as unbound:
        async with platform.application.managed().control.connection() as control:
            await control.execute("UPDATE workspace SET owner_id = $2 WHERE id = $1", owner.workspace_id, other.user_id)
        for http in (before, unbound):
            assert error_of(await http.get(owner.agent), 404)["code"] == "not_found"
            assert error_of(await http.post(f"{owner.agent}/execute", json={"sql": "SELECT 1"}), 404)


async def test_a_server_whose_url_is_public_tells_that_one(environ: dict[str, str]) -> None:
    async with platform_on(environ, public_url="https://databases.example.com/") as platform:
        owner = await platform.register()
        answer = await platform.http.get("/api/mcp/system-servers", params={"workspaceId": owner.workspace_id})
        assert answer.json()["servers"][0]["url"] == "https://databases.example.com/mcp/agent"
        async with client(platform.url) as nobody:
            assert error_of(await nobody.get("/api/mcp/system-servers"), 401)
