"""MCP over standard input and output, ended by end of input, SIGTERM or SIGINT within a moment.

The SDK reads stdin in a thread, which a signal cannot interrupt; over pipes, sockets and terminals we give it streams
of the event loop instead. While we serve, file descriptor 1 leads to stderr, so that no stray print corrupts the wire.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp_types import PARSE_ERROR

from agentdb_mcp.mcp_server.direct import CallTool, Direct
from agentdb_mcp.mcp_server.encoding import to_json

MAX_LINE = 32 * 1024 * 1024


async def serve_stdio(server: Server[Any], call: CallTool, knows: Callable[[str], bool]) -> None:
    """Serve one client until it goes away or we are asked to end.

    `call` runs the tools that it `knows`, as the server would: for plain calls, which need not go through the SDK.
    """
    async with anyio.create_task_group() as group:
        group.start_soon(_end_on_signal, group.cancel_scope)
        async with _streams() as (reader, writer), stdio_server(reader, writer) as (incoming, outgoing):  # type: ignore[arg-type]
            if reader is not None and writer is not None:
                reader.direct = writer.direct = Direct(group, call, knows, writer)
            await server.run(incoming, outgoing, server.create_initialization_options())
        group.cancel_scope.cancel()


async def _end_on_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()
            return


class _Lines:
    """Standard input, line by line."""

    def __init__(self, reader: asyncio.StreamReader, output: _Output) -> None:
        self._reader = reader
        self._output = output
        self.direct: Direct | None = None

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        while True:
            if (line := await self._line()) is None:
                await self._output.send(_answer(None, f"The request is longer than {MAX_LINE:,} bytes."))
            elif not line:
                raise StopAsyncIteration
            elif b"\\u" in line and (refusal := _surrogate_refusal(line)) is not None:
                await self._output.send(refusal)
            elif self.direct is None or not self.direct.takes(line):
                return line.decode("utf-8", errors="replace")

    async def _line(self) -> bytes | None:
        """The next line, empty at the end; None for one that is too long, which is dropped to its end."""
        dropping = False
        while True:
            try:
                line = await self._reader.readuntil()
            except asyncio.LimitOverrunError as overrun:
                await self._reader.readexactly(overrun.consumed)
                dropping = True
            except asyncio.IncompleteReadError as end:
                return None if dropping else end.partial
            else:
                return None if dropping else line


def _surrogate_refusal(line: bytes) -> bytes | None:
    """The answer to a request that escapes half of a surrogate pair: the SDK would drop it without a word."""
    try:
        message = json.loads(line)
        json.dumps(message, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        identifier = message.get("id") if isinstance(message, dict) else None
        return _answer(identifier, "The request is not valid Unicode: it holds half of a surrogate pair.")
    except (ValueError, RecursionError):
        return None
    return None


def _answer(identifier: object, message: str) -> bytes:
    error = {"code": PARSE_ERROR, "message": message}
    return to_json({"jsonrpc": "2.0", "id": identifier, "error": error}) + b"\n"


class _Output:
    """Standard output, with back-pressure."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.direct: Direct | None = None

    async def send(self, line: bytes) -> None:
        """A whole line."""
        self._writer.write(line)
        await self.flush()

    async def write(self, text: str) -> None:
        """The SDK's."""
        if self.direct is not None:
            self.direct.heard(text)
        self._writer.write(text.encode())

    async def flush(self) -> None:
        with contextlib.suppress(ConnectionError):  # the client is gone: end of input follows
            await self._writer.drain()


@contextlib.asynccontextmanager
async def _streams() -> AsyncIterator[tuple[_Lines | None, _Output | None]]:
    """Streams of the event loop, or None for the SDK's own where a descriptor is a file or a device."""
    if not (_is_stream(0) and _is_stream(1)):
        yield None, None
        return
    loop = asyncio.get_running_loop()
    wire = os.dup(1)
    os.dup2(2, 1)
    reader = asyncio.StreamReader(limit=MAX_LINE)
    try:
        read_transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
        write_transport, protocol = await loop.connect_write_pipe(
            lambda: asyncio.streams.FlowControlMixin(), os.fdopen(wire, "wb", buffering=0)
        )
        writer = asyncio.StreamWriter(write_transport, protocol, None, loop)
        try:
            output = _Output(writer)
            yield _Lines(reader, output), output
        finally:
            read_transport.close()
            write_transport.close()
    finally:
        for descriptor in (0, 1):
            with contextlib.suppress(OSError):
                os.set_blocking(descriptor, True)


def _is_stream(descriptor: int) -> bool:
    with contextlib.suppress(OSError):
        mode = os.fstat(descriptor).st_mode
        return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor)
    return False
