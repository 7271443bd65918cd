-- Sim Studio's tables as far as we touch them: the columns that we use, and those that a row cannot be made without.
-- tests/migration/test_sim_checkout.py compares them with Sim's own where a checkout is at hand.
CREATE TABLE "user" (
    id text PRIMARY KEY,
    name text NOT NULL,
    email text NOT NULL UNIQUE,
    email_verified boolean NOT NULL,
    created_at timestamp NOT NULL,
    updated_at timestamp NOT NULL
);
CREATE TABLE workspace (
    id text PRIMARY KEY,
    name text NOT NULL,
    owner_id text NOT NULL REFERENCES "user" (id) ON DELETE CASCADE,
    billed_account_user_id text NOT NULL REFERENCES "user" (id),
    forked_from_workspace_id text REFERENCES workspace (id) ON DELETE SET NULL,
    archived_at timestamp,
    created_at timestamp NOT NULL DEFAULT now(),
    updated_at timestamp NOT NULL DEFAULT now()
);
CREATE TABLE environment (
    id text PRIMARY KEY,
    user_id text NOT NULL UNIQUE REFERENCES "user" (id) ON DELETE CASCADE,
    variables json NOT NULL,
    updated_at timestamp NOT NULL DEFAULT now()
);
CREATE TABLE workspace_environment (
    id text PRIMARY KEY,
    workspace_id text NOT NULL REFERENCES workspace (id) ON DELETE CASCADE,
    variables json NOT NULL DEFAULT '{}',
    created_at timestamp NOT NULL DEFAULT now(),
    updated_at timestamp NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX workspace_environment_workspace_unique ON workspace_environment (workspace_id);
CREATE TABLE mcp_servers (
    id text PRIMARY KEY,
    workspace_id text NOT NULL REFERENCES workspace (id) ON DELETE CASCADE,
    created_by text REFERENCES "user" (id) ON DELETE SET NULL,
    name text NOT NULL,
    description text,
    transport text NOT NULL,
    url text,
    auth_type text NOT NULL DEFAULT 'headers',
    headers json DEFAULT '{}',
    timeout integer DEFAULT 30000,
    enabled boolean NOT NULL DEFAULT true,
    created_at timestamp NOT NULL DEFAULT now(),
    updated_at timestamp NOT NULL DEFAULT now()
);
