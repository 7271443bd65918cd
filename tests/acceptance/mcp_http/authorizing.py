"""A loopback proxy that adds a token to every request, for programs that cannot send one themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream, ByteStream, SocketAttribute
from anyio.streams.buffered import BufferedByteReceiveStream

MAX_HEAD = 64 * 1024
_GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, anyio.IncompleteRead)
_REPLACED = (b"authorization:", b"connection:", b"keep-alive:")


@asynccontextmanager
async def authorizing(url: str, token: str) -> AsyncIterator[str]:
    """The base URL of a proxy for `url`. Host and Origin pass as they are; each connection carries one request."""
    upstream = urlsplit(url)
    assert upstream.hostname is not None
    assert upstream.port is not None
    host, port = upstream.hostname, upstream.port
    added = f"Authorization: Bearer {token}\r\nConnection: close\r\n\r\n".encode()

    async def serve(client: ByteStream) -> None:
        reader = BufferedByteReceiveStream(client)
        async with client:
            with suppress(*_GONE):  # a connection may end before it was used
                lines = (await reader.receive_until(b"\r\n\r\n", MAX_HEAD)).split(b"\r\n")
                kept = [line for line in lines if not line.lower().startswith(_REPLACED)]
                async with await anyio.connect_tcp(host, port) as server:
                    await server.send(b"\r\n".join([*kept, added]))
                    await _both_ways(reader, client, server)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, serve)
        yield f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
        group.cancel_scope.cancel()


async def _both_ways(reader: ByteReceiveStream, client: ByteStream, server: ByteStream) -> None:
    """Until one of them goes away."""

    async def copy(source: ByteReceiveStream, target: ByteSendStream) -> None:
        await _copy(source, target)
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(copy, reader, server)
        group.start_soon(copy, server, client)


async def _copy(source: ByteReceiveStream, target: ByteSendStream) -> None:
    with suppress(*_GONE):
        while True:
            await target.send(await source.receive())
