"""The SDK over stdio, loaded when there is something for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from agentdb_mcp.mcp_server.direct import Direct, Output

if TYPE_CHECKING:
    from mcp.server.lowlevel import Server

# Lines that wait while the SDK is being loaded.
MOST_WAITING = 64


class Lines(Protocol):
    """Of the text files that the SDK takes, what it uses to read."""

    def __aiter__(self) -> AsyncIterator[str]: ...


class Text(Protocol):
    """And to write."""

    async def write(self, text: str) -> None: ...

    async def flush(self) -> None: ...


async def serve_by_sdk(server: Server[Any], lines: Lines | None = None, output: Text | None = None) -> None:
    """Serve until the lines end: these, or the process's own."""
    from mcp.server.stdio import stdio_server

    files = cast("tuple[anyio.AsyncFile[str] | None, anyio.AsyncFile[str] | None]", (lines, output))
    async with stdio_server(*files) as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())


class Late:
    """The SDK's server, from the first line that is for it. It hears the greeting that was answered without it."""

    def __init__(self, group: TaskGroup, make: Callable[[], Server[Any]], direct: Direct, output: Output) -> None:
        self._group = group
        self._make = make
        self._direct = direct
        self._output = output
        self._lines, self._incoming = anyio.create_memory_object_stream[str](MOST_WAITING)
        self._begun = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """No line follows."""
        self._lines.close()
        if not self._begun:
            self._incoming.close()

    async def take(self, line: bytes) -> None:
        if not self._begun:
            self._begun = True
            known = self._direct.hand_over()
            self._group.start_soon(self._serve)
            for each in known:
                await self._lines.send(each.decode())
        await self._lines.send(line.decode("utf-8", errors="replace"))

    async def _serve(self) -> None:
        with self._incoming:
            server = await anyio.to_thread.run_sync(self._make, abandon_on_cancel=True)
            await serve_by_sdk(server, self._incoming, self)

    async def write(self, text: str) -> None:
        """An answer of the SDK's."""
        if self._direct.is_unasked(text):
            return
        self._direct.heard(text)
        await self._output.send(text.encode())

    async def flush(self) -> None:
        """`write` has."""
