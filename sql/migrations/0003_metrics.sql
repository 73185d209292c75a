-- What the traces add up to: buckets of five and fifteen minutes, days, and units (users, conversations).

-- Histograms ---------------------------------------------------------------------------------------------------------
-- Logarithmic bins as in DDSketch (Masson, Rim, Lee, VLDB 2019): bin k holds gamma^k <= x < gamma^(k+1) with
-- gamma = 1.01/0.99, so that its middle, 2 gamma^(k+1) / (gamma + 1), is within 1 % of everything in it. A histogram is
-- two parallel arrays, bins ascending and counts, and a count of the values that have no logarithm (zero or less).
-- metamon_assets/metrics/histogram.py is the same in Python; 0.020000666706669435 is ln(1.01/0.99).

CREATE FUNCTION metamon.histogram_bin(value double precision) RETURNS smallint
LANGUAGE sql IMMUTABLE PARALLEL SAFE -- not STRICT: a CASE in a strict function is not inlined, which made rollups three times slower
RETURN CASE WHEN value > 0 AND value < 'NaN'
            THEN least(greatest(floor(ln(value) / 0.020000666706669435::double precision), -32768), 32767)::smallint END;
COMMENT ON FUNCTION metamon.histogram_bin(double precision) IS 'Bin of a value; NULL for values without a logarithm (zero, negative, NaN, NULL). Beyond 1e-284 and 1e284 the outermost bins take all.';

CREATE FUNCTION metamon.histogram_value(bin smallint) RETURNS double precision
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN exp(bin * 0.020000666706669435::double precision) * 1.01;
COMMENT ON FUNCTION metamon.histogram_value(smallint) IS 'The value that stands for a bin, within 1 % of every value in it.';

CREATE FUNCTION metamon.histogram_quantile(bins smallint[], counts bigint[], zero_count bigint, q double precision) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    WITH ranked AS (
        SELECT bin, coalesce(zero_count, 0) + sum(n) OVER (ORDER BY bin) AS rank, sum(n) OVER () + coalesce(zero_count, 0) AS total
        FROM unnest(bins, counts) AS entry (bin, n)
    )
    SELECT CASE
        WHEN q IS NULL OR q < 0 OR q > 1 THEN NULL
        WHEN coalesce((SELECT max(total) FROM ranked), zero_count, 0) = 0 THEN NULL
        WHEN greatest(ceil(q * coalesce((SELECT max(total) FROM ranked), zero_count)::double precision), 1) <= coalesce(zero_count, 0) THEN 0
        ELSE (SELECT metamon.histogram_value(bin) FROM ranked
              WHERE rank >= greatest(ceil(q * total::double precision), 1) ORDER BY bin LIMIT 1)
    END;
END;
COMMENT ON FUNCTION metamon.histogram_quantile(smallint[], bigint[], bigint, double precision) IS 'The q-quantile (inverse of the distribution, like percentile_disc) of a histogram, within 1 %; NULL when it is empty or q is not between 0 and 1. Bins may stand more than once and in any order, so histograms are merged by appending them.';

CREATE TYPE metamon.histogram AS (bins smallint[], counts bigint[]);
COMMENT ON TYPE metamon.histogram IS 'Bins and how many values fell into each: what metamon.histogram_merge returns.';
COMMENT ON COLUMN metamon.histogram.bins IS 'Bins as of metamon.histogram_bin.';
COMMENT ON COLUMN metamon.histogram.counts IS 'Number of values in each bin.';

CREATE FUNCTION metamon.histogram_append(state metamon.histogram, bins smallint[], counts bigint[]) RETURNS metamon.histogram
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN bins IS NULL THEN state ELSE ROW((state).bins || bins, (state).counts || counts)::metamon.histogram END;
COMMENT ON FUNCTION metamon.histogram_append(metamon.histogram, smallint[], bigint[]) IS 'Step of metamon.histogram_merge: appends a histogram.';

CREATE FUNCTION metamon.histogram_collapse(state metamon.histogram) RETURNS metamon.histogram
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT ROW(array_agg(bin ORDER BY bin), array_agg(n ORDER BY bin))::metamon.histogram
    FROM (SELECT bin, sum(n)::bigint AS n FROM unnest((state).bins, (state).counts) AS entry (bin, n) GROUP BY bin) AS merged;
END;
COMMENT ON FUNCTION metamon.histogram_collapse(metamon.histogram) IS 'Last step of metamon.histogram_merge: every bin once, ascending.';

CREATE AGGREGATE metamon.histogram_merge(bins smallint[], counts bigint[]) (
    sfunc = metamon.histogram_append, stype = metamon.histogram, finalfunc = metamon.histogram_collapse, parallel = safe);
COMMENT ON AGGREGATE metamon.histogram_merge(smallint[], bigint[]) IS 'Merges the histograms of rows into one: for percentiles over a range of buckets or days.';

-- Request-level sums -------------------------------------------------------------------------------------------------
-- The columns that all three rollups share are written once here and copied, comments included.

CREATE TABLE metamon.request_sums (
    requests bigint NOT NULL,
    successes bigint NOT NULL,
    errors bigint NOT NULL,
    pending bigint NOT NULL,
    abandoned bigint NOT NULL,
    degraded_known bigint NOT NULL,
    degraded bigint NOT NULL,
    warned_requests bigint NOT NULL,
    warnings bigint NOT NULL,
    tasks_known bigint NOT NULL,
    tasks_completed bigint NOT NULL,
    cache_known bigint NOT NULL,
    cache_hits bigint NOT NULL,
    latency_count bigint NOT NULL,
    latency_sum double precision,
    latency_sum_squares double precision,
    hit_latency_count bigint NOT NULL,
    hit_latency_sum double precision,
    miss_latency_count bigint NOT NULL,
    miss_latency_sum double precision,
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
    cache_read_tokens_count bigint NOT NULL,
    cache_read_input_tokens bigint,
    cache_creation_input_tokens bigint,
    reasoning_output_tokens bigint,
    priced_requests bigint NOT NULL,
    unpriced_requests bigint NOT NULL,
    input_cost numeric(26, 12),
    output_cost numeric(26, 12),
    total_cost numeric(26, 12),
    total_cost_sum_squares double precision,
    hit_priced_requests bigint NOT NULL,
    hit_cost numeric(26, 12),
    miss_priced_requests bigint NOT NULL,
    miss_cost numeric(26, 12),
    tool_cost numeric(26, 12),
    retrieval_cost numeric(26, 12),
    llm_calls bigint,
    tool_calls bigint,
    retrievals bigint,
    tool_results bigint NOT NULL,
    tool_errors bigint NOT NULL,
    retrieval_results bigint NOT NULL,
    retrieval_errors bigint NOT NULL,
    latency_zeros bigint NOT NULL,
    latency_bins smallint[],
    latency_counts integer[],
    time_to_first_token_zeros bigint NOT NULL,
    time_to_first_token_bins smallint[],
    time_to_first_token_counts integer[],
    quality_zeros bigint NOT NULL,
    quality_bins smallint[],
    quality_counts integer[]
);
COMMENT ON COLUMN metamon.request_sums.requests IS 'Traces that started in the time; in dimension tool: calls of the tool.';
COMMENT ON COLUMN metamon.request_sums.successes IS 'Of them with status success.';
COMMENT ON COLUMN metamon.request_sums.errors IS 'Of them with status error.';
COMMENT ON COLUMN metamon.request_sums.pending IS 'Of them still pending when this row was computed.';
COMMENT ON COLUMN metamon.request_sums.abandoned IS 'Of them abandoned: pending for 14 days; neither success nor error.';
COMMENT ON COLUMN metamon.request_sums.degraded_known IS 'Of them that say whether the answer was degraded.';
COMMENT ON COLUMN metamon.request_sums.degraded IS 'Of them with a degraded answer.';
COMMENT ON COLUMN metamon.request_sums.warned_requests IS 'Of them with at least one warning.';
COMMENT ON COLUMN metamon.request_sums.warnings IS 'Number of warnings on them.';
COMMENT ON COLUMN metamon.request_sums.tasks_known IS 'Of them that say whether the task was completed.';
COMMENT ON COLUMN metamon.request_sums.tasks_completed IS 'Of them whose task was completed.';
COMMENT ON COLUMN metamon.request_sums.cache_known IS 'Of them that say whether the application''s cache answered.';
COMMENT ON COLUMN metamon.request_sums.cache_hits IS 'Of them answered by the application''s cache.';
COMMENT ON COLUMN metamon.request_sums.latency_count IS 'Of them with a known latency.';
COMMENT ON COLUMN metamon.request_sums.latency_sum IS 'Sum of latency_seconds.';
COMMENT ON COLUMN metamon.request_sums.latency_sum_squares IS 'Sum of the squares of latency_seconds, for variances.';
COMMENT ON COLUMN metamon.request_sums.hit_latency_count IS 'Cache hits with a known latency.';
COMMENT ON COLUMN metamon.request_sums.hit_latency_sum IS 'Sum of latency_seconds of cache hits.';
COMMENT ON COLUMN metamon.request_sums.miss_latency_count IS 'Cache misses with a known latency.';
COMMENT ON COLUMN metamon.request_sums.miss_latency_sum IS 'Sum of latency_seconds of cache misses.';
COMMENT ON COLUMN metamon.request_sums.time_to_first_token_count IS 'Of them with a known time to the first token.';
COMMENT ON COLUMN metamon.request_sums.time_to_first_token_sum IS 'Sum of time_to_first_token_seconds.';
COMMENT ON COLUMN metamon.request_sums.time_to_first_token_sum_squares IS 'Sum of the squares of time_to_first_token_seconds.';
COMMENT ON COLUMN metamon.request_sums.quality_count IS 'Of them with a quality score.';
COMMENT ON COLUMN metamon.request_sums.quality_sum IS 'Sum of quality_score.';
COMMENT ON COLUMN metamon.request_sums.quality_sum_squares IS 'Sum of the squares of quality_score.';
COMMENT ON COLUMN metamon.request_sums.tokens_count IS 'Of them with known total_tokens.';
COMMENT ON COLUMN metamon.request_sums.input_tokens IS 'Sum of input_tokens, those read from and written to the provider''s cache included; NULL when none is known.';
COMMENT ON COLUMN metamon.request_sums.output_tokens IS 'Sum of output_tokens; NULL when none is known.';
COMMENT ON COLUMN metamon.request_sums.total_tokens IS 'Sum of total_tokens; NULL when none is known.';
COMMENT ON COLUMN metamon.request_sums.cache_read_tokens_count IS 'Of them with known cache_read_input_tokens.';
COMMENT ON COLUMN metamon.request_sums.cache_read_input_tokens IS 'Sum of cache_read_input_tokens; NULL when none is known.';
COMMENT ON COLUMN metamon.request_sums.cache_creation_input_tokens IS 'Sum of cache_creation_input_tokens; NULL when none is known.';
COMMENT ON COLUMN metamon.request_sums.reasoning_output_tokens IS 'Sum of reasoning_output_tokens; NULL when none is known.';
COMMENT ON COLUMN metamon.request_sums.priced_requests IS 'Of them with a cost, reported or computed.';
COMMENT ON COLUMN metamon.request_sums.unpriced_requests IS 'Of them without a cost: unknown, not free.';
COMMENT ON COLUMN metamon.request_sums.input_cost IS 'US dollars for input tokens; NULL when none is known.';
COMMENT ON COLUMN metamon.request_sums.output_cost IS 'US dollars for output tokens; NULL when none is known.';
COMMENT ON COLUMN metamon.request_sums.total_cost IS 'US dollars of the priced requests; NULL when none is priced.';
COMMENT ON COLUMN metamon.request_sums.total_cost_sum_squares IS 'Sum of the squares of total_cost, for variances.';
COMMENT ON COLUMN metamon.request_sums.hit_priced_requests IS 'Cache hits with a cost.';
COMMENT ON COLUMN metamon.request_sums.hit_cost IS 'US dollars of the priced cache hits.';
COMMENT ON COLUMN metamon.request_sums.miss_priced_requests IS 'Cache misses with a cost.';
COMMENT ON COLUMN metamon.request_sums.miss_cost IS 'US dollars of the priced cache misses.';
COMMENT ON COLUMN metamon.request_sums.tool_cost IS 'US dollars of tool calls that tell a cost of their own; NULL when none does.';
COMMENT ON COLUMN metamon.request_sums.retrieval_cost IS 'US dollars of retrievals, embeddings and reranking that tell a cost of their own; NULL when none does.';
COMMENT ON COLUMN metamon.request_sums.llm_calls IS 'Model calls in the traces; NULL when none tells.';
COMMENT ON COLUMN metamon.request_sums.tool_calls IS 'Tool calls in the traces; NULL when none tells.';
COMMENT ON COLUMN metamon.request_sums.retrievals IS 'Retrievals in the traces; NULL when none tells.';
COMMENT ON COLUMN metamon.request_sums.tool_results IS 'Tool spans that ended with success or error: the base of the tools'' error rate.';
COMMENT ON COLUMN metamon.request_sums.tool_errors IS 'Of tool_results those with status error.';
COMMENT ON COLUMN metamon.request_sums.retrieval_results IS 'Retriever spans that ended with success or error.';
COMMENT ON COLUMN metamon.request_sums.retrieval_errors IS 'Of retrieval_results those with status error.';
COMMENT ON COLUMN metamon.request_sums.latency_zeros IS 'Known latencies of zero.';
COMMENT ON COLUMN metamon.request_sums.latency_bins IS 'Histogram of latency_seconds: bins (metamon.histogram_bin), ascending; NULL when empty.';
COMMENT ON COLUMN metamon.request_sums.latency_counts IS 'Histogram of latency_seconds: how many in each bin.';
COMMENT ON COLUMN metamon.request_sums.time_to_first_token_zeros IS 'Known times to the first token of zero.';
COMMENT ON COLUMN metamon.request_sums.time_to_first_token_bins IS 'Histogram of time_to_first_token_seconds: bins, ascending; NULL when empty.';
COMMENT ON COLUMN metamon.request_sums.time_to_first_token_counts IS 'Histogram of time_to_first_token_seconds: how many in each bin.';
COMMENT ON COLUMN metamon.request_sums.quality_zeros IS 'Quality scores of zero (or less).';
COMMENT ON COLUMN metamon.request_sums.quality_bins IS 'Histogram of quality_score: bins, ascending; NULL when empty.';
COMMENT ON COLUMN metamon.request_sums.quality_counts IS 'Histogram of quality_score: how many in each bin.';

CREATE TABLE metamon.five_minute_metrics (
    day date NOT NULL,
    bucket_start timestamptz NOT NULL,
    dimension text NOT NULL,
    dimension_value text NOT NULL,
    LIKE metamon.request_sums INCLUDING COMMENTS,
    refreshed_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    PRIMARY KEY (dimension, dimension_value, bucket_start, day)
) PARTITION BY RANGE (day);
CREATE TABLE metamon.fifteen_minute_metrics (LIKE metamon.five_minute_metrics INCLUDING ALL) PARTITION BY RANGE (day);
-- In five minutes a group has too few first tokens and scores for percentiles; their means are there.
ALTER TABLE metamon.five_minute_metrics
    DROP COLUMN time_to_first_token_zeros, DROP COLUMN time_to_first_token_bins, DROP COLUMN time_to_first_token_counts,
    DROP COLUMN quality_zeros, DROP COLUMN quality_bins, DROP COLUMN quality_counts;
COMMENT ON TABLE metamon.five_minute_metrics IS 'Request-level sums of five minutes by one dimension at a time, for the last 14 days. A trace is in the bucket of its start. Buckets are replaced whole.';
COMMENT ON COLUMN metamon.five_minute_metrics.day IS 'Partition key: UTC day of bucket_start.';
COMMENT ON COLUMN metamon.five_minute_metrics.bucket_start IS 'Start of the bucket (UTC); it ends five minutes later, exclusive.';
COMMENT ON COLUMN metamon.five_minute_metrics.dimension IS 'overall, tenant, agent, agent_version, mode, model, prompt_version, environment, variant (only traces in a rollout) or tool (one request is one call).';
COMMENT ON COLUMN metamon.five_minute_metrics.dimension_value IS 'Value of the dimension; (all) for overall, (none) where traces have none, (other) for the values beyond the day''s largest ones.';
COMMENT ON COLUMN metamon.five_minute_metrics.refreshed_at IS 'When this row was computed.';

COMMENT ON TABLE metamon.fifteen_minute_metrics IS 'Request-level sums of fifteen minutes by one dimension at a time, for every day: they add up to the days of every time zone. Otherwise like five_minute_metrics.';
COMMENT ON COLUMN metamon.fifteen_minute_metrics.day IS 'Partition key: UTC day of bucket_start.';
COMMENT ON COLUMN metamon.fifteen_minute_metrics.dimension IS 'overall, tenant, agent, agent_version, mode, model, prompt_version, environment, variant (only traces in a rollout) or tool (one request is one call).';
COMMENT ON COLUMN metamon.fifteen_minute_metrics.dimension_value IS 'Value of the dimension; (all) for overall, (none) where traces have none, (other) for the values beyond the day''s largest ones.';
COMMENT ON COLUMN metamon.fifteen_minute_metrics.refreshed_at IS 'When this row was computed.';
COMMENT ON COLUMN metamon.fifteen_minute_metrics.bucket_start IS 'Start of the bucket (UTC); it ends fifteen minutes later, exclusive.';

CREATE TABLE metamon.daily_metrics (
    day date NOT NULL,
    dimension text NOT NULL,
    dimension_value text NOT NULL,
    LIKE metamon.request_sums INCLUDING COMMENTS,
    users bigint,
    conversations bigint,
    rated_requests bigint NOT NULL,
    feedback_count bigint NOT NULL,
    feedback jsonb NOT NULL,
    error_types jsonb NOT NULL,
    degradation_reasons jsonb NOT NULL,
    warning_types jsonb NOT NULL,
    refreshed_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    PRIMARY KEY (day, dimension, dimension_value)
);
COMMENT ON TABLE metamon.daily_metrics IS 'Request-level sums of UTC days by one dimension at a time, the sums of the day''s buckets; with what buckets cannot tell: distinct users, feedback, reasons. Days are replaced whole.';
COMMENT ON COLUMN metamon.daily_metrics.day IS 'UTC day.';
COMMENT ON COLUMN metamon.daily_metrics.dimension IS 'overall, tenant, agent, agent_version, mode, model, prompt_version, environment, variant (only traces in a rollout) or tool (one request is one call).';
COMMENT ON COLUMN metamon.daily_metrics.dimension_value IS 'Value of the dimension; (all) for overall, (none) where traces have none, (other) for the values beyond the day''s largest ones.';
COMMENT ON COLUMN metamon.daily_metrics.users IS 'Distinct users (tenant and user_id) of the day, from unit_daily; NULL in the dimensions that it does not carry. Does not add up over days or values.';
COMMENT ON COLUMN metamon.daily_metrics.conversations IS 'Distinct conversations (tenant and conversation_id) of the day, from unit_daily; NULL in the dimensions that it does not carry. Does not add up over days or values.';
COMMENT ON COLUMN metamon.daily_metrics.rated_requests IS 'Traces of the day that have feedback by now, whenever it came.';
COMMENT ON COLUMN metamon.daily_metrics.feedback_count IS 'Feedback on the day''s traces, whenever it came.';
COMMENT ON COLUMN metamon.daily_metrics.feedback IS 'Feedback on the day''s traces by key: {key: {count, score_count, score_sum}}.';
COMMENT ON COLUMN metamon.daily_metrics.error_types IS 'Failed traces by error_type: {type: count}; (none) where the source does not tell.';
COMMENT ON COLUMN metamon.daily_metrics.degradation_reasons IS 'Degraded traces by degradation_reason: {reason: count}.';
COMMENT ON COLUMN metamon.daily_metrics.warning_types IS 'Warnings by type: {type: count}.';
COMMENT ON COLUMN metamon.daily_metrics.refreshed_at IS 'When this row was computed.';

DROP TABLE metamon.request_sums;

CREATE TABLE metamon.unit_daily (
    day date NOT NULL,
    unit_type text NOT NULL CHECK (unit_type IN ('user', 'conversation')),
    unit_id text NOT NULL,
    tenant_id text,
    agent_name text,
    variant text,
    requests bigint NOT NULL,
    successes bigint NOT NULL,
    errors bigint NOT NULL,
    degraded bigint NOT NULL,
    tasks_known bigint NOT NULL,
    tasks_completed bigint NOT NULL,
    latency_count bigint NOT NULL,
    latency_sum double precision,
    quality_count bigint NOT NULL,
    quality_sum double precision,
    total_tokens bigint,
    priced_requests bigint NOT NULL,
    total_cost numeric(26, 12),
    first_start_time timestamptz NOT NULL,
    last_start_time timestamptz NOT NULL
) PARTITION BY RANGE (day);
COMMENT ON TABLE metamon.unit_daily IS 'Sums by user and by conversation: one row per day, unit, tenant, agent and variant. Users span buckets and requests of one user resemble each other, so distinct counts, ratio metrics and clustered tests start from here (they take squares and products of these sums). Traces without the unit are in no row.';
COMMENT ON COLUMN metamon.unit_daily.day IS 'Partition key: UTC day of the traces.';
COMMENT ON COLUMN metamon.unit_daily.unit_type IS 'user or conversation.';
COMMENT ON COLUMN metamon.unit_daily.unit_id IS 'user_id or conversation_id; together with tenant_id it names one unit.';
COMMENT ON COLUMN metamon.unit_daily.tenant_id IS 'Tenant of the traces; NULL when they have none.';
COMMENT ON COLUMN metamon.unit_daily.agent_name IS 'Agent of the traces; NULL when they have none.';
COMMENT ON COLUMN metamon.unit_daily.variant IS 'Proposal and arm of the traces; NULL outside a rollout.';
COMMENT ON COLUMN metamon.unit_daily.requests IS 'Traces.';
COMMENT ON COLUMN metamon.unit_daily.successes IS 'Of them with status success.';
COMMENT ON COLUMN metamon.unit_daily.errors IS 'Of them with status error.';
COMMENT ON COLUMN metamon.unit_daily.degraded IS 'Of them with a degraded answer.';
COMMENT ON COLUMN metamon.unit_daily.tasks_known IS 'Of them that say whether the task was completed.';
COMMENT ON COLUMN metamon.unit_daily.tasks_completed IS 'Of them whose task was completed.';
COMMENT ON COLUMN metamon.unit_daily.latency_count IS 'Of them with a known latency.';
COMMENT ON COLUMN metamon.unit_daily.latency_sum IS 'Sum of latency_seconds.';
COMMENT ON COLUMN metamon.unit_daily.quality_count IS 'Of them with a quality score.';
COMMENT ON COLUMN metamon.unit_daily.quality_sum IS 'Sum of quality_score.';
COMMENT ON COLUMN metamon.unit_daily.total_tokens IS 'Sum of total_tokens; NULL when none is known.';
COMMENT ON COLUMN metamon.unit_daily.priced_requests IS 'Of them with a cost.';
COMMENT ON COLUMN metamon.unit_daily.total_cost IS 'US dollars of the priced traces; NULL when none is priced.';
COMMENT ON COLUMN metamon.unit_daily.first_start_time IS 'Start of the first trace.';
COMMENT ON COLUMN metamon.unit_daily.last_start_time IS 'Start of the last trace.';

CREATE TABLE metamon.watched_groups (
    dimension text NOT NULL,
    dimension_value text NOT NULL,
    reason text,
    PRIMARY KEY (dimension, dimension_value)
);
COMMENT ON TABLE metamon.watched_groups IS 'Values that keep rows of their own however small they are. Others get theirs by being among the day''s largest.';
COMMENT ON COLUMN metamon.watched_groups.dimension IS 'Dimension as in daily_metrics.';
COMMENT ON COLUMN metamon.watched_groups.dimension_value IS 'Value to keep.';
COMMENT ON COLUMN metamon.watched_groups.reason IS 'Why it is watched.';

CREATE TABLE metamon.metric_groups (
    day date NOT NULL,
    dimension text NOT NULL,
    dimension_value text NOT NULL,
    group_id smallint NOT NULL,
    PRIMARY KEY (day, dimension, dimension_value),
    UNIQUE (day, group_id)
);
COMMENT ON TABLE metamon.metric_groups IS 'Values that have rows of their own on a day: chosen for the whole day, so that its buckets are consistent; all others are in (other).';
COMMENT ON COLUMN metamon.metric_groups.day IS 'UTC day.';
COMMENT ON COLUMN metamon.metric_groups.dimension IS 'Dimension as in daily_metrics.';
COMMENT ON COLUMN metamon.metric_groups.dimension_value IS 'Value with rows of its own; (none) and (other) are always among them.';
COMMENT ON COLUMN metamon.metric_groups.group_id IS 'Number of the group within the day: rollups group by it, since integers are faster than texts.';

-- Days of any time zone ----------------------------------------------------------------------------------------------
-- Since 1972 every zone's midnight falls on a quarter of an hour, so fifteen-minute rows add up to the days of all of them.

CREATE FUNCTION analytics.daily_totals(time_zone text, first_day date, last_day date) RETURNS TABLE (
    local_day date, dimension text, dimension_value text,
    requests bigint, successes bigint, errors bigint, pending bigint, abandoned bigint, degraded_known bigint, degraded bigint,
    warned_requests bigint, warnings bigint, tasks_known bigint, tasks_completed bigint, cache_known bigint, cache_hits bigint,
    latency_count bigint, latency_sum double precision, latency_sum_squares double precision, hit_latency_count bigint,
    hit_latency_sum double precision, miss_latency_count bigint, miss_latency_sum double precision,
    time_to_first_token_count bigint, time_to_first_token_sum double precision, time_to_first_token_sum_squares double precision,
    quality_count bigint, quality_sum double precision, quality_sum_squares double precision, tokens_count bigint,
    input_tokens bigint, output_tokens bigint, total_tokens bigint, cache_read_tokens_count bigint,
    cache_read_input_tokens bigint, cache_creation_input_tokens bigint, reasoning_output_tokens bigint, priced_requests bigint,
    unpriced_requests bigint, input_cost numeric, output_cost numeric, total_cost numeric,
    total_cost_sum_squares double precision, hit_priced_requests bigint, hit_cost numeric, miss_priced_requests bigint,
    miss_cost numeric, tool_cost numeric, retrieval_cost numeric, llm_calls bigint, tool_calls bigint, retrievals bigint,
    tool_results bigint, tool_errors bigint, retrieval_results bigint, retrieval_errors bigint, latency_zeros bigint,
    time_to_first_token_zeros bigint, quality_zeros bigint,
    latency_bins smallint[], latency_counts bigint[],
    time_to_first_token_bins smallint[], time_to_first_token_counts bigint[],
    quality_bins smallint[], quality_counts bigint[])
LANGUAGE sql STABLE STRICT AS $$
    SELECT local_day, dimension, dimension_value,
           m.requests, m.successes, m.errors, m.pending, m.abandoned, m.degraded_known, m.degraded, m.warned_requests,
           m.warnings, m.tasks_known, m.tasks_completed, m.cache_known, m.cache_hits, m.latency_count, m.latency_sum,
           m.latency_sum_squares, m.hit_latency_count, m.hit_latency_sum, m.miss_latency_count, m.miss_latency_sum,
           m.time_to_first_token_count, m.time_to_first_token_sum, m.time_to_first_token_sum_squares, m.quality_count,
           m.quality_sum, m.quality_sum_squares, m.tokens_count, m.input_tokens, m.output_tokens, m.total_tokens,
           m.cache_read_tokens_count, m.cache_read_input_tokens, m.cache_creation_input_tokens, m.reasoning_output_tokens,
           m.priced_requests, m.unpriced_requests, m.input_cost, m.output_cost, m.total_cost, m.total_cost_sum_squares,
           m.hit_priced_requests, m.hit_cost, m.miss_priced_requests, m.miss_cost, m.tool_cost, m.retrieval_cost, m.llm_calls,
           m.tool_calls, m.retrievals, m.tool_results, m.tool_errors, m.retrieval_results, m.retrieval_errors, m.latency_zeros,
           m.time_to_first_token_zeros, m.quality_zeros,
           (m.latency).bins, (m.latency).counts,
           (m.first_token).bins, (m.first_token).counts,
           (m.quality).bins, (m.quality).counts
    FROM (
        SELECT CAST(b.bucket_start AT TIME ZONE time_zone AS date) AS local_day, b.dimension, b.dimension_value,
               sum(b.requests)::bigint AS requests, sum(b.successes)::bigint AS successes, sum(b.errors)::bigint AS errors,
               sum(b.pending)::bigint AS pending, sum(b.abandoned)::bigint AS abandoned,
               sum(b.degraded_known)::bigint AS degraded_known, sum(b.degraded)::bigint AS degraded,
               sum(b.warned_requests)::bigint AS warned_requests, sum(b.warnings)::bigint AS warnings,
               sum(b.tasks_known)::bigint AS tasks_known, sum(b.tasks_completed)::bigint AS tasks_completed,
               sum(b.cache_known)::bigint AS cache_known, sum(b.cache_hits)::bigint AS cache_hits,
               sum(b.latency_count)::bigint AS latency_count, sum(b.latency_sum) AS latency_sum,
               sum(b.latency_sum_squares) AS latency_sum_squares, sum(b.hit_latency_count)::bigint AS hit_latency_count,
               sum(b.hit_latency_sum) AS hit_latency_sum, sum(b.miss_latency_count)::bigint AS miss_latency_count,
               sum(b.miss_latency_sum) AS miss_latency_sum,
               sum(b.time_to_first_token_count)::bigint AS time_to_first_token_count,
               sum(b.time_to_first_token_sum) AS time_to_first_token_sum,
               sum(b.time_to_first_token_sum_squares) AS time_to_first_token_sum_squares,
               sum(b.quality_count)::bigint AS quality_count, sum(b.quality_sum) AS quality_sum,
               sum(b.quality_sum_squares) AS quality_sum_squares, sum(b.tokens_count)::bigint AS tokens_count,
               sum(b.input_tokens)::bigint AS input_tokens, sum(b.output_tokens)::bigint AS output_tokens,
               sum(b.total_tokens)::bigint AS total_tokens, sum(b.cache_read_tokens_count)::bigint AS cache_read_tokens_count,
               sum(b.cache_read_input_tokens)::bigint AS cache_read_input_tokens,
               sum(b.cache_creation_input_tokens)::bigint AS cache_creation_input_tokens,
               sum(b.reasoning_output_tokens)::bigint AS reasoning_output_tokens,
               sum(b.priced_requests)::bigint AS priced_requests, sum(b.unpriced_requests)::bigint AS unpriced_requests,
               sum(b.input_cost) AS input_cost, sum(b.output_cost) AS output_cost, sum(b.total_cost) AS total_cost,
               sum(b.total_cost_sum_squares) AS total_cost_sum_squares,
               sum(b.hit_priced_requests)::bigint AS hit_priced_requests, sum(b.hit_cost) AS hit_cost,
               sum(b.miss_priced_requests)::bigint AS miss_priced_requests, sum(b.miss_cost) AS miss_cost,
               sum(b.tool_cost) AS tool_cost, sum(b.retrieval_cost) AS retrieval_cost, sum(b.llm_calls)::bigint AS llm_calls,
               sum(b.tool_calls)::bigint AS tool_calls, sum(b.retrievals)::bigint AS retrievals,
               sum(b.tool_results)::bigint AS tool_results, sum(b.tool_errors)::bigint AS tool_errors,
               sum(b.retrieval_results)::bigint AS retrieval_results, sum(b.retrieval_errors)::bigint AS retrieval_errors,
               sum(b.latency_zeros)::bigint AS latency_zeros,
               sum(b.time_to_first_token_zeros)::bigint AS time_to_first_token_zeros,
               sum(b.quality_zeros)::bigint AS quality_zeros,
               metamon.histogram_merge(b.latency_bins, b.latency_counts) AS latency,
               metamon.histogram_merge(b.time_to_first_token_bins, b.time_to_first_token_counts) AS first_token,
               metamon.histogram_merge(b.quality_bins, b.quality_counts) AS quality
        FROM metamon.fifteen_minute_metrics AS b
        WHERE b.day BETWEEN first_day - 1 AND last_day + 1
          AND b.bucket_start >= first_day::timestamp AT TIME ZONE time_zone
          AND b.bucket_start < (last_day + 1)::timestamp AT TIME ZONE time_zone
        GROUP BY 1, 2, 3
    ) AS m
$$;
COMMENT ON FUNCTION analytics.daily_totals(text, date, date) IS 'Sums and merged histograms of the days of a time zone, such as Asia/Kathmandu, from the first to the last (inclusive), by dimension. They add up to the range in every zone; percentiles: metamon.histogram_quantile(latency_bins, latency_counts, latency_zeros, 0.95).';
