"""The seam that spans are made by: nothing until somebody collects them, and then no more than was meant."""

from __future__ import annotations

import subprocess
import sys
from types import TracebackType
from typing import Self

import pytest

from agentdb_mcp.errors import ConfigurationError, SqlError
from agentdb_mcp.models import Result
from agentdb_mcp.settings import load_settings
from agentdb_mcp.telemetry import Attributes, Kind, Span, collecting, span, told, traced


class Recorded(Span):
    recording = True

    def __init__(self, name: str, attributes: Attributes) -> None:
        self.name = name
        self.attributes = dict(attributes)
        self.failed: str | None = None
        self.error: BaseException | None = None

    def set(self, attributes: Attributes) -> None:
        self.attributes |= attributes

    def rename(self, name: str) -> None:
        self.name = name

    def fail(self, code: str) -> None:
        self.failed = code

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        self.error = error


class Recording:
    def __init__(self) -> None:
        self.spans: list[Recorded] = []

    def start(self, name: str, kind: Kind, attributes: Attributes, traceparent: str | None) -> Span:
        self.spans.append(Recorded(name, attributes))
        return self.spans[-1]


@traced("step", "client", told.POSTGRES, told=told.of_statement)
async def run(tag: str) -> Result:
    if not tag:
        raise SqlError("it is wrong")
    return Result((), [[1], [2]], truncated=False, command_tag=tag, duration_ms=0.0)


async def test_without_a_collector_a_step_is_nothing_and_costs_no_question() -> None:
    assert span("one") is span("other", "server")
    with span("one") as step:
        step.set({"a": 1})
        step.rename("another")
        step.fail("code")
        assert not step.recording
    assert (await run("SELECT 2")).command_tag == "SELECT 2"


@pytest.mark.parametrize(
    ("tag", "name"),
    [("SELECT 2", "SELECT"), ("INSERT 0 12", "INSERT"), ("CREATE TABLE", "CREATE TABLE"), ("", "step")],
)
async def test_a_statement_is_named_by_its_command(tag: str, name: str) -> None:
    recording = Recording()
    with collecting(recording):
        if tag:
            await run(tag)
        else:
            with pytest.raises(SqlError):
                await run(tag)
    await run("SELECT 1")
    (step,) = recording.spans
    assert step.name == name
    expected = {"db.operation.name": name, "db.response.returned_rows": 2} if tag else {}
    assert step.attributes == {"db.system.name": "postgresql"} | expected
    assert (step.error is None) == bool(tag)


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/projects", "/projects"),
        ("/projects/quiet-leaf-123/operations/6f1e", "/projects/{id}/operations/{id}"),
        (
            "/projects/p/branches/b/roles/somebodys_name/reset_password",
            "/projects/{id}/branches/{id}/roles/{id}/reset_password",
        ),
        ("/consumption_history/v2/projects", "/consumption_history/v2/projects"),
        ("/organizations/org-1/projects/transfer", "/organizations/{id}/projects/transfer"),
    ],
)
def test_a_request_to_neon_is_named_by_its_route_alone(path: str, template: str) -> None:
    name, kind, attributes = told.neon_request("GET", path)
    assert (name, kind, attributes["url.template"]) == (f"GET {template}", "client", template)


async def test_a_refused_request_is_a_failure_of_its_status() -> None:
    step = Recorded("GET", {})
    told.of_status(step, 200)
    assert step.failed is None
    told.of_status(step, 429)
    assert (step.failed, step.attributes["http.response.status_code"]) == ("429", 429)


def test_the_sdk_is_not_loaded_unless_it_is_wanted() -> None:
    code = (
        "import sys, anyio\n"
        "from agentdb_mcp.bootstrap import open_application\n"
        "from agentdb_mcp.settings import load_settings\n"
        "async def main():\n"
        "    async with open_application(load_settings({'AGENT_DB_URL': 'postgresql://u:p@127.0.0.1:1/d'})): pass\n"
        "anyio.run(main)\n"
        "sys.exit(any(name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter')) for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


# --- settings ---------------------------------------------------------------------------------------------------------

BASE = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.mark.parametrize(
    ("environ", "endpoint"),
    [
        ({}, None),
        ({BASE: "http://collector:4318"}, "http://collector:4318/v1/traces"),
        ({BASE: "https://c.example/otlp/"}, "https://c.example/otlp/v1/traces"),
        ({BASE: "http://a", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://b/traces"}, "http://b/traces"),
        ({BASE: "http://a", "OTEL_SDK_DISABLED": "true"}, None),
        ({BASE: "http://a", "OTEL_TRACES_EXPORTER": "none"}, None),
        ({BASE: "http://a", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, "http://a/v1/traces"),
    ],
)
def test_traces_go_where_opentelemetrys_own_variables_say(environ: dict[str, str], endpoint: str | None) -> None:
    assert load_settings(environ).otel_endpoint == endpoint


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({BASE: "collector:4318"}, BASE),
        ({BASE: "http://user:hunter22@collector"}, BASE),
        ({BASE: "http://a", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL"),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "no pair hunter22"}, "OTEL_EXPORTER_OTLP_HEADERS"),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "name=hunter22%0d%0aforged: 1"}, "OTEL_EXPORTER_OTLP_HEADERS"),
        ({"AGENTDB_WORKER_LISTEN": "somewhere"}, "AGENTDB_WORKER_LISTEN"),
        ({"AGENTDB_WORKER_LISTEN": "127.0.0.1:70000"}, "AGENTDB_WORKER_LISTEN"),
        ({"AGENTDB_WORKER_LISTEN": "0.0.0.0:9464"}, "AGENTDB_SERVICE_KEY"),
    ],
)
def test_a_wrong_setting_is_named_without_its_value(environ: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load_settings(environ)
    assert named in refused.value.message
    assert "hunter22" not in f"{refused.value.message} {refused.value.hint}"


def test_headers_are_secrets_and_percent_decoded() -> None:
    settings = load_settings({"OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Basic%20abc=, x-team = blue"})
    assert [(name, value.reveal()) for name, value in settings.otel_headers] == [
        ("authorization", "Basic abc="),
        ("x-team", "blue"),
    ]
    assert "abc" not in repr(settings)


@pytest.mark.parametrize(
    ("text", "listen"),
    [("9464", ("127.0.0.1", 9464)), ("127.0.0.1:0", ("127.0.0.1", 0)), ("[::1]:9464", ("::1", 9464)), ("", None)],
)
def test_a_worker_listens_on_this_machine_unless_told(text: str, listen: tuple[str, int] | None) -> None:
    assert load_settings({"AGENTDB_WORKER_LISTEN": text}).worker_listen == listen


def test_with_the_service_key_a_worker_may_be_asked_from_elsewhere() -> None:
    environ = {"AGENTDB_WORKER_LISTEN": "0.0.0.0:9464", "AGENTDB_SERVICE_KEY": "k" * 32}
    assert load_settings(environ).worker_listen == ("0.0.0.0", 9464)
