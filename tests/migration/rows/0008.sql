INSERT INTO db_audit_log
       (user_id, sequence, at, source, tool, scope, kinds, objects, decision, code, duration_ms, batch, request_id,
        previous_hash, hash)
VALUES ('ada', 3, '2026-02-01 09:05+00', 'mcp', 'execute_sql', 'global', '{schema}', '{t}', 'refused',
        'statement_refused', 0.5, '00000000-0000-4000-8000-000000000003', 'r-1',
        '\x14ed239fa463453d889ee2929d57856335469a830c61ed9cf2e965486213a778',
        '\x7a981e8f3f9001256e7319454a178e192d13cebe1ed67c5e0c4b84ca36b18bf2');
UPDATE db_audit_chain SET sequence = 3, hash = '\x7a981e8f3f9001256e7319454a178e192d13cebe1ed67c5e0c4b84ca36b18bf2'
 WHERE user_id = 'ada';
