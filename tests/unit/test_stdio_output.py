"""Lines on standard output while others are waiting."""

from __future__ import annotations

import asyncio
import os

import anyio
import anyio.to_thread

from agentdb_mcp.mcp_server.stdio import Output

LINE = b"x" * 200_000 + b"\n"


async def test_who_sent_a_line_goes_on_once_it_was_read_though_there_are_always_others() -> None:
    reading, writing = os.pipe()
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.streams.FlowControlMixin(), os.fdopen(writing, "wb", buffering=0)
    )
    output = Output(asyncio.StreamWriter(transport, protocol, None, loop))
    sent = 0

    async def send() -> None:
        nonlocal sent
        await output.send(LINE)
        sent += 1

    def read() -> None:
        left = len(LINE)
        while left:
            left -= len(os.read(reading, left))

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(send)
        for _ in range(100):
            await anyio.to_thread.run_sync(read)
            group.start_soon(send)
        assert sent >= 90
        group.cancel_scope.cancel()
    transport.abort()
    os.close(reading)
