"""The emulator's own database."""

from __future__ import annotations

# A project stays as a row when it is deleted: identifiers are never given twice, a cursor that names it still finds
# its place, and what it consumed stays billable. `state`: creating → ready → deleted → purged, the last when the
# time for recovering it is over.
TABLES = """
CREATE TABLE IF NOT EXISTS installation (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    api_key text NOT NULL,
    org_id text NOT NULL,
    proxy_port integer NOT NULL DEFAULT 0,
    user_id uuid NOT NULL DEFAULT gen_random_uuid(),
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS organization (
    id text PRIMARY KEY,
    seq integer NOT NULL UNIQUE,
    name text NOT NULL,
    plan text NOT NULL,
    api_key text NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS project (
    seq bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    id text PRIMARY KEY,
    org_id text NOT NULL REFERENCES organization,
    name text NOT NULL,
    region_id text NOT NULL,
    settings json NOT NULL,
    endpoint_settings json NOT NULL,
    history_retention_seconds integer NOT NULL,
    state text NOT NULL DEFAULT 'creating' CHECK (state IN ('creating', 'ready', 'deleted', 'purged')),
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    deleted_at timestamptz
);
CREATE TABLE IF NOT EXISTS branch (
    id text PRIMARY KEY,
    project_id text NOT NULL REFERENCES project ON DELETE CASCADE,
    parent_id text,
    name text NOT NULL,
    size_bytes bigint NOT NULL DEFAULT 0,
    sized_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS branch_project ON branch (project_id);
CREATE TABLE IF NOT EXISTS endpoint (
    id text PRIMARY KEY,
    project_id text NOT NULL REFERENCES project ON DELETE CASCADE,
    branch_id text NOT NULL UNIQUE REFERENCES branch ON DELETE CASCADE,
    settings json NOT NULL,
    current_state text NOT NULL DEFAULT 'active' CHECK (current_state IN ('active', 'idle')),
    ready_at timestamptz NOT NULL,
    last_active timestamptz NOT NULL,
    booked_until timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS endpoint_project ON endpoint (project_id);
-- A branch has its parent's roles: on one cluster they are the same ones.
CREATE TABLE IF NOT EXISTS role (
    oid oid NOT NULL,
    project_id text NOT NULL REFERENCES project ON DELETE CASCADE,
    branch_id text NOT NULL REFERENCES branch ON DELETE CASCADE,
    name text NOT NULL,
    password text NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (oid, branch_id)
);
CREATE INDEX IF NOT EXISTS role_project ON role (project_id);
CREATE TABLE IF NOT EXISTS database (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    oid oid NOT NULL UNIQUE,
    project_id text NOT NULL REFERENCES project ON DELETE CASCADE,
    branch_id text NOT NULL REFERENCES branch ON DELETE CASCADE,
    name text NOT NULL,
    owner_name text NOT NULL,
    -- The first database that it is a copy of: at Neon they have one name in all branches, on one cluster they cannot.
    origin oid,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS database_project ON database (project_id);
CREATE TABLE IF NOT EXISTS snapshot (
    id text PRIMARY KEY,
    project_id text NOT NULL REFERENCES project ON DELETE CASCADE,
    source_branch_id text NOT NULL,
    name text NOT NULL,
    size_bytes bigint NOT NULL,
    sized_at timestamptz NOT NULL,
    expires_at timestamptz,
    databases json NOT NULL,
    role_oids oid[] NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS snapshot_project ON snapshot (project_id);
-- `ends_at` is unknown while the work goes on; the status follows from the times.
CREATE TABLE IF NOT EXISTS operation (
    seq bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    project_id text NOT NULL REFERENCES project ON DELETE CASCADE,
    branch_id text NOT NULL,
    endpoint_id text,
    action text NOT NULL,
    outcome text NOT NULL DEFAULT 'finished',
    created_at timestamptz NOT NULL,
    starts_at timestamptz NOT NULL,
    ends_at timestamptz
);
CREATE INDEX IF NOT EXISTS operation_project ON operation (project_id, seq);
CREATE INDEX IF NOT EXISTS operation_end ON operation (project_id, ends_at);
-- By hour for the consumption history, by month for quotas, so that neither grows dearer with time. `fresh` marks what
-- has changed since it was last published.
CREATE TABLE IF NOT EXISTS hourly_usage (
    project_id text NOT NULL,
    hour timestamptz NOT NULL,
    compute_seconds double precision NOT NULL DEFAULT 0,
    active_seconds double precision NOT NULL DEFAULT 0,
    root_byte_hours double precision NOT NULL DEFAULT 0,
    child_byte_hours double precision NOT NULL DEFAULT 0,
    restore_byte_hours double precision NOT NULL DEFAULT 0,
    snapshot_byte_hours double precision NOT NULL DEFAULT 0,
    extra_branch_hours double precision NOT NULL DEFAULT 0,
    sent_bytes double precision NOT NULL DEFAULT 0,
    private_sent_bytes double precision NOT NULL DEFAULT 0,
    fresh boolean NOT NULL DEFAULT true,
    PRIMARY KEY (project_id, hour)
);
CREATE INDEX IF NOT EXISTS hourly_usage_fresh ON hourly_usage (project_id, hour) WHERE fresh;
CREATE TABLE IF NOT EXISTS monthly_usage (
    LIKE hourly_usage INCLUDING DEFAULTS, PRIMARY KEY (project_id, hour)
);
CREATE TABLE IF NOT EXISTS published_usage (
    LIKE hourly_usage INCLUDING DEFAULTS, PRIMARY KEY (project_id, hour)
);
"""

# What a cluster of an earlier version has is brought up to the tables above: before they are made, and after.
BEFORE = """
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('published_usage') AND attname = 'branch_id') THEN
        DROP TABLE published_usage;
    END IF;
END $$;
"""
OLDER = """
ALTER TABLE installation ADD COLUMN IF NOT EXISTS proxy_port integer NOT NULL DEFAULT 0;
ALTER TABLE project ADD COLUMN IF NOT EXISTS org_id text REFERENCES organization;
ALTER TABLE branch ADD COLUMN IF NOT EXISTS parent_id text,
    ADD COLUMN IF NOT EXISTS size_bytes bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS sized_at timestamptz NOT NULL DEFAULT now();
ALTER TABLE endpoint ADD COLUMN IF NOT EXISTS ready_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN IF NOT EXISTS last_active timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN IF NOT EXISTS booked_until timestamptz NOT NULL DEFAULT now();
ALTER TABLE operation ADD COLUMN IF NOT EXISTS outcome text NOT NULL DEFAULT 'finished',
    ADD COLUMN IF NOT EXISTS starts_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN IF NOT EXISTS ends_at timestamptz DEFAULT now(),
    DROP COLUMN IF EXISTS status, DROP COLUMN IF EXISTS updated_at;
ALTER TABLE operation ALTER COLUMN ends_at DROP DEFAULT;
ALTER TABLE database ADD COLUMN IF NOT EXISTS origin oid;
DO $$ BEGIN
    IF pg_get_constraintdef((SELECT oid FROM pg_constraint WHERE conname = 'project_state_check'
            AND conrelid = 'project'::regclass)) LIKE '%deleting%' THEN
        ALTER TABLE project DROP CONSTRAINT project_state_check;
        UPDATE project SET state = 'purged' WHERE state = 'deleted';
        UPDATE project SET state = 'deleted' WHERE state = 'deleting';
        ALTER TABLE project ADD CONSTRAINT project_state_check
            CHECK (state IN ('creating', 'ready', 'deleted', 'purged'));
        ALTER TABLE role DROP CONSTRAINT role_pkey, ADD PRIMARY KEY (oid, branch_id);
    END IF;
END $$;
DO $$ BEGIN
    IF to_regclass('usage') IS NOT NULL THEN
        INSERT INTO hourly_usage (project_id, hour, compute_seconds, active_seconds, root_byte_hours, child_byte_hours,
                                  extra_branch_hours, sent_bytes)
            SELECT project_id, hour, sum(compute_seconds), sum(active_seconds),
                   coalesce(sum(byte_hours) FILTER (WHERE root), 0),
                   coalesce(sum(byte_hours) FILTER (WHERE NOT root), 0), sum(extra_branch_hours), sum(sent_bytes)
              FROM usage GROUP BY 1, 2;
        INSERT INTO monthly_usage (project_id, hour, compute_seconds, active_seconds, root_byte_hours, child_byte_hours,
                                   extra_branch_hours, sent_bytes)
            SELECT project_id, date_trunc('month', hour, 'UTC'), sum(compute_seconds), sum(active_seconds),
                   sum(root_byte_hours), sum(child_byte_hours), sum(extra_branch_hours), sum(sent_bytes)
              FROM hourly_usage GROUP BY 1, 2;
        DROP TABLE usage;
    END IF;
END $$;
"""
