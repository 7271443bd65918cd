"""The whole way of a first call with a plain Postgres cluster in place of Neon."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

import pytest

from agentdb_mcp.bootstrap import Application, open_application
from agentdb_mcp.doctor import examine
from agentdb_mcp.embedded import EmbeddedPostgres
from agentdb_mcp.errors import DatabaseUnavailable
from agentdb_mcp.execution import Statement
from agentdb_mcp.models import Scope, Tenant
from agentdb_mcp.settings import load_settings
from agentdb_mcp.store.control import create_database


@pytest.fixture
async def application(postgres: EmbeddedPostgres) -> AsyncIterator[Application]:
    control = f"control_{secrets.token_hex(6)}"
    await create_database(postgres.uri(), control)
    environ = {
        "AGENTDB_CONTROL_URL": postgres.uri(control).reveal(),
        "AGENTDB_ENCRYPTION_KEYS": secrets.token_hex(32),
        "AGENTDB_PROVIDER_URL": postgres.uri().reveal(),
    }
    async with open_application(load_settings(environ)) as application:
        yield application


async def test_a_database_is_made_on_first_use_and_goes_with_its_workspace(application: Application) -> None:
    workspace = f"w{secrets.token_hex(6)}"
    tenant = Tenant(f"u{secrets.token_hex(6)}", workspace)
    for scope in Scope:
        statements = [Statement("CREATE TABLE t (n int)"), Statement("INSERT INTO t VALUES (1)"), Statement("TABLE t")]
        answer = await application.queries.execute(tenant, scope, statements, transaction=True)
        assert answer.results[2].rows == [[1]]
    managed = application.managed()
    assert managed.provider is not None
    assert len(await managed.provider.find(f"agent-{workspace}")) == 1
    await managed.lifecycle.delete_workspace(workspace)
    assert await managed.provider.find(f"agent-{workspace}") == []
    with pytest.raises(DatabaseUnavailable):
        await application.queries.execute(tenant, Scope.AGENT, [Statement("TABLE t")])


async def test_doctor_names_the_cluster_and_not_its_address(
    application: Application, postgres: EmbeddedPostgres
) -> None:
    findings = {finding.check: finding async for finding in examine(application)}
    assert findings["postgres provider"].ok
    assert str(postgres.port) not in findings["postgres provider"].message


async def test_the_columns_of_a_varchar_are_told_although_neighbours_are_hidden(application: Application) -> None:
    tenant = Tenant(f"u{secrets.token_hex(6)}", f"w{secrets.token_hex(6)}")
    await application.queries.execute(tenant, Scope.AGENT, [Statement("CREATE TABLE t (v varchar(10))")])
    asked = "SELECT column_name, character_octet_length FROM information_schema.columns WHERE table_name = 't'"
    answer = await application.queries.execute(tenant, Scope.AGENT, [Statement(asked)])
    assert answer.results[0].rows == [["v", 40]]
