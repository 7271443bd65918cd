"""What stands before the toolkit: the session, its sockets, and what a browser may do with a page."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from urllib.parse import quote

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import RedirectResponse, Response
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from agentdb_mcp.errors import AgentDBError, NotAuthenticated
from agentdb_mcp.web.errors import error_response
from agentdb_mcp.web.explorer.files import Files
from agentdb_mcp.web.explorer.headers import page_headers, set_cookie
from agentdb_mcp.web.explorer.ownership import SESSION, may_open
from agentdb_mcp.web.explorer.session import COOKIE, Session
from agentdb_mcp.web.explorer.toolkit import Toolkit
from agentdb_mcp.web.explorer.work import Explorer

EXPLORER = "agentdb.explorer"
_SCRIPT = re.compile(rb"<script\b")


class Guard:
    """The toolkit's own files are for everybody, a page for a session, and a socket for the session of its page."""

    def __init__(self, explorer: Explorer, toolkit: Toolkit, ancestors: Sequence[str], *, https: bool) -> None:
        self._explorer = explorer
        self._toolkit = toolkit
        self._ancestors = ancestors
        self._https = https
        self._files = Files()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        scope["headers"] = [pair for pair in scope["headers"] if pair[0] != b"x-forwarded-prefix"]
        connection = HTTPConnection(scope)
        try:
            app = await self._toolkit.app()
            if path.startswith("/_nicegui/"):
                await self._files(app, scope, receive, send)
                return
            session = await self._explorer.sessions.of(connection.cookies.get(COOKIE))
        except AgentDBError as error:
            await _refuse(error, scope, receive, send)
            return
        if path.startswith("/_nicegui_ws/"):
            if session is None or not may_open(connection, session):
                await _refuse(NotAuthenticated("The session has ended.", hint="Sign in."), scope, receive, send)
                return
            scope[SESSION] = session
            await app(scope, receive, send)
        elif scope["type"] == "http":
            if session is None:
                await _to_sign_in(scope, path)(scope, receive, send)
                return
            self._explorer.sessions.touch(session)
            scope[SESSION], scope[EXPLORER] = session, self._explorer
            await app(scope, receive, self._page(scope, session, send))

    def _page(self, scope: Scope, session: Session, send: Send) -> Send:
        """Pages get their policy, and their scripts its nonce: whatever data is in a page has no `<` left."""
        nonce = secrets.token_urlsafe(16)
        start: Message = {}
        body = bytearray()

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
                return
            body.extend(message.get("body", b""))
            if message.get("more_body"):
                return
            headers = MutableHeaders(raw=list(start["headers"]))
            content = bytes(body)
            if headers.get("content-type", "").startswith("text/html"):
                content = _SCRIPT.sub(f'<script nonce="{nonce}"'.encode(), content)
                headers["content-length"] = str(len(content))
            for name, value in page_headers(self._ancestors, nonce=nonce).items():
                headers[name] = value
            set_cookie(
                headers,
                self._explorer.sessions.cookie(session),
                embedded=bool(self._ancestors),
                https=self._is_https(scope),
            )
            await send({**start, "headers": headers.raw})
            await send({"type": "http.response.body", "body": content})

        return answer

    def _is_https(self, scope: Scope) -> bool:
        return self._https or scope.get("scheme") == "https"


def _to_sign_in(scope: Scope, path: str) -> Response:
    query = scope.get("query_string", b"").decode("latin-1")
    wanted = quote(path + (f"?{query}" if query else ""), safe="")
    return RedirectResponse(f"/explorer/sign-in?next={wanted}", 303, {"cache-control": "no-store"})


async def _refuse(error: AgentDBError, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await WebSocket(scope, receive, send).close(1008)
        return
    await error_response(Request(scope), error)(scope, receive, send)
