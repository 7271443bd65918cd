"""Traces as a collector gets them, and request ids from the header to the audit log; nothing secret in either."""

from __future__ import annotations

import contextlib
import json
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import asyncpg
import httpx
import pytest

from agentdb_mcp.local_stack import LocalStack
from processes import Launch, Process

sys.path.insert(0, str(Path(__file__).parent))

from collector import Collector, collector

if TYPE_CHECKING:
    from tests.acceptance.conftest import ServeFactory

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
SERVER, CLIENT = 2, 3
VALUE, PARAMETER = "value-in-the-text", "value-of-a-parameter"
HEADER_SECRET = "collectors-own-secret"
# Batches go out at once, and wait for their answers for longer than any test does.
UNANSWERED = {"OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_EXPORTER_OTLP_TIMEOUT": "90"}

Until = Callable[..., Awaitable[None]]


def said_url(log: Path) -> str | None:
    lines = log.read_text().splitlines(keepends=True)
    return next((line.split()[-1] for line in lines if " serving at " in line and line.endswith("\n")), None)


@contextlib.asynccontextmanager
async def http_server(launch: Launch, environ: dict[str, str], log: Path) -> AsyncIterator[tuple[str, Process]]:
    async with launch(environ, log, "serve", "--http", "--port", "0") as process:
        with anyio.fail_after(60):
            while not (url := said_url(log)):
                await anyio.sleep(0.05)
        yield url, process


async def ended(process: Process) -> None:
    process.send_signal(signal.SIGTERM)
    with anyio.fail_after(30):
        assert await process.wait() == 0


@contextlib.asynccontextmanager
async def agent_at(url: str, environ: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    """A client that holds a token of a new workspace."""
    as_service = {"x-internal-api-key": environ["AGENTDB_SERVICE_KEY"]}
    owner = f"u{secrets.token_hex(4)}"
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        given = {"user_id": owner, "workspace_id": f"w-{owner}", "name": "Traced"}
        await http.post("/api/users", json={"user_id": owner}, headers=as_service)
        await http.post("/api/workspaces", json=given, headers=as_service)
        given = {"user_id": owner, "workspace_id": f"w-{owner}", "scopes": ["mcp"]}
        token = (await http.post("/api/tokens", json=given, headers=as_service)).json()["token"]
        http.headers["authorization"] = f"Bearer {token}"
        http.headers["accept"] = "application/json, text/event-stream"
        yield http


async def call(http: httpx.AsyncClient, sql: str, *params: str, **headers: str) -> dict[str, Any]:
    given = {"name": "execute_sql", "arguments": {"sql": sql, "params": params}}
    message = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": given}
    answer = await http.post("/mcp", json=message, headers={"mcp-protocol-version": "2025-06-18", **headers})
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()["result"]
    return result


@pytest.fixture
def environ(stack: LocalStack) -> dict[str, str]:
    return stack.environ() | {"AGENTDB_LOG": "json,info"}


@pytest.fixture
def receiving() -> Iterator[Collector]:
    with collector() as found:
        yield found


async def test_a_call_over_http_is_a_trace_with_nothing_secret_in_it(
    stack: LocalStack, forked: Launch, environ: dict[str, str], receiving: Collector, tmp_path: Path
) -> None:
    environ |= {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiving.url,
        "OTEL_EXPORTER_OTLP_HEADERS": f"Authorization=Basic%20{HEADER_SECRET}",
    }
    log = tmp_path / "log"
    async with http_server(forked, environ, log) as (url, process):
        async with agent_at(url, environ) as http:
            token = http.headers["authorization"].split()[1]
            sql = f"SELECT '{VALUE}' AS a, $1::text AS b FROM generate_series(1, 3)"
            headers = {"traceparent": TRACEPARENT, "x-request-id": "asked-for-it.1"}
            assert not (await call(http, sql, PARAMETER, **headers)).get("isError")
            headers = {"traceparent": "00-nonsense", "x-request-id": "asked-for-it.2"}
            assert (await call(http, f"SELECT {VALUE.replace('-', '_')}", **headers))["isError"]
            stolen = await http.get("/healthz", headers={"x-request-id": token})
            assert token not in stolen.headers["x-request-id"]
        await ended(process)  # what was not sent yet is sent now

    (request,) = [span for span in receiving.spans if span.parent == PARENT]
    assert (request.name, request.kind, request.trace) == ("POST /mcp", SERVER, TRACE)
    assert request.attributes["http.response.status_code"] == 200
    (tool,) = receiving.children(request)
    assert (tool.name, tool.kind, tool.failed) == ("tools/call execute_sql", SERVER, False)
    assert tool.attributes["gen_ai.tool.name"] == "execute_sql"
    assert tool.attributes["agentdb.database.scope"] == "agent"
    assert tool.attributes["agentdb.outcome"] == "ok"
    assert tool.attributes["agentdb.request.id"] == "asked-for-it.1"
    below = {span.name: span for span in receiving.children(tool)}
    assert {"gate", "connection.wait", "connection.open", "SELECT"} <= below.keys()
    statement = below["SELECT"]
    assert (statement.kind, statement.attributes) == (
        CLIENT,
        {"db.system.name": "postgresql", "db.operation.name": "SELECT", "db.response.returned_rows": 3},
    )

    (refused,) = [span for span in receiving.named("tools/call execute_sql") if span.failed]
    assert refused.attributes["error.type"] == refused.attributes["agentdb.outcome"] == "sql_error"
    assert refused.trace != TRACE
    failed = [span for span in receiving.children(refused) if span.failed]
    assert failed[0].attributes["db.response.status_code"] == "42703"

    (made,) = receiving.named("provisioning.make")[:1]
    steps = {span.name for span in receiving.children(made)}
    assert {"GET /projects", "POST /projects", "provisioning.install"} <= steps
    (posted,) = [span for span in receiving.children(made) if span.name == "POST /projects"]
    assert (posted.kind, posted.attributes["url.template"]) == (CLIENT, "/projects")
    assert not [span for span in receiving.spans if "/healthz" in span.name]
    assert {span.resource["service.name"] for span in receiving.spans} == {"agentdb-mcp"}
    assert receiving.authorizations == {f"Basic {HEADER_SECRET}"}

    hidden = [VALUE, VALUE.replace("-", "_"), PARAMETER, token, "postgresql://", stack.emulator.api_key, HEADER_SECRET]
    hidden += [environ[name] for name in ("AGENTDB_SERVICE_KEY", "AGENTDB_ENCRYPTION_KEYS", "AGENTDB_CONTROL_URL")]
    for secret in hidden:
        assert secret.encode() not in receiving.raw
        assert secret not in log.read_text()

    said = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    (line,) = [entry for entry in said if entry["event"] == "call failed"]
    assert line["request_id"] == "asked-for-it.2"
    connection = await asyncpg.connect(environ["AGENTDB_CONTROL_URL"])
    found = await connection.fetch("SELECT request_id, code FROM db_audit_log WHERE request_id LIKE 'asked-for-it%'")
    await connection.close()
    assert {tuple(row) for row in found} == {("asked-for-it.1", None), ("asked-for-it.2", "sql_error")}


async def test_a_call_over_stdio_goes_on_the_trace_of_its_meta_and_has_an_id_of_its_own(
    serve: ServeFactory, tenant: Callable[..., dict[str, str]], receiving: Collector, stack: LocalStack
) -> None:
    environ = tenant("traced-user", "traced-workspace", OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{receiving.url}/v1/traces")
    async with serve(environ) as server:
        answer = await server.request(
            "tools/call",
            {"name": "execute_sql", "arguments": {"sql": "SELECT 1"}, "_meta": {"traceparent": TRACEPARENT}},
        )
        assert not answer["result"].get("isError")
        await server.sql("SELECT 2")  # which does not go by the SDK
        server.process.send_signal(signal.SIGTERM)
        with anyio.fail_after(30):
            await server.process.wait()
    tool, direct = receiving.named("tools/call execute_sql")
    assert (direct.parent, direct.trace != TRACE) == ("", True)
    assert {"gate", "SELECT"} <= {span.name for span in receiving.children(direct)}
    assert (tool.trace, tool.parent, tool.attributes["network.transport"]) == (TRACE, PARENT, "pipe")
    assert tool.attributes["agentdb.workspace.id"] == "traced-workspace"
    assert b"traced-user" not in receiving.raw
    connection = await asyncpg.connect(stack.environ()["AGENTDB_CONTROL_URL"])
    found = await connection.fetch(
        "SELECT request_id FROM db_audit_log WHERE user_id = 'traced-user' ORDER BY sequence"
    )
    await connection.close()
    assert [row["request_id"] for row in found] == [span.attributes["agentdb.request.id"] for span in (tool, direct)]


@pytest.mark.parametrize("how", ["nobody listens", "never answers"])
async def test_a_collector_that_is_dead_breaks_no_call_and_holds_up_no_end(
    serve: ServeFactory, tenant: Callable[..., dict[str, str]], how: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        if how == "nobody listens":
            silent.close()
        environ = tenant("untraced", "untraced", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, **UNANSWERED)
        async with serve(environ) as server:
            for _ in range(20):
                await server.sql("SELECT 1")
            server.process.send_signal(signal.SIGTERM)
            with anyio.fail_after(30):
                assert await server.process.wait() == 0
            assert "Traceback" not in server.stderr()


async def test_a_worker_shows_its_figures_on_a_port_of_its_own_and_traces_its_jobs(
    forked: Launch, environ: dict[str, str], receiving: Collector, tmp_path: Path, until: Until
) -> None:
    log = tmp_path / "log"
    environ |= {"AGENTDB_WORKER_LISTEN": "0", "OTEL_EXPORTER_OTLP_ENDPOINT": receiving.url}
    async with forked(environ, log, "worker") as process:
        await until(lambda: "metrics served" in log.read_text())
        said = [json.loads(line) for line in log.read_text().splitlines()]
        url = next(entry["url"] for entry in said if entry["event"] == "metrics served")
        async with httpx.AsyncClient(base_url=url.removesuffix("/metrics"), timeout=30) as http:
            assert (await http.get("/healthz")).json() == {"status": "ok"}
            assert (await http.get("/metrics")).status_code == 401
            http.headers["authorization"] = f"Bearer {environ['AGENTDB_SERVICE_KEY']}"

            async def counted() -> bool:
                return 'agentdb_job_runs_total{job="sync",outcome="ok"} 1.0' in (await http.get("/metrics")).text

            await until(counted)
            text = (await http.get("/metrics")).text
            assert 'agentdb_job_run_seconds_count{job="sync"} 1.0' in text
            assert "agentdb_control_database_up 1.0" in text
        await ended(process)
    (job,) = receiving.named("job sync")
    assert (job.parent, job.failed, job.attributes) == ("", False, {"agentdb.job.name": "sync"})
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (synced,) = [entry for entry in lines if entry["event"] == "consumption synced"]
    assert synced["request_id"].startswith("sync-")
