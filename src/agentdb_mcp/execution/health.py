"""What can be seen of a database's health: our own catalog reads, each row as `advice.health` takes it.

Names of objects are as SQL writes them (`schema."Odd name"`). Only of schemas that the agent may use, without the
system's and extensions' objects; `mine` says whether the agent owns the object.
"""

from __future__ import annotations

from agentdb_mcp.execution.session import Statement

# Sources that need more than the agent has where databases share a cluster (providers hide neighbours there).
SOURCES = ("pg_stat_activity", "pg_roles", "pg_replication_slots", "pg_stat_replication")

_OWNED = """NOT (n.nspname ~ '^pg_(toast|temp|toast_temp)')
           AND n.nspname <> ALL (ARRAY['pg_catalog', 'information_schema']::name[])
           AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS e WHERE e.classid = 'pg_catalog.pg_class'::regclass
                              AND e.objid = c.oid AND e.deptype = 'e')"""
_NAME = "pg_catalog.format('%I.%I', n.nspname, c.relname)"
_MINE = "pg_catalog.pg_has_role(c.relowner, 'USAGE')"
_BACKENDS = """pg_catalog.pg_stat_get_activity(NULL) AS a
         WHERE a.usesysid = pg_catalog.quote_ident(CURRENT_USER)::regrole AND a.datid = (
                   SELECT o.datid FROM pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) AS o)"""


def sources() -> Statement:
    """Rows of name: which of SOURCES can be read."""
    return Statement(
        """
        SELECT c.relname AS name FROM pg_catalog.pg_class AS c
         WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relname = ANY ($1::name[])
           AND pg_catalog.has_table_privilege(c.oid, 'SELECT')
        """,
        (list(SOURCES),),
    )


def tables() -> Statement:
    """Rows of advice.health.Table; the largest first."""
    return Statement(
        f"""
        SELECT {_NAME} AS name, {_MINE} AS mine, greatest(c.reltuples, 0)::bigint AS rows,
               coalesce(pg_catalog.pg_stat_get_live_tuples(c.oid), 0) AS live,
               coalesce(pg_catalog.pg_stat_get_dead_tuples(c.oid), 0) AS dead,
               coalesce(pg_catalog.pg_stat_get_mod_since_analyze(c.oid), 0) AS modified,
               coalesce(pg_catalog.pg_stat_get_analyze_count(c.oid), 0)
               + coalesce(pg_catalog.pg_stat_get_autoanalyze_count(c.oid), 0) AS analyzed,
               coalesce(o.enabled, pg_catalog.current_setting('autovacuum')::boolean) AS autovacuum,
               coalesce(o.threshold, pg_catalog.current_setting('autovacuum_vacuum_threshold')::float8)
               + coalesce(o.scale, pg_catalog.current_setting('autovacuum_vacuum_scale_factor')::float8)
                 * greatest(c.reltuples, 0) AS vacuum_from,
               pg_catalog.age(c.relfrozenxid) AS age, pg_catalog.mxid_age(c.relminmxid) AS multixact_age,
               pg_catalog.pg_total_relation_size(c.oid) AS size_bytes
          FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         CROSS JOIN LATERAL (
                   SELECT pg_catalog.bool_and(t.option_value::boolean)
                              FILTER (WHERE t.option_name = 'autovacuum_enabled') AS enabled,
                          max(t.option_value::float8)
                              FILTER (WHERE t.option_name = 'autovacuum_vacuum_threshold') AS threshold,
                          max(t.option_value::float8)
                              FILTER (WHERE t.option_name = 'autovacuum_vacuum_scale_factor') AS scale
                     FROM pg_catalog.pg_options_to_table(c.reloptions) AS t
                    WHERE t.option_name = ANY (ARRAY['autovacuum_enabled', 'autovacuum_vacuum_threshold',
                                                     'autovacuum_vacuum_scale_factor'])) AS o
         WHERE c.relkind = ANY (ARRAY['r','m']::"char"[]) AND {_OWNED}
         ORDER BY size_bytes DESC, name
        """
    )


def indexes(bloat_from_bytes: int) -> Statement:
    """Rows of advice.health.Index, by table and name; `entry_bytes` of those from a size on only."""
    return Statement(
        f"""
        SELECT pg_catalog.format('%I.%I', n.nspname, x.relname) AS name, x.relname AS bare_name, {_NAME} AS table,
               {_MINE} AS mine, m.amname AS method, i.indkey::text AS columns, i.indclass::text AS classes,
               i.indcollation::text AS collations, i.indoption::text AS options, i.indnkeyatts AS key_count,
               pg_catalog.pg_get_expr(i.indexprs, i.indrelid) AS expressions,
               pg_catalog.pg_get_expr(i.indpred, i.indrelid) AS predicate,
               i.indisunique AS unique, i.indimmediate AS immediate, i.indisvalid AS valid,
               i.indisexclusion AS exclusion, i.indisprimary AS primary, i.indisreplident AS identity,
               coalesce((pg_catalog.to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false) AS nulls_equal,
               x.relispartition AS attached, x.relkind = 'I'::"char" AS partitioned,
               pg_catalog.quote_ident(k.conname) AS constraint,
               EXISTS (SELECT FROM pg_catalog.pg_constraint AS f WHERE f.conindid = x.oid AND f.contype = 'f')
                    AS referenced,
               pg_catalog.pg_get_indexdef(x.oid) AS definition, pg_catalog.pg_relation_size(x.oid) AS size_bytes,
               greatest(x.reltuples, 0)::bigint AS entries,
               coalesce(pg_catalog.pg_stat_get_numscans(x.oid), 0) AS scans,
               coalesce(pg_catalog.pg_stat_get_numscans(c.oid), 0) + (
                   SELECT coalesce(sum(pg_catalog.pg_stat_get_numscans(o.indexrelid)), 0)::bigint
                     FROM pg_catalog.pg_index AS o WHERE o.indrelid = c.oid) AS table_scans,
               CASE WHEN m.amname = 'btree' AND pg_catalog.pg_relation_size(x.oid) >= $1::bigint THEN (
                   SELECT CASE WHEN pg_catalog.count(*) = i.indnatts THEN sum(s.avg_width)::bigint END
                     FROM pg_catalog.pg_attribute AS a
                     LEFT JOIN pg_catalog.pg_attribute AS t
                       ON t.attrelid = c.oid AND t.attnum = i.indkey[a.attnum - 1] AND t.attnum <> 0
                     JOIN pg_catalog.pg_stats AS s ON s.schemaname = n.nspname AND NOT s.inherited
                      AND s.tablename = CASE WHEN t.attnum IS NULL THEN x.relname ELSE c.relname END
                      AND s.attname = coalesce(t.attname, a.attname)
                    WHERE a.attrelid = x.oid) END AS entry_bytes
          FROM pg_catalog.pg_index AS i
          JOIN pg_catalog.pg_class AS x ON x.oid = i.indexrelid
          JOIN pg_catalog.pg_class AS c ON c.oid = i.indrelid
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
          JOIN pg_catalog.pg_am AS m ON m.oid = x.relam
          LEFT JOIN pg_catalog.pg_constraint AS k
            ON k.conindid = x.oid AND k.conrelid = c.oid AND k.contype = ANY (ARRAY['p','u','x']::"char"[])
         WHERE {_OWNED}
         ORDER BY 3, 1
        """,
        (bloat_from_bytes,),
    )


def foreign_keys() -> Statement:
    """Rows of advice.health.ForeignKey."""
    return Statement(
        f"""
        SELECT pg_catalog.quote_ident(k.conname) AS constraint, {_NAME} AS table, {_MINE} AS mine,
               pg_catalog.array_to_string(k.conkey, ' ') AS columns, k.confrelid::regclass::text AS refers_to,
               (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY u.place)
                  FROM pg_catalog.unnest(k.conkey) WITH ORDINALITY AS u (attnum, place)
                  JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = u.attnum) AS column_names,
               greatest(c.reltuples, pg_catalog.pg_stat_get_live_tuples(c.oid), 0)::bigint AS rows
          FROM pg_catalog.pg_constraint AS k
          JOIN pg_catalog.pg_class AS c ON c.oid = k.conrelid
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         WHERE k.contype = 'f' AND k.conparentid = 0::oid AND {_OWNED}
         ORDER BY 2, 1
        """
    )


def unchecked_constraints() -> Statement:
    """Rows of advice.health.Unchecked: constraints that are enforced, but were not checked for older rows."""
    return Statement(
        f"""
        SELECT pg_catalog.quote_ident(k.conname) AS constraint, {_NAME} AS of, false AS of_domain, {_MINE} AS mine,
               pg_catalog.pg_get_constraintdef(k.oid) AS definition
          FROM pg_catalog.pg_constraint AS k
          JOIN pg_catalog.pg_class AS c ON c.oid = k.conrelid
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         WHERE NOT k.convalidated AND k.conparentid = 0::oid AND {_OWNED}
           AND coalesce((pg_catalog.to_jsonb(k) ->> 'conenforced')::boolean, true)
         UNION ALL
        SELECT pg_catalog.quote_ident(k.conname), pg_catalog.format('%I.%I', n.nspname, t.typname), true,
               pg_catalog.pg_has_role(t.typowner, 'USAGE'), pg_catalog.pg_get_constraintdef(k.oid)
          FROM pg_catalog.pg_constraint AS k
          JOIN pg_catalog.pg_type AS t ON t.oid = k.contypid
          JOIN pg_catalog.pg_namespace AS n ON n.oid = t.typnamespace
         WHERE NOT k.convalidated AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS e WHERE e.objid = t.oid AND e.deptype = 'e')
         ORDER BY 2, 1
        """
    )


def sequences() -> Statement:
    """Rows of advice.health.Sequence; numbers as text. None of those that cycle or were not used yet."""
    return Statement(
        f"""
        SELECT {_NAME} AS name, {_MINE} AS mine, s.seqmin::text AS lowest, s.seqmax::text AS highest,
               s.seqincrement::text AS increment, v.last::text AS last,
               pg_catalog.format_type(s.seqtypid, NULL) AS type, o.table, o.column, o.column_type,
               coalesce(o.mine, true) AS table_mine
          FROM pg_catalog.pg_sequence AS s
          JOIN pg_catalog.pg_class AS c ON c.oid = s.seqrelid
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         CROSS JOIN LATERAL (
                   SELECT CASE WHEN pg_catalog.has_sequence_privilege(c.oid, 'SELECT,USAGE')
                               THEN pg_catalog.pg_sequence_last_value(c.oid::regclass) END AS last) AS v
          LEFT JOIN LATERAL (
                   SELECT pg_catalog.format('%I.%I', tn.nspname, t.relname) AS table,
                          pg_catalog.quote_ident(a.attname) AS column,
                          pg_catalog.format_type(a.atttypid, NULL) AS column_type,
                          pg_catalog.pg_has_role(t.relowner, 'USAGE') AS mine
                     FROM pg_catalog.pg_depend AS d
                     JOIN pg_catalog.pg_class AS t ON t.oid = d.refobjid
                     JOIN pg_catalog.pg_namespace AS tn ON tn.oid = t.relnamespace
                     JOIN pg_catalog.pg_attribute AS a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid
                    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid
                      AND d.refclassid = 'pg_catalog.pg_class'::regclass
                      AND d.deptype = ANY (ARRAY['a','i']::"char"[]) LIMIT 1) AS o ON true
         WHERE NOT s.seqcycle AND v.last IS NOT NULL AND {_OWNED}
         ORDER BY 1
        """
    )


def transactions() -> Statement:
    """Rows of advice.health.Transaction: open ones of the agent's role in this database, but this one."""
    return Statement(
        f"""
        SELECT a.pid, coalesce(a.state, '') AS state,
               extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)::float8 AS seconds,
               pg_catalog.left(a.query, 200) AS query
          FROM {_BACKENDS} AND a.xact_start IS NOT NULL AND a.pid <> pg_catalog.pg_backend_pid()
         ORDER BY a.xact_start, a.pid
        """
    )


def connections() -> Statement:
    """One row: connections of the agent's role to this database, and those that the server takes."""
    return Statement(
        f"""
        SELECT (SELECT pg_catalog.count(*) FROM {_BACKENDS}) AS own,
               pg_catalog.current_setting('max_connections')::int
               - pg_catalog.current_setting('superuser_reserved_connections')::int AS most
        """
    )


def connections_of_the_server() -> Statement:
    """One row: connections of everybody. Reads pg_stat_activity."""
    return Statement(
        "SELECT pg_catalog.count(*) AS used FROM pg_catalog.pg_stat_activity AS a"
        " WHERE a.backend_type = 'client backend'"
    )


def connections_of_the_role() -> Statement:
    """One row: how many the agent's role may have, or null. Reads pg_roles."""
    return Statement(
        "SELECT CASE WHEN r.rolconnlimit >= 0 THEN r.rolconnlimit END AS most"
        " FROM pg_catalog.pg_roles AS r WHERE r.rolname = CURRENT_USER"
    )


def buffers() -> Statement:
    """Rows of what (tables or indexes), hit, read: blocks of the agent's own."""
    return Statement(
        """
        SELECT 'tables' AS what, coalesce(sum(t.heap_blks_hit), 0)::bigint AS hit,
               coalesce(sum(t.heap_blks_read), 0)::bigint AS read FROM pg_catalog.pg_statio_user_tables AS t
         UNION ALL
        SELECT 'indexes', coalesce(sum(i.idx_blks_hit), 0)::bigint, coalesce(sum(i.idx_blks_read), 0)::bigint
          FROM pg_catalog.pg_statio_user_indexes AS i
        """
    )


def size() -> Statement:
    """One row: the database's name as SQL writes it, and its bytes."""
    return Statement(
        "SELECT pg_catalog.quote_ident(pg_catalog.current_database()) AS name,"
        " pg_catalog.pg_database_size(pg_catalog.current_database()) AS size_bytes"
    )


def slots() -> Statement:
    """Rows of name, active, kept_bytes: replication slots of this database. Reads pg_replication_slots."""
    return Statement(
        """
        SELECT s.slot_name AS name, s.active,
               CASE WHEN pg_catalog.pg_is_in_recovery() THEN 0
                    ELSE coalesce(pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), s.restart_lsn), 0)
                    END::bigint AS kept_bytes
          FROM pg_catalog.pg_replication_slots AS s WHERE s.database IS NULL OR s.database = current_database()
         ORDER BY 1
        """
    )


def standbys() -> Statement:
    """Rows of name, state, lag_s: those that may be seen. Reads pg_stat_replication."""
    return Statement(
        """
        SELECT coalesce(r.application_name, '') AS name, r.state,
               extract(epoch FROM r.replay_lag)::float8 AS lag_s
          FROM pg_catalog.pg_stat_replication AS r WHERE r.state IS NOT NULL ORDER BY 1
        """
    )
