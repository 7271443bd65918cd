"""Rows of tables page by page: each once, whatever the key, from either end."""

from __future__ import annotations

from typing import Any

import pytest

from agentdb_mcp.bootstrap import Application
from agentdb_mcp.execution import Statement
from agentdb_mcp.models import Scope, Tenant
from agentdb_mcp.services import Browse
from agentdb_mcp.services.browse import Details
from agentdb_mcp.services.rows import Filter, Order, RowKey

ADA = Tenant("ada", "browsing")
ROWS, PAGE = 25, 4
# Keys that are longer than what a page shows of a value, that need quoting, and that no number of JSON holds.
CREATE = "CREATE TABLE odd (a text, b bytea, c timestamptz, d numeric, v text, PRIMARY KEY (a, b, c, d))"
FILL = (
    "INSERT INTO odd SELECT CASE WHEN n % 2 = 0 THEN repeat('x', 300) ELSE 'é''\"' || n END, decode(md5(n::text),"
    " 'hex'), CASE n WHEN 5 THEN 'infinity' ELSE now() + n * interval '1 s' END, n / 7.0, 'same'"
    f" FROM generate_series(1, {ROWS}) AS n"
)
Key = dict[str, str]


@pytest.fixture(scope="module")
def browse(application: Application) -> Browse:
    return Browse(application.queries)


@pytest.fixture(scope="module")
async def odd(application: Application, browse: Browse) -> Details:
    for sql in (CREATE, FILL):
        await application.queries.execute(ADA, Scope.AGENT, [Statement(sql)])
    return await browse.details(ADA, Scope.AGENT, ("public", "odd"))


def keys(table: Details, rows: list[list[Any]]) -> list[Key]:
    """Those at the ends of the rows, before xmin."""
    names = table.primary_key
    return [dict(zip(names, row[-1 - len(names) : -1], strict=True)) for row in rows]


async def walked(browse: Browse, table: Details, *, from_end: bool) -> list[Key]:
    found, after = list[Key](), None
    while True:
        page = await browse.shown(ADA, Scope.AGENT, table, limit=PAGE, after=after, from_end=from_end)
        if not page.results[0].rows:
            return found
        found += keys(table, page.results[0].rows)
        after = found[-1]


async def test_pages_by_the_key_have_every_row_once_from_either_end(browse: Browse, odd: Details) -> None:
    onward = await walked(browse, odd, from_end=False)
    assert len({tuple(key.values()) for key in onward}) == len(onward) == ROWS
    assert await walked(browse, odd, from_end=True) == onward[::-1]


async def test_pages_in_the_order_of_equal_values_have_every_row_once(browse: Browse, odd: Details) -> None:
    seen = set[tuple[str, ...]]()
    for offset in range(0, ROWS, PAGE):
        page = await browse.shown(ADA, Scope.AGENT, odd, limit=PAGE, offset=offset, order_by=[Order("v")])
        seen |= {tuple(key.values()) for key in keys(odd, page.results[0].rows)}
    assert len(seen) == ROWS


async def test_a_row_is_changed_by_a_key_that_is_longer_than_what_is_shown(browse: Browse, odd: Details) -> None:
    page = await browse.shown(ADA, Scope.AGENT, odd, limit=1, filters=[Filter("a", "starts with", "xxx")])
    [key] = keys(odd, page.results[0].rows)
    assert len(key["a"]) == 300
    assert len(str(page.results[0].rows[0][0])) == 201
    row = await browse.row(ADA, Scope.AGENT, odd, key)
    await browse.update(ADA, Scope.AGENT, odd, RowKey(key, str(row[-1])), {"v": "changed"})
    assert (await browse.row(ADA, Scope.AGENT, odd, key))[4] == "changed"
