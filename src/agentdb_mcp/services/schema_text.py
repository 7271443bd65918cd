"""A database's schema as short text for a model: Postgres's own DDL, or a line a table where there are many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

# Beyond so many tables and views, the text names each with its columns and leaves the rest out.
MANY = 10
_COLUMNS_SHOWN, _COMMENT_SHOWN = 20, 200
_KEYWORDS = {"view": "VIEW", "materialized view": "MATERIALIZED VIEW", "foreign table": "FOREIGN TABLE"}


def schema_text(relations: Sequence[Row], enums: Sequence[Row], *, whole: bool | None = None) -> str:
    """The rows of `execution.schema`, nulls left out; `whole` decides on its length, else their number does."""
    if not relations:
        return "There are no tables yet."
    if whole is None:
        whole = len(relations) <= MANY
    types = [f"CREATE TYPE {enum['qualified']} AS ENUM ({', '.join(enum['labels'])});" for enum in enums]
    return "\n".join([*types, *(_statement(row) if whole else _line(row) for row in relations)])


def _statement(row: Row) -> str:
    keyword = _KEYWORDS.get(row["type"], "TABLE")
    comments = row.get("comments", {})
    parts = [*row.get("columns", []), *row.get("constraints", [])]
    notes = [_flat(comments[name]) if name in comments else "" for name in row.get("column_names", [])]
    lines = []
    for place, part in enumerate(parts):
        note = f" -- {notes[place]}" if place < len(notes) and notes[place] else ""
        lines.append(f"  {part}{',' if place < len(parts) - 1 else ''}{note}")
    head = f"CREATE {keyword} {row['qualified']} (" + (f" -- {about}" if (about := _about(row)) else "")
    return "\n".join([head, *lines, ");", *(f"{index};" for index in row.get("indexes", []))])


def _line(row: Row) -> str:
    names = row.get("column_names", [])
    shown = ", ".join(names[:_COLUMNS_SHOWN]) + (", …" if len(names) > _COLUMNS_SHOWN else "")
    kind = "" if row["type"] == "table" else f"{row['type']} "
    return f"{kind}{row['qualified']}({shown})" + (f" -- {about}" if (about := _about(row)) else "")


def _about(row: Row) -> str:
    rows = row.get("rows")
    return "; ".join(
        part for part in (f"≈{rows:,} rows" if rows is not None else "", _flat(row.get("comment"))) if part
    )


def _flat(comment: str | None) -> str:
    """On one line, and not for long."""
    flat = " ".join((comment or "").split())
    return flat if len(flat) <= _COMMENT_SHOWN else flat[:_COMMENT_SHOWN] + "…"
