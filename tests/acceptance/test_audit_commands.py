"""`audit verify` and `export` as operators use them, on what running agents left."""

from __future__ import annotations

import csv
import io
import json
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

import anyio
import asyncpg
import pytest

from agentdb_mcp.local_stack import LocalStack

if TYPE_CHECKING:
    from tests.acceptance.conftest import CommandFactory, ServeFactory

Tenants = Callable[..., dict[str, str]]
COUNT = "SELECT count(*) FROM db_audit_log WHERE user_id = 'ada'"


@pytest.fixture(scope="module")
async def environ(stack: LocalStack, serve: ServeFactory, tenant: Tenants) -> dict[str, str]:
    """What an agent of the user `ada` did is in the log."""
    environ = tenant("ada", "research")
    async with serve(environ) as agent:
        await agent.sql("CREATE TABLE notes (id int)")
        await agent.sql("INSERT INTO notes VALUES ($1)", 1)
        await agent.refused("COPY notes TO STDOUT")
        assert await agent.end() == 0
    return environ


@pytest.fixture
async def control(environ: dict[str, str]) -> asyncpg.Connection:
    connection = await asyncpg.connect(environ["AGENTDB_CONTROL_URL"])
    yield connection
    await connection.close()


async def test_an_ended_server_left_its_entries_and_they_are_exported(
    command: CommandFactory, environ: dict[str, str]
) -> None:
    done = await command(environ, "audit", "export", "ada")
    assert (done.code, done.err) == (0, "")
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert [(line["sequence"], line["tool"], line["objects"], line["decision"]) for line in lines[:3]] == [
        (1, "execute_sql", ["notes"], "allowed"),
        (2, "execute_sql", ["notes"], "allowed"),
        (3, "execute_sql", [], "refused"),
    ]
    day = lines[0]["at"][:10]
    table = await command(environ, "audit", "export", "ada", "--since", day, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(table.out, newline="")))
    assert [row["hash"] for row in rows] == [line["hash"] for line in lines]
    assert json.loads(rows[0]["objects"]) == ["notes"]
    for days in (("--until", "2020-01-01"), ("--since", "9999-12-31", "--until", "9999-12-31")):
        assert (await command(environ, "audit", "export", "ada", *days)).out == ""


async def test_what_a_killed_server_had_stored_stays_and_verifies(
    serve: ServeFactory, command: CommandFactory, environ: dict[str, str], control: asyncpg.Connection, tmp_path: object
) -> None:
    """The call before the kill may be lost; everything that was stored by then is not."""
    before = await control.fetchval(COUNT)
    policy = f"{tmp_path}/policy.toml"
    with open(policy, "w") as file:  # noqa: ASYNC230
        file.write('name = "quick"\n[metering]\nflush_s = 0.05\n')
    async with serve(environ | {"AGENTDB_POLICY": policy}) as agent:
        for _ in range(5):
            await agent.sql("SELECT 1")
        with anyio.fail_after(20):
            while await control.fetchval(COUNT) < before + 5:
                await anyio.sleep(0.02)
        await agent.sql("SELECT 2")
        assert await agent.end(signal.SIGKILL) == -signal.SIGKILL
    assert await control.fetchval(COUNT) in {before + 5, before + 6}
    verified = await command(environ, "audit", "verify", "ada")
    assert (verified.code, verified.err) == (0, "")


async def test_verify_counts_and_names_the_first_entry_that_was_changed(
    command: CommandFactory, environ: dict[str, str], control: asyncpg.Connection
) -> None:
    """A superuser's change is undone at the end."""
    count = await control.fetchval(COUNT)
    done = await command(environ, "audit", "verify")
    assert (done.code, done.out) == (0, f"Users whose log is as it was written: 1, with {count} entries.\n")
    await control.execute("SET session_replication_role = replica")
    await control.execute("UPDATE db_audit_log SET decision = 'allowed' WHERE user_id = 'ada' AND sequence = 3")
    broken = await command(environ, "audit", "verify")
    assert (broken.code, broken.out, broken.err) == (1, "User ada: entry 3 was changed.\n", "")
    as_json = await command(environ, "audit", "verify", "ada", "--json")
    fields = json.loads(as_json.out)
    assert as_json.code == 1
    assert fields["broken"] == [{"user_id": "ada", "sequence": 3, "what": "was changed"}]
    assert [(chain["user_id"], chain["sequence"]) for chain in fields["chains"]] == [("ada", count)]
    await control.execute("UPDATE db_audit_log SET decision = 'refused' WHERE user_id = 'ada' AND sequence = 3")
    assert (await command(environ, "audit", "verify", "ada")).code == 0


async def test_nobodys_log_is_not_called_intact(command: CommandFactory, environ: dict[str, str]) -> None:
    done = await command(environ, "audit", "verify", "nobody")
    assert (done.code, done.out) == (1, "")
    assert done.one_line == "agentdb-mcp: The log has nothing of a user nobody."
