"""The way into the cluster: short-lived connections of the admin's, and one place where driver errors become ours."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import anyio
import asyncpg

from agentdb_mcp import connection_uri
from agentdb_mcp.errors import AgentDBError, ProvisioningFailed
from agentdb_mcp.models import Secret

CONNECT_TIMEOUT_S = 15.0
CLOSE_TIMEOUT_S = 5.0
SESSION = {
    "application_name": "agentdb-mcp provider",
    "search_path": "pg_catalog, pg_temp",
    "lock_timeout": "60s",
    "statement_timeout": "120s",
}
# What a URL's query could say of the login or the database in place of the URL itself.
_OURS = frozenset({"user", "password", "database", "dbname", "passfile", "service"})
SCRAM_ITERATIONS = 4096

_CONNECTION_ERRORS = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
)


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where the admin's URI leads."""

    admin_uri: Secret

    def uri(self, database: str, role: str, password: str) -> Secret:
        """The same server and the same options, another login and database."""
        parts = urlsplit(self.admin_uri.reveal())
        host = parts.netloc.rpartition("@")[2]
        query = urlencode([pair for pair in parse_qsl(parts.query) if pair[0] not in _OURS])
        netloc = f"{quote(role, safe='')}:{quote(password, safe='')}@{host}"
        return Secret(urlunsplit(("postgresql", netloc, f"/{quote(database)}", query, "")))

    @asynccontextmanager
    async def connection(self, database: str | None = None) -> AsyncIterator[asyncpg.Connection]:
        """A connection of the admin's to this database, or to the one that its URI names."""
        options = {} if database is None else {"database": database}
        connection = await asyncpg.connect(
            connection_uri.for_driver(self.admin_uri),
            server_settings=SESSION,
            statement_cache_size=0,
            timeout=CONNECT_TIMEOUT_S,
            **options,
        )
        try:
            yield connection
        finally:
            with anyio.CancelScope(shield=True):
                await connection.close(timeout=CLOSE_TIMEOUT_S)


@asynccontextmanager
async def ours() -> AsyncIterator[None]:
    """Driver errors become ProvisioningFailed; no host, user, password or message of the server's is in it."""
    try:
        yield
    except AgentDBError:
        raise
    except (*_CONNECTION_ERRORS, asyncpg.PostgresError, ValueError) as error:
        raise _failed(error) from None


def _failed(error: BaseException) -> ProvisioningFailed:
    doctor = "Whoever runs the platform: check AGENTDB_PROVIDER_URL with `agentdb-mcp doctor`."
    match error:
        case asyncpg.InvalidPasswordError() | asyncpg.InvalidAuthorizationSpecificationError():
            return ProvisioningFailed("The projects' cluster refused the login.", hint=doctor)
        case asyncpg.InsufficientPrivilegeError():
            return ProvisioningFailed("The projects' cluster does not let the login do this.", hint=doctor)
        case asyncpg.InvalidCatalogNameError():
            return ProvisioningFailed("The database that AGENTDB_PROVIDER_URL names does not exist.", hint=doctor)
        case asyncpg.PostgresError() if not isinstance(error, _CONNECTION_ERRORS):
            return ProvisioningFailed(
                f"The projects' cluster failed (SQLSTATE {error.sqlstate}).", hint="Run it again later.", retryable=True
            )
        case ValueError():
            return ProvisioningFailed("AGENTDB_PROVIDER_URL cannot be read.", hint=doctor)
        case _:
            return ProvisioningFailed(
                "The projects' cluster cannot be reached.", hint="Run it again later.", retryable=True
            )


def quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'


def scram_verifier(password: str) -> str:
    """What Postgres stores for a password: sent in its place, it leaves none in the server's log."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, SCRAM_ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    salt64, stored64, server64 = (base64.b64encode(part).decode() for part in (salt, stored, server))
    return f"SCRAM-SHA-256${SCRAM_ITERATIONS}:{salt64}${stored64}:{server64}"
