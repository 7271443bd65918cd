"""Where the cluster is, for its superuser and in the URIs of projects."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, field
from urllib.parse import parse_qs, quote, urlsplit

import anyio
import asyncpg

OWN_DATABASE = "neon_emulator"
DEFAULT_PORT = 5432
LOOPBACK = ("127.0.0.1", "::1", "localhost")
LOOKUP_S = 1.0

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


@dataclass(frozen=True, slots=True)
class Address:
    """Where clients find projects: the cluster itself, or the proxy in front of it."""

    host: str
    port: int
    sslmode: str | None
    proxied: bool
    # Whether names such as ep-….localhost lead to this machine, which depends on its resolver.
    named: bool

    def project_uri(self, database: str, role: str, password: str, endpoint_id: str, *, pooled: bool = False) -> str:
        """A URI that connects, as Neon's do.

        Where the endpoint's name does not resolve, it stands in `options`, as at Neon for clients without SNI. The
        pooler is always asked for there: a name in the host needs TLS to carry it.
        """
        host = self.uri_host(endpoint_id, pooled=pooled)
        host = f"[{host}]" if ":" in host else host
        options = {"sslmode": self.sslmode} if self.sslmode else {}
        if self.proxied and (pooled or not self.named):
            options["options"] = f"endpoint={endpoint_id}{'-pooler' if pooled else ''}"
        tail = "?" + "&".join(f"{key}={quote(value, safe='')}" for key, value in options.items()) if options else ""
        login = f"{quote(role, safe='')}:{quote(password, safe='')}"
        return f"postgresql://{login}@{host}:{self.port}/{quote(database, safe='')}{tail}"

    def uri_host(self, endpoint_id: str, *, pooled: bool = False) -> str:
        """A host that resolves on this machine: the endpoint's name where it does, else the address."""
        if self.proxied and self.named:
            return self.endpoint_host(endpoint_id, pooled=pooled).rpartition(":")[0]
        return self.host

    def endpoint_host(self, endpoint_id: str, *, pooled: bool = False) -> str:
        """A host with the endpoint's identifier in it, as clients expect, and the port, which they put into URIs."""
        domain = "localhost" if self.host in LOOPBACK else self.host
        return f"{endpoint_id}{'-pooler' if pooled else ''}.{domain}:{self.port}"


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


async def names_lead_to(host: str) -> bool:
    """Whether names such as ep-….localhost lead to this machine, with the host that is listened on among them."""
    if host not in LOOPBACK:
        return False
    with anyio.move_on_after(LOOKUP_S):
        look_up = asyncio.get_running_loop().getaddrinfo
        try:
            found = {entry[4][0] for entry in await look_up("ep-any.localhost", None, type=socket.SOCK_STREAM)}
            listening = {entry[4][0] for entry in await look_up(host, None, type=socket.SOCK_STREAM)}
        except OSError:
            return False
        return found <= set(LOOPBACK) and bool(found & listening)
    return False
