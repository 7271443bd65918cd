"""Plain calls over HTTP, answered in JSON without the SDK.

In a session only while the SDK has answered something in it lately: whether there is such a session, and when it ends
for want of use, stays the SDK's to know.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from pydantic_core import from_json
from starlette.types import Scope as AsgiScope
from starlette.types import Send

from agentdb_mcp.mcp_server.calling import run_tool
from agentdb_mcp.mcp_server.encoding import to_json
from agentdb_mcp.mcp_server.http_calls import HttpCall, running
from agentdb_mcp.mcp_server.plain import VERSIONS, PlainCall, answer_to, plain_call
from agentdb_mcp.mcp_server.server import REQUEST_CANCELLED
from agentdb_mcp.models import Scope

_JSON = b"application/json"
_SESSION_ID = b"mcp-session-id"


@dataclass(slots=True)
class PlainCalls:
    """Of one endpoint."""

    fixed_scope: Scope | None
    # By session, with the request's id there, which a client may have given to several.
    _running: dict[str, dict[HttpCall, str]] = field(default_factory=dict)

    def read(self, scope: AsgiScope, body: bytes) -> PlainCall | None:
        """The call that a POST is, where its headers, too, leave nothing for the SDK to say."""
        headers = dict(scope["headers"])
        if len(headers) != len(scope["headers"]) or not _answered_in_json(headers):
            return None
        try:
            return plain_call(from_json(body))
        except ValueError:
            return None

    async def answer(
        self, call: HttpCall, plain: PlainCall, session_id: str | None, scope: AsgiScope, send: Send
    ) -> None:
        """One whose client has gone is ended, and answered to nobody; one that was cancelled says so."""
        answer = _cancelled(plain.identifier)
        with self._noted(call, plain, session_id), running(call, scope["request_id"]) as operations:
            answer = answer_to(
                plain.identifier, *await run_tool(operations, plain.name, plain.arguments, self.fixed_scope)
            )
        headers = [(b"content-type", _JSON), (b"content-length", b"%d" % len(answer))]
        if session_id is not None:
            headers.append((_SESSION_ID, session_id.encode()))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    def cancel(self, session_id: str, body: bytes) -> None:
        """End what a message cancels, if it is one that does."""
        if (calls := self._running.get(session_id)) is None:
            return
        try:
            message = from_json(body)
        except ValueError:
            return
        match message:
            case {"method": "notifications/cancelled", "params": {"requestId": int() | str() as cancelled}}:
                for call, identifier in calls.items():
                    if identifier == str(cancelled):
                        call.gone()

    def end(self, session_id: str) -> None:
        """The session has ended, and with it what runs there."""
        for call in self._running.get(session_id, ()):
            call.gone()

    @contextmanager
    def _noted(self, call: HttpCall, plain: PlainCall, session_id: str | None) -> Iterator[None]:
        if session_id is None:
            yield
            return
        calls = self._running.setdefault(session_id, {})
        calls[call] = str(plain.identifier)
        try:
            yield
        finally:
            del calls[call]
            if not calls:
                del self._running[session_id]


def _answered_in_json(headers: Mapping[bytes, bytes]) -> bool:
    accepted = {each.partition(b";")[0].strip().lower() for each in headers.get(b"accept", b"").split(b",")}
    sent = headers.get(b"content-type", b"").partition(b";")[0].strip()
    version = headers.get(b"mcp-protocol-version", b"").decode("latin-1")
    return sent == _JSON and _JSON in accepted and version in VERSIONS


def _cancelled(identifier: int | str) -> bytes:
    """As the SDK says it."""
    error = {"code": REQUEST_CANCELLED, "message": "Request cancelled"}
    return to_json({"jsonrpc": "2.0", "id": identifier, "error": error})
