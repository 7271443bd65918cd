"""Which statements of the agent's cost most, from pg_stat_statements."""

from __future__ import annotations

from typing import Literal, get_args

from agentdb_mcp.execution.login import quote
from agentdb_mcp.execution.session import Statement
from agentdb_mcp.execution.types import OURS

SortBy = Literal["resources", "total_time", "mean_time"]
SORT_BY: tuple[SortBy, ...] = get_args(SortBy)

EXTENSION = "pg_stat_statements"
# Columns are called as they are today from this version on, which Postgres 13 came with.
OLDEST_VERSION = (1, 8)
# What counts as a large part of a resource, as in postgres-mcp.
LARGE_SHARE = 0.05

# What a call sends beside the caller's own text: see session.py. The constants of a SELECT stand as $1.
_NOT_THE_AGENTS = (
    "^(BEGIN|COMMIT|ROLLBACK|SET|RESET|CLOSE ALL|DEALLOCATE|UNLISTEN|DISCARD)([^[:alnum:]_]|$)"
    "|^SELECT [$]1$|^SELECT pg_catalog[.]pg_advisory_unlock_all[(][)]$"
)
_OF = {
    "time": "total_ms",
    "blocks": "blocks_hit + blocks_read",
    "reads": "blocks_read",
    "writes": "blocks_dirtied",
    "wal": "wal_bytes",
}
_ORDERS: dict[SortBy, tuple[str, str]] = {
    "resources": (f"largest.share >= {LARGE_SHARE}", "parts.total_ms"),
    "total_time": ("true", "parts.total_ms"),
    "mean_time": ("true", "parts.mean_ms"),
}


def statements_schema() -> Statement:
    """One row: schema and version of the extension, null where it is not installed; loaded, available, usable.

    It works where it is installed, usable (the schema, by this role), and loaded (by the server).
    """
    return Statement(
        """
        SELECT n.nspname AS schema, e.extversion AS version,
               pg_catalog.current_setting('pg_stat_statements.max', true) IS NOT NULL AS loaded,
               EXISTS (SELECT FROM pg_catalog.pg_available_extensions AS a WHERE a.name = $1::name) AS available,
               coalesce(pg_catalog.has_schema_privilege(n.oid, 'USAGE'), false) AS usable
          FROM (SELECT) AS one
          LEFT JOIN pg_catalog.pg_extension AS e ON e.extname = $1::name
          LEFT JOIN pg_catalog.pg_namespace AS n ON n.oid = e.extnamespace
        """,
        (EXTENSION,),
    )


def top_queries(schema: str, sort_by: SortBy, limit: int, *, most_chars: int = 10_000) -> Statement:
    """Rows of query, query_chars, calls, total_ms, mean_ms, rows, blocks_hit, blocks_read, share, resource,
    resource_share; the costliest first.

    Of this database and of the agent's role only, without what we send ourselves. `query` has its first `most_chars`
    characters, and $1, $2, … for its constants; `share` is its part of the time of all of them, and `resource` is what
    it has the largest part of: time, blocks (read or hit), reads, writes or wal. By `resources` those with a large part
    of any, the longest running first. `schema` is what `statements_schema` found.
    """
    parts = ", ".join(
        f"({amount}) / nullif(sum({amount}) OVER (), 0)::float8 AS {name}" for name, amount in _OF.items()
    )
    values = ", ".join(f"('{name}', parts.{name})" for name in _OF)
    only, order = _ORDERS[sort_by]
    return Statement(
        f"""
        WITH own AS (
            SELECT pg_catalog.min(s.query) AS query, sum(s.calls)::bigint AS calls, sum(s.rows)::bigint AS rows,
                   sum(s.total_exec_time) AS total_ms,
                   sum(s.total_exec_time) / nullif(sum(s.calls), 0)::float8 AS mean_ms,
                   sum(s.shared_blks_hit)::bigint AS blocks_hit, sum(s.shared_blks_read)::bigint AS blocks_read,
                   sum(s.shared_blks_dirtied)::bigint AS blocks_dirtied, sum(s.wal_bytes)::float8 AS wal_bytes
              FROM {quote(schema)}.pg_stat_statements AS s
             WHERE s.userid = pg_catalog.quote_ident(CURRENT_USER)::regrole
               AND s.dbid = (SELECT a.datid FROM pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) AS a)
               AND s.query !~ $1 AND pg_catalog.strpos(s.query, $2) = 0
             GROUP BY s.queryid
        ), parts AS (
            SELECT own.*, {parts} FROM own
        )
        SELECT pg_catalog.left(query, $3) AS query, pg_catalog.length(query) AS query_chars, calls,
               round(total_ms::numeric, 3)::float8 AS total_ms, round(mean_ms::numeric, 3)::float8 AS mean_ms,
               rows, blocks_hit, blocks_read, round(parts.time::numeric, 4)::float8 AS share,
               largest.resource, round(largest.share::numeric, 4)::float8 AS resource_share
          FROM parts CROSS JOIN LATERAL (
                   SELECT v.resource, v.share FROM (VALUES {values}) AS v (resource, share)
                    ORDER BY v.share DESC NULLS LAST LIMIT 1) AS largest
         WHERE {only} ORDER BY {order} DESC, query LIMIT $4
        """,
        (_NOT_THE_AGENTS, OURS.strip(), most_chars, limit),
    )
