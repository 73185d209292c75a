-- What agents did, for analysts. Columns are those of the tables, whose comments they carry (metamon.copy_comments);
-- runs and langsmith_runs put roots and children together.

CREATE OR REPLACE VIEW analytics.traces WITH (security_invoker = true) AS
SELECT day, source, project, run_id, trace_id, parent_run_id, run_type, name, agent_name, agent_version, tool_name, mode,
       tenant_id, user_id, conversation_id, environment, start_time, end_time, first_token_time, latency_seconds,
       time_to_first_token_seconds, status, error_type, error_message, provider, request_model, response_model, prompt_name,
       prompt_version, input_tokens, output_tokens, total_tokens, cache_read_input_tokens, cache_creation_input_tokens,
       reasoning_output_tokens, input_cost, output_cost, total_cost, cost_source, cache_hit, quality_score, degraded,
       degradation_reason, warnings, task_completed, llm_calls, tool_calls, retrievals, variant, tags, metadata, time_declared,
       root_inferred, derived_columns, observed_time, ingested_at
FROM metamon.traces;
COMMENT ON VIEW analytics.traces IS 'One row per trace: its root run, with the figures of the whole trace. Filter by day to read only what is asked for.';
SELECT metamon.copy_comments('metamon.traces', 'analytics.traces');

CREATE OR REPLACE VIEW analytics.spans WITH (security_invoker = true) AS
SELECT day, source, project, run_id, trace_id, parent_run_id, run_type, name, agent_name, agent_version, tool_name, mode,
       tenant_id, user_id, conversation_id, environment, start_time, end_time, first_token_time, latency_seconds,
       time_to_first_token_seconds, status, error_type, error_message, provider, request_model, response_model, prompt_name,
       prompt_version, input_tokens, output_tokens, total_tokens, cache_read_input_tokens, cache_creation_input_tokens,
       reasoning_output_tokens, input_cost, output_cost, total_cost, cost_source, cache_hit, quality_score, degraded,
       degradation_reason, warnings, task_completed, llm_calls, tool_calls, retrievals, variant, tags, metadata, time_declared,
       root_inferred, derived_columns, observed_time, ingested_at
FROM metamon.spans;
COMMENT ON VIEW analytics.spans IS 'Child runs of the traces, in their root''s day. Sum traces or the leaves here, never both: a root already carries its children''s cost.';
SELECT metamon.copy_comments('metamon.spans', 'analytics.spans');

CREATE OR REPLACE VIEW analytics.runs WITH (security_invoker = true) AS
SELECT true AS is_root, day, source, project, run_id, trace_id, parent_run_id, run_type, name, agent_name, agent_version, tool_name, mode,
       tenant_id, user_id, conversation_id, environment, start_time, end_time, first_token_time, latency_seconds,
       time_to_first_token_seconds, status, error_type, error_message, provider, request_model, response_model, prompt_name,
       prompt_version, input_tokens, output_tokens, total_tokens, cache_read_input_tokens, cache_creation_input_tokens,
       reasoning_output_tokens, input_cost, output_cost, total_cost, cost_source, cache_hit, quality_score, degraded,
       degradation_reason, warnings, task_completed, llm_calls, tool_calls, retrievals, variant, tags, metadata, time_declared,
       root_inferred, derived_columns, observed_time, ingested_at
FROM metamon.traces
UNION ALL
SELECT false, day, source, project, run_id, trace_id, parent_run_id, run_type, name, agent_name, agent_version, tool_name, mode,
       tenant_id, user_id, conversation_id, environment, start_time, end_time, first_token_time, latency_seconds,
       time_to_first_token_seconds, status, error_type, error_message, provider, request_model, response_model, prompt_name,
       prompt_version, input_tokens, output_tokens, total_tokens, cache_read_input_tokens, cache_creation_input_tokens,
       reasoning_output_tokens, input_cost, output_cost, total_cost, cost_source, cache_hit, quality_score, degraded,
       degradation_reason, warnings, task_completed, llm_calls, tool_calls, retrievals, variant, tags, metadata, time_declared,
       root_inferred, derived_columns, observed_time, ingested_at
FROM metamon.spans;
COMMENT ON VIEW analytics.runs IS 'Every run, roots and children. Sum the roots (is_root) or the leaves, never all: a root already carries its children''s cost.';
SELECT metamon.copy_comments('metamon.traces', 'analytics.runs');
COMMENT ON COLUMN analytics.runs.is_root IS 'True for the root of a trace, whose figures are those of the whole trace.';

CREATE OR REPLACE VIEW analytics.langsmith_runs WITH (security_invoker = true) AS
SELECT day, run_id AS id, trace_id, parent_run_id, is_root, project AS session_id, name, run_type, start_time, end_time,
       first_token_time, latency_seconds AS latency, status, coalesce(error_message, error_type) AS error,
       input_tokens AS prompt_tokens, output_tokens AS completion_tokens, total_tokens, input_cost AS prompt_cost,
       output_cost AS completion_cost, total_cost, conversation_id AS thread_id, tags, metadata, source
FROM analytics.runs;
COMMENT ON VIEW analytics.langsmith_runs IS 'analytics.runs under LangSmith''s names, for queries and people that come from there. Runs of every source.';
SELECT metamon.copy_comments('analytics.runs', 'analytics.langsmith_runs');
COMMENT ON COLUMN analytics.langsmith_runs.id IS 'run_id: identifier of the run within source and project.';
COMMENT ON COLUMN analytics.langsmith_runs.session_id IS 'project: LangSmith means its project by session_id; here by name. The conversation is thread_id.';
COMMENT ON COLUMN analytics.langsmith_runs.latency IS 'latency_seconds: seconds from start to end; NULL when unknown.';
COMMENT ON COLUMN analytics.langsmith_runs.error IS 'error_message, redacted, or error_type where there is no message; NULL when the run did not fail.';
COMMENT ON COLUMN analytics.langsmith_runs.prompt_tokens IS 'input_tokens: tokens sent to the model, cached ones included; NULL when unknown.';
COMMENT ON COLUMN analytics.langsmith_runs.completion_tokens IS 'output_tokens: tokens that the model produced, reasoning included; NULL when unknown.';
COMMENT ON COLUMN analytics.langsmith_runs.prompt_cost IS 'input_cost: US dollars for the input tokens.';
COMMENT ON COLUMN analytics.langsmith_runs.completion_cost IS 'output_cost: US dollars for the output tokens.';
COMMENT ON COLUMN analytics.langsmith_runs.thread_id IS 'conversation_id: conversation (thread) that the trace belongs to.';
