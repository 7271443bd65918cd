"""One caller over HTTP: `SELECT 1` through `serve --http --sessions`, beside a tool of the SDK's that does nothing.

And a statement that the gate refuses, which never reaches a database. All answer in JSON, in a session, over one
connection that is kept; rounds take turns. The database is one of a plain cluster, reached as it is: the local Neon
API's proxy would be most of what is measured. Prints medians and their ratios.
"""

from __future__ import annotations

import http.client
import json
import secrets
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import anyio

from agentdb_mcp.embedded import embedded_postgres
from agentdb_mcp.store.control import create_database
from benchmarks.http_sessions import HEADERS, HELLO, register, server

ROUNDS, CALLS = 9, 400
SELECT = {"name": "execute_sql", "arguments": {"sql": "SELECT 1"}}
REFUSED = {"name": "execute_sql", "arguments": {"sql": "COPY t TO PROGRAM 'true'"}}
NOTHING = {"name": "nothing", "arguments": {}}
FLOOR = "a tool of the SDK's that does nothing"


class Caller:
    def __init__(self, host: str, port: int, token: str, call: object, *, is_error: bool = False) -> None:
        self._connection = http.client.HTTPConnection(host, port)
        self._headers = HEADERS | {"authorization": f"Bearer {token}", "mcp-protocol-version": "2025-11-25"}
        self._post({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": HELLO})
        self._post({"jsonrpc": "2.0", "method": "notifications/initialized"})
        self._is_error = is_error
        self._call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}

    def _post(self, message: object) -> bytes:
        self._connection.request("POST", "/mcp/agent", json.dumps(message), self._headers)
        response = self._connection.getresponse()
        if identifier := response.getheader("mcp-session-id"):
            self._headers["mcp-session-id"] = identifier
        body = response.read()
        if response.status >= 300:
            raise SystemExit(f"{response.status}: {body[:300]!r}")
        return body

    def _ask(self) -> None:
        body = self._post(self._call)
        if (b'"isError":true' in body) != self._is_error:
            raise SystemExit(f"not the answer that was asked for: {body[:300]!r}")

    def round(self, calls: int) -> float:
        """The median of its milliseconds, over one connection; that of the round before may be closed by now."""
        self._connection.close()
        self._connection.connect()
        self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        spent = []
        for _ in range(calls):
            started = time.perf_counter()
            self._ask()
            spent.append(1000 * (time.perf_counter() - started))
        return statistics.median(spent)


@contextmanager
def empty_server() -> Iterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.servers.empty_http", str(port)])
    try:
        until = time.monotonic() + 30
        while time.monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait()


def measure(url: str, token: str) -> None:
    at = urlsplit(url)
    with empty_server() as port:
        ours = at.hostname or "", at.port or 0, token
        callers = {
            FLOOR: Caller("127.0.0.1", port, "", NOTHING),
            "SELECT 1 through serve --http": Caller(*ours, SELECT),
            "a statement that is refused there": Caller(*ours, REFUSED, is_error=True),
        }
        for caller in callers.values():
            caller.round(CALLS)
        rounds = [{name: caller.round(CALLS) for name, caller in callers.items()} for _ in range(ROUNDS)]
    for name in callers:
        ratio = statistics.median(each[name] / each[FLOOR] for each in rounds)
        print(f"{name}: p50 {statistics.median(each[name] for each in rounds):.2f} ms, ratio {ratio:.2f}")
    print(f"{ROUNDS} rounds of {CALLS} each")


async def main() -> None:
    service_key = secrets.token_hex(32)
    async with embedded_postgres() as postgres:
        await create_database(postgres.uri(), "control")
        environ = {
            "AGENTDB_CONTROL_URL": postgres.uri("control").reveal(),
            "AGENTDB_PROVIDER_URL": postgres.uri().reveal(),
            "AGENTDB_ENCRYPTION_KEYS": secrets.token_hex(32),
            "AGENTDB_SERVICE_KEY": service_key,
            "AGENTDB_LOG": "text,warning",
        }
        async with server(environ) as (url, _):
            (token,) = await register(url, service_key, 1)
            await anyio.to_thread.run_sync(measure, url, token)


if __name__ == "__main__":
    anyio.run(main)
