-- Databases in every status, of owners that are there and of one that is gone; budgets with all and with little said.
INSERT INTO user_global_database
       (id, user_id, ownership_type, access_mode, project_name, neon_project_id, neon_branch_id, neon_connection_uri,
        database_name, role_name, status, generation, fence, lease_expires_at, last_error,
        current_period_cost_microcents, last_consumption_sync, created_at, updated_at)
VALUES ('d-ada', 'ada', 'platform', 'restricted', 'global-ada', 'proj-1', 'br-1', 'v1:00:sealed', 'global', 'agent_ro',
        'ready', 3, 9007199254740993, '2026-01-31 10:00+00', 'provisioning_failed', 123456789, '2026-01-31 09:00+00',
        '2026-01-31 08:59:59.999999+00', '2026-01-31 09:00+00'),
       ('d-bob', 'bob', 'user', 'unrestricted', 'global-bob', NULL, NULL, 'v1:00:bobs own', NULL, NULL,
        'ready', 1, 0, NULL, NULL, 0, NULL, '2024-02-29 00:00+00', '2024-02-29 00:00+00');
INSERT INTO user_global_database (id, user_id, project_name, status) VALUES ('d-gone', NULL, 'global-gone', 'deleting');

INSERT INTO workspace_database
       (id, workspace_id, user_id, ownership_type, access_mode, project_name, neon_project_id, neon_branch_id,
        neon_connection_uri, database_name, role_name, status, generation, fence, lease_expires_at, last_error,
        current_period_cost_microcents, last_consumption_sync, created_at, updated_at)
VALUES ('d-desk', 'desk', 'ada', 'platform', 'unrestricted', 'agent-desk', 'proj-2', 'br-2', 'v1:00:sealed too', 'agent',
        'agent_rw', 'provisioning', 2, 7, '2026-01-31 10:00+00', 'database_unavailable', 1, '2026-01-31 09:00+00',
        '2026-01-31 08:00+00', '2026-01-31 09:00+00');
INSERT INTO workspace_database (id, workspace_id, user_id, project_name, status)
VALUES ('d-shelf', 'shelf', 'bob', 'agent-shelf', 'pending'), ('d-past', NULL, NULL, 'agent-past', 'deleted');

INSERT INTO user_db_budget
       (user_id, tier, custom_budget_cents, budget_exceeded, current_period_start, total_cost_cents, last_sync,
        created_at, updated_at)
VALUES ('ada', 'pro', 2500, true, '2026-01-31 00:00+00', 2501, '2026-01-31 09:00+00', '2025-12-31 00:00+00',
        '2026-01-31 09:00+00');
INSERT INTO user_db_budget (user_id) VALUES ('bob');
