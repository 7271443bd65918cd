"""NiceGUI's life: loaded by the first page that is asked for, ended with the server. There is one of it a process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
from anyio.abc import TaskStatus
from fastapi import FastAPI

from agentdb_mcp.errors import DatabaseUnavailable
from agentdb_mcp.web.state import State

if TYPE_CHECKING:
    from starlette.types import ASGIApp

# Half of a page's state is in the server: what is gone longer than this begins anew.
RECONNECT_S = 20.0
_loaded: FastAPI | None = None
_owner: Toolkit | None = None


class Toolkit:
    """The one server of this process that shows pages."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._starting = anyio.Lock()

    async def app(self) -> ASGIApp:
        """NiceGUI's application, running. Raises DatabaseUnavailable while the server starts or ends."""
        global _owner
        async with self._starting:
            if _owner is not self:
                if _owner is not None or self._state.background is None or self._state.stopping:
                    raise DatabaseUnavailable("The explorer is not running here now.", hint="Try again in a moment.")
                await anyio.to_thread.run_sync(_load)
                await self._state.background.start(self._run)
                _owner = self
        from nicegui import app

        return app

    async def _run(self, *, task_status: TaskStatus[None]) -> None:
        global _owner
        parent = _loaded
        if parent is None:
            raise RuntimeError("NiceGUI is not loaded")
        lifespan = parent.router.lifespan_context(parent)
        await lifespan.__aenter__()
        try:
            task_status.started()
            await anyio.sleep_forever()
        finally:
            _owner = None
            with anyio.CancelScope(shield=True), anyio.move_on_after(5, shield=True):
                _end_clients()
                await lifespan.__aexit__(None, None, None)


def _load() -> None:
    """Import it and declare the pages, once a process."""
    global _loaded
    if _loaded is not None:
        return
    from nicegui import ui

    from agentdb_mcp.web.explorer import ownership, pages

    pages.declare()
    ownership.bind_sockets()
    parent = FastAPI(openapi_url=None)
    settings: dict[str, Any] = {"tailwind": False, "dark": None, "show_welcome_message": False}
    ui.run_with(
        parent,
        title="Database Explorer",
        language="en-US",
        favicon="🗄",
        reconnect_timeout=RECONNECT_S,
        message_history_length=200,
        gzip_middleware_factory=None,
        **settings,
    )
    _loaded = parent


def _end_clients() -> None:
    from nicegui import Client

    for client in list(Client.instances.values()):
        client.delete()
