-- What ended and what was in flight as rows of five minutes. Parameters: day, now.
INSERT INTO metamon.completion_metrics (
    day, bucket_start, dimension, dimension_value, completed, successes, errors, degraded_known, degraded, cache_known, cache_hits,
    latency_count, latency_sum, latency_sum_squares, time_to_first_token_count, time_to_first_token_sum, time_to_first_token_sum_squares,
    quality_count, quality_sum, quality_sum_squares, tokens_count, input_tokens, output_tokens, total_tokens, priced_runs, total_cost,
    total_cost_sum_squares, latency_zeros, latency_bins, latency_counts, in_flight, in_flight_known, in_flight_over_p99,
    oldest_in_flight_seconds, in_flight_at)
WITH ended AS (
    SELECT p.bucket, g.group_id,
           CAST(sum(p.completed) AS bigint) AS completed, CAST(sum(p.successes) AS bigint) AS successes,
           CAST(sum(p.degraded_known) AS bigint) AS degraded_known, CAST(sum(p.degraded) AS bigint) AS degraded,
           CAST(sum(p.cache_known) AS bigint) AS cache_known, CAST(sum(p.cache_hits) AS bigint) AS cache_hits,
           CAST(sum(p.latency_count) AS bigint) AS latency_count,
           CAST(sum(p.time_to_first_token_count) AS bigint) AS time_to_first_token_count,
           CAST(sum(p.quality_count) AS bigint) AS quality_count, CAST(sum(p.tokens_count) AS bigint) AS tokens_count,
           CAST(sum(p.input_tokens) AS bigint) AS input_tokens, CAST(sum(p.output_tokens) AS bigint) AS output_tokens,
           CAST(sum(p.total_tokens) AS bigint) AS total_tokens, CAST(sum(p.priced_runs) AS bigint) AS priced_runs,
           sum(p.latency_sum) AS latency_sum, sum(p.latency_sum_squares) AS latency_sum_squares,
           sum(p.time_to_first_token_sum) AS time_to_first_token_sum,
           sum(p.time_to_first_token_sum_squares) AS time_to_first_token_sum_squares, sum(p.quality_sum) AS quality_sum,
           sum(p.quality_sum_squares) AS quality_sum_squares, sum(p.total_cost) AS total_cost,
           sum(p.total_cost_sum_squares) AS total_cost_sum_squares
    FROM (
        SELECT r.bucket, d.pair,
               sum(r.completed) AS completed, sum(r.successes) AS successes, sum(r.degraded_known) AS degraded_known,
               sum(r.degraded) AS degraded, sum(r.cache_known) AS cache_known, sum(r.cache_hits) AS cache_hits,
               sum(r.latency_count) AS latency_count, sum(r.time_to_first_token_count) AS time_to_first_token_count,
               sum(r.quality_count) AS quality_count, sum(r.tokens_count) AS tokens_count, sum(r.input_tokens) AS input_tokens,
               sum(r.output_tokens) AS output_tokens, sum(r.total_tokens) AS total_tokens, sum(r.priced_runs) AS priced_runs,
               sum(r.latency_sum) AS latency_sum, sum(r.latency_sum_squares) AS latency_sum_squares,
               sum(r.time_to_first_token_sum) AS time_to_first_token_sum,
               sum(r.time_to_first_token_sum_squares) AS time_to_first_token_sum_squares, sum(r.quality_sum) AS quality_sum,
               sum(r.quality_sum_squares) AS quality_sum_squares, sum(r.total_cost) AS total_cost,
               sum(r.total_cost_sum_squares) AS total_cost_sum_squares
        FROM completion_pairs AS r
        CROSS JOIN LATERAL (VALUES (tenant_pair), (agent_pair), (model_pair), (environment_pair), (tool_pair)) AS d (pair)
        WHERE d.pair IS NOT NULL
        GROUP BY r.bucket, d.pair
    ) AS p
    {groups}
    GROUP BY p.bucket, g.group_id
), flying AS (
    SELECT r.bucket, g.group_id, count(*) AS in_flight, count(l.seconds) AS in_flight_known,
           count(*) FILTER (WHERE date_part('epoch', r.moment - r.start_time) > l.seconds) AS in_flight_over_p99,
           max(date_part('epoch', r.moment - r.start_time)) AS oldest_in_flight_seconds
    FROM completion_flights AS r
    {dimensions}
    JOIN completion_groups AS g ON g.dimension = d.dimension AND g.label = d.label
    LEFT JOIN completion_groups AS own ON own.dimension = CASE WHEN r.tool IS NULL THEN 'agent' ELSE 'tool' END
                                      AND own.label = coalesce(r.tool, r.agent, '(none)')
    LEFT JOIN completion_limits AS l ON l.dimension = own.dimension AND l.dimension_value = own.dimension_value
    GROUP BY r.bucket, g.group_id
), names AS (
    SELECT DISTINCT group_id, dimension, dimension_value FROM completion_groups
)
SELECT CAST(%(day)s AS date), timestamptz '1970-01-01 00:00:00+00' + bucket * interval '5 minutes', n.dimension, n.dimension_value,
       coalesce(e.completed, 0), coalesce(e.successes, 0), coalesce(e.completed - e.successes, 0), coalesce(e.degraded_known, 0),
       coalesce(e.degraded, 0), coalesce(e.cache_known, 0), coalesce(e.cache_hits, 0), coalesce(e.latency_count, 0), e.latency_sum,
       e.latency_sum_squares, coalesce(e.time_to_first_token_count, 0), e.time_to_first_token_sum, e.time_to_first_token_sum_squares,
       coalesce(e.quality_count, 0), e.quality_sum, e.quality_sum_squares, coalesce(e.tokens_count, 0), e.input_tokens, e.output_tokens,
       e.total_tokens, coalesce(e.priced_runs, 0), e.total_cost, e.total_cost_sum_squares,
       coalesce(e.latency_count, 0) - coalesce((SELECT sum(c) FROM unnest(h.counts) AS b (c)), 0), h.bins, h.counts,
       coalesce(f.in_flight, 0), coalesce(f.in_flight_known, 0),
       CASE WHEN f.in_flight > 0 AND f.in_flight_known = 0 THEN NULL ELSE coalesce(f.in_flight_over_p99, 0) END,
       f.oldest_in_flight_seconds,
       least(timestamptz '1970-01-01 00:00:00+00' + (bucket + 1) * interval '5 minutes', CAST(%(now)s AS timestamptz))
FROM ended AS e
FULL JOIN flying AS f USING (bucket, group_id)
JOIN names AS n USING (group_id)
LEFT JOIN completion_histograms AS h USING (bucket, group_id);
