"""Where in a table its page stands: counted from the end where one began to look there. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agentdb_mcp.web.explorer.values import number

Key = Mapping[str, str]
PAGE = 100
# Beyond so many columns a page has fewer rows: a browser takes long for tens of thousands of values.
MANY_COLUMNS, PAGE_OF_MANY = 100, 50


def page_size(columns: int) -> int:
    return PAGE if columns <= MANY_COLUMNS else PAGE_OF_MANY


@dataclass(frozen=True, slots=True)
class Start:
    """How many rows are before a page, and the key of the last of them where rows are in the order of their keys."""

    passed: int = 0
    after: Key | None = None

    @property
    def offset(self) -> int:
        """Rows that have to be counted to get there."""
        return 0 if self.after is not None else self.passed


@dataclass(slots=True)
class Paging:
    """The way to the page that is shown: a start for each page on it, of which the last one is."""

    from_end: bool = False
    starts: list[Start] = field(default_factory=lambda: [Start()])

    @property
    def start(self) -> Start:
        return self.starts[-1]

    @property
    def began(self) -> bool:
        """Whether this is where one began."""
        return len(self.starts) == 1

    def begin(self, *, from_end: bool = False) -> None:
        self.from_end, self.starts = from_end, [Start()]

    def onward(self, rows: int, last: Key | None) -> None:
        """Past the page that is shown, of so many rows; away from the end that was begun at."""
        self.starts.append(Start(self.start.passed + rows, last))

    def back(self) -> None:
        if not self.began:
            self.starts.pop()

    def text(self, rows: int, estimate: int | None, *, more: bool) -> str:
        """Which rows these are. `more` are beyond them, `estimate` in all."""
        passed = self.start.passed
        about = f" of about {number(estimate)}" if estimate is not None and more else ""
        if not rows:
            return "No rows here"
        if not self.from_end:
            return f"Rows {number(passed + 1)} to {number(passed + rows)}{about}"
        if passed:
            return f"Rows {number(passed + rows)} to {number(passed + 1)} from the end{about}"
        return f"The last {number(rows)} row{'' if rows == 1 else 's'}{about}"
