"""Where `serve` spends its time: a flame graph of 32 callers over stdio, sampled from outside by py-spy.

`make profile` writes .bench/profile.svg; `OPTIONS="--query rows1000 --raw"` makes folded stacks of larger answers.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import psutil

from agentdb_mcp.embedded import embedded_postgres
from benchmarks.stdio import PEERS, make_database

SQL = {
    "select1": "SELECT 1",
    "point": "SELECT * FROM pgbench_accounts WHERE aid = 4242",
    "rows1000": "SELECT * FROM pgbench_accounts WHERE aid <= 1000 ORDER BY aid",
}
HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "profile", "version": "1"}}
BIN = Path(sys.executable).parent


class Client:
    """Requests over a child's pipes, without an SDK's cost."""

    def __init__(self, environ: dict[str, str]) -> None:
        command = [str(BIN / "agentdb-mcp"), "serve"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, env=os.environ | environ, stdin=pipe, stdout=pipe, stderr=sys.stderr)
        self._sent = 0

    def send(self, method: str, params: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self._sent += 1
        line = json.dumps({"jsonrpc": "2.0", "id": self._sent, "method": method, "params": params})
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def receive(self) -> bytes:
        assert self.process.stdout is not None
        if not (line := self.process.stdout.readline()) or b'"isError":true' in line or b'"error"' in line[:60]:
            raise SystemExit(f"no answer but {line[:500]!r}")
        return line

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(10)


def load(client: Client, sql: str, callers: int, seconds: float) -> tuple[float, float]:
    """Calls a second in a closed loop, and the server's milliseconds of processor for each."""
    seen, call = psutil.Process(client.process.pid), {"name": "execute_sql", "arguments": {"sql": sql}}
    for _ in range(callers):
        client.send("tools/call", call)
    before, started, done = seen.cpu_times(), time.perf_counter(), 0
    while (spent := time.perf_counter() - started) < seconds:
        client.receive()
        client.send("tools/call", call)
        done += 1
    after = seen.cpu_times()
    for _ in range(callers):
        client.receive()
    used = after.user + after.system - before.user - before.system
    return done / spent, 1000 * used / done


def profile(environ: dict[str, str], given: argparse.Namespace) -> None:
    client = Client(environ)
    try:
        client.send("initialize", HELLO)
        client.receive()
        load(client, SQL[given.query], given.callers, 1)
        out = PEERS / ("profile.raw" if given.raw else "profile.svg")
        out.parent.mkdir(exist_ok=True)
        form = "raw" if given.raw else "flamegraph"
        options = ["--pid", str(client.process.pid), "--duration", str(given.secs), "--rate", "500"]
        spy = subprocess.Popen([str(BIN / "py-spy"), "record", *options, "--format", form, "--output", str(out)])
        rate, used = load(client, SQL[given.query], given.callers, given.secs + 1)
        if spy.wait(30):
            raise SystemExit("py-spy must be let look into a process of its user: see its documentation on ptrace")
        print(f"{given.query}, {given.callers} callers: {rate:,.0f} calls/s, {used:.2f} ms of processor each; {out}")
    finally:
        client.close()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--query", choices=SQL, default="select1")
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--secs", type=int, default=10)
    parser.add_argument("--raw", action="store_true")
    return parser.parse_args()


async def main(given: argparse.Namespace) -> None:
    async with embedded_postgres() as postgres:
        environ, _ = await make_database(postgres)
        await anyio.to_thread.run_sync(profile, environ, given)


if __name__ == "__main__":
    anyio.run(main, arguments())
