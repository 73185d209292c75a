-- The pipeline's own state: signs of life, and the runs of it that failed.

CREATE TABLE metamon.heartbeats (
    component text PRIMARY KEY,
    beat_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    detail jsonb NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE metamon.heartbeats IS 'The last sign of life of each part of the system; one that is older than a few minutes means that the part is down.';
COMMENT ON COLUMN metamon.heartbeats.component IS 'Which part: dagster_daemon, …';
COMMENT ON COLUMN metamon.heartbeats.beat_at IS 'When it was last seen alive (UTC).';
COMMENT ON COLUMN metamon.heartbeats.detail IS 'What it said about itself.';

CREATE TABLE metamon.run_failures (
    dagster_run_id text PRIMARY KEY,
    job_name text NOT NULL,
    partition_key text,
    failed_at timestamptz NOT NULL,
    step_keys text[] NOT NULL DEFAULT '{}',
    message text NOT NULL
);
COMMENT ON TABLE metamon.run_failures IS 'Runs of the pipeline that failed, with the reason, so that alerts and reports need not ask Dagster.';
COMMENT ON COLUMN metamon.run_failures.dagster_run_id IS 'The run in Dagster.';
COMMENT ON COLUMN metamon.run_failures.job_name IS 'Job that it ran.';
COMMENT ON COLUMN metamon.run_failures.partition_key IS 'Day, or first and last day joined by an ellipsis, that it was about.';
COMMENT ON COLUMN metamon.run_failures.failed_at IS 'When it failed (UTC).';
COMMENT ON COLUMN metamon.run_failures.step_keys IS 'Steps that failed.';
COMMENT ON COLUMN metamon.run_failures.message IS 'What went wrong, redacted.';
