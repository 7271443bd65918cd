UPDATE user_global_database
   SET paused = NULL, former_project_ids = '{proj-0}', former_until = '2026-01-30 00:00+00' WHERE id = 'd-ada';
UPDATE workspace_database
   SET paused = NULL, former_project_ids = '{proj-a,proj-b}', former_until = '2026-01-30 00:00+00' WHERE id = 'd-desk';
