-- NULL while the provider is being told, and where nobody knows what became of that.
ALTER TABLE user_global_database ALTER COLUMN paused DROP NOT NULL;
ALTER TABLE workspace_database ALTER COLUMN paused DROP NOT NULL;

-- Projects that the row had before it was made anew: their consumption is asked for until it is known up to then.
ALTER TABLE user_global_database ADD COLUMN former_project_ids text[] NOT NULL DEFAULT '{}',
    ADD COLUMN former_until timestamptz;
ALTER TABLE workspace_database ADD COLUMN former_project_ids text[] NOT NULL DEFAULT '{}',
    ADD COLUMN former_until timestamptz;

-- The size seen last, found without reading a month of the provider's hours.
CREATE INDEX db_usage_ledger_sizes ON db_usage_ledger (database_id, hour, size_at) WHERE size_at IS NOT NULL;
