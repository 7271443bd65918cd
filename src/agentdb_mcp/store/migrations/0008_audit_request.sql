-- Which request a call was made for, by the id that log lines and traces have too. A hash covers it where there is one.
ALTER TABLE db_audit_log ADD COLUMN request_id text;
