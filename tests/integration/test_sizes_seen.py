"""When the server looks at a database's size: what gives space back or takes it without success counts at once."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentdb_mcp.bootstrap import Application, open_application
from agentdb_mcp.errors import SqlError
from agentdb_mcp.execution import Statement
from agentdb_mcp.models import Scope, Tenant
from agentdb_mcp.settings import load_settings

FILL = "INSERT INTO notes SELECT repeat('x', 900) FROM generate_series(1, 20000)"
FILLED = 18_000_000


@pytest.fixture
def tenant() -> Tenant:
    return Tenant(f"u{secrets.token_hex(6)}", f"w{secrets.token_hex(6)}")


@pytest.fixture
async def attentive(environ: dict[str, str], tmp_path: Path) -> AsyncIterator[Application]:
    """Looks at sizes after every call that wrote."""
    path = tmp_path / "attentive.toml"
    path.write_text('name = "attentive"\n[metering]\nsize_sample_s = 0.001\n')
    async with open_application(load_settings(environ | {"AGENTDB_POLICY": str(path)})) as application:
        yield application


async def run(application: Application, tenant: Tenant, *statements: str) -> None:
    calls = [Statement(sql) for sql in statements]
    await application.queries.execute(tenant, Scope.AGENT, calls, transaction=len(calls) > 1)


async def seen(application: Application, tenant: Tenant) -> int:
    """Bytes, as the bill has them."""
    (database,) = (await application.managed().usage.report(tenant.user_id or "")).by_database
    return database.size_bytes


@pytest.mark.parametrize("statement", ["DROP TABLE notes", "TRUNCATE notes"])
async def test_space_that_is_given_back_counts_at_once(
    application: Application, tenant: Tenant, statement: str
) -> None:
    await run(application, tenant, "CREATE TABLE notes AS SELECT repeat('x', 900) FROM generate_series(1, 20000)")
    assert await seen(application, tenant) > FILLED
    await run(application, tenant, statement)
    assert await seen(application, tenant) < FILLED


async def test_what_a_failed_call_left_behind_counts(attentive: Application, tenant: Tenant) -> None:
    await run(attentive, tenant, "CREATE TABLE notes (content text)")
    with pytest.raises(SqlError, match="division by zero"):
        await run(attentive, tenant, FILL, "SELECT 1 / 0")
    assert await seen(attentive, tenant) > FILLED


async def test_what_was_not_looked_at_after_writing_is_looked_at_after_a_later_read(
    application: Application, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run(application, tenant, "CREATE TABLE notes AS SELECT repeat('x', 900) FROM generate_series(1, 20000)")
    await run(application, tenant, "ALTER TABLE notes DROP COLUMN repeat, ADD COLUMN id bigserial")
    assert await seen(application, tenant) > FILLED
    monkeypatch.setattr(application.managed().usage.budgets.metering, "size_sample_s", 0.0)
    await run(application, tenant, "SELECT count(*) FROM notes")
    assert await seen(application, tenant) < FILLED
