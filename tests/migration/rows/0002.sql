UPDATE user_db_budget SET period_anchor = '2025-12-31 00:00+00', placed_tier = 'free' WHERE user_id = 'ada';
UPDATE user_global_database SET paused = true WHERE id = 'd-ada';
INSERT INTO db_usage_ledger
       (database_id, hour, source, user_id, active, sent_bytes, size_bytes, size_at, compute_mcu_us, storage_byte_us,
        history_byte_us, egress_bytes, branch_us, estimated_mcu_us, updated_at)
VALUES ('d-desk', '2026-01-31 09:00+00', 'server-1', 'ada',
        '{[2026-01-31 09:00+00,2026-01-31 09:05+00), [2026-01-31 09:30+00,2026-01-31 09:31:00.000001+00)}',
        9007199254740993, 81920, '2026-01-31 09:30+00', NULL, NULL, NULL, NULL, NULL, NULL, '2026-01-31 09:31+00'),
       ('d-desk', '2026-01-31 09:00+00', 'provider', 'ada', '{}', 0, NULL, NULL,
        12345678901234567890123456789012345678, 294912000000000, 0, 1024, 3600000000, 75000000, '2026-01-31 11:00+00'),
       ('d-past', '2025-12-31 23:00+00', 'server-1 gone', NULL, '{}', 0, NULL, NULL,
        NULL, NULL, NULL, NULL, NULL, NULL, '2026-01-01 00:00+00');
