-- How the pipeline itself is, for analysts.

CREATE OR REPLACE VIEW analytics.system_metrics WITH (security_invoker = true) AS
SELECT * FROM metamon.system_metrics;
COMMENT ON VIEW analytics.system_metrics IS 'Figures about Dagster, the database and the host, one row a figure and minute, for 90 days. What could not be measured has no row: that is not zero.';
SELECT metamon.copy_comments('metamon.system_metrics', 'analytics.system_metrics');

CREATE OR REPLACE VIEW analytics.slo_status WITH (security_invoker = true) AS
SELECT s.*, t.description, t.metric, t.direction, t.objective, t.dimension, t.dimension_value, t.kind, t.window_days, t.budget_days,
       t.accepted_at, t.accepted_by
FROM metamon.slo_status AS s
JOIN metamon.slo_targets AS t ON t.name = s.target;
COMMENT ON VIEW analytics.slo_status IS 'How each target stood at the end of each UTC day, with what it asks for.';
SELECT metamon.copy_comments('metamon.slo_status', 'analytics.slo_status');
SELECT metamon.copy_comments('metamon.slo_targets', 'analytics.slo_status');

CREATE OR REPLACE VIEW analytics.pipeline_failures WITH (security_invoker = true) AS
SELECT failed_at AS happened_at, 'run' AS what, job_name AS name, partition_key, 'ERROR' AS severity, dagster_run_id, message
FROM metamon.run_failures
UNION ALL
SELECT happened_at, 'check', asset_key || '.' || check_name, partition_key, severity, dagster_run_id, message
FROM metamon.dagster_events WHERE kind = 'check_failed';
COMMENT ON VIEW analytics.pipeline_failures IS 'Runs and asset checks of the pipeline that failed.';
SELECT metamon.copy_comments('metamon.dagster_events', 'analytics.pipeline_failures');
COMMENT ON COLUMN analytics.pipeline_failures.what IS 'run or check.';
COMMENT ON COLUMN analytics.pipeline_failures.name IS 'The job, or the asset and its check.';
