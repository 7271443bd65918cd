-- API tokens by the SHA-256 of their text, which nobody has but the caller.
CREATE TABLE agentdb_token (
    id text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    token_hash bytea NOT NULL UNIQUE CHECK (octet_length(token_hash) = 32),
    user_id text NOT NULL REFERENCES "user" (id) ON DELETE CASCADE,
    workspace_id text REFERENCES workspace (id) ON DELETE CASCADE, -- NULL: whichever of the user's
    scopes text[] NOT NULL CHECK (cardinality(scopes) > 0 AND scopes <@ ARRAY['mcp', 'explorer', 'admin']),
    name text CHECK (char_length(name) <= 200),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz
);
CREATE INDEX agentdb_token_user_id ON agentdb_token (user_id);
CREATE INDEX agentdb_token_workspace_id ON agentdb_token (workspace_id);

-- Servers remember tokens that they saw. Whatever ends one or changes it, a user's deletion by the platform included,
-- is told to all of them when its transaction commits.
CREATE FUNCTION agentdb_token_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('agentdb_token', OLD.id);
    RETURN NULL;
END
$$;
CREATE TRIGGER agentdb_token_changed
    AFTER DELETE OR UPDATE OF token_hash, user_id, workspace_id, scopes, expires_at, revoked_at ON agentdb_token
    FOR EACH ROW WHEN (OLD.revoked_at IS NULL) EXECUTE FUNCTION agentdb_token_changed();
