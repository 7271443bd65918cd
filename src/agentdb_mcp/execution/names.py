"""Catalog reads for what an error's name may have meant: of what the role may use, and no more than it takes.

Rows come the likeliest first, so that what is left out past the limit matters least.
"""

from __future__ import annotations

from agentdb_mcp.execution.session import Statement

MOST = 1000

# Of a schema that the role may use; of the system's only where the statement named it.
_USABLE = """
    pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND NOT (n.nspname ~ '^pg_(toast|temp|toast_temp)')
    AND (n.nspname <> ALL (ARRAY['pg_catalog', 'information_schema']::name[]) OR n.nspname = $2::text)
"""
_READABLE = """
    (pg_catalog.has_table_privilege(c.oid, 'SELECT, INSERT, UPDATE, DELETE')
     OR pg_catalog.has_any_column_privilege(c.oid, 'SELECT, INSERT, UPDATE'))
"""


def relations(name: str, schema: str | None) -> Statement:
    """Rows of schema, name."""
    return Statement(
        f"""
        SELECT n.nspname AS schema, c.relname AS name
          FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         WHERE c.relkind = ANY (ARRAY['r','p','f','v','m']::"char"[]) AND {_USABLE} AND {_READABLE}
         ORDER BY lower(c.relname) = lower($1::text) DESC, abs(length(c.relname) - length($1::text)), 2, 1
         LIMIT {MOST}
        """,
        (name, schema),
    )


def columns(name: str, tables: tuple[str, ...]) -> Statement:
    """Rows of schema, table, name: of the tables, then of others."""
    return Statement(
        f"""
        SELECT n.nspname AS schema, c.relname AS table, a.attname AS name
          FROM pg_catalog.pg_attribute AS a
          JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         WHERE a.attnum > 0 AND NOT a.attisdropped
           AND c.relkind = ANY (ARRAY['r','p','f','v','m']::"char"[])
           AND (c.relname = ANY ($3::text[]) OR abs(length(a.attname) - length($1::text)) <= 3) AND {_USABLE}
           AND pg_catalog.has_column_privilege(c.oid, a.attnum, 'SELECT, INSERT, UPDATE')
         ORDER BY c.relname = ANY ($3::text[]) DESC, lower(a.attname) = lower($1::text) DESC,
                  abs(length(a.attname) - length($1::text)), 2, 1, 3
         LIMIT {MOST}
        """,
        (name, None, list(tables)),
    )


def functions(name: str, schema: str | None) -> Statement:
    """Rows of schema, name, arguments (of those with that very name): own ones, and Postgres's that are like it."""
    return Statement(
        f"""
        SELECT n.nspname AS schema, p.proname AS name,
               CASE WHEN p.proname = $1::text THEN pg_catalog.pg_get_function_identity_arguments(p.oid) END AS arguments
          FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
         WHERE pg_catalog.has_function_privilege(p.oid, 'EXECUTE')
           AND (p.proname = $1::text OR abs(length(p.proname) - length($1::text)) <= 2)
           AND ({_USABLE} OR n.nspname = 'pg_catalog' AND left(p.proname, 1) = left($1::text, 1)
                AND p.prorettype <> 'pg_catalog.internal'::regtype
                AND p.proargtypes::oid[] && ARRAY['internal'::regtype, 'cstring'::regtype]::oid[] IS NOT TRUE)
         ORDER BY p.proname = $1::text DESC, n.nspname = 'pg_catalog', abs(length(p.proname) - length($1::text)), 2, 3
         LIMIT {MOST}
        """,
        (name, schema),
    )


def constraint(name: str, schema: str | None, table: str | None, type_name: str | None) -> Statement:
    """One row of schema, owner (a table or domain), definition: of a constraint or a unique index."""
    return Statement(
        f"""
        SELECT n.nspname AS schema, coalesce(c.relname, t.typname) AS owner,
               pg_catalog.pg_get_constraintdef(k.oid) AS definition
          FROM pg_catalog.pg_constraint AS k
          LEFT JOIN pg_catalog.pg_class AS c ON c.oid = k.conrelid
          LEFT JOIN pg_catalog.pg_type AS t ON t.oid = k.contypid
          JOIN pg_catalog.pg_namespace AS n ON n.oid = coalesce(c.relnamespace, t.typnamespace)
         WHERE k.conname = $1::text AND n.nspname = $2::text AND {_USABLE}
           AND (c.relname = $3::text AND {_READABLE} OR t.typname = $4::text)
        UNION ALL
        SELECT n.nspname, c.relname, pg_catalog.pg_get_indexdef(i.indexrelid)
          FROM pg_catalog.pg_index AS i
          JOIN pg_catalog.pg_class AS x ON x.oid = i.indexrelid
          JOIN pg_catalog.pg_class AS c ON c.oid = i.indrelid
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         WHERE x.relname = $1::text AND n.nspname = $2::text AND c.relname = $3::text AND {_USABLE} AND {_READABLE}
         LIMIT 1
        """,
        (name, schema, table, type_name),
    )


def column(name: str, schema: str | None, table: str) -> Statement:
    """One row of type, default."""
    return Statement(
        f"""
        SELECT pg_catalog.format_type(a.atttypid, a.atttypmod) AS type,
               pg_catalog.pg_get_expr(d.adbin, d.adrelid) AS default
          FROM pg_catalog.pg_attribute AS a
          JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
          LEFT JOIN pg_catalog.pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
         WHERE a.attname = $1::text AND n.nspname = $2::text AND c.relname = $3::text AND {_USABLE}
           AND pg_catalog.has_column_privilege(c.oid, a.attnum, 'SELECT, INSERT, UPDATE')
        """,
        (name, schema, table),
    )
