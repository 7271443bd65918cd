-- What the database's checkpoints hold, as it was seen last: they are stored data that its payer pays for.
ALTER TABLE user_global_database ADD COLUMN checkpoint_bytes bigint NOT NULL DEFAULT 0;
ALTER TABLE workspace_database ADD COLUMN checkpoint_bytes bigint NOT NULL DEFAULT 0;
