"""Whether a database is as it was: every row of every catalog, table, sequence and large object in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncpg

# Where rows are: catalogs, tables, materialized views, sequences; none that is temporary, nor our list of sessions.
_SOURCES = """
    SELECT c.oid, c.relname, c.relkind, n.nspname = 'pg_catalog' AS is_catalog,
           format('%I.%I', n.nspname, c.relname) AS name, coalesce(a.columns, '') AS columns,
           CASE c.oid WHEN 'pg_namespace'::regclass THEN $$nspname !~ '^pg_(toast_)?temp'$$ ELSE 'true' END AS lasting
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace CROSS JOIN LATERAL (
               SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) AS columns FROM pg_attribute
                WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped
                  AND (n.nspname <> 'pg_catalog' OR attname <> ALL ($1))) a
     WHERE c.relkind IN ('r', 'm', 'S') AND c.relispopulated AND n.nspname !~ '^pg_(toast|temp)'
       AND n.nspname <> 'agentdb' ORDER BY c.oid
"""
# What Postgres estimates about a table, and what opening a session of the agent's changes.
_SIZES = ("relpages", "reltuples", "relallvisible", "relallfrozen")
_AGES = ("relfrozenxid", "relminmxid", "datfrozenxid", "datminmxid")
_VOLATILE = (*_SIZES, *_AGES, "rolpassword", "rolvaliduntil", "rolcanlogin")


async def fingerprint(built: Any) -> tuple[object, ...]:
    """A digest of each catalog's, table's and sequence's rows; `built` has inside()."""
    async with built.inside() as inside:
        seen = await _digests(inside, await inside.fetch(_SOURCES, _VOLATILE))
        prepared = await inside.fetchval("SELECT count(*) FROM pg_prepared_xacts")
    return prepared, *seen


async def belongings(built: Any) -> set[object]:
    """Every object's own row, and every table with a digest that any write to it changes: DROP only removes from it."""
    seen: set[object] = set()
    async with built.inside() as inside:
        for source in await inside.fetch(_SOURCES, (*_VOLATILE, "relchecks")):
            row = f"ROW({source['columns']})::text"
            if source["is_catalog"] and source["columns"].startswith("oid,"):
                objects = await inside.fetch(f"SELECT {row} FROM {source['name']} WHERE {source['lasting']}")
                seen.update((source["name"], each[0]) for each in objects)
            elif not source["is_catalog"] or source["relname"] == "pg_largeobject":
                content = row if source["relkind"] == b"S" else "concat(ctid, xmin)"
                seen.add((source["oid"], *await _digests(inside, [source], content)))
    return seen


async def _digests(
    inside: asyncpg.Connection, sources: Sequence[asyncpg.Record], content: str | None = None
) -> list[tuple[object, ...]]:
    """The name of each, the number of its rows and a sum of their hashes, which does not depend on their order."""
    texts = [content or f"ROW({source['columns']})::text" for source in sources]
    each = (
        f"SELECT {number}, count(*), sum(hashtextextended({text}, 0))"
        f" FROM ONLY {source['name']} WHERE {source['lasting']}"
        for number, (source, text) in enumerate(zip(sources, texts, strict=True))
    )
    found = await inside.fetch(" UNION ALL ".join(each) + " ORDER BY 1")  # workers give them in any order
    return [(sources[number]["name"], *digest) for number, *digest in found]
