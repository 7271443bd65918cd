"""The ledger's statements."""

DATABASES = """
    SELECT 'global' AS scope, id, user_id AS owner_id, user_id, project_name, status, ownership_type,
           paused, created_at, updated_at, former_until FROM user_global_database
    UNION ALL
    SELECT 'agent', id, workspace_id, user_id, project_name, status, ownership_type, paused, created_at,
           updated_at, former_until FROM workspace_database
"""

# An hour in which the payer changes has a row for each; the running total of bytes sent is then in both.
STORE = f"""
    INSERT INTO db_usage_ledger AS l
           (database_id, hour, source, user_id, active, sent_bytes, size_bytes, size_at)
    SELECT d.id, m.hour,
           CASE WHEN EXISTS (SELECT FROM db_usage_ledger AS o WHERE o.database_id = d.id AND o.hour = m.hour
                                AND o.source = $1 AND o.user_id IS DISTINCT FROM d.user_id)
                THEN $1 || ' ' || coalesce(d.user_id, '') ELSE $1 END,
           d.user_id, m.active::tstzmultirange, m.sent_bytes, m.size_bytes, m.size_at
      FROM unnest($2::text[], $3::timestamptz[], $4::text[], $5::bigint[], $6::bigint[], $7::timestamptz[])
           AS m (id, hour, active, sent_bytes, size_bytes, size_at)
      JOIN ({DATABASES}) AS d ON d.id = m.id
     ORDER BY d.id, m.hour
    ON CONFLICT (database_id, hour, source) DO UPDATE SET
           active = l.active + EXCLUDED.active,
           sent_bytes = greatest(l.sent_bytes, EXCLUDED.sent_bytes),
           size_bytes = coalesce(EXCLUDED.size_bytes, l.size_bytes),
           size_at = coalesce(EXCLUDED.size_at, l.size_at),
           updated_at = now()
"""

# The payer of an hour is whom the servers' rows name; a database that changed hands later does not change the past.
SETTLE = f"""
    WITH billed AS (
        SELECT DISTINCT ON (b.id, b.hour) b.*, coalesce(m.user_id, d.user_id) AS user_id,
               $8 * coalesce((SELECT sum(extract(epoch FROM upper(awake) - lower(awake))) * 1000000
                                FROM unnest(m.active) AS awake), 0) AS estimated
          FROM unnest($1::text[], $2::timestamptz[], $3::numeric[], $4::numeric[], $5::numeric[], $6::numeric[],
                      $7::numeric[]) AS b (id, hour, compute, storage, history, egress, branch)
          JOIN ({DATABASES}) AS d ON d.id = b.id
          LEFT JOIN LATERAL (
               SELECT max(l.user_id) AS user_id, range_agg(l.active) AS active FROM db_usage_ledger AS l
                WHERE l.database_id = b.id AND l.hour = b.hour AND l.source <> 'provider') AS m ON true
         ORDER BY b.id, b.hour
    ), stored AS (
        INSERT INTO db_usage_ledger AS l (database_id, hour, source, user_id, compute_mcu_us, storage_byte_us,
               history_byte_us, egress_bytes, branch_us, estimated_mcu_us)
        SELECT id, hour, 'provider', user_id, compute, storage, history, egress, branch, estimated FROM billed
        ON CONFLICT (database_id, hour, source) DO UPDATE SET
               compute_mcu_us = EXCLUDED.compute_mcu_us, storage_byte_us = EXCLUDED.storage_byte_us,
               history_byte_us = EXCLUDED.history_byte_us, egress_bytes = EXCLUDED.egress_bytes,
               branch_us = EXCLUDED.branch_us, updated_at = now()
    )
    SELECT coalesce(sum(estimated), 0) AS estimated, coalesce(sum(compute), 0) AS billed FROM billed
"""

SETTLED = """
    SELECT s.id, sum(l.compute_mcu_us) AS compute_mcu_us, sum(l.storage_byte_us) AS storage_byte_us,
           sum(l.history_byte_us) AS history_byte_us, sum(l.egress_bytes) AS egress_bytes, sum(l.branch_us) AS branch_us
      FROM unnest($1::text[], $2::timestamptz[], $3::timestamptz[]) AS s (id, lo, hi)
      JOIN db_usage_ledger AS l
        ON l.database_id = s.id AND l.source = 'provider' AND l.hour >= s.lo AND l.hour < s.hi
     GROUP BY s.id
"""

USAGE = f"""
    WITH win AS MATERIALIZED (
        SELECT ordinality AS n, user_id, lo, coalesce(hi, 'infinity') AS hi
          FROM unnest($1::text[], $2::timestamptz[], $3::timestamptz[]) WITH ORDINALITY AS w (user_id, lo, hi)
    ), used AS MATERIALIZED ( -- the ledger's rows of each window; an hour cut by the window's beginning is in it
        SELECT w.n, w.lo, w.hi, l.* FROM win AS w, LATERAL (
               SELECT l.* FROM db_usage_ledger AS l
                WHERE l.user_id = w.user_id AND l.hour > w.lo - interval '1 hour' AND l.hour < w.hi OFFSET 0) AS l
    ), meant AS (
        SELECT w.n, d.id FROM win AS w JOIN ({DATABASES}) AS d ON d.user_id = w.user_id AND d.status <> 'deleted'
        UNION SELECT n, database_id FROM used
    ), known AS MATERIALIZED (
        SELECT w.n, w.user_id AS payer, w.lo, w.hi, d.*,
               CASE WHEN d.status = 'deleted' THEN least(d.updated_at, $4) ELSE $4 END AS seen,
               d.user_id IS NOT DISTINCT FROM w.user_id AS present
          FROM meant JOIN win AS w USING (n) JOIN ({DATABASES}) AS d USING (id)
    ), billed AS (
        SELECT n, database_id, sum(compute_mcu_us) AS compute, sum(storage_byte_us) AS storage,
               sum(history_byte_us) AS history, sum(egress_bytes) AS egress, sum(branch_us) AS branch,
               range_agg(tstzrange(hour, hour + interval '1 hour')) AS hours
          FROM used WHERE source = 'provider' AND hour >= lo AND hour < $4 GROUP BY n, database_id
    ), estimated AS MATERIALIZED ( -- when estimates count
        SELECT k.n, k.id, k.present, k.seen, k.lo, k.hi, k.payer, k.former_until,
               tstzmultirange(tstzrange(k.lo, k.hi)) - coalesce(b.hours, '{{}}') AS spans
          FROM known AS k LEFT JOIN billed AS b ON b.n = k.n AND b.database_id = k.id
    ), metered AS (
        SELECT e.n, e.id, range_agg(u.active) * e.spans AS awake, max(upper(u.active)) AS awake_until,
               sum(u.sent_bytes) FILTER (WHERE e.spans @> u.hour) AS sent
          FROM estimated AS e JOIN used AS u ON u.n = e.n AND u.database_id = e.id AND u.source <> 'provider'
         GROUP BY e.n, e.id, e.spans
    ), sample AS ( -- sizes as the payer's calls saw them, from the last one before the window on
        SELECT e.n, e.id, e.spans, l.size_bytes, l.size_at,
               coalesce(lead(l.size_at) OVER (PARTITION BY e.n, e.id ORDER BY l.size_at), e.seen) AS until,
               CASE WHEN l.size_at <= e.former_until THEN e.former_until END AS gone
          FROM estimated AS e, LATERAL (
               SELECT coalesce(max(b.hour), '-infinity') AS hour FROM db_usage_ledger AS b
                WHERE b.database_id = e.id AND b.hour <= e.lo AND b.size_at <= e.lo) AS first,
               LATERAL (
               SELECT l.size_bytes, l.size_at FROM db_usage_ledger AS l
                WHERE l.database_id = e.id AND l.hour >= first.hour AND l.hour < e.hi AND l.size_at < e.seen
                  AND l.user_id = e.payer
               OFFSET 0) AS l -- one database at a time, by the index, whatever the planner thinks of their number
         WHERE e.present
    ), held AS (
        SELECT s.n, s.id, sum(s.size_bytes * extract(epoch FROM upper(part) - lower(part))) AS byte_s
          FROM sample AS s,
               unnest(s.spans * tstzmultirange(
                   tstzrange(s.size_at, greatest(least(s.until, s.gone), s.size_at)))) AS part
         GROUP BY s.n, s.id
    )
    SELECT k.n AS window, k.payer AS user_id, k.scope, k.id, k.owner_id, k.project_name, k.status, k.ownership_type,
           k.present, k.paused,
           coalesce(b.compute, 0) + coalesce($5 * (SELECT sum(extract(epoch FROM upper(part) - lower(part))) * 1000000
                                                   FROM unnest(m.awake) AS part), 0) AS compute_mcu_us,
           round(coalesce(b.storage, 0) + coalesce(h.byte_s, 0) * 1000000) AS storage_byte_us,
           coalesce(b.history, 0) AS history_byte_us,
           coalesce(b.egress, 0) + coalesce(m.sent, 0) AS egress_bytes,
           coalesce(b.branch, 0) AS branch_us, m.awake_until,
           coalesce(last.size_bytes, 0) AS size_bytes, last.size_at
      FROM known AS k
      LEFT JOIN LATERAL (
           SELECT l.size_bytes, l.size_at FROM db_usage_ledger AS l
            WHERE l.database_id = k.id AND l.size_at IS NOT NULL AND l.size_at > coalesce(k.former_until, '-infinity')
            ORDER BY l.hour DESC, l.size_at DESC LIMIT 1) AS last ON true
      LEFT JOIN billed AS b ON b.n = k.n AND b.database_id = k.id
      LEFT JOIN metered AS m ON m.n = k.n AND m.id = k.id
      LEFT JOIN held AS h ON h.n = k.n AND h.id = k.id
     ORDER BY k.n, k.scope DESC, k.created_at, k.id
"""
