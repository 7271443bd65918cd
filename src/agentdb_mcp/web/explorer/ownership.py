"""Whose page it is: what is asked or told about a page counts only from the session that it was given to.

The toolkit names a page by an id in each message; whoever knows the id could speak for the page.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from inspect import isawaitable
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import HTTPConnection
from starlette.types import Scope

from agentdb_mcp.web.explorer.session import Session

SESSION = "agentdb.explorer.session"

Handler = Callable[..., Any]


def may_open(connection: HTTPConnection, session: Session) -> bool:
    """Whether the pages, and the socket to go on with, that a request names are the session's, or are gone."""
    from nicegui import core

    asked = parse_qs(connection.url.query)
    if not all(_is_of(each, session.id) for each in asked.get("client_id", [])):
        return False
    environs = (core.sio.environ.get(each) for each in asked.get("sid", []))
    return all(environ is None or _owner(environ.get("asgi.scope", {})) == session.id for environ in environs)


def bind_sockets() -> None:
    """Put the question before everything that the toolkit hears from an open socket; once a process."""
    from nicegui import core

    handlers: dict[str, Handler] = core.sio.handlers["/"]
    for event in handlers.keys() - {"connect", "disconnect"}:
        core.sio.on(event, _of_owner(handlers[event]))


def _of_owner(handler: Handler) -> Callable[..., Awaitable[object]]:
    from nicegui import core

    async def answer(sid: str, message: object = None, *_: object) -> object:
        environ = core.sio.get_environ(sid) or {}
        owner = _owner(environ.get("asgi.scope", {}))
        client_id = message.get("client_id") if isinstance(message, dict) else None
        if owner is None or not isinstance(client_id, str) or not _is_of(client_id, owner):
            return False
        answered = handler(sid, message)
        return await answered if isawaitable(answered) else answered

    return answer


def _is_of(client_id: str, session_id: str) -> bool:
    """A page that is gone is nobody's: the toolkit tells who asks for it to load anew."""
    from nicegui import Client

    client = Client.instances.get(client_id)
    return client is None or _owner(client.request.scope) == session_id


def _owner(scope: Scope | Mapping[str, Any]) -> str | None:
    session = scope.get(SESSION)
    return session.id if isinstance(session, Session) else None
