"""Our own catalog reads, run as the agent under a path of Postgres's own schemas: nothing shadows them."""

from __future__ import annotations

from agentdb_mcp.execution.session import Statement

VISIBLE_SCHEMA = "NOT (n.nspname ~ '^pg_(toast|temp|toast_temp)')"

_RELATION_KINDS = {"table": "'r','p','f'", "view": "'v','m'", "sequence": "'S'"}


def schemas() -> Statement:
    """Rows of name, owner kind (`yours`, `system` or `other`)."""
    return Statement(
        f"""
        SELECT n.nspname AS name,
               CASE WHEN n.nspname = ANY (ARRAY['pg_catalog', 'information_schema']::name[]) THEN 'system'
                    WHEN pg_catalog.has_schema_privilege(n.oid, 'CREATE') THEN 'yours' ELSE 'other' END AS owner_kind
          FROM pg_catalog.pg_namespace AS n
         WHERE {VISIBLE_SCHEMA}
         ORDER BY 2 DESC, 1
        """
    )


def objects(schema: str, object_type: str) -> Statement:
    """Rows of name, type, rows (an estimate), size_bytes, comment."""
    if object_type == "extension":
        return Statement(
            """
            SELECT e.extname AS name, 'extension'::text AS type, NULL::bigint AS rows, NULL::bigint AS size_bytes,
                   pg_catalog.obj_description(e.oid, 'pg_extension') AS comment, e.extversion AS version
              FROM pg_catalog.pg_extension AS e ORDER BY 1
            """
        )
    return Statement(
        f"""
        SELECT c.relname AS name,
               CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned table' WHEN 'f' THEN 'foreign table'
                    WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' ELSE 'sequence' END AS type,
               CASE WHEN c.relkind = ANY (ARRAY['r','m','p']::"char"[]) AND c.reltuples >= 0
                    THEN c.reltuples::bigint END AS rows,
               CASE WHEN c.relkind = ANY (ARRAY['r','m']::"char"[])
                    THEN pg_catalog.pg_total_relation_size(c.oid) END AS size_bytes,
               pg_catalog.obj_description(c.oid, 'pg_class') AS comment
          FROM pg_catalog.pg_class AS c
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         WHERE n.nspname = $1::name AND c.relkind = ANY (ARRAY[{_RELATION_KINDS[object_type]}]::"char"[])
         ORDER BY 1
        """,
        (schema,),
    )


_FIND = """
    SELECT c.oid FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE n.nspname = $1::name AND c.relname = $2::name
"""


def relation(schema: str, name: str) -> Statement:
    """One row: type, comment, definition of a view, sequence figures as text; none if it does not exist."""
    return Statement(
        f"""
        SELECT CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned table' WHEN 'f' THEN 'foreign table'
                    WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'S' THEN 'sequence'
                    WHEN 'i' THEN 'index' ELSE 'other' END AS type,
               pg_catalog.obj_description(c.oid, 'pg_class') AS comment,
               CASE WHEN c.relkind = ANY (ARRAY['v','m']::"char"[]) THEN pg_catalog.pg_get_viewdef(c.oid) END
                    AS definition,
               CASE WHEN c.relkind = ANY (ARRAY['r','m','p']::"char"[]) AND c.reltuples >= 0
                    THEN c.reltuples::bigint END AS rows
          FROM pg_catalog.pg_class AS c WHERE c.oid = ({_FIND})
        """,
        (schema, name),
    )


def columns(schema: str, name: str) -> Statement:
    """Rows of name, type, nullable, default, comment."""
    return Statement(
        f"""
        SELECT a.attname AS name, pg_catalog.format_type(a.atttypid, a.atttypmod) AS type,
               NOT a.attnotnull AS nullable,
               CASE WHEN a.attgenerated = ''::"char" THEN pg_catalog.pg_get_expr(d.adbin, d.adrelid) END AS default,
               CASE WHEN a.attgenerated <> ''::"char"
                    THEN pg_catalog.pg_get_expr(d.adbin, d.adrelid) END AS generated,
               CASE a.attidentity WHEN 'a' THEN 'always' WHEN 'd' THEN 'by default' END AS identity,
               pg_catalog.col_description(a.attrelid, a.attnum) AS comment
          FROM pg_catalog.pg_attribute AS a
          LEFT JOIN pg_catalog.pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
         WHERE a.attrelid = ({_FIND}) AND a.attnum > 0 AND NOT a.attisdropped
         ORDER BY a.attnum
        """,
        (schema, name),
    )


def constraints(schema: str, name: str) -> Statement:
    """Rows of name, type, definition."""
    return Statement(
        f"""
        SELECT k.conname AS name,
               CASE k.contype WHEN 'p' THEN 'primary key' WHEN 'f' THEN 'foreign key' WHEN 'u' THEN 'unique'
                    WHEN 'c' THEN 'check' WHEN 'x' THEN 'exclusion' WHEN 'n' THEN 'not null' ELSE 'trigger' END AS type,
               pg_catalog.pg_get_constraintdef(k.oid) AS definition
          FROM pg_catalog.pg_constraint AS k WHERE k.conrelid = ({_FIND}) ORDER BY 2 DESC, 1
        """,
        (schema, name),
    )


def primary_key(schema: str, name: str) -> Statement:
    """Rows of name: the columns of the primary key, in its order."""
    return Statement(
        f"""
        SELECT a.attname AS name
          FROM pg_catalog.pg_constraint AS k
         CROSS JOIN LATERAL pg_catalog.unnest(k.conkey) WITH ORDINALITY AS u (attnum, place)
          JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = u.attnum
         WHERE k.conrelid = ({_FIND}) AND k.contype = 'p' ORDER BY u.place
        """,
        (schema, name),
    )


def indexes(schema: str, name: str) -> Statement:
    """Rows of name, definition, unique, valid, size_bytes."""
    return Statement(
        f"""
        SELECT c.relname AS name, pg_catalog.pg_get_indexdef(i.indexrelid) AS definition, i.indisunique AS unique,
               i.indisvalid AS valid, pg_catalog.pg_relation_size(i.indexrelid) AS size_bytes
          FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
         WHERE i.indrelid = ({_FIND}) ORDER BY 1
        """,
        (schema, name),
    )


def triggers(schema: str, name: str) -> Statement:
    """Rows of name, definition, enabled."""
    return Statement(
        f"""
        SELECT t.tgname AS name, pg_catalog.pg_get_triggerdef(t.oid) AS definition,
               t.tgenabled <> 'D'::"char" AS enabled
          FROM pg_catalog.pg_trigger AS t WHERE t.tgrelid = ({_FIND}) AND NOT t.tgisinternal ORDER BY 1
        """,
        (schema, name),
    )


def sequence(schema: str, name: str) -> Statement:
    """One row: data type, start, minimum, maximum, increment, cycle, last value."""
    return Statement(
        f"""
        SELECT pg_catalog.format_type(s.seqtypid, NULL) AS data_type, s.seqstart AS start, s.seqmin AS minimum,
               s.seqmax AS maximum, s.seqincrement AS increment, s.seqcycle AS cycle,
               pg_catalog.pg_sequence_last_value(s.seqrelid) AS last_value
          FROM pg_catalog.pg_sequence AS s WHERE s.seqrelid = ({_FIND})
        """,
        (schema, name),
    )


def extension(name: str) -> Statement:
    """One row: version, schema, comment."""
    return Statement(
        """
        SELECT e.extversion AS version, n.nspname AS schema,
               pg_catalog.obj_description(e.oid, 'pg_extension') AS comment
          FROM pg_catalog.pg_extension AS e JOIN pg_catalog.pg_namespace AS n ON n.oid = e.extnamespace
         WHERE e.extname = $1::name
        """,
        (name,),
    )


def login_powers() -> Statement:
    """One row: what the login of a brought database may do beyond its own objects.

    `memberships` are the roles granted to it that are Postgres's own (`pg_…`) or lead to one.
    """
    return Statement(
        """
        SELECT r.rolname AS login, r.rolsuper AS superuser, r.rolcreaterole AS createrole, r.rolcreatedb AS createdb,
               r.rolbypassrls AS bypassrls, r.rolreplication AS replication,
               ARRAY(SELECT DISTINCT g.rolname FROM pg_catalog.pg_auth_members AS a
                       JOIN pg_catalog.pg_roles AS g ON g.oid = a.roleid
                       JOIN pg_catalog.pg_roles AS m ON m.rolname LIKE 'pg\\_%'
                        AND pg_catalog.pg_has_role(g.oid, m.oid, 'MEMBER')
                      WHERE a.member = r.oid ORDER BY 1)::text[] AS memberships,
               pg_catalog.current_database() AS database,
               (SELECT pg_catalog.count(*) FROM pg_catalog.pg_database AS d
                 WHERE d.datallowconn AND NOT d.datistemplate AND d.datname <> pg_catalog.current_database()
                   AND pg_catalog.has_database_privilege(d.oid, 'CONNECT')) AS other_databases
          FROM pg_catalog.pg_roles AS r WHERE r.rolname = CURRENT_USER
        """
    )


def tables() -> Statement:
    """Rows of schema, name, type, rows (an estimate), size_bytes, comment, columns as JSON; of every own schema."""
    return Statement(
        f"""
        SELECT n.nspname AS schema, c.relname AS name,
               CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned table' WHEN 'f' THEN 'foreign table'
                    WHEN 'v' THEN 'view' ELSE 'materialized view' END AS type,
               CASE WHEN c.relkind = ANY (ARRAY['r','m','p']::"char"[]) AND c.reltuples >= 0
                    THEN c.reltuples::bigint END AS rows,
               CASE WHEN c.relkind = ANY (ARRAY['r','m']::"char"[])
                    THEN pg_catalog.pg_total_relation_size(c.oid) END AS size_bytes,
               pg_catalog.obj_description(c.oid, 'pg_class') AS comment,
               (SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object(
                           'name', a.attname, 'type', pg_catalog.format_type(a.atttypid, a.atttypmod),
                           'nullable', NOT a.attnotnull,
                           'primary_key', coalesce(a.attnum = ANY (k.conkey), false)) ORDER BY a.attnum), '[]')
                  FROM pg_catalog.pg_attribute AS a
                  LEFT JOIN pg_catalog.pg_constraint AS k ON k.conrelid = c.oid AND k.contype = 'p'
                 WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns
          FROM pg_catalog.pg_class AS c
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         WHERE {VISIBLE_SCHEMA} AND n.nspname <> ALL (ARRAY['pg_catalog', 'information_schema']::name[])
           AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
           AND c.relkind = ANY (ARRAY['r','p','f','v','m']::"char"[])
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d WHERE d.objid = c.oid AND d.deptype = 'e')
         ORDER BY 1, 2
        """
    )
