"""What holds for every request before a route sees it: an id, a known host and origin, a bounded body."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import anyio
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentdb_mcp import metrics
from agentdb_mcp.errors import AgentDBError, Internal, InvalidArgument, NotAllowed, RateLimited, ResultTooLarge
from agentdb_mcp.logs import Identified, get_logger, scrub_text
from agentdb_mcp.telemetry import Span, span
from agentdb_mcp.web.errors import error_response

log = get_logger(__name__)

MAX_BODY_BYTES = 4 * 1024 * 1024
SMALL_BODY_BYTES = 64 * 1024
# Of all large bodies together; read as JSON, each byte may take twenty in memory.
MAX_BYTES_AT_ONCE = 32 * 1024 * 1024
# Load balancers ask for these by address.
_ANY_HOST = frozenset({"/healthz", "/readyz"})
_SCHEMES = ("http", "https")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# Asked all the time, by machines.
_UNTRACED = frozenset({"/healthz", "/readyz", "/metrics"})
_LENGTH = re.compile(r"[0-9]{1,19}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class RequestIds:
    """Each request has an id: the caller's `x-request-id`, or one of ours. It is answered, and logged throughout.

    Each is counted, and is a span that goes on what its `traceparent` names; what is asked all the time is none.
    """

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        fit = _REQUEST_ID.fullmatch(given) and scrub_text(given) == given
        identifier = given if fit else secrets.token_hex(8)
        scope["request_id"] = identifier
        started = False

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", []), (b"x-request-id", identifier.encode())]
                metrics.HTTP_ANSWERS.add(str(message["status"]))
                _tell(step, scope, message["status"])
            await send(message)

        with Identified(identifier), _step(scope, identifier) as step:
            try:
                await self.app(scope, receive, answer)
            except Exception:
                log.exception("request failed", path=scope["path"], code=Internal.code)
                if started:
                    raise
                failure = Internal("The server failed; the details are in its log.", hint="Tell its operator the id.")
                await _refuse(failure, scope, receive, answer)


def _step(scope: Scope, identifier: str) -> Span:
    """A server's span, without its path, which names users."""
    if scope["path"] in _UNTRACED:
        return Span()
    method = scope["method"] if scope["method"] in _METHODS else "HTTP"
    attributes = {"http.request.method": method, "url.scheme": scope["scheme"], "agentdb.request.id": identifier}
    return span(method, "server", attributes, Headers(scope=scope).get("traceparent"))


def _tell(step: Span, scope: Scope, status: int) -> None:
    """The route, as it is declared, and how it was answered; a client's mistake is no failure of the server."""
    if not step.recording:
        return
    route = getattr(scope.get("route", scope.get("endpoint")), "path", None)
    if route is not None:
        step.rename(f"{scope['method']} {route}")
        step.set({"http.route": route})
    step.set({"http.response.status_code": status})
    if status >= 500:
        step.fail(str(status))


@dataclass(frozen=True, slots=True)
class KnownHosts:
    """Refuses other Host names, and pages of other origins: a browser must not be led here by somebody's DNS.

    `hosts` may hold `*` for any; a host without a port stands for each of its ports.
    """

    app: ASGIApp
    hosts: Sequence[str]
    origins: Sequence[str]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or scope["path"] in _ANY_HOST:
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._is_known(host):
            await _refuse(NotAllowed("This server does not go by that name.", hint=_HOSTS_HINT), scope, receive, send)
        elif origin is not None and not self._may_ask(origin, host, scope["path"]):
            await _refuse(NotAllowed("Pages of that origin may not ask.", hint=_ORIGINS_HINT), scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _is_known(self, host: str) -> bool:
        return "*" in self.hosts or host in self.hosts or _without_port(host) in self.hosts

    def _may_ask(self, origin: str, host: str, path: str) -> bool:
        """With `*` for hosts, only what takes a cookie, which no other name's page has, may be asked by its own."""
        if origin in self.origins:
            return True
        own = "*" not in self.hosts or path.startswith("/explorer/")
        return own and origin.lower() in {f"{scheme}://{host}".lower() for scheme in _SCHEMES}


_HOSTS_HINT = "Whoever runs the server: AGENTDB_ALLOWED_HOSTS lists the names that it is reached by."
_ORIGINS_HINT = "Whoever runs the server: AGENTDB_ALLOWED_ORIGINS lists the origins that may."


def _without_port(host: str) -> str:
    return host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.partition(":")[0]


@dataclass(slots=True)
class BoundedBody:
    """Refuses a body that is too long, by its header or as it comes, one that does not come, and too many at once."""

    app: ASGIApp
    max_bytes: int = MAX_BODY_BYTES
    max_bytes_at_once: int = MAX_BYTES_AT_ONCE
    timeout_s: float = 30.0
    at_once: int = 0  # bytes of the bodies that are being worked on

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if (error := self._told(Headers(scope=scope))) is not None:
            await _refuse(error, scope, receive, send)
            return
        body = _Body(self, receive, anyio.current_time() + self.timeout_s)
        answered = False

        async def answer(message: Message) -> None:
            nonlocal answered
            if body.refused is not None and not answered:  # whatever is made of a body that could not be read
                return
            answered = True
            await send(message)

        try:
            await self.app(scope, body.receive, answer)
        except AgentDBError:
            if answered or body.refused is None:
                raise
        finally:
            self.at_once -= body.counted
        if body.refused is not None and not answered:
            await _refuse(body.refused, scope, receive, send)

    def _told(self, headers: Headers) -> AgentDBError | None:
        length = headers.get("content-length", "0")
        if "content-length" in headers and "transfer-encoding" in headers:  # a proxy in front may go by the other one
            return InvalidArgument("A request's body has its length told in one way: content-length or chunks.")
        if not _LENGTH.fullmatch(length):
            return InvalidArgument("content-length is not a number that a body could have.")
        return self.too_large() if int(length) > self.max_bytes else None

    def too_large(self) -> ResultTooLarge:
        return ResultTooLarge(f"The request is larger than {self.max_bytes:,} bytes.", hint="Send less at once.")


@dataclass(slots=True)
class _Body:
    """One request's; small ones are not counted, so that large ones are in nobody's way."""

    bounds: BoundedBody
    source: Receive
    due: float
    received: int = 0
    counted: int = 0
    whole: bool = False
    refused: AgentDBError | None = None

    async def receive(self) -> Message:
        """Raises what it is refused for."""
        if self.whole:  # what comes is that the client goes away
            return await self.source()
        try:
            with anyio.fail_after(max(0, self.due - anyio.current_time())):
                message = await self.source()
        except TimeoutError:
            self.refused = InvalidArgument(
                f"The request did not come within {self.bounds.timeout_s:g} s.", hint="Send it again.", retryable=True
            )
            raise self.refused from None
        self._count(message)
        if self.refused is not None:
            raise self.refused
        return message

    def _count(self, message: Message) -> None:
        self.whole = message["type"] != "http.request" or not message.get("more_body", False)
        self.received += len(message.get("body", b""))
        if self.received > self.bounds.max_bytes:
            self.refused = self.bounds.too_large()
        elif self.received > SMALL_BODY_BYTES:
            more = self.received - self.counted
            if self.bounds.at_once + more > self.bounds.max_bytes_at_once:
                self.refused = RateLimited(
                    "Too many large requests are being worked on.", hint="Wait 1 s, or send less.", retryable=True
                )
                return
            self.bounds.at_once += more
            self.counted += more


async def _refuse(error: AgentDBError, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": error.code})
        return
    await error_response(Request(scope), error)(scope, receive, send)
