"""Spans by OpenTelemetry's SDK, sent to a collector over OTLP/HTTP from a thread of its own.

Samplers, resources, batches and timeouts are the SDK's standard `OTEL_…` variables of the process. A collector that is
away costs nobody anything: what does not fit into the queue is dropped.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

import anyio.to_thread
from opentelemetry import context as current
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from agentdb_mcp import __version__
from agentdb_mcp.errors import AgentDBError
from agentdb_mcp.telemetry.spans import Attributes, Kind, Span, collecting

SERVICE = "agentdb-mcp"
# What the last spans have to reach the collector at the end.
FLUSH_S = 2.0
_KINDS: dict[Kind, trace.SpanKind] = {
    "internal": trace.SpanKind.INTERNAL,
    "server": trace.SpanKind.SERVER,
    "client": trace.SpanKind.CLIENT,
}
_FAILED = trace.Status(trace.StatusCode.ERROR)
_PROPAGATOR = TraceContextTextMapPropagator()


class _Recorded(Span):
    """The current span for the time of its block; ended by leaving."""

    __slots__ = ("_failed", "_span", "_token")
    recording = True

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self._failed = False

    def set(self, attributes: Attributes) -> None:
        self._span.set_attributes(dict(attributes))

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def fail(self, code: str) -> None:
        self._failed = True
        self._span.set_attribute("error.type", code)
        self._span.set_status(_FAILED)

    def __enter__(self) -> Self:
        self._token = current.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        if error is not None and not self._failed:
            self.fail(_name(error))
            if sqlstate := getattr(error, "sqlstate", None):
                self._span.set_attribute("db.response.status_code", str(sqlstate))
        current.detach(self._token)
        self._span.end()


class _Tracer:
    """Our seam's backend."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def start(self, name: str, kind: Kind, attributes: Attributes, traceparent: str | None) -> Span:
        parent = _continued(traceparent) if traceparent else None
        return _Recorded(self._tracer.start_span(name, parent, _KINDS[kind], dict(attributes)))


@asynccontextmanager
async def exporting(endpoint: str, headers: Mapping[str, str]) -> AsyncIterator[None]:
    """For the time of the block, spans go to the collector's endpoint; what is left is sent at the end."""
    for name in ("opentelemetry.exporter", "opentelemetry.sdk"):
        logging.getLogger(name).setLevel(logging.ERROR)  # every repetition would be a line
    resource = Resource.create({SERVICE_VERSION: __version__})
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: SERVICE}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint, headers=dict(headers) or None)
    give_up: Callable[[], None] = exporter.shutdown
    provider.add_span_processor(BatchSpanProcessor(exporter))
    try:
        with collecting(_Tracer(provider.get_tracer(SERVICE, __version__))):
            yield
    finally:
        # A daemon, so that a collector that takes the connection and never answers holds up no end.
        ending = threading.Thread(target=provider.shutdown, name="telemetry-end", daemon=True)
        ending.start()
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(ending.join, FLUSH_S)
        if ending.is_alive():
            give_up()


def _continued(traceparent: str) -> Context | None:
    """None where it is not one: the span then belongs to the current one."""
    found = _PROPAGATOR.extract({"traceparent": traceparent})
    return found if trace.get_current_span(found).get_span_context().is_valid else None


def _name(error: BaseException) -> str:
    if isinstance(error, AgentDBError):
        return error.code
    return type(error).__qualname__ if isinstance(error, Exception) else "cancelled"
