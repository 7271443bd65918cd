"""MCP over standard input and output, ended by end of input, SIGTERM or SIGINT within a moment.

The SDK reads stdin in a thread, which a signal cannot interrupt; over pipes, sockets and terminals we give it streams
of the event loop instead, once there is something for it (see direct.py). While we serve, file descriptor 1 leads to
stderr, so that no stray print corrupts the wire.
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
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from agentdb_mcp.mcp_server.calling import run_tool
from agentdb_mcp.mcp_server.described import describe_tools
from agentdb_mcp.mcp_server.direct import Direct, Offer
from agentdb_mcp.mcp_server.encoding import to_json
from agentdb_mcp.mcp_server.late import Late, serve_by_sdk
from agentdb_mcp.mcp_server.tools import Operations
from agentdb_mcp.models import Scope
from agentdb_mcp.policy import LimitRules

if TYPE_CHECKING:
    from mcp.server.lowlevel import Server

MAX_LINE = 32 * 1024 * 1024
# Of JSON-RPC.
PARSE_ERROR = -32700


async def serve_stdio(operations: Operations, limits: LimitRules, fixed_scope: Scope | None = None) -> None:
    """Serve one client until it goes away or we are asked to end."""

    def make_server() -> Server[Any]:
        from agentdb_mcp.mcp_server.server import build_server

        return build_server(lambda _: contextlib.nullcontext(operations), limits, fixed_scope)

    offer = Offer(describe_tools(limits, fixed_scope), partial(run_tool, operations, fixed_scope=fixed_scope))
    async with anyio.create_task_group() as group:
        group.start_soon(_end_on_signal, group.cancel_scope)
        async with _streams() as streams:
            if streams is None:
                await serve_by_sdk(make_server())
            else:
                await _serve_lines(*streams, offer, make_server)
        group.cancel_scope.cancel()


async def _serve_lines(lines: Lines, output: Output, offer: Offer, make_server: Callable[[], Server[Any]]) -> None:
    """What is being answered when the lines end is cancelled, as by the SDK."""
    async with anyio.create_task_group() as answering:
        direct = Direct(answering, offer, output)
        async with anyio.create_task_group() as group, Late(group, make_server, direct, output) as sdk:
            async for line in lines:
                if not direct.takes(line):
                    await sdk.take(line)
        answering.cancel_scope.cancel()


async def _end_on_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()
            return


class Lines:
    """Standard input, line by line."""

    def __init__(self, reader: asyncio.StreamReader, output: Output) -> None:
        self._reader = reader
        self._output = output

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while True:
            if (line := await self._line()) is None:
                await self._output.send(_answer(None, f"The request is longer than {MAX_LINE:,} bytes."))
            elif not line:
                raise StopAsyncIteration
            elif b"\\u" in line and (refusal := _surrogate_refusal(line)) is not None:
                await self._output.send(refusal)
            else:
                return line

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


class Output:
    """Standard output, with back-pressure.

    One line at a time: whoever waits for a buffer into which others go on writing may wait for ever.
    """

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._turn = anyio.Lock(fast_acquire=True)

    async def send(self, line: bytes) -> None:
        """A whole line."""
        async with self._turn:
            self._writer.write(line)
            with contextlib.suppress(ConnectionError):  # the client is gone: end of input follows
                await self._writer.drain()


@contextlib.asynccontextmanager
async def _streams() -> AsyncIterator[tuple[Lines, Output] | None]:
    """Streams of the event loop, or None for the SDK's own where a descriptor is a file or a device."""
    if not (_is_stream(0) and _is_stream(1)):
        yield None
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
            output = Output(writer)
            yield Lines(reader, output), output
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
