UPDATE user_global_database SET checkpoint_bytes = 8589934592 WHERE id = 'd-ada';
UPDATE workspace_database SET checkpoint_bytes = 4096 WHERE id = 'd-desk';
