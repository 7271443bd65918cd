"""Our reads around an agent's statements that are tried: what there is, and what a statement locks and writes anew.

They run in the agent's own transaction, and so under whatever path its statements set, but for the last: who shadows
something there misleads nobody but itself.
"""

from __future__ import annotations

from agentdb_mcp.execution.catalog import VISIBLE_SCHEMA
from agentdb_mcp.execution.session import Statement

_OURS = f"{VISIBLE_SCHEMA} AND n.nspname <> ALL (ARRAY['pg_catalog', 'information_schema', 'agentdb']::name[])"
_PATH = "agentdb.path"
_NAME = "pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname)"


def parts() -> Statement:
    """A row for each part of the schema: kind, name, definition."""
    return Statement(
        f"""
        SELECT CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'table' WHEN 'f' THEN 'foreign table'
                    WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'S' THEN 'sequence'
                    WHEN 'c' THEN 'type' END AS kind,
               {_NAME} AS name,
               CASE WHEN c.relkind = ANY (ARRAY['v','m']::"char"[]) THEN pg_catalog.pg_get_viewdef(c.oid) END
                   AS definition
          FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         WHERE {_OURS} AND c.relkind = ANY (ARRAY['r','p','f','v','m','S','c']::"char"[])
        UNION ALL
        SELECT 'column', {_NAME} || '.' || pg_catalog.quote_ident(a.attname),
               pg_catalog.concat_ws(' ', pg_catalog.format_type(a.atttypid, a.atttypmod),
                   CASE WHEN a.attgenerated <> ''::"char"
                        THEN 'GENERATED AS ' || pg_catalog.pg_get_expr(d.adbin, d.adrelid)
                        WHEN d.adbin IS NOT NULL THEN 'DEFAULT ' || pg_catalog.pg_get_expr(d.adbin, d.adrelid) END,
                   CASE WHEN a.attidentity <> ''::"char" THEN 'IDENTITY' END,
                   CASE WHEN a.attnotnull THEN 'NOT NULL' END)
          FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
          LEFT JOIN pg_catalog.pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
         WHERE {_OURS} AND c.relkind = ANY (ARRAY['r','p','f','v','m','c']::"char"[])
           AND a.attnum > 0 AND NOT a.attisdropped
        UNION ALL
        SELECT 'index', pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname),
               pg_catalog.pg_get_indexdef(i.indexrelid) || CASE WHEN i.indisvalid THEN '' ELSE ' (invalid)' END
          FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace WHERE {_OURS}
        UNION ALL
        SELECT 'constraint', {_NAME} || '.' || pg_catalog.quote_ident(k.conname),
               pg_catalog.pg_get_constraintdef(k.oid)
          FROM pg_catalog.pg_constraint AS k JOIN pg_catalog.pg_class AS c ON c.oid = k.conrelid
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         WHERE {_OURS} AND k.contype <> ALL (ARRAY['n','t']::"char"[])
        UNION ALL
        SELECT 'trigger', {_NAME} || '.' || pg_catalog.quote_ident(t.tgname), pg_catalog.pg_get_triggerdef(t.oid)
          FROM pg_catalog.pg_trigger AS t JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace WHERE {_OURS} AND NOT t.tgisinternal
        UNION ALL
        SELECT 'policy', {_NAME} || '.' || pg_catalog.quote_ident(p.polname),
               pg_catalog.concat_ws(' ', p.polcmd::text, pg_catalog.pg_get_expr(p.polqual, p.polrelid),
                                    pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid))
          FROM pg_catalog.pg_policy AS p JOIN pg_catalog.pg_class AS c ON c.oid = p.polrelid
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace WHERE {_OURS}
        UNION ALL
        SELECT 'function', p.oid::pg_catalog.regprocedure::text,
               pg_catalog.concat_ws(' ', pg_catalog.pg_get_function_result(p.oid), pg_catalog.md5(p.prosrc),
                                    pg_catalog.md5(p.prosqlbody::text))
          FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
         WHERE {_OURS} AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS x WHERE x.objid = p.oid
                   AND x.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND x.deptype = 'e')
        UNION ALL
        SELECT 'type', pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(t.typname),
               coalesce((SELECT pg_catalog.string_agg(e.enumlabel, ', ' ORDER BY e.enumsortorder)
                           FROM pg_catalog.pg_enum AS e WHERE e.enumtypid = t.oid),
                        pg_catalog.format_type(t.typbasetype, t.typtypmod))
          FROM pg_catalog.pg_type AS t JOIN pg_catalog.pg_namespace AS n ON n.oid = t.typnamespace
         WHERE {_OURS} AND t.typtype = ANY (ARRAY['e','d']::"char"[])
         ORDER BY 1, 2
        """
    )


def relations() -> Statement:
    """A row for each table and index: oid, name, its file's number, estimated rows (none for an index)."""
    return Statement(
        f"""
        SELECT c.oid::bigint AS oid, {_NAME} AS name, c.relfilenode::bigint AS file,
               CASE WHEN c.relkind = ANY (ARRAY['r','p','m']::"char"[])
                    THEN greatest(c.reltuples, 0)::bigint END AS rows
          FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         WHERE {_OURS} AND c.relkind = ANY (ARRAY['r','p','m','i','I']::"char"[])
        """
    )


def locks() -> Statement:
    """A row for each relation that the transaction keeps others out of: oid, mode, its file's number now or none."""
    return Statement(
        """
        SELECT l.relation::bigint AS oid, l.mode, c.relfilenode::bigint AS file
          FROM pg_catalog.pg_locks AS l LEFT JOIN pg_catalog.pg_class AS c ON c.oid = l.relation
         WHERE l.pid = pg_catalog.pg_backend_pid() AND l.locktype = 'relation' AND l.granted
           AND l.mode = ANY (ARRAY['ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock'])
        """
    )


def put_off() -> Statement:
    """What a COMMIT would check."""
    return Statement("SET CONSTRAINTS ALL IMMEDIATE")


def keep_path() -> Statement:
    """Definitions name what the path does not lead to with its schema: they are compared under one path."""
    return Statement(f"SELECT pg_catalog.set_config('{_PATH}', pg_catalog.current_setting('search_path'), true)")


def same_path() -> Statement:
    """The path of `keep_path`, whatever was set since."""
    return Statement(f"SELECT pg_catalog.set_config('search_path', pg_catalog.current_setting('{_PATH}'), true)")
