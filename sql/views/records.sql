-- What came beside the runs, for analysts: feedback, events, and the books of ingestion.

CREATE OR REPLACE VIEW analytics.feedback WITH (security_invoker = true) AS
SELECT day, source, project, feedback_id, run_id, trace_id, key, score, value, comment, correction, source_type, evaluator_name,
       evaluator_version, user_id, created_at, modified_at, metadata, observed_time, ingested_at
FROM metamon.feedback;
COMMENT ON VIEW analytics.feedback IS 'Scores and comments on runs, in the UTC day on which they were given. Join runs on run_id, project and source.';
SELECT metamon.copy_comments('metamon.feedback', 'analytics.feedback');

CREATE OR REPLACE VIEW analytics.events WITH (security_invoker = true) AS
SELECT source, project, event_id, kind, agent_name, version, commit_sha, url, actor, time, inferred, metadata, observed_time,
       ingested_at
FROM metamon.events;
COMMENT ON VIEW analytics.events IS 'Deployments and other changes, reported or inferred from first sightings.';
SELECT metamon.copy_comments('metamon.events', 'analytics.events');

CREATE OR REPLACE VIEW analytics.ingestion_ledger WITH (security_invoker = true) AS
SELECT ledger_id, source, project, kind, window_start, window_end, started_at, finished_at, status, rows_read, rows_inserted,
       rows_updated, rows_unchanged, rows_duplicate, rows_moved, rows_excluded, rows_rejected, rows_outside, reject_reasons,
       days, source_runs, source_cost, dagster_run_id, message, live
FROM metamon.ingestion_ledger;
COMMENT ON VIEW analytics.ingestion_ledger IS 'What every read of a source brought: rows read, written, unchanged, rejected, and what went wrong.';
SELECT metamon.copy_comments('metamon.ingestion_ledger', 'analytics.ingestion_ledger');
