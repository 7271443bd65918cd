"""A table as a CSV or JSON file, sent as it is read: any size, in bounded memory.

JSON has one object a row, with the values that `execute_sql` gives. CSV (RFC 4180) leaves a null empty and quotes an
empty text; arrays and JSON stand in it as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal
from urllib.parse import quote

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from agentdb_mcp.errors import AgentDBError
from agentdb_mcp.execution import Sink
from agentdb_mcp.logs import get_logger
from agentdb_mcp.models import Column

log = get_logger(__name__)

Format = Literal["csv", "json"]
_MEDIA = {"csv": "text/csv; charset=utf-8", "json": "application/json"}
_TO_QUOTE = frozenset('",\r\n')


class Export(Response):
    """Answers what `read` gives to a sink. An error before the first row is answered as one; after it, it cuts off.

    Ends with the client.
    """

    def __init__(self, name: str, form: Format, read: Callable[[Sink], Awaitable[None]]) -> None:
        disposition = f"attachment; filename*=UTF-8''{quote(name, safe='')}.{form}"
        headers = {"content-disposition": disposition, "x-content-type-options": "nosniff"}
        super().__init__(status_code=200, media_type=_MEDIA[form], headers=headers)
        del self.headers["content-length"]
        self._form = form
        self._read = read

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        failed: list[AgentDBError] = []
        async with anyio.create_task_group() as group:

            async def send_all() -> None:
                try:
                    await self._send_all(send)
                except AgentDBError as error:  # raised again below, outside of the group
                    failed.append(error)
                group.cancel_scope.cancel()

            async def watch() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                group.cancel_scope.cancel()

            group.start_soon(send_all)
            group.start_soon(watch)
        if failed:
            raise failed[0]

    async def _send_all(self, send: Send) -> None:
        started = False

        async def sink(columns: Sequence[Column], rows: list[list[object]]) -> None:
            nonlocal started
            text = _csv(rows) if self._form == "csv" else _json(columns, rows, first=not started)
            if not started:
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                text = (_csv([[column.name for column in columns]]) if self._form == "csv" else "[") + text
                started = True
            await send({"type": "http.response.body", "body": text.encode(), "more_body": True})

        try:
            await self._read(sink)
        except AgentDBError as error:
            if not started:
                raise
            log.warning("export cut off", code=error.code)  # by an end without an end: the client sees that it failed
            return
        await send({"type": "http.response.body", "body": b"" if self._form == "csv" else b"\n]\n", "more_body": False})


def _json(columns: Sequence[Column], rows: list[list[object]], *, first: bool) -> str:
    names = [column.name for column in columns]
    lines = [json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False, separators=(",", ":")) for row in rows]
    return ("" if first or not lines else ",") + ("\n" if lines else "") + ",\n".join(lines)


def _csv(rows: list[list[object]]) -> str:
    return "".join(",".join(_field(value) for value in row) + "\r\n" for row in rows)


def _field(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return '"' + text.replace('"', '""') + '"' if not text or _TO_QUOTE.intersection(text) else text
