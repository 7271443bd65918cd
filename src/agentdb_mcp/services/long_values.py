"""Values too long for an answer: pure text."""

from __future__ import annotations

import json
from collections.abc import Sequence


def text_of(value: object) -> str:
    """A value as text: strings (numbers, times and base64 that came as one too) as they are, the others as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


# No value's JSON is longer than so many times what Postgres sent of its row: the others need not be looked at.
GROWTH = 4


def cut_rows(
    rows: list[list[object]], limit: int, sizes: Sequence[int]
) -> tuple[list[list[object]], list[tuple[int, int, int]]]:
    """Rows whose values have `limit` characters at most, and (row, column, whole length) of those that had more.

    `sizes` are the rows' characters as Postgres sent them. A value that is cut is a string, whatever it was, that ends
    in a mark which says so.
    """
    if max(sizes, default=0) * GROWTH <= limit:
        return rows, []
    given: list[list[object]] = []
    cuts: list[tuple[int, int, int]] = []
    for index, (row, size) in enumerate(zip(rows, sizes, strict=True)):
        if size * GROWTH <= limit:
            given.append(row)
            continue
        long = [(place, text) for place, value in enumerate(row) if len(text := _long(value)) > limit]
        if long:
            row = list(row)
            for place, text in long:
                row[place] = f"{text[:limit]}… [cut: {limit:,} of {len(text):,} characters]"
                cuts.append((index, place, len(text)))
        given.append(row)
    return given, cuts


def _long(value: object) -> str:
    """Empty for what cannot be long."""
    return text_of(value) if isinstance(value, str | list | dict) else ""
