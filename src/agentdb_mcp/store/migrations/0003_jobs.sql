-- Background jobs that any number of workers share. A worker claims a due job by a lease and keeps renewing it; only when
-- the run is over does `next_run_at` move on, so what a dead worker left is due until another completes it.
CREATE TABLE agentdb_job (
    name text PRIMARY KEY,
    period_s double precision NOT NULL CHECK (period_s > 0),
    next_run_at timestamptz NOT NULL DEFAULT now(),
    lease_expires_at timestamptz,
    fence bigint NOT NULL DEFAULT 0,
    last_run_at timestamptz, -- when the last run that was not interrupted ended
    last_error text -- the code it failed by
);
