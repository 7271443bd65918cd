"""Files of pages: kept by browsers, for their addresses name their version; the toolkit's compressed once a process."""

from __future__ import annotations

import gzip
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import anyio.to_thread
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

STATIC = Path(__file__).parent / "static"
FOR_GOOD = "public, max-age=31536000, immutable"
# Many addresses may lead to one file; whoever makes them up gains nothing beyond so many.
MAX_KEPT = 100
SMALLEST = 1000
_TYPES = ("text/javascript", "text/css")
_CONDITIONS = ("range", "if-none-match", "if-modified-since", "if-range")


def versioned(name: str) -> str:
    """Of a file of ours, with what is in it."""
    return f"{name}?v={sha256((STATIC / name).read_bytes()).hexdigest()[:12]}"


@dataclass(slots=True)
class Files:
    """Answers for the toolkit what it answered before. Without it each new browser has them compressed anew."""

    _kept: dict[str, tuple[Message, bytes]] = field(default_factory=dict)

    async def __call__(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        asked = Headers(scope=scope)
        whole = scope.get("method") == "GET" and not any(name in asked for name in _CONDITIONS)
        keeping = whole and "gzip" in asked.get("accept-encoding", "")
        path = scope["path"]
        if keeping and (kept := self._kept.get(path)) is not None:
            await _answer(*kept, send)
            return
        start: Message = {}
        body = bytearray()

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
                headers = MutableHeaders(raw=list(message["headers"]))
                if message["status"] == 200 and "/dynamic_resources/" not in path:
                    headers["cache-control"] = FOR_GOOD
                start["headers"] = headers.raw
            if not keeping or start["status"] != 200:
                await send(dict(start) if message["type"] == "http.response.start" else message)
                return
            body.extend(message.get("body", b""))
            if message["type"] == "http.response.body" and not message.get("more_body"):
                await _answer(*await self._compressed(path, start, bytes(body)), send)

        await app(scope, receive, answer)

    async def _compressed(self, path: str, start: Message, body: bytes) -> tuple[Message, bytes]:
        headers = MutableHeaders(raw=list(start["headers"]))
        if len(body) >= SMALLEST and headers.get("content-type", "").startswith(_TYPES):
            body = await anyio.to_thread.run_sync(gzip.compress, body)
            headers["content-encoding"], headers["content-length"] = "gzip", str(len(body))
            headers.add_vary_header("Accept-Encoding")
        made = ({**start, "headers": headers.raw}, body)
        if len(self._kept) < MAX_KEPT:
            self._kept[path] = made
        return made


async def _answer(start: Message, body: bytes, send: Send) -> None:
    await send({**start, "headers": list(start["headers"])})
    await send({"type": "http.response.body", "body": body})
