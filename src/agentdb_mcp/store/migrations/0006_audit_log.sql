-- What callers did and what became of it, never with which values. Each user's entries are a chain: the hash of one
-- covers it and the hash before it. Nothing refers to users, so that the log outlives them.
CREATE TABLE db_audit_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id text NOT NULL, -- empty where the caller was nobody's
    sequence bigint NOT NULL, -- in the user's chain, from 1 without a gap
    at timestamptz NOT NULL, -- when the call began
    source text NOT NULL, -- mcp, rest, explorer, cli …; `audit` for what the log says of itself
    principal text, -- a token's id, `service` or `stdio`
    tool text, -- or the name of the route
    workspace_id text,
    scope text,
    database_id text,
    kinds text[] NOT NULL,
    objects text[] NOT NULL, -- the names that the gate found, bounded
    decision text NOT NULL CHECK (decision IN ('allowed', 'refused', 'failed')),
    code text, -- of the error
    sqlstate text,
    duration_ms double precision NOT NULL,
    rows bigint,
    statement_hash bytea, -- so that repeats are seen
    batch uuid NOT NULL, -- what was stored at once, so that storing it again is noticed
    previous_hash bytea NOT NULL,
    hash bytea NOT NULL,
    UNIQUE (user_id, sequence)
);
CREATE INDEX db_audit_log_at ON db_audit_log (user_id, at);

-- Where each chain ends, and where what is kept of it begins: after the newest entry that retention deleted.
CREATE TABLE db_audit_chain (
    user_id text PRIMARY KEY,
    sequence bigint NOT NULL DEFAULT 0,
    hash bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
    anchor_sequence bigint NOT NULL DEFAULT 0,
    anchor_hash bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
    anchored_at timestamptz,
    CHECK (anchor_sequence BETWEEN 0 AND sequence)
);

-- Entries are never changed, and deleted only below the anchor.
CREATE FUNCTION agentdb_audit_log_kept() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF OLD.sequence <= (SELECT c.anchor_sequence FROM db_audit_chain AS c WHERE c.user_id = OLD.user_id) THEN
            RETURN OLD;
        END IF;
    END IF;
    RAISE EXCEPTION 'db_audit_log is append-only' USING HINT = 'Retention ([audit] keep_days) deletes what is old.';
END
$$;
CREATE TRIGGER db_audit_log_kept BEFORE UPDATE OR DELETE ON db_audit_log
    FOR EACH ROW EXECUTE FUNCTION agentdb_audit_log_kept();
CREATE TRIGGER db_audit_log_not_emptied BEFORE TRUNCATE ON db_audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION agentdb_audit_log_kept();

-- Chains only go on. One that retention emptied may be forgotten.
CREATE FUNCTION agentdb_audit_chain_kept() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF OLD.anchor_sequence = OLD.sequence THEN
            RETURN OLD;
        END IF;
    ELSIF TG_OP = 'UPDATE' THEN
        IF NEW.user_id = OLD.user_id AND NEW.sequence >= OLD.sequence AND NEW.anchor_sequence >= OLD.anchor_sequence THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'a chain of db_audit_log only goes on';
END
$$;
CREATE TRIGGER db_audit_chain_kept BEFORE UPDATE OR DELETE ON db_audit_chain
    FOR EACH ROW EXECUTE FUNCTION agentdb_audit_chain_kept();
CREATE TRIGGER db_audit_chain_not_emptied BEFORE TRUNCATE ON db_audit_chain
    FOR EACH STATEMENT EXECUTE FUNCTION agentdb_audit_chain_kept();
