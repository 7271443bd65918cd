"""The emulator's own database."""

from __future__ import annotations

# A project stays as a row when it is deleted: identifiers are never given twice, a cursor that names it still finds
# its place, and what it consumed stays billable. `state`: creating → ready → deleting → deleted.
TABLES = """
CREATE TABLE IF NOT EXISTS installation (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    api_key text NOT NULL,
    org_id text NOT NULL,
    user_id uuid NOT NULL DEFAULT gen_random_uuid(),
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS project (
    seq bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    id text PRIMARY KEY,
    name text NOT NULL,
    region_id text NOT NULL,
    settings json NOT NULL,
    endpoint_settings json NOT NULL,
    history_retention_seconds integer NOT NULL,
    state text NOT NULL DEFAULT 'creating' CHECK (state IN ('creating', 'ready', 'deleting', 'deleted')),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz
);
CREATE TABLE IF NOT EXISTS branch (
    id text PRIMARY KEY,
    project_id text NOT NULL REFERENCES project ON DELETE CASCADE,
    name text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS branch_project ON branch (project_id);
CREATE TABLE IF NOT EXISTS endpoint (
    id text PRIMARY KEY,
    project_id text NOT NULL REFERENCES project ON DELETE CASCADE,
    branch_id text NOT NULL REFERENCES branch ON DELETE CASCADE,
    settings json NOT NULL,
    current_state text NOT NULL DEFAULT 'active' CHECK (current_state IN ('init', 'active', 'idle')),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS endpoint_project ON endpoint (project_id);
CREATE TABLE IF NOT EXISTS role (
    oid oid PRIMARY KEY,
    project_id text NOT NULL REFERENCES project ON DELETE CASCADE,
    branch_id text NOT NULL REFERENCES branch ON DELETE CASCADE,
    name text NOT NULL,
    password text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS role_project ON role (project_id);
CREATE TABLE IF NOT EXISTS database (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    oid oid NOT NULL UNIQUE,
    project_id text NOT NULL REFERENCES project ON DELETE CASCADE,
    branch_id text NOT NULL REFERENCES branch ON DELETE CASCADE,
    name text NOT NULL,
    owner_name text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS database_project ON database (project_id);
CREATE TABLE IF NOT EXISTS operation (
    seq bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    project_id text NOT NULL REFERENCES project ON DELETE CASCADE,
    branch_id text NOT NULL,
    endpoint_id text,
    action text NOT NULL,
    status text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX IF NOT EXISTS operation_project ON operation (project_id, seq);
"""
