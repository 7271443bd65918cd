"""Rows past an answer's page, packed as they come, in Postgres's text: who asks for them has them decoded.

As Python objects they would take thirty times the memory, and decoding is most of what a row costs.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from agentdb_mcp.models import Portion

# Rows that are packed together, and read at a time.
PORTION_BYTES, PORTION_ROWS = 250_000, 1000
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_FAST = 1  # zlib's level: the best one takes ten times as long for a fifth less


class Beyond:
    """Takes rows up to a number and to characters of Postgres's text; `full` once one was left out.

    A row larger than a page counts as one too many: it could never be given.
    """

    def __init__(
        self, max_rows: int, max_bytes: int, max_row_bytes: int, decode: Callable[[list[Any]], list[object]]
    ) -> None:
        self.full = False
        self.size = 0
        self._decode = decode
        self._portions: list[Portion] = []
        self._open: list[Sequence[object]] = []
        self._open_size = 0
        self._rows = 0
        self._max_rows, self._max_bytes, self._max_row_bytes = max_rows, max_bytes, max_row_bytes

    def takes(self, size: int) -> bool:
        """Whether a row of that size is held too; the first that is not is the last that is asked for."""
        fits = self._rows < self._max_rows and size <= self._max_row_bytes and self.size + size <= self._max_bytes
        self.full = self.full or not fits
        return not self.full

    def add(self, row: Sequence[str | None], size: int) -> None:
        self._open.append(row)
        self._rows += 1
        self.size += size
        self._open_size += size
        if self._open_size >= PORTION_BYTES or len(self._open) >= PORTION_ROWS:
            self._close()

    def portions(self) -> tuple[Portion, ...]:
        self._close()
        return tuple(self._portions)

    def next_rows(self, seen_rows: int, seen_bytes: int) -> int:
        """How many to read now, by the rows so far: one more than is held tells that there are more."""
        of_size = PORTION_BYTES * seen_rows // max(1, seen_bytes)
        return max(1, min(PORTION_ROWS, of_size, self._max_rows + 1 - self._rows))

    def _close(self) -> None:
        if self._open:
            self._portions.append(pack(self._open, self._decode))
            self._open, self._open_size = [], 0


def pack(rows: Sequence[Sequence[object]], decode: Callable[[list[Any]], list[object]] | None = None) -> Portion:
    """Compressed JSON, a line for each row."""
    lines = "\n".join([_encode(row) for row in rows])
    return Portion(len(rows), zlib.compress(lines.encode(errors="surrogatepass"), _FAST), decode)


def unpack(portion: Portion, skip: int = 0) -> Iterator[tuple[list[object], int]]:
    """The rows after the first `skip`, each with about the bytes that it takes in an answer."""
    for line in zlib.decompress(portion.data).split(b"\n")[skip:]:
        row = json.loads(line.decode(errors="surrogatepass"))
        yield portion.decode(row) if portion.decode else row, len(line)
