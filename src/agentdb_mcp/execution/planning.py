"""What advice on plans reads and sends besides the caller's text. All of it runs as the agent."""

from __future__ import annotations

import json
from collections.abc import Iterable

from agentdb_mcp.execution.login import quote
from agentdb_mcp.execution.session import Statement
from agentdb_mcp.execution.types import OURS

# How long building an index waits for whoever writes to the table, and so holds up others that want to.
LOCK_TIMEOUT_MS = 1000
# What hypopg makes indexes of.
HYPOPG_METHODS = frozenset({"btree", "hash", "brin"})
_HYPOPG_FUNCTIONS = ("hypopg_create_index", "hypopg_relation_size", "hypopg_reset")


def hypopg_schema() -> Statement:
    """One value: the schema of hypopg where this role may use it, else null.

    Only the extension's own functions count, which are in C: a session's end calls one outside of any transaction.
    """
    return Statement(
        """
        SELECT (SELECT n.nspname
                  FROM pg_catalog.pg_extension AS e
                  JOIN pg_catalog.pg_depend AS d
                    ON d.refclassid = 'pg_catalog.pg_extension'::regclass AND d.refobjid = e.oid
                   AND d.classid = 'pg_catalog.pg_proc'::regclass AND d.deptype = 'e'::"char"
                  JOIN pg_catalog.pg_proc AS p ON p.oid = d.objid
                  JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang AND l.lanname = 'c'
                  JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
                 WHERE e.extname = 'hypopg' AND p.proname = ANY ($1::name[])
                   AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
                   AND pg_catalog.has_function_privilege(p.oid, 'EXECUTE')
                 GROUP BY n.nspname HAVING pg_catalog.count(*) = 3) AS hypopg
        """,
        (list(_HYPOPG_FUNCTIONS),),
    )


def path() -> Statement:
    """One value: the schemas that the caller's names are looked for in, in order."""
    return Statement(f"SELECT pg_catalog.current_schemas(false)::pg_catalog.text[]{OURS}")


def tables(wanted: Iterable[tuple[str, str]]) -> Statement:
    """Rows of schema, name, kind, partition, bytes, rows, columns, indexes; of the names (with schemas) that exist.

    `columns` are objects of name, width, distinct; `indexes` (valid ones of all rows) of using, unique, keys, which are
    null for expressions, else objects of name and option, as in pg_index.
    """
    names = json.dumps([{"schema": schema, "name": name} for schema, name in sorted(set(wanted))])
    return Statement(
        """
        SELECT n.nspname AS schema, c.relname AS name, c.relkind::text AS kind, c.relispartition AS partition,
               CASE WHEN c.relkind = ANY (ARRAY['r','m']::"char"[]) THEN pg_catalog.pg_relation_size(c.oid) ELSE 0 END
                    AS bytes,
               c.reltuples::float8 AS rows,
               (SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object(
                           'name', a.attname, 'width', s.avg_width, 'distinct', s.n_distinct)), '[]')
                  FROM pg_catalog.pg_attribute AS a
                  LEFT JOIN pg_catalog.pg_stats AS s
                    ON s.schemaname = n.nspname AND s.tablename = c.relname AND s.attname = a.attname
                   AND NOT s.inherited
                 WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns,
               (SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object(
                           'using', m.amname, 'unique', i.indisunique, 'keys',
                           (SELECT pg_catalog.json_agg(
                                       CASE WHEN a.attname IS NOT NULL THEN pg_catalog.json_build_object(
                                           'name', a.attname, 'option', i.indoption[k.place - 1]) END ORDER BY k.place)
                              FROM pg_catalog.generate_series(1, i.indnkeyatts::int) AS k (place)
                              LEFT JOIN pg_catalog.pg_attribute AS a
                                ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k.place - 1]))), '[]')
                  FROM pg_catalog.pg_index AS i
                  JOIN pg_catalog.pg_class AS x ON x.oid = i.indexrelid
                  JOIN pg_catalog.pg_am AS m ON m.oid = x.relam
                 WHERE i.indrelid = c.oid AND i.indisvalid AND i.indpred IS NULL) AS indexes
          FROM pg_catalog.json_to_recordset($1::json) AS w (schema text, name text)
          JOIN pg_catalog.pg_namespace AS n ON n.nspname = w.schema::name
          JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = w.name::name
         WHERE c.relkind = ANY (ARRAY['r','p','f','v','m']::"char"[])
         ORDER BY 1, 2
        """,
        (names,),
    )


def hypothesize(hypopg: str, create_index: str) -> Statement:
    """One row: name, size in bytes, of an index that only the plans of this backend know of."""
    return Statement(
        f"""
        SELECT h.indexname, {quote(hypopg)}.hypopg_relation_size(h.indexrelid)
          FROM {quote(hypopg)}.hypopg_create_index($1) AS h{OURS}
        """,
        (create_index,),
    )


def forget_hypotheses(hypopg: str) -> str:
    """What hypopg made outlives the transaction."""
    return f"SELECT {quote(hypopg)}.hypopg_reset(){OURS}"


def build(create_index: str) -> Statement:
    """An index that is not kept."""
    return Statement(create_index + OURS)


def any_values() -> Statement:
    """Prepared statements are planned for any values."""
    return Statement("SET LOCAL plan_cache_mode = force_generic_plan")


def wait_shortly() -> Statement:
    return Statement(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")


def size_of(schema: str, index: str) -> Statement:
    """One value: bytes."""
    return Statement(
        f"SELECT pg_catalog.pg_relation_size($1::pg_catalog.text::pg_catalog.regclass){OURS}",
        (f"{quote(schema)}.{quote(index)}",),
    )
