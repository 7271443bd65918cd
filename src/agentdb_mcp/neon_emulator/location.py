"""Where the cluster is, for its superuser and in the URIs of projects."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import parse_qs, quote, urlsplit

import asyncpg

OWN_DATABASE = "neon_emulator"
DEFAULT_PORT = 5432

# Settings of our own sessions: no statement of ours enters the server's log or projects' statement statistics.
SESSION = {
    "application_name": "neon_emulator",
    "search_path": "public",
    "log_statement": "none",
    "log_min_duration_statement": "-1",
    "log_min_error_statement": "panic",
    "pg_stat_statements.track": "none",
}


@dataclass(frozen=True, slots=True)
class Location:
    """The cluster's address, from a superuser's URI."""

    superuser_uri: str = field(repr=False)
    host: str
    port: int
    sslmode: str | None
    own_database: str = OWN_DATABASE

    async def connect(self, database: str) -> asyncpg.Connection:
        return await asyncpg.connect(self.superuser_uri, database=database, server_settings=SESSION)

    def project_uri(self, database: str, role: str, password: str) -> str:
        """A URI that connects, as Neon's do."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        user, path = quote(role, safe=""), quote(database, safe="")
        tail = f"?sslmode={quote(self.sslmode)}" if self.sslmode else ""
        return f"postgresql://{user}:{quote(password, safe='')}@{host}:{self.port}/{path}{tail}"

    def endpoint_host(self, endpoint_id: str) -> str:
        """A host with the endpoint's identifier in it, as clients expect; only URIs carry one that resolves."""
        domain = "localhost" if self.host in ("127.0.0.1", "::1", "localhost") else self.host
        return f"{endpoint_id}.{domain}"


def locate(superuser_uri: str) -> Location:
    """Raises ValueError for a URI without a host that projects' URIs could carry."""
    try:
        parts = urlsplit(superuser_uri)
        host, port = parts.hostname, parts.port or DEFAULT_PORT
    except ValueError:
        raise ValueError("The Postgres URI has a host or port that cannot be read.") from None
    if parts.scheme not in ("postgresql", "postgres") or not host:
        raise ValueError("The Postgres URI must be like postgresql://user:password@host:port/database.")
    return Location(superuser_uri, host, port, parse_qs(parts.query).get("sslmode", [None])[0])
