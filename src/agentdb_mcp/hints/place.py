"""The line of an error and a mark under its place."""

from __future__ import annotations

import unicodedata

WIDTH = 100
_BEFORE = 60  # of these before the place, where the line is longer


def place(sql: str, position: int) -> str | None:
    """`line 3: …` and `^` below the character at the 1-based position; None where that is outside of the text.

    What a terminal shows over two columns counts as two; what would break the line or move the mark is a blank.
    """
    index = position - 1
    if not 0 <= index <= len(sql):
        return None
    start = sql.rfind("\n", 0, index) + 1
    end = sql.find("\n", index)
    line, column = sql[start : end if end >= 0 else len(sql)], index - start
    if column == len(line) and not line.strip() and start:  # the end of a text that ends in line breaks
        return place(sql, len(sql[:start].rstrip()) + 1)
    first = 0 if len(line) <= WIDTH else max(0, min(column - _BEFORE, len(line) - WIDTH))
    shown = [_shown(each) for each in line[first : first + WIDTH]]
    head = f"line {sql.count(chr(10), 0, start) + 1}: {'…' if first else ''}"
    tail = "…" if first + WIDTH < len(line) else ""
    before = len(head) + sum(_columns(each) for each in shown[: column - first])
    return f"{head}{''.join(shown).rstrip()}{tail}\n{' ' * before}^"


def _shown(character: str) -> str:
    return character if character.isprintable() else " "


def _columns(character: str) -> int:
    if unicodedata.category(character) in {"Mn", "Me"}:
        return 0
    return 2 if unicodedata.east_asian_width(character) in {"W", "F"} else 1
