-- A chain as the version of this step wrote it: the hashes are those that it computed.
INSERT INTO db_audit_log
       (user_id, sequence, at, source, principal, tool, workspace_id, scope, database_id, kinds, objects, decision, code,
        sqlstate, duration_ms, rows, statement_hash, batch, previous_hash, hash)
VALUES ('ada', 1, '2026-01-31 09:00:00.123456+00', 'mcp', 'stdio', 'execute_sql', 'desk', 'agent', 'd-desk', '{write}',
        '{public.notes}', 'allowed', NULL, NULL, 3.25, 2, decode(repeat('9f', 32), 'hex'),
        '00000000-0000-4000-8000-000000000001', decode(repeat('00', 32), 'hex'),
        '\x63df8577b353c72e3f766647c7f9dd59091d30174e44c7ab257b65a9a713aa99'),
       ('ada', 2, '2026-01-31 09:05+00', 'rest', 'service', 'execute', 'desk', 'agent', 'd-desk', '{}', '{}', 'failed',
        'sql_error', '42P01', 0.5, NULL, NULL, '00000000-0000-4000-8000-000000000002',
        '\x63df8577b353c72e3f766647c7f9dd59091d30174e44c7ab257b65a9a713aa99',
        '\x14ed239fa463453d889ee2929d57856335469a830c61ed9cf2e965486213a778');
INSERT INTO db_audit_chain (user_id, sequence, hash)
VALUES ('ada', 2, '\x14ed239fa463453d889ee2929d57856335469a830c61ed9cf2e965486213a778');
INSERT INTO db_audit_chain (user_id, sequence, hash, anchor_sequence, anchor_hash, anchored_at)
VALUES ('bob', 5, decode(repeat('0b', 32), 'hex'), 5, decode(repeat('0b', 32), 'hex'), '2026-01-31 09:00+00');
