-- The identity tables are the platform's. On an empty database we make minimal ones of the same shape, and mark them
-- as ours, so that the lifecycle calls know whose rows they are.
DO $$
BEGIN
    IF to_regclass('public."user"') IS NULL THEN
        CREATE TABLE "user" (
            id text PRIMARY KEY,
            created_at timestamptz NOT NULL DEFAULT now()
        );
        COMMENT ON TABLE "user" IS 'agentdb-mcp';
    END IF;
    IF to_regclass('public.workspace') IS NULL THEN
        CREATE TABLE workspace (
            id text PRIMARY KEY,
            name text NOT NULL,
            owner_id text NOT NULL REFERENCES "user" (id) ON DELETE CASCADE,
            created_at timestamptz NOT NULL DEFAULT now(),
            archived_at timestamptz
        );
        COMMENT ON TABLE workspace IS 'agentdb-mcp';
    END IF;
END
$$;

-- A row outlives its owner (SET NULL, not CASCADE): it is the tombstone by which the project is removed.
CREATE TABLE user_global_database (
    id text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    user_id text UNIQUE REFERENCES "user" (id) ON DELETE SET NULL,
    ownership_type text NOT NULL DEFAULT 'platform' CHECK (ownership_type IN ('platform', 'user')),
    access_mode text NOT NULL DEFAULT 'unrestricted' CHECK (access_mode IN ('unrestricted', 'restricted')),
    project_name text NOT NULL UNIQUE,
    neon_project_id text,
    neon_branch_id text,
    neon_connection_uri text, -- the admin's, encrypted
    database_name text,
    role_name text, -- the agent's sealed role
    status text NOT NULL DEFAULT 'pending'
        CHECK (status IN ('pending', 'provisioning', 'ready', 'deleting', 'deleted')),
    generation integer NOT NULL DEFAULT 1,
    fence bigint NOT NULL DEFAULT 0,
    lease_expires_at timestamptz,
    last_error text,
    current_period_cost_microcents bigint NOT NULL DEFAULT 0 CHECK (current_period_cost_microcents >= 0),
    current_period_cost_cents bigint GENERATED ALWAYS AS (current_period_cost_microcents / 1000000) STORED,
    last_consumption_sync timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE workspace_database (
    id text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    workspace_id text UNIQUE REFERENCES workspace (id) ON DELETE SET NULL,
    user_id text REFERENCES "user" (id) ON DELETE SET NULL, -- who pays
    ownership_type text NOT NULL DEFAULT 'platform' CHECK (ownership_type IN ('platform', 'user')),
    access_mode text NOT NULL DEFAULT 'unrestricted' CHECK (access_mode IN ('unrestricted', 'restricted')),
    project_name text NOT NULL UNIQUE,
    neon_project_id text,
    neon_branch_id text,
    neon_connection_uri text,
    database_name text,
    role_name text,
    status text NOT NULL DEFAULT 'pending'
        CHECK (status IN ('pending', 'provisioning', 'ready', 'deleting', 'deleted')),
    generation integer NOT NULL DEFAULT 1,
    fence bigint NOT NULL DEFAULT 0,
    lease_expires_at timestamptz,
    last_error text,
    current_period_cost_microcents bigint NOT NULL DEFAULT 0 CHECK (current_period_cost_microcents >= 0),
    current_period_cost_cents bigint GENERATED ALWAYS AS (current_period_cost_microcents / 1000000) STORED,
    last_consumption_sync timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX workspace_database_user_id ON workspace_database (user_id);

CREATE TABLE user_db_budget (
    user_id text PRIMARY KEY REFERENCES "user" (id) ON DELETE CASCADE,
    tier text NOT NULL DEFAULT 'free',
    custom_budget_cents bigint CHECK (custom_budget_cents >= 0),
    budget_exceeded boolean NOT NULL DEFAULT false,
    current_period_start timestamptz NOT NULL DEFAULT now(),
    total_cost_cents bigint NOT NULL DEFAULT 0,
    last_sync timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
