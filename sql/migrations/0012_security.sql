-- What looked dangerous in the texts of runs, found while they were read (ALR-31). Never the text, nor anything made from it.

CREATE TABLE metamon.security_flags (
    day date NOT NULL,
    source text NOT NULL,
    project text NOT NULL,
    trace_id text NOT NULL,
    run_id text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('secret_in_output', 'secret_in_error', 'secret_in_input', 'exfiltration_link', 'prompt_injection')),
    place text NOT NULL CHECK (place IN ('input', 'output', 'error_message')),
    agent_name text,
    tenant_id text,
    start_time timestamptz NOT NULL,
    flagged_at timestamptz NOT NULL,
    PRIMARY KEY (source, project, run_id, kind, place, day)
);
COMMENT ON TABLE metamon.security_flags IS 'Signs of secrets, injected instructions and links that carry data away, found in the texts of runs before they were redacted, whether or not payloads are stored. Written with the run, in the same transaction; reading it again adds nothing.';
COMMENT ON COLUMN metamon.security_flags.day IS 'UTC day on which the run itself started; its trace may have begun the day before.';
COMMENT ON COLUMN metamon.security_flags.source IS 'Where the run was read.';
COMMENT ON COLUMN metamon.security_flags.project IS 'Project within the source.';
COMMENT ON COLUMN metamon.security_flags.trace_id IS 'Trace that the run belongs to.';
COMMENT ON COLUMN metamon.security_flags.run_id IS 'Run whose text it was found in: the root or a span.';
COMMENT ON COLUMN metamon.security_flags.kind IS 'secret_in_output, secret_in_error, secret_in_input, exfiltration_link or prompt_injection.';
COMMENT ON COLUMN metamon.security_flags.place IS 'Text that it was found in: input, output or error_message.';
COMMENT ON COLUMN metamon.security_flags.agent_name IS 'Agent that the run names; NULL where it names none, look at the root of its trace then.';
COMMENT ON COLUMN metamon.security_flags.tenant_id IS 'Tenant that the run names.';
COMMENT ON COLUMN metamon.security_flags.start_time IS 'When the run started (UTC).';
COMMENT ON COLUMN metamon.security_flags.flagged_at IS 'Time of the read that found it first.';
CREATE INDEX security_flags_time ON metamon.security_flags (start_time);
CREATE INDEX security_flags_trace ON metamon.security_flags (trace_id);
