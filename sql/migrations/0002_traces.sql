-- What agents did: runs (roots in traces, children in spans), payloads, feedback, events, gauges; and the books kept about reading them.

CREATE TABLE metamon.traces (
    day date NOT NULL,
    source text NOT NULL,
    project text NOT NULL,
    run_id text NOT NULL,
    trace_id text NOT NULL,
    parent_run_id text,
    run_type text NOT NULL,
    name text,
    agent_name text,
    agent_version text,
    tool_name text,
    mode text,
    tenant_id text,
    user_id text,
    conversation_id text,
    environment text,
    start_time timestamptz NOT NULL,
    end_time timestamptz,
    first_token_time timestamptz,
    latency_seconds double precision,
    time_to_first_token_seconds double precision,
    status text NOT NULL,
    error_type text,
    error_message text,
    provider text,
    request_model text,
    response_model text,
    prompt_name text,
    prompt_version text,
    input_tokens bigint,
    output_tokens bigint,
    total_tokens bigint,
    cache_read_input_tokens bigint,
    cache_creation_input_tokens bigint,
    reasoning_output_tokens bigint,
    input_cost numeric(20,12),
    output_cost numeric(20,12),
    total_cost numeric(20,12),
    cost_source text NOT NULL,
    cache_hit boolean,
    quality_score double precision,
    degraded boolean,
    degradation_reason text,
    warnings text[],
    task_completed boolean,
    llm_calls integer,
    tool_calls integer,
    retrievals integer,
    variant text,
    tags text[],
    metadata jsonb,
    time_declared boolean NOT NULL DEFAULT false,
    root_inferred boolean NOT NULL DEFAULT false,
    derived_columns text[],
    observed_time timestamptz NOT NULL,
    ingested_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    content_hash bigint NOT NULL GENERATED ALWAYS AS (hash_record_extended(ROW(
        trace_id, parent_run_id, run_type, name, agent_name, agent_version, tool_name, mode, tenant_id,
        user_id, conversation_id, environment, start_time, end_time, first_token_time, latency_seconds,
        time_to_first_token_seconds, status, error_type, error_message, provider, request_model,
        response_model, prompt_name, prompt_version, input_tokens, output_tokens, total_tokens,
        cache_read_input_tokens, cache_creation_input_tokens, reasoning_output_tokens, input_cost,
        output_cost, total_cost, cost_source, cache_hit, quality_score, degraded, degradation_reason,
        warnings, task_completed, llm_calls, tool_calls, retrievals, variant, tags, metadata, time_declared,
        root_inferred), 0)) STORED,
    PRIMARY KEY (run_id, project, source, day),
    CHECK (status IN ('success', 'error', 'pending', 'abandoned')),
    CHECK (cost_source IN ('reported', 'computed', 'unpriced')),
    CHECK (end_time >= start_time), CHECK (latency_seconds >= 0), CHECK (time_to_first_token_seconds >= 0),
    CHECK ((cost_source = 'unpriced') = (total_cost IS NULL))
) PARTITION BY RANGE (day);
COMMENT ON TABLE metamon.traces IS 'One row per trace: its root run, with the figures of the whole trace. Partitioned by the UTC day of the root''s start. Newer versions replace older ones; rows that a source no longer has are kept.';
COMMENT ON COLUMN metamon.traces.day IS 'Partition key: UTC day on which the trace''s root started. Spans carry their root''s day.';
COMMENT ON COLUMN metamon.traces.source IS 'Where the run was read: langsmith, langsmith_export, otlp, files, live.';
COMMENT ON COLUMN metamon.traces.project IS 'The source''s own grouping of runs: LangSmith''s project, OpenTelemetry''s service, or the name given at ingest.';
COMMENT ON COLUMN metamon.traces.run_id IS 'Identifier of the run within source and project; for OTLP trace id and span id joined by a colon.';
COMMENT ON COLUMN metamon.traces.trace_id IS 'Identifier that all runs of one trace share.';
COMMENT ON COLUMN metamon.traces.parent_run_id IS 'Run that called this one; NULL for the root of a trace.';
COMMENT ON COLUMN metamon.traces.run_type IS 'What kind of work: chain, agent, llm, tool, retriever, embedding, reranker, guardrail, evaluator, prompt, parser, workflow.';
COMMENT ON COLUMN metamon.traces.name IS 'Name that the application gave the run.';
COMMENT ON COLUMN metamon.traces.agent_name IS 'Agent that did the work.';
COMMENT ON COLUMN metamon.traces.agent_version IS 'Version of the agent''s code or configuration.';
COMMENT ON COLUMN metamon.traces.tool_name IS 'Tool that was called, on runs of type tool.';
COMMENT ON COLUMN metamon.traces.mode IS 'Mode of operation that the application reports, such as fast or thorough.';
COMMENT ON COLUMN metamon.traces.tenant_id IS 'Customer on whose behalf the agent worked.';
COMMENT ON COLUMN metamon.traces.user_id IS 'Person on whose behalf the agent worked.';
COMMENT ON COLUMN metamon.traces.conversation_id IS 'Conversation (thread) that the trace belongs to.';
COMMENT ON COLUMN metamon.traces.environment IS 'Deployment environment, such as production.';
COMMENT ON COLUMN metamon.traces.start_time IS 'When the run started (UTC).';
COMMENT ON COLUMN metamon.traces.end_time IS 'When the run ended; NULL while it is pending or when the source does not tell.';
COMMENT ON COLUMN metamon.traces.first_token_time IS 'When the first token of the answer arrived.';
COMMENT ON COLUMN metamon.traces.latency_seconds IS 'Seconds from start to end; NULL when unknown, never 0 for unknown.';
COMMENT ON COLUMN metamon.traces.time_to_first_token_seconds IS 'Seconds from start to the first token; NULL when unknown.';
COMMENT ON COLUMN metamon.traces.status IS 'success, error, pending, or abandoned (still pending after 14 days: neither success nor error).';
COMMENT ON COLUMN metamon.traces.error_type IS 'Class of the error, such as RateLimitError.';
COMMENT ON COLUMN metamon.traces.error_message IS 'Message of the error, redacted.';
COMMENT ON COLUMN metamon.traces.provider IS 'Who serves the model, in OpenTelemetry''s names: openai, anthropic, aws.bedrock, …';
COMMENT ON COLUMN metamon.traces.request_model IS 'Model that was asked for.';
COMMENT ON COLUMN metamon.traces.response_model IS 'Model that answered, often a dated version of the requested one.';
COMMENT ON COLUMN metamon.traces.prompt_name IS 'Prompt template that was used.';
COMMENT ON COLUMN metamon.traces.prompt_version IS 'Version (commit) of the prompt template.';
COMMENT ON COLUMN metamon.traces.input_tokens IS 'Tokens sent to the model, cached ones included; NULL when unknown.';
COMMENT ON COLUMN metamon.traces.output_tokens IS 'Tokens that the model produced, reasoning included; NULL when unknown.';
COMMENT ON COLUMN metamon.traces.total_tokens IS 'input_tokens + output_tokens.';
COMMENT ON COLUMN metamon.traces.cache_read_input_tokens IS 'Part of input_tokens that the provider served from its prompt cache.';
COMMENT ON COLUMN metamon.traces.cache_creation_input_tokens IS 'Part of input_tokens that was written to the provider''s prompt cache.';
COMMENT ON COLUMN metamon.traces.reasoning_output_tokens IS 'Part of output_tokens spent on reasoning.';
COMMENT ON COLUMN metamon.traces.input_cost IS 'US dollars for the input tokens.';
COMMENT ON COLUMN metamon.traces.output_cost IS 'US dollars for the output tokens.';
COMMENT ON COLUMN metamon.traces.total_cost IS 'US dollars for the run; on roots, for the whole trace. NULL when unpriced, never 0 for unknown.';
COMMENT ON COLUMN metamon.traces.cost_source IS 'reported by the source, computed from the price table valid at the run''s date, or unpriced.';
COMMENT ON COLUMN metamon.traces.cache_hit IS 'Whether the application answered from its own cache; NULL when it does not say.';
COMMENT ON COLUMN metamon.traces.quality_score IS 'Quality as the application scored it, 0 to 1.';
COMMENT ON COLUMN metamon.traces.degraded IS 'Whether the answer was a degraded one (fallback, truncated, partial).';
COMMENT ON COLUMN metamon.traces.degradation_reason IS 'Why it was degraded.';
COMMENT ON COLUMN metamon.traces.warnings IS 'Warnings that the application attached, by type.';
COMMENT ON COLUMN metamon.traces.task_completed IS 'Whether the task was completed, where the application knows.';
COMMENT ON COLUMN metamon.traces.llm_calls IS 'Number of model calls in the trace; on roots only.';
COMMENT ON COLUMN metamon.traces.tool_calls IS 'Number of tool calls in the trace; on roots only.';
COMMENT ON COLUMN metamon.traces.retrievals IS 'Number of retrievals in the trace; on roots only.';
COMMENT ON COLUMN metamon.traces.variant IS 'Proposal and arm that served the run, as proposal:arm, when it was part of a rollout.';
COMMENT ON COLUMN metamon.traces.tags IS 'Labels that the source attached.';
COMMENT ON COLUMN metamon.traces.metadata IS 'Everything else that the source said about the run, redacted.';
COMMENT ON COLUMN metamon.traces.time_declared IS 'True when the source gave no time and start_time is one declared at ingest.';
COMMENT ON COLUMN metamon.traces.root_inferred IS 'True when the trace''s real root was never seen and its earliest topmost run stands in for it.';
COMMENT ON COLUMN metamon.traces.derived_columns IS 'Columns of a root that the source left empty and that were added up from the child runs.';
COMMENT ON COLUMN metamon.traces.observed_time IS 'How fresh this version is: when the source answered, or the file was last modified. Breaks ties between versions.';
COMMENT ON COLUMN metamon.traces.ingested_at IS 'When this version was written here.';
COMMENT ON COLUMN metamon.traces.content_hash IS 'Hash over what the source said, used to tell a changed row from an unchanged one.';
CREATE INDEX traces_time ON metamon.traces USING brin (start_time, end_time) WITH (pages_per_range = 32, autosummarize = on);
CREATE INDEX traces_trace ON metamon.traces (trace_id);
CREATE INDEX traces_inferred ON metamon.traces (trace_id) WHERE root_inferred;
CREATE INDEX traces_pending ON metamon.traces (run_id) WHERE status = 'pending';

CREATE TABLE metamon.spans (LIKE metamon.traces INCLUDING ALL EXCLUDING INDEXES) PARTITION BY RANGE (day);
ALTER TABLE metamon.spans ADD PRIMARY KEY (run_id, project, source, day);
COMMENT ON TABLE metamon.spans IS 'Child runs of the traces, in their root''s day and with the same columns. Sum traces or the leaves here, never both: a root already carries its children''s tokens and cost.';
CREATE INDEX spans_time ON metamon.spans USING brin (start_time, end_time) WITH (pages_per_range = 32, autosummarize = on);
CREATE INDEX spans_trace ON metamon.spans (trace_id);
CREATE INDEX spans_pending ON metamon.spans (run_id) WHERE status = 'pending';

CREATE TABLE metamon.payloads (
    day date NOT NULL,
    source text NOT NULL,
    project text NOT NULL,
    run_id text NOT NULL,
    inputs text,
    outputs text,
    observed_time timestamptz NOT NULL,
    ingested_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    content_hash bigint NOT NULL GENERATED ALWAYS AS (hash_record_extended(ROW(inputs, outputs), 0)) STORED,
    PRIMARY KEY (run_id, project, source, day)
) PARTITION BY RANGE (day);
COMMENT ON TABLE metamon.payloads IS 'What went into a run and what came out, redacted. Apart from traces so that analysts need not be granted it; empty when storing payloads is turned off.';
COMMENT ON COLUMN metamon.payloads.day IS 'Partition key: the day of the run''s trace.';
COMMENT ON COLUMN metamon.payloads.source IS 'Source of the run.';
COMMENT ON COLUMN metamon.payloads.project IS 'Project of the run.';
COMMENT ON COLUMN metamon.payloads.run_id IS 'The run, in traces or spans.';
COMMENT ON COLUMN metamon.payloads.inputs IS 'What the run was given: JSON or text, redacted, shortened past the configured size.';
COMMENT ON COLUMN metamon.payloads.outputs IS 'What the run produced: JSON or text, redacted, shortened past the configured size.';
COMMENT ON COLUMN metamon.payloads.observed_time IS 'How fresh this version is.';
COMMENT ON COLUMN metamon.payloads.ingested_at IS 'When this version was written here.';
COMMENT ON COLUMN metamon.payloads.content_hash IS 'Hash over inputs and outputs.';

CREATE TABLE metamon.feedback (
    day date NOT NULL,
    source text NOT NULL,
    project text NOT NULL,
    feedback_id text NOT NULL,
    run_id text,
    trace_id text,
    key text NOT NULL,
    score double precision,
    value text,
    comment text,
    correction jsonb,
    source_type text,
    evaluator_name text,
    evaluator_version text,
    user_id text,
    created_at timestamptz NOT NULL,
    modified_at timestamptz,
    metadata jsonb,
    observed_time timestamptz NOT NULL,
    ingested_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    content_hash bigint NOT NULL GENERATED ALWAYS AS (hash_record_extended(ROW(
        run_id, trace_id, key, score, value, comment, correction, source_type, evaluator_name, evaluator_version,
        user_id, created_at, modified_at, metadata), 0)) STORED,
    PRIMARY KEY (feedback_id, project, source, day)
) PARTITION BY RANGE (day);
COMMENT ON TABLE metamon.feedback IS 'Scores and comments on runs, from people, evaluators and models. In the UTC day on which the feedback was given, which can be days after its run; edits replace.';
COMMENT ON COLUMN metamon.feedback.day IS 'Partition key: UTC day of created_at.';
COMMENT ON COLUMN metamon.feedback.source IS 'Where the feedback was read.';
COMMENT ON COLUMN metamon.feedback.project IS 'Project within the source.';
COMMENT ON COLUMN metamon.feedback.feedback_id IS 'Identifier within source and project.';
COMMENT ON COLUMN metamon.feedback.run_id IS 'Run it is about; NULL for feedback on a whole project.';
COMMENT ON COLUMN metamon.feedback.trace_id IS 'Trace of that run, where the source tells.';
COMMENT ON COLUMN metamon.feedback.key IS 'What was judged: user_rating, thumbs, correctness, …';
COMMENT ON COLUMN metamon.feedback.score IS 'The judgement as a number, on the key''s own scale.';
COMMENT ON COLUMN metamon.feedback.value IS 'The judgement as a label, where it is one.';
COMMENT ON COLUMN metamon.feedback.comment IS 'What was said, redacted.';
COMMENT ON COLUMN metamon.feedback.correction IS 'What the answer should have been.';
COMMENT ON COLUMN metamon.feedback.source_type IS 'Who judged: human, llm, code, api.';
COMMENT ON COLUMN metamon.feedback.evaluator_name IS 'Evaluator that judged, when it was one.';
COMMENT ON COLUMN metamon.feedback.evaluator_version IS 'Version of that evaluator.';
COMMENT ON COLUMN metamon.feedback.user_id IS 'Person who judged.';
COMMENT ON COLUMN metamon.feedback.created_at IS 'When it was given (UTC).';
COMMENT ON COLUMN metamon.feedback.modified_at IS 'When it was last edited at the source.';
COMMENT ON COLUMN metamon.feedback.metadata IS 'Everything else that the source said about it.';
COMMENT ON COLUMN metamon.feedback.observed_time IS 'How fresh this version is.';
COMMENT ON COLUMN metamon.feedback.ingested_at IS 'When this version was written here.';
COMMENT ON COLUMN metamon.feedback.content_hash IS 'Hash over what the source said.';
CREATE INDEX feedback_run ON metamon.feedback (run_id);

CREATE TABLE metamon.events (
    source text NOT NULL,
    project text NOT NULL,
    event_id text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('deployment', 'version', 'model', 'prompt', 'configuration', 'incident', 'other')),
    agent_name text,
    version text,
    commit_sha text,
    url text,
    actor text,
    time timestamptz NOT NULL,
    inferred boolean NOT NULL DEFAULT false,
    metadata jsonb,
    observed_time timestamptz NOT NULL,
    ingested_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    content_hash bigint NOT NULL GENERATED ALWAYS AS (hash_record_extended(ROW(
        kind, agent_name, version, commit_sha, url, actor, time, inferred, metadata), 0)) STORED,
    PRIMARY KEY (event_id, project, source)
);
COMMENT ON TABLE metamon.events IS 'Deployments and other changes that charts and change points refer to; also those inferred from the first sighting of a version, model or prompt.';
COMMENT ON COLUMN metamon.events.source IS 'Where the event was read; inferred for those that traces gave away.';
COMMENT ON COLUMN metamon.events.project IS 'Project within the source.';
COMMENT ON COLUMN metamon.events.event_id IS 'Identifier within source and project.';
COMMENT ON COLUMN metamon.events.kind IS 'deployment, version, model, prompt, configuration, incident or other.';
COMMENT ON COLUMN metamon.events.agent_name IS 'Agent it concerns; NULL for all.';
COMMENT ON COLUMN metamon.events.version IS 'What the agent, model or prompt changed to.';
COMMENT ON COLUMN metamon.events.commit_sha IS 'Commit that was deployed.';
COMMENT ON COLUMN metamon.events.url IS 'Page that tells more.';
COMMENT ON COLUMN metamon.events.actor IS 'Who did it.';
COMMENT ON COLUMN metamon.events.time IS 'When it happened (UTC).';
COMMENT ON COLUMN metamon.events.inferred IS 'True when nobody reported it and it was inferred from the first sighting in the traces.';
COMMENT ON COLUMN metamon.events.metadata IS 'Everything else that was said about it.';
COMMENT ON COLUMN metamon.events.observed_time IS 'How fresh this version is.';
COMMENT ON COLUMN metamon.events.ingested_at IS 'When this version was written here.';
COMMENT ON COLUMN metamon.events.content_hash IS 'Hash over what was said.';
CREATE INDEX events_time ON metamon.events (time);

CREATE TABLE metamon.first_sightings (
    project text NOT NULL,
    agent_name text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('version', 'model', 'prompt')),
    value text NOT NULL,
    first_time timestamptz NOT NULL,
    PRIMARY KEY (project, agent_name, kind, value)
);
COMMENT ON TABLE metamon.first_sightings IS 'When each version, model and prompt of an agent was first seen in the traces: what inferred events are derived from.';
COMMENT ON COLUMN metamon.first_sightings.project IS 'Project of the traces.';
COMMENT ON COLUMN metamon.first_sightings.agent_name IS 'Agent that showed it.';
COMMENT ON COLUMN metamon.first_sightings.kind IS 'version, model or prompt.';
COMMENT ON COLUMN metamon.first_sightings.value IS 'The version, the requested model, or the prompt''s name and version.';
COMMENT ON COLUMN metamon.first_sightings.first_time IS 'Earliest start of a run that showed it.';

CREATE TABLE metamon.gauge_samples (
    day date NOT NULL,
    source text NOT NULL,
    project text NOT NULL,
    name text NOT NULL,
    time timestamptz NOT NULL,
    labels jsonb NOT NULL DEFAULT '{}',
    kind text NOT NULL DEFAULT 'gauge' CHECK (kind IN ('gauge', 'counter')),
    value double precision NOT NULL,
    unit text,
    observed_time timestamptz NOT NULL,
    ingested_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    content_hash bigint NOT NULL GENERATED ALWAYS AS (hash_record_extended(ROW(kind, value, unit), 0)) STORED,
    PRIMARY KEY (name, time, labels, project, source, day)
) PARTITION BY RANGE (day);
COMMENT ON TABLE metamon.gauge_samples IS 'Readings that traces cannot tell: cache size and operations, queue length, workers, memory. In the UTC day of the reading.';
COMMENT ON COLUMN metamon.gauge_samples.day IS 'Partition key: UTC day of time.';
COMMENT ON COLUMN metamon.gauge_samples.source IS 'Where the reading was read.';
COMMENT ON COLUMN metamon.gauge_samples.project IS 'Project within the source.';
COMMENT ON COLUMN metamon.gauge_samples.name IS 'What was measured, such as cache_size or cache_operations.';
COMMENT ON COLUMN metamon.gauge_samples.time IS 'When it was measured (UTC).';
COMMENT ON COLUMN metamon.gauge_samples.labels IS 'What tells readings of one name apart, such as the operation or the cache.';
COMMENT ON COLUMN metamon.gauge_samples.kind IS 'gauge: a level; counter: the increase since the sample before.';
COMMENT ON COLUMN metamon.gauge_samples.value IS 'The reading.';
COMMENT ON COLUMN metamon.gauge_samples.unit IS 'Its unit, in UCUM where there is one.';
COMMENT ON COLUMN metamon.gauge_samples.observed_time IS 'How fresh this version is.';
COMMENT ON COLUMN metamon.gauge_samples.ingested_at IS 'When this version was written here.';
COMMENT ON COLUMN metamon.gauge_samples.content_hash IS 'Hash over the reading.';

CREATE TABLE metamon.ingestion_ledger (
    ledger_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source text NOT NULL,
    project text NOT NULL,
    kind text NOT NULL,
    window_start timestamptz,
    window_end timestamptz,
    started_at timestamptz NOT NULL,
    finished_at timestamptz,
    status text NOT NULL CHECK (status IN ('running', 'complete', 'empty', 'failed')),
    rows_read bigint NOT NULL DEFAULT 0,
    rows_inserted bigint NOT NULL DEFAULT 0,
    rows_updated bigint NOT NULL DEFAULT 0,
    rows_unchanged bigint NOT NULL DEFAULT 0,
    rows_duplicate bigint NOT NULL DEFAULT 0,
    rows_moved bigint NOT NULL DEFAULT 0,
    rows_excluded bigint NOT NULL DEFAULT 0,
    rows_rejected bigint NOT NULL DEFAULT 0,
    rows_outside bigint NOT NULL DEFAULT 0,
    reject_reasons jsonb NOT NULL DEFAULT '{}',
    days date[] NOT NULL DEFAULT '{}',
    source_runs bigint,
    source_cost numeric(20, 12),
    dagster_run_id text,
    message text
);
COMMENT ON TABLE metamon.ingestion_ledger IS 'The books of ingestion: one row per source, kind of row and window that was read, however it ended. read = inserted + updated + unchanged + duplicate + excluded + rejected + outside.';
COMMENT ON COLUMN metamon.ingestion_ledger.ledger_id IS 'Order in which the reads were booked.';
COMMENT ON COLUMN metamon.ingestion_ledger.source IS 'Source that was read.';
COMMENT ON COLUMN metamon.ingestion_ledger.project IS 'Project within the source.';
COMMENT ON COLUMN metamon.ingestion_ledger.kind IS 'runs, feedback, events or gauges.';
COMMENT ON COLUMN metamon.ingestion_ledger.window_start IS 'Start of the window (inclusive); NULL when everything was read.';
COMMENT ON COLUMN metamon.ingestion_ledger.window_end IS 'End of the window (exclusive); NULL when everything was read.';
COMMENT ON COLUMN metamon.ingestion_ledger.started_at IS 'When reading began.';
COMMENT ON COLUMN metamon.ingestion_ledger.finished_at IS 'When the rows were committed or the read was given up.';
COMMENT ON COLUMN metamon.ingestion_ledger.status IS 'running; complete; empty: the source answered and had no rows; failed: nothing was written and message says why.';
COMMENT ON COLUMN metamon.ingestion_ledger.rows_read IS 'Rows that the source gave, rejected ones included.';
COMMENT ON COLUMN metamon.ingestion_ledger.rows_inserted IS 'Rows that were new here.';
COMMENT ON COLUMN metamon.ingestion_ledger.rows_updated IS 'Rows that replaced an older version.';
COMMENT ON COLUMN metamon.ingestion_ledger.rows_unchanged IS 'Rows already here in this or a newer version.';
COMMENT ON COLUMN metamon.ingestion_ledger.rows_duplicate IS 'Rows that stood more than once in this read.';
COMMENT ON COLUMN metamon.ingestion_ledger.rows_moved IS 'Rows among the inserted and updated that came from another day.';
COMMENT ON COLUMN metamon.ingestion_ledger.rows_excluded IS 'Rows left out by the exclusion list.';
COMMENT ON COLUMN metamon.ingestion_ledger.rows_rejected IS 'Rows that went to quarantine.';
COMMENT ON COLUMN metamon.ingestion_ledger.rows_outside IS 'Rows that the source gave beyond the window.';
COMMENT ON COLUMN metamon.ingestion_ledger.reject_reasons IS 'Rejected rows by reason.';
COMMENT ON COLUMN metamon.ingestion_ledger.days IS 'UTC days whose rows changed.';
COMMENT ON COLUMN metamon.ingestion_ledger.source_runs IS 'Root runs that the source itself counts for the window; NULL when it does not tell.';
COMMENT ON COLUMN metamon.ingestion_ledger.source_cost IS 'Cost that the source itself reports for the window; NULL when it does not tell.';
COMMENT ON COLUMN metamon.ingestion_ledger.dagster_run_id IS 'Dagster run that did it; NULL by hand.';
COMMENT ON COLUMN metamon.ingestion_ledger.message IS 'What went wrong, where, and how to mend it.';
CREATE INDEX ingestion_ledger_window ON metamon.ingestion_ledger (source, project, kind, window_start);

CREATE TABLE quarantine.rejected_rows (
    reject_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    ledger_id bigint NOT NULL REFERENCES metamon.ingestion_ledger,
    source text NOT NULL,
    project text NOT NULL,
    kind text NOT NULL,
    reason text NOT NULL,
    detail text NOT NULL,
    location text NOT NULL,
    run_id text,
    raw text NOT NULL,
    fingerprint text NOT NULL,
    first_rejected_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    last_rejected_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    times_rejected integer NOT NULL DEFAULT 1,
    replayed_at timestamptz,
    UNIQUE (source, project, kind, fingerprint)
);
COMMENT ON TABLE quarantine.rejected_rows IS 'Rows that could not be accepted, once each however often they are read. metamon replay reads them again after the cause is mended.';
COMMENT ON COLUMN quarantine.rejected_rows.reject_id IS 'Identifier.';
COMMENT ON COLUMN quarantine.rejected_rows.ledger_id IS 'Read that rejected it last.';
COMMENT ON COLUMN quarantine.rejected_rows.source IS 'Source it came from.';
COMMENT ON COLUMN quarantine.rejected_rows.project IS 'Project within the source.';
COMMENT ON COLUMN quarantine.rejected_rows.kind IS 'runs, feedback, events or gauges.';
COMMENT ON COLUMN quarantine.rejected_rows.reason IS 'Short stable code, such as malformed_json or end_before_start.';
COMMENT ON COLUMN quarantine.rejected_rows.detail IS 'What is wrong and how to mend it.';
COMMENT ON COLUMN quarantine.rejected_rows.location IS 'Where the row stood: file and line, or page.';
COMMENT ON COLUMN quarantine.rejected_rows.run_id IS 'Its run, where that could be read.';
COMMENT ON COLUMN quarantine.rejected_rows.raw IS 'The row as it came, redacted, without payloads when storing them is off, shortened past 64 kB.';
COMMENT ON COLUMN quarantine.rejected_rows.fingerprint IS 'Hash of reason and row, so that reading it again does not add it again.';
COMMENT ON COLUMN quarantine.rejected_rows.first_rejected_at IS 'When it was rejected first.';
COMMENT ON COLUMN quarantine.rejected_rows.last_rejected_at IS 'When it was rejected last.';
COMMENT ON COLUMN quarantine.rejected_rows.times_rejected IS 'How many reads rejected it.';
COMMENT ON COLUMN quarantine.rejected_rows.replayed_at IS 'When it was accepted after all; NULL while it waits.';

CREATE TABLE metamon.source_files (
    path text NOT NULL,
    source text NOT NULL,
    project text NOT NULL,
    kind text NOT NULL,
    size_bytes bigint NOT NULL,
    modified_at timestamptz NOT NULL,
    first_time timestamptz,
    last_time timestamptz,
    rows bigint NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    PRIMARY KEY (path, kind, project, source)
);
COMMENT ON TABLE metamon.source_files IS 'Catalogue of the files that were read, so that a day''s read opens only files that can hold rows of it.';
COMMENT ON COLUMN metamon.source_files.path IS 'The file.';
COMMENT ON COLUMN metamon.source_files.source IS 'Source it belongs to.';
COMMENT ON COLUMN metamon.source_files.project IS 'Project its rows were given.';
COMMENT ON COLUMN metamon.source_files.kind IS 'What was read from it: runs, feedback, events or gauges.';
COMMENT ON COLUMN metamon.source_files.size_bytes IS 'Size when it was last read.';
COMMENT ON COLUMN metamon.source_files.modified_at IS 'Time of its last modification when it was last read.';
COMMENT ON COLUMN metamon.source_files.first_time IS 'Earliest start (feedback: creation, others: time) in it.';
COMMENT ON COLUMN metamon.source_files.last_time IS 'Latest start (feedback: creation, others: time) in it.';
COMMENT ON COLUMN metamon.source_files.rows IS 'Rows in it.';
COMMENT ON COLUMN metamon.source_files.seen_at IS 'When it was last read.';

CREATE TABLE metamon.price_overrides (
    provider text NOT NULL,
    model text NOT NULL,
    valid_from date NOT NULL,
    input_per_million numeric(20, 12),
    output_per_million numeric(20, 12),
    cache_read_per_million numeric(20, 12),
    cache_creation_per_million numeric(20, 12),
    note text,
    PRIMARY KEY (provider, model, valid_from)
);
COMMENT ON TABLE metamon.price_overrides IS 'Prices that go before the bundled price table: contracts, self-hosted models.';
COMMENT ON COLUMN metamon.price_overrides.provider IS 'Provider as in traces.provider; * for any.';
COMMENT ON COLUMN metamon.price_overrides.model IS 'Model as in traces, requested or answering.';
COMMENT ON COLUMN metamon.price_overrides.valid_from IS 'First UTC day on which the price holds, until the next one.';
COMMENT ON COLUMN metamon.price_overrides.input_per_million IS 'US dollars for a million input tokens that were neither read from nor written to the cache.';
COMMENT ON COLUMN metamon.price_overrides.output_per_million IS 'US dollars for a million output tokens.';
COMMENT ON COLUMN metamon.price_overrides.cache_read_per_million IS 'US dollars for a million tokens read from the cache; NULL: as input.';
COMMENT ON COLUMN metamon.price_overrides.cache_creation_per_million IS 'US dollars for a million tokens written to the cache; NULL: as input.';
COMMENT ON COLUMN metamon.price_overrides.note IS 'Where the price comes from.';
