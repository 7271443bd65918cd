"""What passes the proxy in front of the local Neon API's computes, and what does not."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from urllib.parse import urlsplit

import anyio
import asyncpg
import httpx
import pytest
from emulating import GONE, base, client, connected, controlled, create, done, uri_of

from agentdb_mcp.embedded import EmbeddedPostgres, embedded_postgres
from agentdb_mcp.neon_emulator import Behaviour, neon_emulator


async def test_a_cancelled_statement_ends_at_once_and_the_connection_goes_on(api: httpx.AsyncClient) -> None:
    async with connected(uri_of(await create(api))) as connection:
        with anyio.fail_after(30):
            with pytest.raises(TimeoutError):
                await connection.execute("SELECT pg_sleep(60)", timeout=0.1)
            assert await connection.fetchval("SELECT 1") == 1


async def test_a_client_that_vanishes_leaves_no_session_behind(
    api: httpx.AsyncClient, postgres: EmbeddedPostgres
) -> None:
    created = await create(api)
    gone = await asyncpg.connect(uri_of(created))
    gone.terminate()
    async with connected(postgres.uri().reveal()) as superuser:
        count = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1"
        with anyio.fail_after(30):
            while await superuser.fetchval(count, created["databases"][0]["name"]):
                await anyio.sleep(0.01)


async def test_large_results_and_copies_pass_unharmed(api: httpx.AsyncClient) -> None:
    async with connected(uri_of(await create(api))) as connection:
        await connection.execute("CREATE TABLE big (n int, text text)")
        records = [(number, "x" * 1000) for number in range(20_000)]
        await connection.copy_records_to_table("big", records=records)
        rows = await connection.fetch("SELECT n, text FROM big ORDER BY n")
        assert [tuple(row) for row in rows] == records


async def test_the_pooler_refuses_what_it_cannot_keep(api: httpx.AsyncClient) -> None:
    created = await create(api)
    names = {"database_name": created["databases"][0]["name"], "role_name": created["roles"][0]["name"]}
    uri = (await api.get(f"{base(created)}/connection_uri", params={**names, "pooled": "true"})).json()["uri"]
    async with connected(uri, server_settings={"application_name": "fine"}) as pooled:
        assert await pooled.fetchval("SELECT 1") == 1
    with pytest.raises(asyncpg.PostgresError, match="unsupported startup parameter: statement_timeout") as refused:
        await asyncpg.connect(uri, server_settings={"statement_timeout": "5"})
    assert refused.value.sqlstate == "08P01"
    async with connected(uri_of(created), server_settings={"statement_timeout": "5s"}) as direct:
        assert await direct.fetchval("SHOW statement_timeout") == "5s"


async def test_an_endpoint_that_is_not_there_cannot_be_asked_for(api: httpx.AsyncClient) -> None:
    created = await create(api)
    with pytest.raises(asyncpg.InternalServerError, match="could not be found"):
        await asyncpg.connect(uri_of(created).partition("?")[0] + "?options=endpoint%3Dep-never-was-12345678")


@pytest.mark.parametrize("named", [True, False])
async def test_uris_name_the_endpoint_in_the_host_or_else_in_their_options(named: bool) -> None:
    async with controlled(Behaviour(operation_seconds=0, named_hosts=named)) as (_, api, _):
        created = await create(api)
        endpoint_id = created["endpoints"][0]["id"]
        names = {"database_name": created["databases"][0]["name"], "role_name": created["roles"][0]["name"]}
        pooled = (await api.get(f"{base(created)}/connection_uri", params={**names, "pooled": "true"})).json()["uri"]
        direct = urlsplit(uri_of(created))
        if named:
            assert (direct.hostname, direct.query) == (f"{endpoint_id}.localhost", "")
            assert urlsplit(pooled).hostname == f"{endpoint_id}-pooler.localhost"
        else:
            assert (direct.hostname, direct.query) == ("127.0.0.1", f"options=endpoint%3D{endpoint_id}")
            assert urlsplit(pooled).query == f"options=endpoint%3D{endpoint_id}-pooler"
        for uri in (uri_of(created), pooled):
            # The name may not resolve on this machine; what it leads to is there.
            async with connected(uri, host="127.0.0.1", port=direct.port) as connection:
                assert await connection.fetchval("SELECT 1") == 1


async def test_options_choose_among_endpoints_and_the_rest_of_them_reaches_postgres(api: httpx.AsyncClient) -> None:
    created = await create(api)
    body = {"endpoints": [{"type": "read_write"}]}
    copy = (await done(api, "POST", f"{base(created)}/branches", json=body))["endpoints"][0]
    await done(api, "POST", f"{base(created)}/endpoints/{copy['id']}/suspend")
    plain = uri_of(created).partition("?")[0]
    options = f"-c statement_timeout=5s endpoint={copy['id']} -c geqo=off"
    async with connected(plain, server_settings={"options": options}) as connection:
        assert await connection.fetchval("SHOW statement_timeout") == "5s"
        assert await connection.fetchval("SHOW geqo") == "off"
    woken = (await api.get(f"{base(created)}/endpoints/{copy['id']}")).json()["endpoint"]
    assert woken["current_state"] == "active"


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\x08\0\0\0\0", struct.pack("!ii", 2**31 - 1, 0)]
)
async def test_what_is_no_startup_packet_ends_its_own_connection_only(api: httpx.AsyncClient, sent: bytes) -> None:
    created = await create(api)
    port = urlsplit(uri_of(created)).port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    writer.write_eof()
    with anyio.fail_after(30), contextlib.suppress(ConnectionError):
        await reader.read()
    writer.close()
    async with connected(uri_of(created)) as fine:
        assert await fine.fetchval("SELECT 1") == 1


async def test_without_the_proxy_uris_lead_to_the_cluster_itself() -> None:
    async with embedded_postgres() as postgres:
        running = neon_emulator(postgres.uri().reveal(), proxy=False)
        async with running as direct, client(direct.base_url, direct.api_key) as api:
            created = await create(api)
            assert urlsplit(uri_of(created)).port == postgres.port
            async with connected(uri_of(created)) as connection:
                assert await connection.fetchval("SELECT 1") == 1


async def test_no_connection_outlives_the_emulator() -> None:
    async with controlled(Behaviour()) as (_, api, _):
        created = await create(api)
        left = await asyncpg.connect(uri_of(created))
        waiting = socket.create_connection(("127.0.0.1", urlsplit(uri_of(created)).port))
    with pytest.raises((*GONE, OSError)):
        await left.fetchval("SELECT 1")
    waiting.close()
