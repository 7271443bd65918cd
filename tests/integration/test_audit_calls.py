"""What real calls leave in the audit log, over stdio's way, REST and MCP over HTTP; and what they never leave there."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.lowlevel
import asyncpg
import httpx
import pytest

from agentdb_mcp.bootstrap import Application, open_application
from agentdb_mcp.errors import AgentDBError
from agentdb_mcp.execution import Statement, catalog
from agentdb_mcp.mcp_server.server import call_tool
from agentdb_mcp.models import Scope, Tenant, TokenScope
from agentdb_mcp.services import Queries
from agentdb_mcp.settings import load_settings
from agentdb_mcp.store import AuditDecision, AuditEntry
from agentdb_mcp.web.app import HttpOptions, build_app
from agentdb_mcp.web.serving import serve

SERVICE_KEY = "service-key-0123456789-abcdef"


@dataclass(frozen=True)
class Agent:
    """A user with one workspace."""

    application: Application
    tenant: Tenant

    @property
    def queries(self) -> Queries:
        return self.application.queries

    @property
    def user(self) -> str:
        return self.tenant.user_id or ""

    async def run(self, *texts: str, params: tuple[object, ...] = (), scope: Scope = Scope.AGENT) -> None:
        await self.queries.execute(
            self.tenant, scope, [Statement(text, params) for text in texts], transaction=len(texts) > 1
        )

    async def fail(self, *texts: str) -> None:
        with pytest.raises(AgentDBError):
            await self.run(*texts)

    async def entries(self) -> list[AuditEntry]:
        """The oldest first."""
        audit = self.application.managed().audit
        await audit.flush()
        verified = [each async for each in audit.verify(self.user)]
        assert [each.broken for each in verified] == [None]
        return (await audit.entries(self.user))[::-1]


@pytest.fixture(scope="module")
async def environ(environ: dict[str, str]) -> dict[str, str]:
    return environ | {"AGENTDB_SERVICE_KEY": SERVICE_KEY}


@pytest.fixture
async def agent(application: Application) -> Agent:
    user = f"u{secrets.token_hex(6)}"
    return Agent(application, Tenant(user, f"{user}-notes"))


@pytest.fixture(scope="module")
async def url(application: Application) -> AsyncIterator[str]:
    async with serve(build_app(application, HttpOptions()), "127.0.0.1", 0) as url:
        yield url


async def test_each_call_is_one_entry(agent: Agent) -> None:
    await agent.run("CREATE TABLE notes (id int, body text)")
    await agent.run("INSERT INTO notes SELECT g, 'b' FROM generate_series(1, 7) AS g")
    await agent.run("SELECT * FROM notes")
    await agent.run("INSERT INTO notes VALUES (8)", "UPDATE notes SET body = 'c'", "TABLE notes")
    await agent.queries.catalog(agent.tenant, Scope.AGENT, [catalog.columns("public", "notes")])
    await agent.run("SELECT 1 FROM pg_class LIMIT 0", scope=Scope.GLOBAL)
    await agent.fail("SELECT * FROM nowhere")
    await agent.fail("COPY notes TO '/tmp/x'")
    await agent.fail("SELECT 1", "SELECT 1 / 0")
    await agent.fail("SELECT '\0'")
    shown = [
        (entry.decision.value, entry.code, entry.sqlstate, entry.kinds, entry.objects, entry.rows)
        for entry in await agent.entries()
    ]
    assert shown == [
        ("allowed", None, None, ("schema",), ("notes",), 0),
        ("allowed", None, None, ("write",), ("notes",), 7),
        ("allowed", None, None, ("read",), ("notes",), 7),
        ("allowed", None, None, ("read", "write"), ("notes",), 1 + 8 + 8),
        ("allowed", None, None, ("read",), (), 2),
        ("allowed", None, None, ("read",), ("pg_class",), 0),
        ("failed", "sql_error", "42P01", ("read",), ("nowhere",), None),
        ("refused", "statement_refused", None, ("server",), (), None),
        ("failed", "sql_error", "22012", ("read",), (), None),
        ("refused", "invalid_argument", None, (), (), None),
    ]


async def test_a_copy_is_an_entry_of_each_database(agent: Agent) -> None:
    for arguments in (
        {"query": "SELECT generate_series(1, 3) AS id", "mode": "create"},
        {"query": "SELECT 'x' AS id FROM pg_class LIMIT 1"},
        {"query": "DROP TABLE copied"},
    ):
        operations = agent.application.operations(agent.tenant)
        await call_tool(operations, "copy_rows", {"from_database": "agent", "to_table": "copied"} | arguments)
    shown = {
        (entry.scope, entry.decision.value, entry.code, entry.kinds, entry.objects, entry.rows, entry.tool)
        for entry in await agent.entries()
    }
    invalid, refused = ("failed", "sql_error"), ("refused", "invalid_argument")
    assert shown == {
        ("agent", "allowed", None, ("read",), (), 3, "copy_rows"),
        ("global", "allowed", None, ("schema", "write"), ("public.copied",), 3, "copy_rows"),
        ("agent", *invalid, ("read",), ("pg_class",), None, "copy_rows"),
        ("global", *invalid, ("write",), ("public.copied",), None, "copy_rows"),
        ("agent", *refused, ("reclaim", "schema"), ("copied",), None, "copy_rows"),
        ("global", *refused, (), (), None, "copy_rows"),
    }


async def test_an_analysis_of_many_transactions_is_one_entry_of_the_callers_text(agent: Agent) -> None:
    await agent.run("CREATE TABLE seen AS SELECT g AS n FROM generate_series(1, 3000) AS g")
    await agent.run(text := "SELECT * FROM seen WHERE n = 5")
    operations = agent.application.operations(agent.tenant)
    for tool, arguments in (
        ("explain_query", {"sql": text}),
        ("explain_query", {"sql": text, "hypothetical_indexes": [{"table": "seen", "columns": ["n"]}]}),
        ("explain_query", {"sql": "DROP TABLE seen", "analyze": True}),
        ("analyze_query_indexes", {"queries": [text]}),
        ("analyze_workload_indexes", {}),
    ):
        await call_tool(operations, tool, arguments)
    _, itself, *entries = await agent.entries()
    assert [(entry.tool, entry.decision.value, entry.kinds) for entry in entries] == [
        ("explain_query", "allowed", ("read",)),
        ("explain_query", "allowed", ("read", "schema")),
        ("explain_query", "refused", ("unknown",)),
        ("analyze_query_indexes", "allowed", ("read", "schema")),
        ("analyze_workload_indexes", "allowed", ("read", "schema")),
    ]
    assert [entry.statement_hash == itself.statement_hash for entry in entries] == [True, True, False, True, False]


async def test_an_entry_says_whose_call_it_was_and_on_which_database(agent: Agent) -> None:
    await agent.run("SELECT 1")
    await agent.run("SELECT 1", scope=Scope.GLOBAL)
    databases = agent.application.managed().lifecycle.databases
    in_agent, in_global = await agent.entries()
    for entry in (in_agent, in_global):
        assert (entry.user_id, entry.workspace_id) == (agent.tenant.user_id, agent.tenant.workspace_id)
        assert (entry.source, entry.principal, entry.tool) == ("mcp", "stdio", None)
    assert (in_agent.scope, in_global.scope) == ("agent", "global")
    row = await databases.find(Scope.AGENT, f"agent-{agent.tenant.workspace_id}")
    assert row is not None
    assert in_agent.database_id == row.id != in_global.database_id
    assert in_agent.statement_hash == in_global.statement_hash


async def test_somebody_elses_workspace_is_refused_and_noted_with_who_tried(agent: Agent) -> None:
    await agent.run("SELECT 1")
    thief = Agent(agent.application, Tenant(f"{agent.user}-thief", agent.tenant.workspace_id))
    await thief.fail("SELECT 1")
    [entry] = await thief.entries()
    assert (entry.decision, entry.code, entry.database_id) == ("refused", "not_allowed", None)


async def test_tools_are_named(agent: Agent) -> None:
    operations = agent.application.operations(agent.tenant)
    for tool, arguments in (
        ("execute_sql", {"sql": "SELECT 1"}),
        ("list_schemas", {}),
        ("get_object_details", {"object_name": "nowhere", "database": "global"}),
        ("analyze_db_health", {"health_type": "index"}),
        ("get_budget", {}),
        ("execute_sql", {"sql": 1}),
        ("get_rows", {"handle": "x.0"}),
    ):
        await call_tool(operations, tool, dict(arguments))
    assert [(entry.tool, entry.scope) for entry in await agent.entries()] == [
        ("execute_sql", "agent"),
        ("list_schemas", "agent"),
        ("get_object_details", "global"),
        ("analyze_db_health", "agent"),
        ("get_rows", "agent"),
    ]


async def test_a_page_that_was_held_is_a_read_of_its_rows(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentdb_mcp.services.calls.READ_ON_LEAST_S", 20.0)  # on any machine
    page = await agent.application.pages.first(agent.tenant, Scope.AGENT, Statement("SELECT generate_series(1, 5)"), 2)
    await agent.application.pages.next(agent.tenant, Scope.AGENT, page.next or "", 3)
    with pytest.raises(AgentDBError):
        await agent.application.pages.next(agent.tenant, Scope.AGENT, "x.0")
    entries = [(entry.decision, entry.kinds, entry.rows, entry.code) for entry in await agent.entries()]
    assert entries[1:] == [("allowed", ("read",), 3, None), ("refused", ("read",), None, "invalid_argument")]


# --- over HTTP ------------------------------------------------------------------------------------------------------


async def issue(agent: Agent, *scopes: TokenScope, workspace: bool = False) -> tuple[str, dict[str, str]]:
    """A token's id, and the header that it is sent in."""
    of = agent.tenant.workspace_id if workspace else None
    issued = await agent.application.managed().tokens.issue(agent.user, of, list(scopes), None)
    return issued.id, {"Authorization": f"Bearer {issued.token.reveal()}"}


async def test_over_http_an_entry_names_the_token_and_the_route_or_tool(agent: Agent, url: str) -> None:
    await agent.run("CREATE TABLE notes (id int)")
    explorer, as_explorer = await issue(agent, TokenScope.EXPLORER)
    mcp, as_mcp = await issue(agent, TokenScope.MCP, workspace=True)
    database = f"/api/workspaces/{agent.tenant.workspace_id}/database"
    asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
    asked |= {"params": {"name": "execute_sql", "arguments": {"sql": "SELECT 1"}}}  # type: ignore[dict-item]
    accept = {"accept": "application/json, text/event-stream"}
    async with httpx.AsyncClient(base_url=url, timeout=30) as http:
        answers = [
            await http.get(f"{database}/tables", headers=as_explorer),
            await http.post(f"{database}/query", json={"table": "notes"}, headers=as_explorer),
            await http.post(f"{database}/execute", json={"sql": "SELECT 1"}, headers=as_explorer),
            await http.get(f"{database}/export?table=notes", headers=as_explorer),
            await http.post("/mcp", json=asked, headers=as_mcp | accept),
            await http.post(
                "/api/mcp/tools/execute",
                json={
                    "serverId": "agentdb-agent",
                    "toolName": "execute_sql",
                    "arguments": {"sql": "SELECT 1"},
                    "workspaceId": agent.tenant.workspace_id,
                },
                headers={"Authorization": f"Bearer {SERVICE_KEY}"},
            ),
        ]
    assert [answer.status_code for answer in answers] == [200] * 6, [answer.text for answer in answers]
    shown = [(entry.source, entry.principal, entry.tool, entry.decision.value) for entry in await agent.entries()]
    assert shown[1:] == [
        ("rest", explorer, "tables", "allowed"),
        ("rest", explorer, "query", "allowed"),
        ("rest", explorer, "execute", "allowed"),
        ("rest", explorer, "export", "allowed"),
        ("mcp", mcp, "execute_sql", "allowed"),
        ("rest", "service", "execute_sql", "allowed"),
    ]


async def test_a_user_reads_the_own_activity_page_by_page(agent: Agent, url: str) -> None:
    for number in range(5):
        await agent.run(f"SELECT {number}")
    await agent.fail("COPY x TO STDOUT")
    await agent.queries.catalog(Tenant(agent.user, "elsewhere"), Scope.GLOBAL, [catalog.schemas()])
    entries = await agent.entries()
    _, as_admin = await issue(agent, TokenScope.ADMIN)
    _, bound = await issue(agent, TokenScope.EXPLORER, workspace=True)
    _, as_mcp = await issue(agent, TokenScope.MCP)
    path = f"/api/users/{agent.user}/activity"
    as_service = {"x-internal-api-key": SERVICE_KEY}
    async with httpx.AsyncClient(base_url=url, timeout=30) as http:

        async def read(headers: dict[str, str], **params: Any) -> dict[str, Any]:
            answer = await http.get(path, params=params, headers=headers)
            assert answer.status_code == 200, answer.text
            page: dict[str, Any] = answer.json()
            return page

        async def sequences(headers: dict[str, str], **params: Any) -> list[int]:
            return [entry["sequence"] for entry in (await read(headers, **params))["entries"]]

        page = await read(as_admin, limit=4)
        assert [entry["sequence"] for entry in page["entries"]] == [7, 6, 5, 4]
        assert page["next"] == 4
        page = await read(as_admin, limit=4, before=page["next"])
        assert ([entry["sequence"] for entry in page["entries"]], page["next"]) == ([3, 2, 1], None)
        assert page["entries"][0] | {"duration_ms": 0, "at": ""} == {
            "sequence": 3, "at": "", "user_id": agent.user, "workspace_id": agent.tenant.workspace_id,
            "scope": "agent", "database_id": entries[2].database_id, "source": "mcp", "principal": "stdio",
            "tool": None, "kinds": ["read"], "objects": [], "decision": "allowed", "code": None, "sqlstate": None,
            "duration_ms": 0, "rows": 1, "statement_hash": (entries[2].statement_hash or b"").hex(),
            "request_id": None,
            "previous_hash": entries[1].hash.hex(), "hash": entries[2].hash.hex(),
        }  # fmt: skip
        assert await sequences(as_service, decision="refused") == [6]
        assert await sequences(as_service, scope="global") == await sequences(as_admin, workspace_id="elsewhere") == [7]
        assert await sequences(bound) == [6, 5, 4, 3, 2, 1]
        for headers, query, status in (
            (bound, "?workspace_id=elsewhere", 404),
            (as_mcp, "", 403),
            ({}, "", 401),
            (as_admin, "?limit=0", 400),
            (as_admin, "?decision=maybe", 400),
        ):
            assert (await http.get(path + query, headers=headers)).status_code == status, query
        for other in (f"{agent.user}-other", "nobody"):
            assert (await http.get(f"/api/users/{other}/activity", headers=as_admin)).status_code == 404
        assert (await http.get("/api/users/nobody/activity", headers=as_service)).status_code == 404


# --- what is never there, and never waited for ----------------------------------------------------------------------


async def test_no_value_no_literal_and_no_text_is_in_the_log(agent: Agent) -> None:
    await agent.run("CREATE TABLE notes (id int, body text DEFAULT 'a-private-default')")
    await agent.run("INSERT INTO notes VALUES (47114711, $1)", params=("a-private-parameter",))
    await agent.run("SELECT 'a-private-literal' FROM notes, lower('a-private-argument') WHERE id = 47114711")
    await agent.fail("SELECT * FROM xmltable('/a-private-path' PASSING '<a/>' COLUMNS a int)")
    await agent.run("UPDATE notes SET body = $q$a-private-quote$q$", "SELECT E'a-private\\x2descape'")
    await agent.fail("SELECT 'a-private-message'::int")
    await agent.fail("SELECT a-private-mistake FROM")
    await agent.fail("CREATE USER x PASSWORD 'a-private-password'")
    await agent.fail("DO $$ BEGIN RAISE EXCEPTION 'a-private-error'; END $$")
    found = await agent.queries.catalog(agent.tenant, Scope.AGENT, [catalog.columns("public", "a-private-name")])
    assert found[0].rows == []
    assert len(await agent.entries()) == 10
    async with agent.application.managed().control.connection() as connection:
        rows = await connection.fetch("SELECT to_jsonb(l)::text AS l FROM db_audit_log AS l")
        chains = await connection.fetch("SELECT to_jsonb(c)::text AS l FROM db_audit_chain AS c")
    everything = "\n".join(row["l"] for row in (*rows, *chains))
    assert agent.user in everything
    for secret in ("private", "47114711", "SELECT", "PASSWORD", "postgresql://"):
        assert secret not in everything


async def test_calls_go_on_while_the_control_database_is_away_and_are_noted_when_it_is_back(
    environ: dict[str, str], superuser_of_stack: asyncpg.Connection
) -> None:
    user = f"u{secrets.token_hex(6)}"
    async with open_application(load_settings(environ)) as application:
        agent = Agent(application, Tenant(user, f"{user}-notes"))
        await agent.run("SELECT 1")
        await application.managed().audit.flush()
        name = environ["AGENTDB_CONTROL_URL"].rpartition("/")[2]
        await superuser_of_stack.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        try:
            await superuser_of_stack.fetch(
                "SELECT pg_terminate_backend(pid, 3000) FROM pg_stat_activity WHERE datname = $1", name
            )
            for number in range(20):
                await agent.run(f"SELECT {number}")
            await application.managed().audit.flush()
        finally:
            await superuser_of_stack.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        await agent.fail("SELECT nothing")
        assert [entry.code for entry in await agent.entries()] == [None] * 21 + ["sql_error"]


async def test_what_was_noted_is_stored_at_the_end(environ: dict[str, str], application: Application) -> None:
    user = f"u{secrets.token_hex(6)}"
    async with open_application(load_settings(environ)) as ending:
        await Agent(ending, Tenant(user, f"{user}-notes")).run("SELECT 1")
        async with anyio.create_task_group() as group:
            group.start_soon(Agent(ending, Tenant(user, f"{user}-notes")).run, "SELECT pg_sleep(30)")
            await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
    noted = await application.managed().audit.entries(user)
    assert [(entry.decision, entry.code) for entry in noted][::-1] == [
        (AuditDecision.ALLOWED, None),
        (AuditDecision.FAILED, "cancelled"),
    ]


@pytest.fixture
async def superuser_of_stack(stack: Any) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(stack.postgres.uri().reveal())
    yield connection
    await connection.close()
