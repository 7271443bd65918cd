"""`doctor` on a database that somebody brought: what its login may do too much, and the SQL that takes it away."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import asyncpg
import pytest

from agentdb_mcp.local_stack import LocalStack

if TYPE_CHECKING:
    from tests.acceptance.conftest import CommandFactory

PASSWORD = "hunter2hunter2"
OWNER = "o'brien\"s login"
POWERS = ["CREATEROLE", "CREATEDB", "BYPASSRLS", "REPLICATION"]
MEMBERSHIPS = ["pg_execute_server_program", "pg_read_all_data", "pg_read_server_files", "pg_signal_backend"]
QUOTED = '"o\'brien""s login"'


@pytest.fixture
async def superuser(stack: LocalStack) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(stack.postgres.uri().reveal())
    yield connection
    await connection.close()


@pytest.fixture
async def url(stack: LocalStack, superuser: asyncpg.Connection) -> AsyncIterator[str]:
    """Of a login that may create in its database and do nothing else on the server."""
    await superuser.execute(f"CREATE ROLE {QUOTED} LOGIN PASSWORD '{PASSWORD}'")
    await superuser.execute("CREATE DATABASE brought")
    await superuser.execute(f"GRANT CONNECT, CREATE, TEMPORARY ON DATABASE brought TO {QUOTED}")
    await superuser.execute("REVOKE CONNECT ON DATABASE postgres FROM PUBLIC")
    yield f"postgresql://{quote(OWNER)}:{PASSWORD}@127.0.0.1:{stack.postgres.port}/brought"
    await superuser.execute("DROP DATABASE brought WITH (FORCE)")
    await superuser.execute(f"DROP OWNED BY {QUOTED}; DROP ROLE {QUOTED}")
    await superuser.execute("GRANT CONNECT ON DATABASE postgres TO PUBLIC")


async def doctor(command: CommandFactory, environ: dict[str, str], code: int) -> list[dict[str, Any]]:
    """What is wrong, with the exit code that belongs to it."""
    done = await command(environ, "doctor", "--json")
    assert done.code == code, done.out
    assert PASSWORD not in done.out + done.err
    findings: list[dict[str, Any]] = json.loads(done.out)["findings"]
    return [finding for finding in findings if finding["ok"] is False]


async def test_a_modest_login_is_fine(command: CommandFactory, url: str) -> None:
    assert await doctor(command, {"AGENT_DB_URL": url}, code=0) == []
    done = await command({"AGENT_DB_URL": url}, "doctor")
    assert "ok    AGENT_DB_URL: answers" in done.out.splitlines()


async def test_whatever_is_too_much_is_named_for_either_url_with_the_sql_that_takes_it_away(
    command: CommandFactory, superuser: asyncpg.Connection, url: str
) -> None:
    await superuser.execute(f"ALTER ROLE {QUOTED} {' '.join(POWERS)}; GRANT {', '.join(MEMBERSHIPS)} TO {QUOTED}")
    wrong = await doctor(command, {"AGENT_DB_URL": url, "GLOBAL_DB_URL": url}, code=1)
    named = [(f"the login has {power}", f"ALTER ROLE {QUOTED} NO{power};") for power in POWERS]
    named += [(f"the login is a member of {role}", f'REVOKE "{role}" FROM {QUOTED};') for role in MEMBERSHIPS]
    for variable in ("AGENT_DB_URL", "GLOBAL_DB_URL"):
        of_url = [finding for finding in wrong if finding["check"] == f"{variable} login"]
        assert [(finding["message"], finding["hint"]) for finding in of_url] == named
    for _, sql in named:
        await superuser.execute(sql)
    assert await doctor(command, {"AGENT_DB_URL": url}, code=0) == []


async def test_a_superuser_is_named_without_the_memberships_that_follow_from_it(
    command: CommandFactory, superuser: asyncpg.Connection, url: str
) -> None:
    await superuser.execute(f"ALTER ROLE {QUOTED} SUPERUSER")
    wrong = await doctor(command, {"AGENT_DB_URL": url}, code=1)
    (named,) = [finding for finding in wrong if finding["check"] == "AGENT_DB_URL login"]
    assert (named["message"], named["hint"]) == ("the login has SUPERUSER", f"ALTER ROLE {QUOTED} NOSUPERUSER;")
    await superuser.execute(named["hint"])


async def test_a_membership_of_a_membership_is_named_too(
    command: CommandFactory, superuser: asyncpg.Connection, url: str
) -> None:
    await superuser.execute(f"CREATE ROLE readers; GRANT pg_read_server_files TO readers; GRANT readers TO {QUOTED}")
    wrong = await doctor(command, {"AGENT_DB_URL": url}, code=1)
    assert [finding["message"] for finding in wrong] == ["the login is a member of readers"]
    await superuser.execute("DROP OWNED BY readers; DROP ROLE readers")


async def test_other_databases_of_the_server_that_are_open_to_the_login_are_counted(
    command: CommandFactory, superuser: asyncpg.Connection, url: str
) -> None:
    await superuser.execute("GRANT CONNECT ON DATABASE postgres TO PUBLIC")
    (wrong,) = await doctor(command, {"AGENT_DB_URL": url}, code=1)
    assert wrong["check"] == "AGENT_DB_URL server"
    assert "1 other database " in wrong["message"]
    assert "REVOKE CONNECT" in wrong["hint"]
    done = await command({"AGENT_DB_URL": url}, "doctor")
    assert done.code == 1
    assert any(line.startswith("WRONG AGENT_DB_URL server: ") for line in done.out.splitlines())
