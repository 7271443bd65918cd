INSERT INTO agentdb_job (name, period_s, next_run_at, lease_expires_at, fence, last_run_at, last_error)
VALUES ('reconcile', 60, '2026-01-31 09:01+00', NULL, 12, '2026-01-31 09:00+00', NULL),
       ('sync', 900.5, '2026-01-31 09:15+00', '2026-01-31 09:02+00', 3, NULL, 'provisioning_failed');
