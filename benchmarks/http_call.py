"""One caller over HTTP: `SELECT 1` through `serve --http --sessions`, beside a tool of the SDK's that does nothing.

Both answer in JSON, in a session, over one connection that is kept; rounds take turns. Prints medians and their ratio.
"""

from __future__ import annotations

import http.client
import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import anyio

from agentdb_mcp.local_stack import local_stack
from benchmarks.http_sessions import HEADERS, HELLO, register, server

ROUNDS, CALLS = 9, 400
SELECT = {"name": "execute_sql", "arguments": {"sql": "SELECT 1"}}
NOTHING = {"name": "nothing", "arguments": {}}


class Caller:
    def __init__(self, host: str, port: int, token: str, call: object) -> None:
        self._connection = http.client.HTTPConnection(host, port)
        self._headers = HEADERS | {"authorization": f"Bearer {token}", "mcp-protocol-version": "2025-11-25"}
        self._post({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": HELLO})
        self._post({"jsonrpc": "2.0", "method": "notifications/initialized"})
        self._call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}

    def _post(self, message: object) -> bytes:
        self._connection.request("POST", "/mcp/agent", json.dumps(message), self._headers)
        response = self._connection.getresponse()
        if identifier := response.getheader("mcp-session-id"):
            self._headers["mcp-session-id"] = identifier
        body = response.read()
        if response.status >= 300 or b'"isError":true' in body:
            raise SystemExit(f"{response.status}: {body[:300]!r}")
        return body

    def round(self, calls: int) -> float:
        """The median of its milliseconds, over one connection; that of the round before may be closed by now."""
        self._connection.close()
        self._connection.connect()
        self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        spent = []
        for _ in range(calls):
            started = time.perf_counter()
            self._post(self._call)
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
        callers = {
            "SELECT 1 through serve --http": Caller(at.hostname or "", at.port or 0, token, SELECT),
            "a tool of the SDK's that does nothing": Caller("127.0.0.1", port, "", NOTHING),
        }
        for caller in callers.values():
            caller.round(CALLS)
        rounds = [{name: caller.round(CALLS) for name, caller in callers.items()} for _ in range(ROUNDS)]
    for name in callers:
        print(f"{name}: p50 {statistics.median(each[name] for each in rounds):.2f} ms")
    ours, floor = callers
    print(f"ratio {statistics.median(each[ours] / each[floor] for each in rounds):.2f} ({ROUNDS} rounds of {CALLS})")


async def main() -> None:
    async with local_stack() as stack, server(stack.environ() | {"AGENTDB_LOG": "text,warning"}) as (url, _):
        (token,) = await register(url, stack.service_key.reveal(), 1)
        await anyio.to_thread.run_sync(measure, url, token)


if __name__ == "__main__":
    anyio.run(main)
