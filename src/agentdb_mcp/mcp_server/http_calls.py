"""A request of a tenant's over HTTP, and what runs for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import anyio

from agentdb_mcp.logs import Identified
from agentdb_mcp.mcp_server.tools import Operations
from agentdb_mcp.services.origin import Origin, acting_as


@dataclass(slots=True, eq=False)
class HttpCall:
    """One request of a tenant; `principal` is whose sessions are whose. `gone` cancels what runs for it, or will."""

    operations: Operations
    principal: str
    _running: set[anyio.CancelScope] = field(default_factory=set)
    _gone: bool = False

    def gone(self) -> None:
        self._gone = True
        for scope in self._running:
            scope.cancel()

    @contextmanager
    def run(self) -> Iterator[None]:
        """Do something for it, as long as its client is there."""
        with anyio.CancelScope() as scope:
            self._running.add(scope)
            if self._gone:
                scope.cancel()
            try:
                yield
            finally:
                self._running.discard(scope)


@contextmanager
def running(call: HttpCall, request_id: str) -> Iterator[Operations]:
    """Its client's operations; left early, and without an error, where the client goes away."""
    with call.run(), acting_as(Origin("mcp", call.principal)), Identified(request_id):
        yield call.operations
