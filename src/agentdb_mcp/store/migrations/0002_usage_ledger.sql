-- Periods are counted from an anchor, so that one which began on a 31st keeps its day after a shorter month.
ALTER TABLE user_db_budget ADD COLUMN period_anchor timestamptz;
UPDATE user_db_budget SET period_anchor = current_period_start;
ALTER TABLE user_db_budget ALTER COLUMN period_anchor SET NOT NULL, ALTER COLUMN period_anchor SET DEFAULT now();

-- The tier that the user's projects are set up for; where it is another one, they have to be moved.
ALTER TABLE user_db_budget ADD COLUMN placed_tier text;
UPDATE user_db_budget SET placed_tier = tier;

-- What the provider was told last; what it should be told follows from the payer's budget.
ALTER TABLE user_global_database ADD COLUMN paused boolean NOT NULL DEFAULT false;
ALTER TABLE workspace_database ADD COLUMN paused boolean NOT NULL DEFAULT false;

-- What each database used, by the hour. `source` is 'provider' for the figures that the provider billed, else the id of
-- the server that metered. Where there is a provider's row for an hour, it replaces the servers' estimates.
CREATE TABLE db_usage_ledger (
    database_id text NOT NULL,
    hour timestamptz NOT NULL,
    source text NOT NULL,
    user_id text, -- who paid then
    -- A server's: when its traffic kept the compute awake, how much it sent, and the size that it saw last.
    active tstzmultirange NOT NULL DEFAULT '{}',
    sent_bytes bigint NOT NULL DEFAULT 0,
    size_bytes bigint,
    size_at timestamptz,
    -- The provider's: milli-CU × microseconds, byte × microseconds, bytes, branch × microseconds; and what the servers
    -- had estimated for the hour in milli-CU × microseconds.
    compute_mcu_us numeric(38, 0),
    storage_byte_us numeric(38, 0),
    history_byte_us numeric(38, 0),
    egress_bytes numeric(38, 0),
    branch_us numeric(38, 0),
    estimated_mcu_us numeric(38, 0),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (database_id, hour, source)
);
CREATE INDEX db_usage_ledger_user_id_hour ON db_usage_ledger (user_id, hour);
