"""TLS as a connection's URI asks for it, on a real Postgres with a certificate of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import ssl
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import cast

import anyio
import anyio.abc
import asyncpg
import pytest
from anyio.streams.tls import TLSStream
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agentdb_mcp.bootstrap import open_application
from agentdb_mcp.embedded import EmbeddedPostgres, embedded_postgres
from agentdb_mcp.errors import AgentDBError, DatabaseUnavailable, ResultTooLarge
from agentdb_mcp.execution import Call, Pools, PoolSettings, Statement, layout
from agentdb_mcp.execution.login import admin_connection, reap
from agentdb_mcp.models import DatabaseTarget, Limits, Result, Scope, Secret, Tenant
from agentdb_mcp.providers.postgres.cluster import Cluster
from agentdb_mcp.settings import load_settings
from agentdb_mcp.store.control import ControlDatabase, Notice, create_database

LIMITS = Limits(timeout_s=10, max_rows=100, max_bytes=100_000)
NEON = "?sslmode=require&channel_binding=require"
PID = "SELECT pg_backend_pid()"
SSL_REQUEST = struct.pack("!ii", 8, 80877103)


@dataclass(frozen=True, slots=True)
class Encrypted:
    """A server that offers TLS, and files of the certificate that it shows and of one that it has nothing to do with.

    `ended` holds the ports from which connections reach Postgres whose TLS ended before it, as at Neon.
    """

    postgres: EmbeddedPostgres
    port: int
    certificate: Path
    other: Path
    ended: set[int] = field(default_factory=set)

    def uri(self, query: str, database: str = "postgres") -> Secret:
        uri = self.postgres.uri(database).reveal()
        return Secret(uri.replace(f":{self.postgres.port}/", f":{self.port}/") + query)

    async def encrypts(self, pid: object) -> bool | None:
        """Whether the backend's connection is encrypted; None if there is none."""
        superuser = await asyncpg.connect(self.postgres.uri().reveal())
        try:
            found = await superuser.fetchrow(
                "SELECT ssl, client_port FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE pid = $1", pid
            )
        finally:
            await superuser.close()
        return None if found is None else found["ssl"] or found["client_port"] in self.ended


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / f"{name}.crt", folder / f"{name}.key"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


def tls_binaries() -> Path | None:
    """Programs of a Postgres that was built with TLS, which the embedded one was not."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
    return next((folder for folder in reversed(installed) if (folder / "initdb").exists()), None)


@pytest.fixture(scope="module", params=["Postgres itself", "a proxy before it"])
async def server(
    request: pytest.FixtureRequest, anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Encrypted]:
    folder = tmp_path_factory.mktemp("tls")
    shown, key = certificate(folder, "server")
    other, _ = certificate(folder, "other")
    if request.param == "a proxy before it":
        async with embedded_postgres() as postgres, tls_proxy(postgres, shown, key) as (port, ended):
            yield Encrypted(postgres, port, shown, other, ended)
        return
    programs = tls_binaries()
    if programs is None:
        pytest.skip("no Postgres with TLS is installed here")
    async with embedded_postgres(bin_dir=programs) as postgres:
        await switch_on_tls(postgres, shown, key)
        yield Encrypted(postgres, postgres.port, shown, other)


async def switch_on_tls(postgres: EmbeddedPostgres, shown: Path, key: Path) -> None:
    superuser = await asyncpg.connect(postgres.uri().reveal())
    pgdata = Path(await superuser.fetchval("SHOW data_directory"))
    for name, file in (("server.crt", shown), ("server.key", key)):
        give(file, pgdata / name)
    await superuser.execute("ALTER SYSTEM SET ssl = on")
    await superuser.execute("SELECT pg_reload_conf()")
    await superuser.close()
    probe = Secret(postgres.uri().reveal() + "?sslmode=require")
    with anyio.fail_after(20):
        while True:
            with contextlib.suppress(ConnectionError):
                await (await asyncpg.connect(probe.reveal())).close()
                return
            await anyio.sleep(0.02)


def give(file: Path, copy: Path) -> None:
    """A copy for whoever owns the folder."""
    owner = copy.parent.stat()
    copy.write_bytes(file.read_bytes())
    copy.chmod(0o600)
    os.chown(copy, owner.st_uid, owner.st_gid)


@contextlib.asynccontextmanager
async def tls_proxy(postgres: EmbeddedPostgres, shown: Path, key: Path) -> AsyncIterator[tuple[int, set[int]]]:
    """Ends TLS before Postgres; what comes without it goes through as it is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shown, key)
    ended: set[int] = set()

    async def serve(client: anyio.abc.SocketStream) -> None:
        with contextlib.suppress(OSError, anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError):
            async with client, await anyio.connect_tcp("127.0.0.1", postgres.port) as upstream:
                first, stream = await client.receive(8), cast("anyio.abc.ByteStream", client)
                if first == SSL_REQUEST:
                    await client.send(b"S")
                    stream = await TLSStream.wrap(
                        client, server_side=True, ssl_context=context, standard_compatible=False
                    )
                    ended.add(upstream.extra(anyio.abc.SocketAttribute.local_port))
                else:
                    await upstream.send(first)
                async with anyio.create_task_group() as group:
                    group.start_soon(pump, stream, upstream, group.cancel_scope)
                    await pump(upstream, stream, group.cancel_scope)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, serve)
        yield listener.extra(anyio.abc.SocketAttribute.local_port), ended
        group.cancel_scope.cancel()


async def pump(source: anyio.abc.ByteStream, sink: anyio.abc.ByteStream, both: anyio.CancelScope) -> None:
    with contextlib.suppress(OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
        async for data in source:
            await sink.send(data)
    both.cancel()


@pytest.fixture
async def pools() -> AsyncIterator[Pools]:
    pools = Pools(PoolSettings(size=2, grace_s=1.0))
    yield pools
    await pools.close()


async def run(pools: Pools, target: DatabaseTarget, sql: str) -> Result:
    (result,) = await pools.run(target, Call([Statement(sql)], LIMITS, read_only=False))
    return result


async def agent(server: Encrypted, query: str) -> DatabaseTarget:
    """A database with the agent's layout, installed by way of the same URI."""
    name = f"tls_{secrets.token_hex(6)}"
    await create_database(server.postgres.uri(), name)
    uri, role = server.uri(query, name), layout.new_role_name()
    await layout.install(uri, role, connection_limit=8)
    return DatabaseTarget(name, uri, role=role)


async def test_every_connection_to_a_database_is_encrypted_as_neons_uris_ask(server: Encrypted, pools: Pools) -> None:
    target = await agent(server, NEON)
    async with admin_connection(target) as admin:
        assert await server.encrypts(admin.get_server_pid()) is True
    (pid,) = (await run(pools, target, PID)).rows[0]
    assert await server.encrypts(pid) is True
    await reap(target, cast("int", pid))
    assert await server.encrypts(pid) is None
    (pid,) = (await run(pools, replace(target, key="plain", role=None), PID)).rows[0]
    assert await server.encrypts(pid) is True


async def test_unencrypted_connections_are_for_uris_that_ask_for_them(server: Encrypted, pools: Pools) -> None:
    target = DatabaseTarget("open", server.uri("?sslmode=disable"))
    assert await server.encrypts((await run(pools, target, PID)).rows[0][0]) is False
    bound = DatabaseTarget("bound", server.uri("?sslmode=disable&channel_binding=require"))
    assert await server.encrypts((await run(pools, bound, PID)).rows[0][0]) is True


async def test_what_a_call_may_receive_is_bounded_under_tls_as_well(server: Encrypted, pools: Pools) -> None:
    target = await agent(server, NEON)
    assert (await run(pools, target, "SELECT repeat('x', 90000)")).rows == [["x" * 90_000]]
    with pytest.raises(ResultTooLarge):
        await run(pools, target, "SELECT repeat('x', 100000000)")
    assert (await run(pools, target, "SELECT 1")).rows == [[1]]


async def test_a_statement_is_cancelled_over_tls(server: Encrypted, pools: Pools) -> None:
    target = await agent(server, NEON)
    await run(pools, target, "SELECT 1")  # it is a running statement that is cancelled, and no handshake
    with anyio.move_on_after(0.5):
        await run(pools, target, "SELECT pg_sleep(60)")
    assert (await run(pools, target, "SELECT 1")).rows == [[1]]


async def test_a_tenants_plain_url_is_used_as_it_asks(server: Encrypted) -> None:
    environ = {"AGENT_DB_URL": server.uri(NEON).reveal()}
    async with open_application(load_settings(environ)) as application:
        answer = await application.queries.execute(Tenant(), Scope.AGENT, [Statement(PID)])
        assert await server.encrypts(answer.results[0].rows[0][0]) is True


async def test_the_control_database_is_reached_as_its_url_asks(server: Encrypted) -> None:
    name = f"control_{secrets.token_hex(6)}"
    await create_database(server.uri(NEON), name)
    control = ControlDatabase(server.uri(NEON, name))
    try:
        async with control.connection() as connection:
            assert await server.encrypts(connection.get_server_pid()) is True
    finally:
        await control.close()


async def test_changes_are_heard_from_a_control_database_whose_url_is_as_neons(server: Encrypted) -> None:
    name = f"control_{secrets.token_hex(6)}"
    await create_database(server.uri(NEON), name)
    control = ControlDatabase(server.uri(NEON, name))
    try:
        async with contextlib.aclosing(control.listen("changes")) as changes:
            with anyio.fail_after(20):
                assert await anext(changes) is None
                async with control.connection() as connection:
                    await connection.execute("NOTIFY changes, 'u'")
                assert await anext(changes) == Notice("changes", "u")
    finally:
        await control.close()


async def test_a_plain_cluster_is_reached_as_its_url_asks_and_hands_that_on(server: Encrypted) -> None:
    cluster = Cluster(server.uri(NEON))
    async with cluster.connection() as connection:
        assert await server.encrypts(connection.get_server_pid()) is True
    assert cluster.uri("d", "r", "p").reveal().endswith("/d" + NEON)


@pytest.mark.parametrize("query", ["?sslmode=require", NEON, "?channel_binding=require", "?sslmode=verify-full"])
async def test_a_server_without_tls_is_refused_where_the_uri_requires_it(
    postgres: EmbeddedPostgres, server: Encrypted, pools: Pools, query: str
) -> None:
    query += f"&sslrootcert={server.certificate}" if "verify" in query else ""
    target = DatabaseTarget("bare", Secret(postgres.uri().reveal() + query))
    with pytest.raises(DatabaseUnavailable, match="does not offer TLS") as refused:
        await run(pools, target, "SELECT 1")
    tells_nothing_else(refused.value, postgres)
    with pytest.raises(DatabaseUnavailable, match="does not offer TLS") as refused:
        await layout.install(target.uri, layout.new_role_name(), connection_limit=8)
    tells_nothing_else(refused.value, postgres)


@pytest.mark.parametrize("mode", ["verify-full", "verify-ca"])
async def test_a_certificate_is_verified_where_the_uri_asks(server: Encrypted, pools: Pools, mode: str) -> None:
    trusted = DatabaseTarget("trusted", server.uri(f"?sslmode={mode}&sslrootcert={server.certificate}"))
    assert await server.encrypts((await run(pools, trusted, PID)).rows[0][0]) is True
    untrusted = DatabaseTarget("untrusted", server.uri(f"?sslmode={mode}&sslrootcert={server.other}"))
    with pytest.raises(DatabaseUnavailable, match="certificate") as refused:
        await run(pools, untrusted, "SELECT 1")
    assert refused.value.retryable is False
    assert refused.value.hint
    tells_nothing_else(refused.value, server.postgres)


async def test_a_certificate_of_another_host_is_refused(server: Encrypted, pools: Pools) -> None:
    uri = server.uri(f"?sslmode=verify-full&sslrootcert={server.certificate}").reveal()
    target = DatabaseTarget("elsewhere", Secret(uri.replace("127.0.0.1", "localhost")))
    with pytest.raises(DatabaseUnavailable, match="certificate") as refused:
        await run(pools, target, "SELECT 1")
    tells_nothing_else(refused.value, server.postgres)


async def test_verification_without_root_certificates_says_what_is_missing(
    server: Encrypted, pools: Pools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(DatabaseUnavailable, match="root certificate") as refused:
        await run(pools, DatabaseTarget("rootless", server.uri("?sslmode=verify-full")), "SELECT 1")
    tells_nothing_else(refused.value, server.postgres)
    assert str(tmp_path) not in str(refused.value.as_dict())


async def test_a_handshake_that_fails_is_called_that(postgres: EmbeddedPostgres, pools: Pools) -> None:
    async def serve(client: anyio.abc.SocketStream) -> None:
        async with client:
            await client.receive(8)
            await client.send(b"S")
            await client.receive()
            await client.send(b"no TLS record at all")

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, serve)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        uri = postgres.uri().reveal().replace(f":{postgres.port}/", f":{port}/")
        with pytest.raises(DatabaseUnavailable, match="TLS handshake") as refused:
            await run(pools, DatabaseTarget("broken", Secret(uri + "?sslmode=require")), "SELECT 1")
        group.cancel_scope.cancel()
    tells_nothing_else(refused.value, postgres)


def tells_nothing_else(error: AgentDBError, postgres: EmbeddedPostgres) -> None:
    said = f"{error!r} {error.as_dict()}"
    for hidden in ("127.0.0.1", "localhost", str(postgres.port), postgres.password.reveal(), "postgres:"):
        assert hidden not in said
