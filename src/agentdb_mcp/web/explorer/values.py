"""How values, amounts and times look. Pure: what a database holds stays text."""

from __future__ import annotations

import base64
import binascii
import json
from datetime import UTC, datetime

from agentdb_mcp.costs import MICROCENTS_PER_CENT
from agentdb_mcp.models import Column

CUT = 200
_NUMBERS = ("smallint", "integer", "bigint", "numeric", "real", "double precision", "money", "oid")


def kind(type_name: str) -> str:
    """How a column of the type is set: number, json, bytes, bool, time or text."""
    base = type_name.split("(")[0].strip()
    if base in _NUMBERS:
        return "number"
    if base in ("json", "jsonb"):
        return "json"
    if base == "boolean":
        return "bool"
    if base == "bytea":
        return "bytes"
    return "time" if base.startswith(("timestamp", "date", "time", "interval")) else "text"


def whole(value: object, column: Column) -> str | None:
    """A value of an answer as text; None for a null."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if column.type == "bytea" and isinstance(value, str):
        return _hex(value)
    if isinstance(value, str) and kind(column.type) != "json":
        return value
    return json.dumps(value, ensure_ascii=False)


def cut(text: str | None, length: int = CUT) -> str | None:
    """On one line, and no longer than a cell takes."""
    if text is None:
        return None
    short = text if len(text) <= length else text[:length] + "…"
    return short.replace("\r\n", "⏎").replace("\n", "⏎").replace("\t", "⇥")


def dollars(microcents: int) -> str:
    cents = microcents / MICROCENTS_PER_CENT
    return f"${cents / 100:,.4f}" if 0 < cents < 1 else f"${cents / 100:,.2f}"


def size(count: int | None) -> str:
    if count is None:
        return "–"
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1024 or unit == "GB":
            return f"{amount:,.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:,.1f} {unit}"
        amount /= 1024
    raise AssertionError


def number(count: int | None) -> str:
    return "–" if count is None else f"{count:,}"


def duration(milliseconds: float | None) -> str:
    if milliseconds is None:
        return "–"
    if milliseconds < 10:
        return f"{milliseconds:.2f} ms"
    return f"{milliseconds:,.0f} ms" if milliseconds < 10_000 else f"{milliseconds / 1000:,.1f} s"


def ago(moment: datetime | None, now: datetime) -> str:
    if moment is None:
        return "never"
    seconds = max(0, int((now - moment).total_seconds()))
    for length, unit in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= length:
            count = seconds // length
            return f"{count} {unit}{'' if count == 1 else 's'} ago"
    return "just now"


def moment(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def width(header: str, texts: list[str | None]) -> int:
    """Pixels of a column: as wide as what it holds, within reason."""
    longest = max([len(header) + 2, *(len(text or "null") for text in texts[:50])])
    return max(72, min(360, longest * 8 + 28))


def _hex(value: str) -> str:
    try:
        return "\\x" + base64.b64decode(value, validate=True).hex()
    except (binascii.Error, ValueError):
        return value


def place_in_text(sql: str, position: int) -> tuple[int, int, str]:
    """(line, column, the line) of a 1-based character position; the last place where it is beyond the text."""
    index = min(max(position - 1, 0), len(sql))
    before = sql[:index]
    line = before.count("\n") + 1
    start = before.rfind("\n") + 1
    end = sql.find("\n", index)
    return line, index - start + 1, sql[start : end if end >= 0 else len(sql)]


def word_at(sql: str, position: int) -> tuple[int, int]:
    """The characters (from, to) of the word at a 1-based position, at least one where there is a text."""
    start = min(max(position - 1, 0), max(len(sql) - 1, 0))
    end = start
    while end < len(sql) and (sql[end].isalnum() or sql[end] in "_$"):
        end += 1
    return start, max(end, min(start + 1, len(sql)))
