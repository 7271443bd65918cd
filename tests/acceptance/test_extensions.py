"""CREATE EXTENSION: those that policy allows work for an agent, the others are refused with the list."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest

from agentdb_mcp.local_stack import LocalStack

if TYPE_CHECKING:
    from tests.acceptance.conftest import Serve, ServeFactory


async def test_vectors_are_stored_indexed_and_compared(agent: Serve) -> None:
    created = await agent.sql("CREATE EXTENSION vector")
    assert created.fields["command_tag"] == "CREATE EXTENSION"
    await agent.sql("CREATE TABLE embeddings (id int PRIMARY KEY, v vector(3) NOT NULL)")
    await agent.sql("INSERT INTO embeddings VALUES (1, $1), (2, $2)", "[1,2,3]", "[9,9,9]")
    await agent.sql("CREATE INDEX ON embeddings USING hnsw (v vector_l2_ops)")
    nearest = await agent.sql("SELECT id, v FROM embeddings ORDER BY v <-> $1 LIMIT 1", "[1,2,4]")
    assert nearest.rows == [[1, "[1,2,3]"]]
    assert nearest.fields["columns"][1]["type"].endswith("vector")


async def test_trigrams_are_indexed_and_compared(agent: Serve) -> None:
    await agent.sql("CREATE EXTENSION IF NOT EXISTS pg_trgm")
    await agent.sql("CREATE TABLE titles (title text)")
    await agent.sql("CREATE INDEX ON titles USING gin (title gin_trgm_ops)")
    await agent.sql("INSERT INTO titles VALUES ('database'), ('elephant')")
    assert (await agent.sql("SELECT title FROM titles WHERE title % $1", "databse")).rows == [["database"]]
    assert (await agent.sql("SELECT similarity('abc', 'abc')")).rows == [[1.0]]


async def test_an_extension_is_listed_and_described_once_it_is_there(agent: Serve) -> None:
    await agent.sql("CREATE EXTENSION hstore")
    listed = await agent.call("list_objects", object_type="extension")
    assert "hstore" in [item["name"] for item in listed.fields["objects"]]
    details = await agent.call("get_object_details", object_name="hstore", object_type="extension")
    assert details.fields["name"] == "hstore"


async def test_creating_it_twice_is_an_error_unless_asked_not_to_be(agent: Serve) -> None:
    await agent.sql("CREATE EXTENSION citext")
    assert (await agent.refused("CREATE EXTENSION citext")).error["sqlstate"] == "42710"
    await agent.sql("CREATE EXTENSION IF NOT EXISTS citext")
    assert (await agent.sql("SELECT 'A'::citext = 'a'::citext")).rows == [[True]]


async def test_an_extension_works_in_the_transaction_that_creates_it(agent: Serve) -> None:
    statements = ["CREATE EXTENSION fuzzystrmatch", "SELECT levenshtein('kitten', 'sitting')"]
    answer = await agent.call("execute_transaction", statements=[{"sql": sql} for sql in statements])
    assert not answer.is_error, answer.text
    assert answer.fields["results"][1]["rows"] == [[3]]


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE EXTENSION postgres_fdw",
        "CREATE EXTENSION IF NOT EXISTS dblink",
        'CREATE EXTENSION "file_fdw"',
        "CREATE EXTENSION pg_stat_statements WITH SCHEMA public CASCADE",
        "CREATE EXTENSION plpython3u",
        "CREATE EXTENSION no_such_extension",
        "create /* hidden */ extension -- here\n dblink",
    ],
)
async def test_an_extension_that_policy_does_not_allow_is_refused_with_those_that_it_does(
    agent: Serve, sql: str
) -> None:
    answer = await agent.refused(sql)
    assert answer.code == "statement_refused"
    assert "is not one that the policy allows" in answer.error["message"]
    assert "vector" in answer.error["hint"]
    assert "pg_trgm" in answer.error["hint"]
    assert answer.error["retryable"] is False
    again = await agent.call("execute_transaction", statements=[{"sql": "SELECT 1"}, {"sql": sql}])
    assert again.code == "statement_refused"


async def test_the_refusal_names_the_extension(agent: Serve) -> None:
    assert "postgres_fdw" in (await agent.refused("CREATE EXTENSION postgres_fdw")).error["message"]


async def test_one_that_is_allowed_but_not_on_the_server_is_postgres_own_error(agent: Serve) -> None:
    assert (await agent.sql("SELECT count(*) FROM pg_available_extensions WHERE name = 'pgcrypto'")).rows == [[0]]
    answer = await agent.refused("CREATE EXTENSION pgcrypto")
    assert (answer.code, answer.error["sqlstate"]) == ("sql_error", "0A000")
    assert "pgcrypto" in answer.error["message"]


@pytest.fixture
async def narrow(serve: ServeFactory, tenant: Callable[..., dict[str, str]], tmp_path: Path) -> AsyncIterator[Serve]:
    """An agent whose policy allows one extension, and one that only an admin may create."""
    policy = tmp_path / "narrow.toml"
    policy.write_text('name = "narrow"\nversion = "1"\n[extensions]\nallow = ["pg_trgm", "bloom"]\n')
    async with serve(tenant("narrow-user", "narrow-workspace", AGENTDB_POLICY=str(policy))) as server:
        yield server


async def test_an_operators_list_takes_the_place_of_the_shipped_one(narrow: Serve) -> None:
    await narrow.sql("CREATE EXTENSION pg_trgm")
    refused = await narrow.refused("CREATE EXTENSION vector")
    assert refused.error["hint"] == "Allowed are bloom, pg_trgm."


async def test_one_that_only_an_admin_may_create_is_created_by_the_admin_if_that_one_may(
    narrow: Serve, stack: LocalStack
) -> None:
    answer = await narrow.refused("CREATE EXTENSION bloom")
    assert (answer.code, answer.error["sqlstate"]) == ("sql_error", "42501")
    await narrow.sql("CREATE TABLE items (a int, b int)")
    ((database,),) = (await narrow.sql("SELECT current_database()")).rows
    superuser = await asyncpg.connect(stack.postgres.uri().reveal())
    admin = await superuser.fetchval("SELECT datdba::regrole::text FROM pg_database WHERE datname = $1", database)
    await superuser.execute(f"ALTER ROLE {admin} SUPERUSER")
    await superuser.close()
    created = await narrow.sql("CREATE EXTENSION bloom")
    assert created.fields["command_tag"] == "CREATE EXTENSION"
    await narrow.sql("CREATE INDEX ON items USING bloom (a, b)")
    assert (await narrow.refused("DROP EXTENSION bloom")).error["sqlstate"] == "42501"
    assert (await narrow.refused("CREATE TABLE extensions.mine (n int)")).error["sqlstate"] == "42501"
