-- What detection looks at: runs by the time at which they ended, and what is in flight while nothing ends.

CREATE TABLE metamon.completion_metrics (
    day date NOT NULL,
    bucket_start timestamptz NOT NULL,
    dimension text NOT NULL,
    dimension_value text NOT NULL,
    completed bigint NOT NULL,
    successes bigint NOT NULL,
    errors bigint NOT NULL,
    degraded_known bigint NOT NULL,
    degraded bigint NOT NULL,
    cache_known bigint NOT NULL,
    cache_hits bigint NOT NULL,
    latency_count bigint NOT NULL,
    latency_sum double precision,
    latency_sum_squares double precision,
    time_to_first_token_count bigint NOT NULL,
    time_to_first_token_sum double precision,
    time_to_first_token_sum_squares double precision,
    quality_count bigint NOT NULL,
    quality_sum double precision,
    quality_sum_squares double precision,
    tokens_count bigint NOT NULL,
    input_tokens bigint,
    output_tokens bigint,
    total_tokens bigint,
    priced_runs bigint NOT NULL,
    total_cost numeric(26, 12),
    total_cost_sum_squares double precision,
    latency_zeros bigint NOT NULL,
    latency_bins smallint[],
    latency_counts integer[],
    in_flight bigint NOT NULL,
    in_flight_known bigint NOT NULL,
    in_flight_over_p99 bigint,
    oldest_in_flight_seconds double precision,
    in_flight_at timestamptz NOT NULL,
    refreshed_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    PRIMARY KEY (dimension, dimension_value, bucket_start, day)
) PARTITION BY RANGE (day);
COMMENT ON TABLE metamon.completion_metrics IS 'Five minutes by one dimension at a time, for the last 14 days, for detection: a run is in the bucket of its end, so a bucket is complete as soon as its runs have arrived, and what hangs shows as in flight. Buckets are replaced whole; a group that ended nothing and has nothing in flight has no row.';
COMMENT ON COLUMN metamon.completion_metrics.day IS 'Partition key: UTC day of bucket_start.';
COMMENT ON COLUMN metamon.completion_metrics.bucket_start IS 'Start of the bucket (UTC); it ends five minutes later, exclusive.';
COMMENT ON COLUMN metamon.completion_metrics.dimension IS 'overall, tenant, agent, agent_version, mode, model, environment or tool (one run is one call).';
COMMENT ON COLUMN metamon.completion_metrics.dimension_value IS 'Value of the dimension; (all) for overall, (none) where traces have none, (other) for the values beyond the day''s largest ones.';
COMMENT ON COLUMN metamon.completion_metrics.completed IS 'Traces that ended in the time with success or error; where the source tells no end, those that started. In dimension tool: calls of the tool.';
COMMENT ON COLUMN metamon.completion_metrics.successes IS 'Of them with status success.';
COMMENT ON COLUMN metamon.completion_metrics.errors IS 'Of them with status error.';
COMMENT ON COLUMN metamon.completion_metrics.degraded_known IS 'Of them that say whether the answer was degraded.';
COMMENT ON COLUMN metamon.completion_metrics.degraded IS 'Of them with a degraded answer.';
COMMENT ON COLUMN metamon.completion_metrics.cache_known IS 'Of them that say whether the application''s cache answered.';
COMMENT ON COLUMN metamon.completion_metrics.cache_hits IS 'Of them answered by the application''s cache.';
COMMENT ON COLUMN metamon.completion_metrics.latency_count IS 'Of them with a known latency.';
COMMENT ON COLUMN metamon.completion_metrics.latency_sum IS 'Sum of latency_seconds.';
COMMENT ON COLUMN metamon.completion_metrics.latency_sum_squares IS 'Sum of the squares of latency_seconds, for variances.';
COMMENT ON COLUMN metamon.completion_metrics.time_to_first_token_count IS 'Of them with a known time to the first token.';
COMMENT ON COLUMN metamon.completion_metrics.time_to_first_token_sum IS 'Sum of time_to_first_token_seconds.';
COMMENT ON COLUMN metamon.completion_metrics.time_to_first_token_sum_squares IS 'Sum of the squares of time_to_first_token_seconds.';
COMMENT ON COLUMN metamon.completion_metrics.quality_count IS 'Of them with a quality score.';
COMMENT ON COLUMN metamon.completion_metrics.quality_sum IS 'Sum of quality_score.';
COMMENT ON COLUMN metamon.completion_metrics.quality_sum_squares IS 'Sum of the squares of quality_score.';
COMMENT ON COLUMN metamon.completion_metrics.tokens_count IS 'Of them with known total_tokens.';
COMMENT ON COLUMN metamon.completion_metrics.input_tokens IS 'Sum of input_tokens; NULL when none is known.';
COMMENT ON COLUMN metamon.completion_metrics.output_tokens IS 'Sum of output_tokens; NULL when none is known.';
COMMENT ON COLUMN metamon.completion_metrics.total_tokens IS 'Sum of total_tokens; NULL when none is known.';
COMMENT ON COLUMN metamon.completion_metrics.priced_runs IS 'Of them with a cost, reported or computed.';
COMMENT ON COLUMN metamon.completion_metrics.total_cost IS 'US dollars of the priced ones; NULL when none is priced.';
COMMENT ON COLUMN metamon.completion_metrics.total_cost_sum_squares IS 'Sum of the squares of total_cost, for variances.';
COMMENT ON COLUMN metamon.completion_metrics.latency_zeros IS 'Known latencies of zero.';
COMMENT ON COLUMN metamon.completion_metrics.latency_bins IS 'Histogram of latency_seconds: bins (metamon.histogram_bin), ascending; NULL when empty.';
COMMENT ON COLUMN metamon.completion_metrics.latency_counts IS 'Histogram of latency_seconds: how many in each bin.';
COMMENT ON COLUMN metamon.completion_metrics.in_flight IS 'Traces (calls) that had started before in_flight_at and had not ended by then. What is pending for 14 days counts as abandoned and is no longer in flight.';
COMMENT ON COLUMN metamon.completion_metrics.in_flight_known IS 'Of them those whose agent (tool) has a known p99: at least 1,000 known latencies in the seven UTC days before the bucket''s day.';
COMMENT ON COLUMN metamon.completion_metrics.in_flight_over_p99 IS 'Of in_flight_known those in flight for longer than that p99: what hangs. NULL when something is in flight and no p99 is known.';
COMMENT ON COLUMN metamon.completion_metrics.oldest_in_flight_seconds IS 'Seconds since the start of the longest one in flight; NULL when none is.';
COMMENT ON COLUMN metamon.completion_metrics.in_flight_at IS 'The moment that the figures in flight are about: the bucket''s end, or, while the bucket lasted, the time of the refresh.';
COMMENT ON COLUMN metamon.completion_metrics.refreshed_at IS 'When this row was computed.';

ALTER TABLE metamon.completion_metrics ENABLE ROW LEVEL SECURITY;
CREATE POLICY pipeline ON metamon.completion_metrics TO metamon_writer USING (true) WITH CHECK (true);
CREATE POLICY analysts ON metamon.completion_metrics FOR SELECT TO metamon_analyst USING (true);
CREATE POLICY own_tenant ON metamon.completion_metrics FOR SELECT TO metamon_tenant
    USING (dimension = 'tenant' AND dimension_value = (SELECT r.tenant_id FROM metamon.tenant_roles r WHERE r.role_name = current_user));
GRANT SELECT ON metamon.completion_metrics TO metamon_tenant;

-- Most runs end within five minutes, so those of a bucket lie between two starts, where the BRIN index finds them. The
-- others, and what has not ended, are few and have small indexes of their own.
CREATE INDEX traces_long ON metamon.traces (end_time) WHERE end_time - start_time > interval '5 minutes';
CREATE INDEX traces_open ON metamon.traces (start_time) WHERE end_time IS NULL AND status IN ('pending', 'abandoned');
CREATE INDEX spans_long ON metamon.spans (end_time) WHERE run_type = 'tool' AND end_time - start_time > interval '5 minutes';
CREATE INDEX spans_open ON metamon.spans (start_time) WHERE run_type = 'tool' AND end_time IS NULL AND status IN ('pending', 'abandoned');

CREATE TABLE metamon.bucket_refreshes (
    work text PRIMARY KEY CHECK (work IN ('end', 'start', 'in_flight')),
    finished_at timestamptz NOT NULL,
    seconds double precision NOT NULL,
    buckets integer NOT NULL,
    failed integer NOT NULL,
    oldest_touch timestamptz
);
COMMENT ON TABLE metamon.bucket_refreshes IS 'How the last refresh of touched buckets went: one row for each kind of work. The next one of a kind waits in proportion to what this one cost.';
COMMENT ON COLUMN metamon.bucket_refreshes.work IS 'end: completion buckets; start: reporting buckets; in_flight: the current completion bucket, each minute.';
COMMENT ON COLUMN metamon.bucket_refreshes.finished_at IS 'When it was done (UTC).';
COMMENT ON COLUMN metamon.bucket_refreshes.seconds IS 'Seconds that it took.';
COMMENT ON COLUMN metamon.bucket_refreshes.buckets IS 'Buckets that it computed again.';
COMMENT ON COLUMN metamon.bucket_refreshes.failed IS 'Buckets that could not be computed; they wait for the next one.';
COMMENT ON COLUMN metamon.bucket_refreshes.oldest_touch IS 'The earliest touch that it dealt with: finished_at less this is the longest that a changed row waited.';

-- Retention: only tables that are named here, and only days that are older than what is kept of them. Dropping waits for
-- every reader of the table and new ones wait behind it, so the caller sets a lock_timeout and tries again later.
CREATE FUNCTION metamon.drop_old_partitions(table_name text, before date) RETURNS integer
LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    partition text;
    dropped integer := 0;
BEGIN
    IF table_name NOT IN ('five_minute_metrics', 'completion_metrics') THEN
        RAISE EXCEPTION '% is kept: partitions are dropped of five_minute_metrics and completion_metrics only', table_name
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF before > (statement_timestamp() AT TIME ZONE 'UTC')::date - 14 THEN
        RAISE EXCEPTION 'the last 14 days of % are kept; asked to drop what is before %', table_name, before
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    FOR partition IN
        SELECT c.relname FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid
        WHERE i.inhparent = format('metamon.%I', table_name)::regclass AND c.relname < metamon.partition_name(table_name, before)
        ORDER BY c.relname
    LOOP
        EXECUTE format('DROP TABLE partitions.%I', partition);
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END $$;
COMMENT ON FUNCTION metamon.drop_old_partitions(text, date) IS 'Drops the day partitions of five_minute_metrics or completion_metrics before a day, at least 14 days ago; how many there were. Everything in them follows from the raw tables.';
REVOKE EXECUTE ON FUNCTION metamon.drop_old_partitions(text, date) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION metamon.drop_old_partitions(text, date) TO metamon_writer;
