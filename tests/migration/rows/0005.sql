INSERT INTO agentdb_token
       (id, token_hash, user_id, workspace_id, scopes, name, created_at, expires_at, revoked_at, last_used_at)
VALUES ('t-1', sha256('one'), 'ada', 'desk', '{mcp,explorer}', 'laptop', '2026-01-31 09:00+00', '2027-01-31 09:00+00',
        NULL, '2026-01-31 09:01+00'),
       ('t-2', sha256('two'), 'bob', NULL, '{admin}', NULL, '2026-01-31 09:00+00', NULL, '2026-01-31 09:02+00', NULL);
