"""`serve` with AGENT_DB_URL alone: any Postgres, no control database, no Neon."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agentdb_mcp.embedded import EmbeddedPostgres
from agentdb_mcp.local_stack import LocalStack

if TYPE_CHECKING:
    from tests.acceptance.conftest import Serve, ServeFactory

KEY = "5a" * 32
OTHER_KEY = "a5" * 32


def sealed(text: str, key: str = KEY, *, documents_order: bool = False) -> str:
    """What Sim stores (`iv:ciphertext:tag`), or the design documents' own column (`iv:tag:ciphertext`)."""
    iv = secrets.token_bytes(16)
    both = AESGCM(bytes.fromhex(key)).encrypt(iv, text.encode(), None)
    parts = [iv, both[-16:], both[:-16]] if documents_order else [iv, both[:-16], both[-16:]]
    return ":".join(part.hex() for part in parts)


@pytest.fixture(scope="module")
def postgres(stack: LocalStack) -> EmbeddedPostgres:
    return stack.postgres


async def test_a_plain_url_is_all_that_serve_needs_and_has_no_budget(
    serve: ServeFactory, postgres: EmbeddedPostgres
) -> None:
    async with serve({"AGENT_DB_URL": postgres.uri().reveal()}) as server:
        await server.sql("CREATE TABLE plain (id int PRIMARY KEY)")
        await server.sql("INSERT INTO plain VALUES ($1)", 7)
        assert (await server.sql("SELECT * FROM plain")).rows == [[7]]
        listed = await server.call("list_objects")
        assert "plain" in [item["name"] for item in listed.fields["objects"]]
        done = await server.call("execute_transaction", statements=[{"sql": "DROP TABLE plain"}])
        assert not done.is_error
        budget = (await server.call("get_budget")).fields
        assert budget["managed"] is False
        assert budget["limit_cents"] is None
        assert budget["databases"] == []
        missing = await server.refused("SELECT 1", database="global")
        assert missing.code == "database_unavailable"
        assert "GLOBAL_DB_URL" in missing.text
        assert await server.end() == 0


async def test_encrypted_urls_of_both_formats_open_with_the_keys_of_their_settings(
    serve: ServeFactory, postgres: EmbeddedPostgres
) -> None:
    environ = {
        "AGENT_DB_URL": sealed(postgres.uri("template1").reveal()),
        "ENCRYPTION_KEY": KEY,
        "GLOBAL_DB_URL": sealed(postgres.uri().reveal(), OTHER_KEY, documents_order=True),
        "NEON_CONNECTION_ENCRYPTION_KEY": OTHER_KEY,
    }
    async with serve(environ) as server:
        assert (await server.sql("SELECT current_database()")).rows == [["template1"]]
        assert (await server.sql("SELECT current_database()", database="global")).rows == [["postgres"]]


async def test_an_older_key_in_the_list_of_keys_opens_too(serve: ServeFactory, postgres: EmbeddedPostgres) -> None:
    environ = {"AGENT_DB_URL": sealed(postgres.uri().reveal()), "AGENTDB_ENCRYPTION_KEYS": f"{OTHER_KEY},{KEY}"}
    async with serve(environ) as server:
        assert (await server.sql("SELECT 1")).rows == [[1]]


async def test_an_unresolved_reference_counts_as_missing_and_the_database_is_made(
    serve: ServeFactory, tenant: Callable[..., dict[str, str]], projects: Callable[[], Awaitable[list[str]]]
) -> None:
    references = {"AGENT_DB_URL": "${AGENT_DB_URL}", "GLOBAL_DB_URL": "{{GLOBAL_DB_URL}}"}
    async with serve(tenant("referrer", "referred") | references) as server:
        await server.sql("SELECT 1")
        await server.sql("SELECT 1", database="global")
    assert {"agent-referred", "global-referrer"} <= set(await projects())


async def test_urls_in_the_environment_come_before_our_own_databases(
    serve: ServeFactory,
    tenant: Callable[..., dict[str, str]],
    postgres: EmbeddedPostgres,
    projects: Callable[[], Awaitable[list[str]]],
) -> None:
    urls = {"AGENT_DB_URL": postgres.uri("template1").reveal(), "GLOBAL_DB_URL": postgres.uri().reveal()}
    async with serve(tenant("owner", "owned") | urls) as server:
        assert (await server.sql("SELECT current_database()")).rows == [["template1"]]
        assert (await server.sql("SELECT current_database()", database="global")).rows == [["postgres"]]
    assert not {"agent-owned", "global-owner"} & set(await projects())


async def test_the_stored_url_of_a_database_opens_after_a_key_rotation(
    agent: Serve, serve: ServeFactory, tenant: Callable[..., dict[str, str]], stack: LocalStack
) -> None:
    await agent.sql("CREATE TABLE kept (id int)")
    keys = f"{OTHER_KEY},{stack.encryption_key.reveal()}"
    async with serve(tenant("shared-user", "shared-workspace", AGENTDB_ENCRYPTION_KEYS=keys)) as server:
        assert (await server.sql("SELECT count(*) FROM kept")).rows == [[0]]
