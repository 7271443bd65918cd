"""The explorer: people at their databases in a browser. NiceGUI is loaded by the first page, not by the server."""

from __future__ import annotations

from importlib.util import find_spec

from fastapi import FastAPI, Request
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import RedirectResponse
from starlette.routing import Mount, Route

from agentdb_mcp.errors import NotFound
from agentdb_mcp.web.explorer import entry
from agentdb_mcp.web.explorer.guard import Guard
from agentdb_mcp.web.explorer.session import Sessions
from agentdb_mcp.web.explorer.toolkit import Toolkit
from agentdb_mcp.web.explorer.work import Explorer
from agentdb_mcp.web.state import State

__all__ = ["install", "is_installed", "link"]

PATH = "/explorer"
# More takes three times as long for a tenth less of the two megabytes that a browser loads once.
COMPRESSION = 4


def is_installed() -> bool:
    """Whether the extra `explorer` is there."""
    return find_spec("nicegui") is not None


def install(app: FastAPI, state: State) -> None:
    """Add `/explorer` to the server: its pages, or an answer that says why there are none."""
    if not is_installed():
        app.router.routes.append(Route(PATH, _missing, methods=["GET"], include_in_schema=False))
        app.router.routes.append(Route(PATH + "/{rest:path}", _missing, methods=["GET"], include_in_schema=False))
        return
    settings = state.application.settings
    https = (state.public_url or "").startswith("https://")
    sessions = Sessions(state.managed.tokens, settings.encryption_keys)
    explorer = Explorer(state, sessions)
    app.state.explorer = explorer
    app.include_router(entry.router(explorer, https=https))
    app.router.routes.append(Route(PATH, _home, methods=["GET"], include_in_schema=False))
    guard = Guard(explorer, Toolkit(state), settings.frame_ancestors, https=https)
    app.router.routes.append(Mount(PATH, GZipMiddleware(guard, minimum_size=1000, compresslevel=COMPRESSION)))


async def link(app: FastAPI, base_url: str, user_id: str, seconds: int) -> str | None:
    """The address that signs a user in once; None where there is no explorer."""
    explorer: Explorer | None = getattr(app.state, "explorer", None)
    if explorer is None:
        return None
    issued = await explorer.sessions.link(user_id, None, seconds=seconds)
    return entry.link_url(base_url, issued.token.reveal())


async def _missing(_: Request) -> None:
    raise NotFound(
        "The explorer is not installed on this server.",
        hint="Whoever runs the server: install agentdb-mcp with the extra `explorer`.",
    )


async def _home(_: Request) -> RedirectResponse:
    return RedirectResponse(f"{PATH}/", 307)
