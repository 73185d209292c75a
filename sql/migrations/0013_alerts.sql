-- Alerts: what the rules last said, what the detectors remember, incidents and their history, and what is to be sent.

CREATE TABLE metamon.alert_progress (
    work text PRIMARY KEY,
    reached timestamptz NOT NULL,
    ticked_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    seconds double precision NOT NULL DEFAULT 0,
    detail jsonb NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE metamon.alert_progress IS 'How far each kind of looking has come. Looking moves only forward, over what was handled, so that an outage skips nothing.';
COMMENT ON COLUMN metamon.alert_progress.work IS 'tick: all rules; detection: the adaptive detectors; daily_digest and the like: what was sent last.';
COMMENT ON COLUMN metamon.alert_progress.reached IS 'Everything before it has been looked at (UTC); of digests, when the last one was due, which a clock that jumps may move back.';
COMMENT ON COLUMN metamon.alert_progress.ticked_at IS 'When the last look ended.';
COMMENT ON COLUMN metamon.alert_progress.seconds IS 'Seconds that it took.';
COMMENT ON COLUMN metamon.alert_progress.detail IS 'What it saw: numbers of series, rules, incidents.';

CREATE TABLE metamon.detector_states (
    metric text NOT NULL,
    dimension text NOT NULL,
    dimension_value text NOT NULL,
    minutes smallint NOT NULL CHECK (minutes > 0),
    as_of timestamptz NOT NULL,
    state bytea NOT NULL,
    PRIMARY KEY (as_of, metric, dimension, dimension_value, minutes)
);
COMMENT ON TABLE metamon.detector_states IS 'Checkpoints of the adaptive detectors: each hour the newest, which replaces the one before, and each midnight one that is kept for a few days. What came since is learnt again from completion_metrics.';
COMMENT ON COLUMN metamon.detector_states.metric IS 'Watched metric.';
COMMENT ON COLUMN metamon.detector_states.dimension IS 'overall, agent, tenant, model or tool.';
COMMENT ON COLUMN metamon.detector_states.dimension_value IS 'Value of the dimension.';
COMMENT ON COLUMN metamon.detector_states.minutes IS 'Length of the windows that the detector follows.';
COMMENT ON COLUMN metamon.detector_states.as_of IS 'Every window that ended by then is learnt (UTC).';
COMMENT ON COLUMN metamon.detector_states.state IS 'The detector, as zlib-compressed JSON.';

CREATE TABLE metamon.anomalies (
    day date NOT NULL,
    bucket_start timestamptz NOT NULL,
    minutes smallint NOT NULL,
    metric text NOT NULL,
    dimension text NOT NULL,
    dimension_value text NOT NULL,
    value double precision NOT NULL,
    sample bigint NOT NULL,
    score double precision NOT NULL CHECK (score BETWEEN 0 AND 1),
    level text NOT NULL CHECK (level IN ('normal', 'warning', 'critical')),
    expected double precision,
    lower double precision,
    upper double precision,
    reasons text[] NOT NULL DEFAULT '{}',
    detected_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    PRIMARY KEY (day, bucket_start, minutes, metric, dimension, dimension_value)
);
COMMENT ON TABLE metamon.anomalies IS 'Windows that the adaptive detector found unusual (score from 3/7 on, or a level that is not normal), one row per window and series. A fact: a day can be computed again.';
COMMENT ON COLUMN metamon.anomalies.day IS 'UTC day of bucket_start.';
COMMENT ON COLUMN metamon.anomalies.bucket_start IS 'Start of the window (UTC).';
COMMENT ON COLUMN metamon.anomalies.minutes IS 'Length of the window.';
COMMENT ON COLUMN metamon.anomalies.metric IS 'Metric.';
COMMENT ON COLUMN metamon.anomalies.dimension IS 'overall, agent, tenant, model or tool.';
COMMENT ON COLUMN metamon.anomalies.dimension_value IS 'Value of the dimension.';
COMMENT ON COLUMN metamon.anomalies.value IS 'The metric in the window, in its own unit.';
COMMENT ON COLUMN metamon.anomalies.sample IS 'Runs that it rests on.';
COMMENT ON COLUMN metamon.anomalies.score IS 'How much news it is, 0 to 1: an excursion is told once, with at least 3/7, and again when it has become a hundred times as rare.';
COMMENT ON COLUMN metamon.anomalies.level IS 'State of the series then.';
COMMENT ON COLUMN metamon.anomalies.expected IS 'What was expected.';
COMMENT ON COLUMN metamon.anomalies.lower IS 'Below it a warning comes from the value alone.';
COMMENT ON COLUMN metamon.anomalies.upper IS 'Above it a warning comes from the value alone.';
COMMENT ON COLUMN metamon.anomalies.reasons IS 'Channels of the detector that were outside their usual ranges.';
COMMENT ON COLUMN metamon.anomalies.detected_at IS 'When the row was written.';

CREATE TABLE metamon.rule_states (
    rule text NOT NULL,
    dimension text NOT NULL,
    dimension_value text NOT NULL,
    state text NOT NULL CHECK (state IN ('ok', 'pending', 'firing', 'too_few', 'no_data', 'learning', 'not_applicable')),
    since timestamptz NOT NULL,
    evaluated_at timestamptz NOT NULL,
    value double precision,
    sample bigint,
    window_seconds integer,
    PRIMARY KEY (rule, dimension, dimension_value)
);
COMMENT ON TABLE metamon.rule_states IS 'What each alert rule last said of each group.';
COMMENT ON COLUMN metamon.rule_states.rule IS 'Name of the rule.';
COMMENT ON COLUMN metamon.rule_states.dimension IS 'Dimension of the group.';
COMMENT ON COLUMN metamon.rule_states.dimension_value IS 'Value of the dimension.';
COMMENT ON COLUMN metamon.rule_states.state IS 'ok; pending: the condition holds, but not yet for as long as the rule wants; firing; too_few: not even the widest window has the sample; no_data; learning; not_applicable: its input was never seen.';
COMMENT ON COLUMN metamon.rule_states.since IS 'Since when it is in this state (UTC).';
COMMENT ON COLUMN metamon.rule_states.evaluated_at IS 'When it was evaluated last.';
COMMENT ON COLUMN metamon.rule_states.value IS 'The metric then.';
COMMENT ON COLUMN metamon.rule_states.sample IS 'Events that it rested on.';
COMMENT ON COLUMN metamon.rule_states.window_seconds IS 'Window that it was taken over; longer than the rule''s own where the sample was too small.';

CREATE TABLE metamon.incidents (
    incident_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    fingerprint text NOT NULL,
    rule text NOT NULL,
    metric text NOT NULL,
    dimension text NOT NULL,
    dimension_value text NOT NULL,
    status text NOT NULL CHECK (status IN ('open', 'resolved')),
    severity text NOT NULL CHECK (severity IN ('info', 'warning', 'critical')),
    shadow boolean NOT NULL,
    late boolean NOT NULL,
    started_at timestamptz NOT NULL,
    opened_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    quiet_since timestamptz,
    resolved_at timestamptz,
    episodes integer NOT NULL DEFAULT 1,
    summary text NOT NULL,
    value double precision,
    peak double precision,
    expected double precision,
    lower double precision,
    upper double precision,
    threshold double precision,
    sample bigint,
    window_seconds integer,
    affected_requests bigint,
    affected_users bigint,
    examples jsonb NOT NULL DEFAULT '[]',
    reasons text[] NOT NULL DEFAULT '{}',
    dagster_run_id text,
    acknowledged_at timestamptz,
    acknowledged_by text,
    CHECK (opened_at >= started_at),
    CHECK ((status = 'resolved') = (resolved_at IS NOT NULL))
);
CREATE UNIQUE INDEX incidents_open ON metamon.incidents (fingerprint) WHERE status = 'open';
CREATE INDEX incidents_recent ON metamon.incidents (fingerprint, resolved_at DESC);
CREATE INDEX incidents_opened ON metamon.incidents (opened_at);
COMMENT ON TABLE metamon.incidents IS 'Alerts: one row from the moment that a rule fires for a group until it has been quiet again. Changes only through metamon_assets.alerts.incidents, which writes what is to be sent in the same transaction.';
COMMENT ON COLUMN metamon.incidents.incident_id IS 'Number of the incident.';
COMMENT ON COLUMN metamon.incidents.fingerprint IS 'Rule, metric and group: at most one incident of each is open.';
COMMENT ON COLUMN metamon.incidents.rule IS 'Rule that fired.';
COMMENT ON COLUMN metamon.incidents.metric IS 'What it looks at.';
COMMENT ON COLUMN metamon.incidents.dimension IS 'Dimension of the group.';
COMMENT ON COLUMN metamon.incidents.dimension_value IS 'Value of the dimension.';
COMMENT ON COLUMN metamon.incidents.status IS 'open or resolved.';
COMMENT ON COLUMN metamon.incidents.severity IS 'The highest that it had so far: it worsens, and does not fall while it is open.';
COMMENT ON COLUMN metamon.incidents.shadow IS 'Recorded and in the digest, never paged: its source or rule was new.';
COMMENT ON COLUMN metamon.incidents.late IS 'It was over when it was found: looking had been interrupted, or the data came late. Never paged.';
COMMENT ON COLUMN metamon.incidents.started_at IS 'Since when the data show it (UTC).';
COMMENT ON COLUMN metamon.incidents.opened_at IS 'When it was found.';
COMMENT ON COLUMN metamon.incidents.updated_at IS 'When it was last seen to go on.';
COMMENT ON COLUMN metamon.incidents.quiet_since IS 'Since when its rule does not fire; NULL while it does.';
COMMENT ON COLUMN metamon.incidents.resolved_at IS 'When it had been quiet for long enough.';
COMMENT ON COLUMN metamon.incidents.episodes IS 'How often its rule began to fire: more than once when it flaps.';
COMMENT ON COLUMN metamon.incidents.summary IS 'What, where, since when, how bad, in one sentence.';
COMMENT ON COLUMN metamon.incidents.value IS 'The metric when it was last seen to fire, in its own unit.';
COMMENT ON COLUMN metamon.incidents.peak IS 'The worst value so far.';
COMMENT ON COLUMN metamon.incidents.expected IS 'What was expected, where a baseline says so.';
COMMENT ON COLUMN metamon.incidents.lower IS 'Lower end of what is usual.';
COMMENT ON COLUMN metamon.incidents.upper IS 'Upper end of what is usual.';
COMMENT ON COLUMN metamon.incidents.threshold IS 'Threshold of the rule, where it has one.';
COMMENT ON COLUMN metamon.incidents.sample IS 'Events that the value rests on.';
COMMENT ON COLUMN metamon.incidents.window_seconds IS 'Length of the window that the value is of.';
COMMENT ON COLUMN metamon.incidents.affected_requests IS 'Requests that failed, were slow or were otherwise bad since it started; NULL where that cannot be told.';
COMMENT ON COLUMN metamon.incidents.affected_users IS 'Distinct users of these; NULL where users are not known.';
COMMENT ON COLUMN metamon.incidents.examples IS 'Some of these traces: [{source, project, trace_id}].';
COMMENT ON COLUMN metamon.incidents.reasons IS 'What corroborates it: channels of the detector, other metrics, the widened window.';
COMMENT ON COLUMN metamon.incidents.dagster_run_id IS 'The run of the pipeline that it is about, or that was launched for it.';
COMMENT ON COLUMN metamon.incidents.acknowledged_at IS 'When somebody took it on.';
COMMENT ON COLUMN metamon.incidents.acknowledged_by IS 'Who took it on.';

CREATE TABLE metamon.incident_events (
    event_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    incident_id bigint NOT NULL REFERENCES metamon.incidents,
    at timestamptz NOT NULL,
    event text NOT NULL CHECK (event IN ('opened', 'worsened', 'reopened', 'resolved', 'acknowledged', 'feedback')),
    severity text NOT NULL,
    value double precision,
    note text NOT NULL DEFAULT '',
    actor text
);
CREATE INDEX incident_events_incident ON metamon.incident_events (incident_id, event_id);
COMMENT ON TABLE metamon.incident_events IS 'What happened to each incident, in order; rows are only added.';
COMMENT ON COLUMN metamon.incident_events.event_id IS 'Order of the events.';
COMMENT ON COLUMN metamon.incident_events.incident_id IS 'Incident.';
COMMENT ON COLUMN metamon.incident_events.at IS 'When (UTC).';
COMMENT ON COLUMN metamon.incident_events.event IS 'opened, worsened (a level), reopened (it flaps), resolved, acknowledged, feedback.';
COMMENT ON COLUMN metamon.incident_events.severity IS 'Severity from then on.';
COMMENT ON COLUMN metamon.incident_events.value IS 'The metric then.';
COMMENT ON COLUMN metamon.incident_events.note IS 'What was said about it.';
COMMENT ON COLUMN metamon.incident_events.actor IS 'Who did it; NULL: Metamon.';

CREATE TABLE metamon.incident_feedback (
    incident_id bigint PRIMARY KEY REFERENCES metamon.incidents,
    verdict text NOT NULL CHECK (verdict IN ('true_positive', 'false_positive')),
    note text NOT NULL DEFAULT '',
    actor text NOT NULL,
    given_at timestamptz NOT NULL DEFAULT statement_timestamp()
);
COMMENT ON TABLE metamon.incident_feedback IS 'What people said of incidents: whether there was something. The last word counts; all words are in incident_events.';
COMMENT ON COLUMN metamon.incident_feedback.incident_id IS 'Incident.';
COMMENT ON COLUMN metamon.incident_feedback.verdict IS 'true_positive: there was something worth telling; false_positive: there was not.';
COMMENT ON COLUMN metamon.incident_feedback.note IS 'Why.';
COMMENT ON COLUMN metamon.incident_feedback.actor IS 'Who said so.';
COMMENT ON COLUMN metamon.incident_feedback.given_at IS 'When (UTC).';

CREATE TABLE metamon.silences (
    silence_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    rule text,
    dimension text,
    dimension_value text,
    starts_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    maintenance boolean NOT NULL DEFAULT false,
    reason text NOT NULL,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    CHECK (ends_at > starts_at)
);
COMMENT ON TABLE metamon.silences IS 'While a silence lasts, incidents that match it are recorded and counted in the digest, and not sent. One that is ended early ends at that moment.';
COMMENT ON COLUMN metamon.silences.silence_id IS 'Number of the silence.';
COMMENT ON COLUMN metamon.silences.rule IS 'Rule that it is about; NULL: all.';
COMMENT ON COLUMN metamon.silences.dimension IS 'Dimension of the group that it is about; NULL: all.';
COMMENT ON COLUMN metamon.silences.dimension_value IS 'Value of the dimension; NULL: all.';
COMMENT ON COLUMN metamon.silences.starts_at IS 'From when it holds (UTC).';
COMMENT ON COLUMN metamon.silences.ends_at IS 'Until when.';
COMMENT ON COLUMN metamon.silences.maintenance IS 'Planned work: what fires then is not counted against the rule.';
COMMENT ON COLUMN metamon.silences.reason IS 'Why.';
COMMENT ON COLUMN metamon.silences.created_by IS 'Who made it.';
COMMENT ON COLUMN metamon.silences.created_at IS 'When it was made.';

CREATE TABLE metamon.outbox (
    message_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    incident_id bigint REFERENCES metamon.incidents,
    event text NOT NULL CHECK (event IN ('opened', 'worsened', 'resolved', 'hourly', 'daily', 'weekly', 'test')),
    channel text NOT NULL,
    severity text NOT NULL CHECK (severity IN ('info', 'warning', 'critical')),
    group_key text NOT NULL,
    dedup_key text NOT NULL,
    subject text NOT NULL,
    body_text text NOT NULL,
    body_html text,
    created_at timestamptz NOT NULL,
    send_after timestamptz NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    last_attempt_at timestamptz,
    last_error text,
    sent_at timestamptz,
    dead_at timestamptz,
    suppressed text,
    UNIQUE (dedup_key, channel)
);
CREATE INDEX outbox_waiting ON metamon.outbox (send_after) WHERE sent_at IS NULL AND dead_at IS NULL AND suppressed IS NULL;
CREATE INDEX outbox_incident ON metamon.outbox (incident_id);
CREATE INDEX outbox_held ON metamon.outbox (message_id) WHERE suppressed = 'hourly' AND sent_at IS NULL;
CREATE INDEX outbox_group ON metamon.outbox (channel, group_key, created_at);
COMMENT ON TABLE metamon.outbox IS 'Messages, written in the transaction of what they tell and sent afterwards: at least once, tried again with longer and longer pauses, dead when nothing helps.';
COMMENT ON COLUMN metamon.outbox.message_id IS 'Order in which they were written.';
COMMENT ON COLUMN metamon.outbox.incident_id IS 'Incident that it tells; NULL: a digest or a test.';
COMMENT ON COLUMN metamon.outbox.event IS 'What it tells.';
COMMENT ON COLUMN metamon.outbox.channel IS 'Name of the channel in metamon.yaml.';
COMMENT ON COLUMN metamon.outbox.severity IS 'Severity of what it tells.';
COMMENT ON COLUMN metamon.outbox.group_key IS 'Messages of one group go out at most once an hour unless they are critical.';
COMMENT ON COLUMN metamon.outbox.dedup_key IS 'What it tells, so that the same is not written twice for one channel; receivers get it too.';
COMMENT ON COLUMN metamon.outbox.subject IS 'Its first line.';
COMMENT ON COLUMN metamon.outbox.body_text IS 'Plain text.';
COMMENT ON COLUMN metamon.outbox.body_html IS 'HTML, for channels that show it.';
COMMENT ON COLUMN metamon.outbox.created_at IS 'When it was written (UTC).';
COMMENT ON COLUMN metamon.outbox.send_after IS 'Not before.';
COMMENT ON COLUMN metamon.outbox.attempts IS 'How often it was tried.';
COMMENT ON COLUMN metamon.outbox.last_attempt_at IS 'When it was last tried.';
COMMENT ON COLUMN metamon.outbox.last_error IS 'Why that failed, without secrets.';
COMMENT ON COLUMN metamon.outbox.sent_at IS 'When the channel took it; of one held back for the hourly mail: when that was written.';
COMMENT ON COLUMN metamon.outbox.dead_at IS 'When it was given up.';
COMMENT ON COLUMN metamon.outbox.suppressed IS 'Why it is not sent: shadow, late, silenced, maintenance, hourly (told in the hourly mail), digest (told there only). NULL: it is.';

CREATE TABLE metamon.incident_snapshots (
    day date NOT NULL,
    incident_id bigint NOT NULL,
    status text NOT NULL,
    severity text NOT NULL,
    incident jsonb NOT NULL,
    PRIMARY KEY (day, incident_id)
);
COMMENT ON TABLE metamon.incident_snapshots IS 'How incidents stood at the end of a day: those that were open then or at some time of the day. Incidents themselves are never computed again.';
COMMENT ON COLUMN metamon.incident_snapshots.day IS 'UTC day.';
COMMENT ON COLUMN metamon.incident_snapshots.incident_id IS 'Incident.';
COMMENT ON COLUMN metamon.incident_snapshots.status IS 'open or resolved.';
COMMENT ON COLUMN metamon.incident_snapshots.severity IS 'Its severity then.';
COMMENT ON COLUMN metamon.incident_snapshots.incident IS 'The row of metamon.incidents as it was then.';

-- History is only added to.
REVOKE UPDATE, DELETE ON metamon.incident_events FROM metamon_writer;
REVOKE DELETE ON metamon.incidents FROM metamon_writer;

-- What was computed again since the last look, at each tick.
CREATE INDEX completion_metrics_refreshed ON metamon.completion_metrics USING brin (refreshed_at) WITH (pages_per_range = 16, autosummarize = on);
