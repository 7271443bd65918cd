"""Computes that fall asleep and wake slowly: the caller waits, is told, and nothing runs twice."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import AsyncIterator

import anyio
import asyncpg
import httpx
import pytest
from jsonschema import Draft202012Validator

from agentdb_mcp.bootstrap import Application, open_application
from agentdb_mcp.embedded import embedded_postgres
from agentdb_mcp.errors import DatabaseUnavailable
from agentdb_mcp.execution import Call, Pools, Statement
from agentdb_mcp.local_stack import CONTROL_DATABASE, LocalStack
from agentdb_mcp.mcp_server.arguments import Arguments
from agentdb_mcp.mcp_server.tools import TOOLS
from agentdb_mcp.mcp_server.tools.objects import GetObjectDetails, ListObjects, ListSchemas
from agentdb_mcp.mcp_server.tools.sql import ExecuteSql, ExecuteTransaction
from agentdb_mcp.models import DatabaseTarget, Limits, Scope, Secret, Tenant
from agentdb_mcp.neon_emulator import Behaviour, neon_emulator
from agentdb_mcp.providers import project_name
from agentdb_mcp.services.queries import Answer
from agentdb_mcp.settings import load_settings
from agentdb_mcp.store.control import create_database

COLD_START_S = 1.5
NOTE = re.compile(r"The database was asleep; waking it took \d+\.\d s\.")
BRIEF = Limits(timeout_s=0.3, max_rows=10, max_bytes=10_000)


@pytest.fixture(scope="module")
async def stack(anyio_backend: str) -> AsyncIterator[LocalStack]:
    behaviour = Behaviour(cold_start_seconds=COLD_START_S)
    async with embedded_postgres() as postgres:
        await create_database(postgres.uri(), CONTROL_DATABASE)
        async with neon_emulator(postgres.uri().reveal(), behaviour=behaviour) as emulator:
            yield LocalStack(postgres, emulator, Secret(secrets.token_hex(32)), Secret(secrets.token_hex(32)))


@pytest.fixture
async def superuser(stack: LocalStack) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(stack.postgres.uri().reveal())
    yield connection
    await connection.close()


@pytest.fixture(scope="module")
async def application(stack: LocalStack) -> AsyncIterator[Application]:
    async with open_application(load_settings(stack.environ())) as application:
        yield application


class Sleeper:
    """A tenant with a database that can be put to sleep."""

    def __init__(self, stack: LocalStack, application: Application) -> None:
        self.tenant = Tenant(f"u{secrets.token_hex(6)}", f"w{secrets.token_hex(6)}")
        self.application = application
        self._emulator = stack.emulator

    async def run(self, *sqls: str) -> Answer:
        statements = [Statement(sql) for sql in sqls]
        return await self.application.queries.execute(
            self.tenant, Scope.AGENT, statements, transaction=len(statements) > 1
        )

    async def target(self) -> DatabaseTarget:
        return (await self.application.queries._databases.open(self.tenant, Scope.AGENT)).target

    async def suspend(self) -> None:
        key = {"Authorization": f"Bearer {self._emulator.api_key}"}
        async with httpx.AsyncClient(base_url=self._emulator.base_url, headers=key, timeout=60) as api:
            name = project_name(Scope.AGENT, self.tenant.workspace_id or "")
            (project,) = (await api.get("/projects", params={"search": name})).json()["projects"]
            path = f"/projects/{project['id']}/endpoints"
            (endpoint,) = (await api.get(path)).json()["endpoints"]
            (await api.post(f"{path}/{endpoint['id']}/suspend")).raise_for_status()
            with anyio.fail_after(20):
                while (await api.get(f"{path}/{endpoint['id']}")).json()["endpoint"]["current_state"] != "idle":
                    await anyio.sleep(0.02)


@pytest.fixture
async def sleeper(stack: LocalStack, application: Application) -> Sleeper:
    sleeper = Sleeper(stack, application)
    await sleeper.run("CREATE TABLE runs (n int)")
    assert (await sleeper.run("SELECT 1")).notes == ()
    return sleeper


async def test_a_statement_after_a_suspend_runs_once_and_the_answer_tells_how_long_waking_took(
    sleeper: Sleeper,
) -> None:
    await sleeper.suspend()
    answer = await sleeper.run("INSERT INTO runs VALUES (1) RETURNING n")
    assert answer.results[0].rows == [[1]]
    (note,) = answer.notes
    assert NOTE.fullmatch(note)
    counted = await sleeper.run("SELECT count(*)::int FROM runs")
    assert (counted.results[0].rows, counted.notes) == ([[1]], ())


async def test_all_idle_sessions_of_a_suspended_compute_are_replaced(sleeper: Sleeper) -> None:
    async def together(sql: str) -> None:
        async with anyio.create_task_group() as group:
            for _ in range(6):
                group.start_soon(sleeper.run, sql)

    await together("SELECT pg_sleep(0.1)")
    await sleeper.suspend()
    await together("INSERT INTO runs VALUES (1)")
    assert (await sleeper.run("SELECT count(*)::int FROM runs")).results[0].rows == [[6]]


async def test_a_compute_that_does_not_wake_in_time_is_still_waking_and_the_call_may_be_repeated(
    sleeper: Sleeper,
) -> None:
    target = await sleeper.target()
    await sleeper.suspend()
    pools: Pools = sleeper.application.queries._pools
    with pytest.raises(DatabaseUnavailable, match="still be waking") as asleep:
        await pools.run(target, Call([Statement("INSERT INTO runs VALUES (1)")], BRIEF, read_only=False))
    assert (asleep.value.retryable, asleep.value.ran) == (True, False)
    assert "again" in (asleep.value.hint or "")
    answer = await sleeper.run("INSERT INTO runs VALUES (2) RETURNING (SELECT count(*)::int FROM runs)")
    assert answer.results[0].rows == [[0]]


@pytest.mark.parametrize("sql", ["SELECT pg_sleep(60)", "INSERT INTO runs SELECT 1 FROM pg_sleep(60)"])
async def test_a_suspend_while_a_statement_runs_ends_it_and_it_is_not_sent_again(
    sleeper: Sleeper, superuser: asyncpg.Connection, sql: str
) -> None:
    role = (await sleeper.target()).role
    errors: list[DatabaseUnavailable] = []

    async def ask() -> None:
        try:
            await sleeper.run("INSERT INTO runs VALUES (1)", sql)
        except DatabaseUnavailable as error:
            errors.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        while not await superuser.fetchval(RUNNING, role):
            await anyio.sleep(0.02)
        await sleeper.suspend()
    assert [(error.retryable, error.ran) for error in errors] == [(True, True)]
    assert "nothing of it took effect" in str(errors[0])
    looked = await sleeper.run("SELECT count(*)::int FROM runs")
    assert looked.results[0].rows == [[0]]
    assert looked.notes, "nobody had woken it in between"
    assert await superuser.fetchval(RUNNING, role) == 0


RUNNING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND usename = $1"


async def test_the_tools_show_the_note_in_text_and_in_structured_content(sleeper: Sleeper) -> None:
    do = sleeper.application.operations(sleeper.tenant)
    tools = {tool.name: tool for tool in TOOLS}
    given: dict[str, Arguments] = {
        "list_schemas": ListSchemas(),
        "list_objects": ListObjects(schema_name="public"),
        "get_object_details": GetObjectDetails(schema_name="public", object_name="runs"),
        "execute_sql": ExecuteSql(sql="SELECT 1"),
        "execute_transaction": ExecuteTransaction.model_validate({"statements": [{"sql": "SELECT 1"}]}),
    }
    for name, arguments in given.items():
        await sleeper.suspend()
        tool = tools[name]
        answer = await tool.handler(do, Scope.AGENT, arguments)
        Draft202012Validator(tool.output_schema).validate(json.loads(json.dumps(answer.structured)))
        (note,) = answer.structured["notes"]
        assert NOTE.fullmatch(note)
        assert note in answer.text
        assert tool.output_schema["properties"]["notes"]["type"] == "array"
        awake = await tool.handler(do, Scope.AGENT, arguments)
        assert "notes" not in awake.structured
        Draft202012Validator(tool.output_schema).validate(awake.structured)
