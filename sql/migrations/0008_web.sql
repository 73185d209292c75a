-- Who may call the web server. Only hashes of tokens are kept, so that reading this table lets nobody in.

CREATE TABLE metamon.api_tokens (
    token_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL CHECK (name <> ''),
    role text NOT NULL CHECK (role IN ('viewer', 'approver', 'admin', 'ingest')),
    token_hash bytea NOT NULL UNIQUE CHECK (length(token_hash) = 32),
    created_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz
);
COMMENT ON TABLE metamon.api_tokens IS 'Tokens of the web server. A token is 256 random bits, shown once when it is made; its hash is all that is kept.';
COMMENT ON COLUMN metamon.api_tokens.token_id IS 'What the audit log calls it: token:ID.';
COMMENT ON COLUMN metamon.api_tokens.name IS 'Who or what uses it; unique among tokens that are not revoked.';
COMMENT ON COLUMN metamon.api_tokens.role IS 'viewer reads; approver also decides and posts events; admin does everything; ingest may only post traces, metrics and events.';
COMMENT ON COLUMN metamon.api_tokens.token_hash IS 'SHA-256 of the token.';
COMMENT ON COLUMN metamon.api_tokens.created_at IS 'When it was made (UTC).';
COMMENT ON COLUMN metamon.api_tokens.expires_at IS 'From then on it is refused; NULL: never.';
COMMENT ON COLUMN metamon.api_tokens.revoked_at IS 'When it was revoked; NULL while it is valid.';
COMMENT ON COLUMN metamon.api_tokens.last_used_at IS 'When it was last used, to within a minute.';
CREATE UNIQUE INDEX api_tokens_name ON metamon.api_tokens (name) WHERE revoked_at IS NULL;
REVOKE ALL ON metamon.api_tokens FROM metamon_analyst;
