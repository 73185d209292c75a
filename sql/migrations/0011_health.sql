-- How the pipeline itself is: its figures, what it should be (targets with error budgets), and what Dagster found wrong.

CREATE TABLE metamon.system_metrics (
    time timestamptz NOT NULL,
    name text NOT NULL,
    component text NOT NULL DEFAULT '',
    value double precision NOT NULL,
    PRIMARY KEY (name, component, time)
);
CREATE INDEX system_metrics_time ON metamon.system_metrics USING brin (time) WITH (pages_per_range = 16, autosummarize = on);
COMMENT ON TABLE metamon.system_metrics IS 'Figures about Dagster, the database and the host, one row a figure and minute, for 90 days. What could not be measured has no row: that is not zero.';
COMMENT ON COLUMN metamon.system_metrics.time IS 'When it was measured (UTC).';
COMMENT ON COLUMN metamon.system_metrics.name IS 'Which figure: queue_length, host_memory_share, …; docs/health.md lists them.';
COMMENT ON COLUMN metamon.system_metrics.component IS 'What it is about, for figures that there are several of (by sensor, job, part of the system); empty for those about the whole.';
COMMENT ON COLUMN metamon.system_metrics.value IS 'The figure: seconds, bytes, shares from 0 to 1, or a number.';

CREATE TABLE metamon.slo_targets (
    name text PRIMARY KEY,
    description text NOT NULL,
    metric text NOT NULL,
    direction text NOT NULL CHECK (direction IN ('at_most', 'at_least')),
    objective double precision NOT NULL,
    dimension text NOT NULL DEFAULT 'overall',
    dimension_value text NOT NULL DEFAULT '(all)',
    kind text NOT NULL CHECK (kind IN ('share', 'level', 'amount')),
    window_days integer NOT NULL DEFAULT 1 CHECK (window_days > 0),
    budget_days integer NOT NULL DEFAULT 30 CHECK (budget_days >= window_days),
    suggested_at timestamptz NOT NULL,
    accepted_at timestamptz,
    accepted_by text,
    CHECK ((accepted_at IS NULL) = (accepted_by IS NULL)),
    CHECK (kind <> 'share' OR objective BETWEEN 0 AND 1)
);
COMMENT ON TABLE metamon.slo_targets IS 'What metrics should be. A target is a suggestion until a person accepts it; suggestions are measured, and never alert.';
COMMENT ON COLUMN metamon.slo_targets.name IS 'Name of the target; those of metamon.yaml are AGENT.METRIC.min or .max.';
COMMENT ON COLUMN metamon.slo_targets.description IS 'What is wanted, in words.';
COMMENT ON COLUMN metamon.slo_targets.metric IS 'A metric of the rollups, uptime, engagement, or a figure of metamon.system_metrics; METRIC.change is its difference from the window before.';
COMMENT ON COLUMN metamon.slo_targets.direction IS 'at_most: the metric should not be above the objective; at_least: not below it.';
COMMENT ON COLUMN metamon.slo_targets.objective IS 'The bound, in the metric''s own unit.';
COMMENT ON COLUMN metamon.slo_targets.dimension IS 'Dimension of the rollups: overall, agent, tenant, ….';
COMMENT ON COLUMN metamon.slo_targets.dimension_value IS 'Value of the dimension; (all) for overall.';
COMMENT ON COLUMN metamon.slo_targets.kind IS 'share: good events of all events; level: a mean, percentile or difference; amount: a sum, such as dollars.';
COMMENT ON COLUMN metamon.slo_targets.window_days IS 'The value of a day is that of so many days up to it.';
COMMENT ON COLUMN metamon.slo_targets.budget_days IS 'Days over which the error budget is counted.';
COMMENT ON COLUMN metamon.slo_targets.suggested_at IS 'When it was suggested (UTC).';
COMMENT ON COLUMN metamon.slo_targets.accepted_at IS 'When it was accepted (UTC); NULL: a suggestion.';
COMMENT ON COLUMN metamon.slo_targets.accepted_by IS 'Who accepted it; metamon.yaml for those that stand there.';

CREATE TABLE metamon.slo_status (
    day date NOT NULL,
    target text NOT NULL,
    good double precision,
    total double precision,
    value double precision,
    met boolean,
    error_budget_left double precision,
    burn_5m double precision,
    burn_30m double precision,
    burn_1h double precision,
    burn_6h double precision,
    burn_3d double precision,
    remark text,
    computed_at timestamptz NOT NULL,
    PRIMARY KEY (day, target)
);
COMMENT ON TABLE metamon.slo_status IS 'How each target stood at the end of each UTC day, as far as the day had gone when it was computed.';
COMMENT ON COLUMN metamon.slo_status.day IS 'UTC day.';
COMMENT ON COLUMN metamon.slo_status.target IS 'Name in metamon.slo_targets.';
COMMENT ON COLUMN metamon.slo_status.good IS 'Good events of the window (kind share); NULL for the other kinds and without data.';
COMMENT ON COLUMN metamon.slo_status.total IS 'Events, values or requests that the value rests on; NULL without data.';
COMMENT ON COLUMN metamon.slo_status.value IS 'The metric over the target''s window up to the day; NULL without data.';
COMMENT ON COLUMN metamon.slo_status.met IS 'Whether the value is on the right side of the objective; NULL without data.';
COMMENT ON COLUMN metamon.slo_status.error_budget_left IS 'Share of the error budget that is left over budget_days: 1 untouched, 0 used up, negative beyond. Shares: bad events against those allowed; levels: days that missed, of which one in twenty is allowed; amounts: the rest of the amount.';
COMMENT ON COLUMN metamon.slo_status.burn_5m IS 'Burn rate over the last 5 minutes: 1 uses the budget up exactly in its time. Shares: bad share against the allowed one; amounts: pace against an even one; levels: value against the objective. NULL where buckets of minutes do not tell.';
COMMENT ON COLUMN metamon.slo_status.burn_30m IS 'The same over 30 minutes.';
COMMENT ON COLUMN metamon.slo_status.burn_1h IS 'The same over one hour.';
COMMENT ON COLUMN metamon.slo_status.burn_6h IS 'The same over six hours.';
COMMENT ON COLUMN metamon.slo_status.burn_3d IS 'The same over three days.';
COMMENT ON COLUMN metamon.slo_status.remark IS 'Why there is no value; NULL when there is one.';
COMMENT ON COLUMN metamon.slo_status.computed_at IS 'When this row was computed (UTC).';

CREATE TABLE metamon.dagster_events (
    event_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    storage_id bigint NOT NULL,
    kind text NOT NULL CHECK (kind IN ('check_failed', 'check_passed')),
    asset_key text NOT NULL,
    check_name text NOT NULL,
    partition_key text,
    severity text NOT NULL CHECK (severity IN ('WARN', 'ERROR')),
    dagster_run_id text,
    happened_at timestamptz NOT NULL,
    message text NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    UNIQUE (storage_id, happened_at)
);
CREATE INDEX dagster_events_of_check ON metamon.dagster_events (asset_key, check_name, partition_key, happened_at);
COMMENT ON TABLE metamon.dagster_events IS 'Asset checks that failed, of every severity, blocking or not, and that passed again, so that alerts and reports need not ask Dagster. Failed runs are in metamon.run_failures.';
COMMENT ON COLUMN metamon.dagster_events.event_id IS 'Ascending in the order of recording: what readers keep as their position.';
COMMENT ON COLUMN metamon.dagster_events.storage_id IS 'The event in Dagster''s event log. These numbers start again when its storage is made anew.';
COMMENT ON COLUMN metamon.dagster_events.kind IS 'check_failed, or check_passed: the first pass after a failure of the same check and partition.';
COMMENT ON COLUMN metamon.dagster_events.asset_key IS 'Asset that was checked.';
COMMENT ON COLUMN metamon.dagster_events.check_name IS 'Name of the check.';
COMMENT ON COLUMN metamon.dagster_events.partition_key IS 'Day that it was about; NULL for the whole asset.';
COMMENT ON COLUMN metamon.dagster_events.severity IS 'WARN or ERROR, as the check says.';
COMMENT ON COLUMN metamon.dagster_events.dagster_run_id IS 'The run in Dagster; NULL when it was reported outside one.';
COMMENT ON COLUMN metamon.dagster_events.happened_at IS 'When it was evaluated (UTC).';
COMMENT ON COLUMN metamon.dagster_events.message IS 'What the check said, redacted, at most 4,000 characters.';
COMMENT ON COLUMN metamon.dagster_events.recorded_at IS 'When this row was written (UTC).';
