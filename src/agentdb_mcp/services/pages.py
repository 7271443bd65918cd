"""Big answers in pages: a statement runs once, what does not fit is held, and handles lead to it.

A handle is `token.row` for rows from that number on, or `token.row.column.offset` for the rest of one long value. The
token is random and good for the tenant and scope that got it, in this process, until it expires. Reading takes nothing
away: whoever lost an answer asks again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from agentdb_mcp.errors import InvalidArgument
from agentdb_mcp.execution import Statement, pack, unpack
from agentdb_mcp.models import Column, Result, Scope, Tenant
from agentdb_mcp.policy import LimitRules
from agentdb_mcp.services import recording
from agentdb_mcp.services.held_rows import Held, HeldRows, nothing_held
from agentdb_mcp.services.long_values import cut_rows, text_of
from agentdb_mcp.services.queries import Answer, Queries

_HANDLE = re.compile(r"([A-Za-z0-9_-]{1,64})\.([0-9]{1,9})(?:\.([0-9]{1,4})\.([0-9]{1,9}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Cut:
    """A value that is not whole: its place in the page, its length, and where the rest is, if it is held."""

    row: int
    column: int
    length: int
    handle: str | None


@dataclass(frozen=True, slots=True)
class Page:
    """Rows of an answer. `held` more follow at `next`; `total` is how many the statement gave, where that is known.

    A page of one long value has one row with the text from character `offset` (of `length`) on.
    """

    result: Result
    cut: tuple[Cut, ...] = ()
    next: str | None = None
    held: int = 0
    total: int | None = None
    value: tuple[int, int] | None = None
    budget_note: str | None = None
    notes: tuple[str, ...] = ()


class Pages:
    """What `execute_sql` and `get_rows` do."""

    def __init__(self, queries: Queries, held: HeldRows, limits: LimitRules) -> None:
        self._queries = queries
        self._held = held
        self._limits = limits

    async def first(self, tenant: Tenant, scope: Scope, statement: Statement, max_rows: int | None = None) -> Page:
        """Run the statement; its first page. Raises AgentDBError."""
        answer = await self._queries.execute(tenant, scope, [statement], max_rows=max_rows, hold=True)
        return self._pages(tenant, scope, answer, max_rows or self._limits.max_rows)[0]

    async def transaction(self, tenant: Tenant, scope: Scope, statements: Sequence[Statement]) -> list[Page]:
        """Run the statements, all or nothing; each one's rows, of which none are held but long values' rest."""
        answer = await self._queries.execute(tenant, scope, statements, transaction=True)
        return self._pages(tenant, scope, answer, self._limits.max_rows)

    def _pages(self, tenant: Tenant, scope: Scope, answer: Answer, page_rows: int) -> list[Page]:
        return [self._page(tenant, scope, answer, result, page_rows) for result in answer.results]

    def _page(self, tenant: Tenant, scope: Scope, answer: Answer, result: Result, page_rows: int) -> Page:
        """With what the answer says beside its rows."""
        rows, cuts = cut_rows(result.rows, self._limits.max_value, [result.widest] * len(result.rows))
        beyond, total = result.beyond, None
        follow = sum(portion.rows for portion in beyond)
        token = None
        if beyond or (cuts and self._limits.held_rows):
            first = cuts[0][0] if cuts else len(rows)
            own = (pack(result.rows[first:]),) if cuts else ()
            parts = (*own, *beyond)
            held = Held(tenant, scope, answer.database, result.columns, parts, first, result.ended, page_rows)
            token = self._held.put(held)
        if result.ended or not result.truncated:
            total = len(rows) + follow
        return Page(
            result if rows is result.rows and not beyond else replace(result, rows=rows, beyond=()),
            self._cut(cuts, token, 0),
            next=f"{token}.{len(rows)}" if token and beyond else None,
            held=follow if token else 0,
            total=total,
            budget_note=answer.budget_note,
            notes=answer.notes,
        )

    async def next(self, tenant: Tenant, scope: Scope, handle: str, max_rows: int | None = None) -> Page:
        """What an earlier page's handle leads to. Raises AgentDBError."""
        if max_rows is not None and not 1 <= max_rows <= self._limits.max_rows:
            raise InvalidArgument(f"max_rows must be between 1 and {self._limits.max_rows} (got {max_rows}).")
        return await self._queries.recall(tenant, scope, partial(self._find, tenant, scope, handle, max_rows))

    def _find(self, tenant: Tenant, scope: Scope, handle: str, max_rows: int | None) -> tuple[str, Page]:
        found = _HANDLE.fullmatch(handle)
        held = self._held.get(tenant, scope, found[1]) if found else None
        if found is None or held is None:
            raise nothing_held(self._limits.held_s)
        token, row = found[1], int(found[2])
        if found[3] is None:
            page = self._rows(held, token, row, max_rows or held.page_rows)
        else:
            page = self._value(held, token, row, int(found[3]), int(found[4]))
        recording.gave([page.result])
        return held.database, page

    def _rows(self, held: Held, token: str, start: int, max_rows: int) -> Page:
        if not held.first <= start < held.end:
            raise nothing_held(self._limits.held_s)
        rows: list[list[object]] = []
        sizes: list[int] = []
        room, at = self._limits.max_bytes, held.first
        for portion in held.portions:
            skip, at = start + len(rows) - at, at + portion.rows
            if skip >= portion.rows:
                continue
            for row, length in unpack(portion, max(0, skip)):
                if len(rows) >= max_rows or (rows and length > room):
                    break
                rows.append(row)
                sizes.append(length)
                room -= length
            else:
                continue
            break
        end = start + len(rows)
        given, cuts = cut_rows(rows, self._limits.max_value, sizes)
        left = held.end - end
        truncated = bool(left) or not held.ended
        return Page(
            Result(held.columns, given, truncated, "", 0.0, sum(sizes)),
            self._cut(cuts, token, start),
            next=f"{token}.{end}" if left else None,
            held=left,
            total=held.end if held.ended else None,
        )

    def _value(self, held: Held, token: str, row: int, column: int, offset: int) -> Page:
        """The next characters of one value."""
        at = held.first
        for portion in held.portions:
            if at <= row < at + portion.rows and column < len(held.columns):
                values, _ = next(unpack(portion, row - at))
                text = text_of(values[column])
                break
            at += portion.rows
        else:
            raise nothing_held(self._limits.held_s)
        part = text[offset : offset + self._limits.max_value]
        if not part:
            raise nothing_held(self._limits.held_s)
        more = offset + len(part) < len(text)
        columns = (Column(held.columns[column].name, "text"),)
        return Page(
            Result(columns, [[part]], more, "", 0.0, len(part)),
            next=f"{token}.{row}.{column}.{offset + len(part)}" if more else None,
            value=(offset, len(text)),
        )

    def _cut(self, cuts: list[tuple[int, int, int]], token: str | None, start: int) -> tuple[Cut, ...]:
        at = self._limits.max_value
        return tuple(
            Cut(row, column, length, f"{token}.{start + row}.{column}.{at}" if token else None)
            for row, column, length in cuts
        )
