-- The facts' sums and histograms as rows of fifteen minutes. Parameters: day.
INSERT INTO metamon.fifteen_minute_metrics (
    day, bucket_start, dimension, dimension_value,
    requests, successes, errors, pending, abandoned, degraded_known, degraded, warned_requests, warnings, tasks_known,
    tasks_completed, cache_known, cache_hits, latency_count, latency_sum, latency_sum_squares, hit_latency_count,
    hit_latency_sum, miss_latency_count, miss_latency_sum, time_to_first_token_count, time_to_first_token_sum,
    time_to_first_token_sum_squares, quality_count, quality_sum, quality_sum_squares, tokens_count, input_tokens, output_tokens,
    total_tokens, cache_read_tokens_count, cache_read_input_tokens, cache_creation_input_tokens, reasoning_output_tokens,
    priced_requests, unpriced_requests, input_cost, output_cost, total_cost, total_cost_sum_squares, hit_priced_requests,
    hit_cost, miss_priced_requests, miss_cost, tool_cost, retrieval_cost, llm_calls, tool_calls, retrievals, tool_results,
    tool_errors, retrieval_results, retrieval_errors, latency_zeros, time_to_first_token_zeros, quality_zeros,
    latency_bins, latency_counts, time_to_first_token_bins, time_to_first_token_counts, quality_bins, quality_counts)
SELECT
    CAST(%(day)s AS date), CAST(%(day_start)s AS timestamptz) + s.quarter * interval '15 minutes', g.dimension, g.dimension_value,
    s.requests, s.successes, s.errors, s.pending, s.abandoned, s.degraded_known, s.degraded, s.warned_requests, s.warnings,
    s.tasks_known, s.tasks_completed, s.cache_known, s.cache_hits, s.latency_count, s.latency_sum, s.latency_sum_squares,
    s.hit_latency_count, s.hit_latency_sum, s.miss_latency_count, s.miss_latency_sum, s.time_to_first_token_count,
    s.time_to_first_token_sum, s.time_to_first_token_sum_squares, s.quality_count, s.quality_sum, s.quality_sum_squares,
    s.tokens_count, s.input_tokens, s.output_tokens, s.total_tokens, s.cache_read_tokens_count, s.cache_read_input_tokens,
    s.cache_creation_input_tokens, s.reasoning_output_tokens, s.priced_requests, s.unpriced_requests, s.input_cost,
    s.output_cost, s.total_cost, s.total_cost_sum_squares, s.hit_priced_requests, s.hit_cost, s.miss_priced_requests,
    s.miss_cost, c.tool_cost * 0.000000000001, c.retrieval_cost * 0.000000000001, s.llm_calls, s.tool_calls, s.retrievals,
    CASE g.dimension WHEN 'tool' THEN s.successes + s.errors ELSE coalesce(c.tool_results, 0) END,
    CASE g.dimension WHEN 'tool' THEN s.errors ELSE coalesce(c.tool_errors, 0) END, coalesce(c.retrieval_results, 0),
    coalesce(c.retrieval_errors, 0), s.latency_zeros, s.time_to_first_token_zeros, s.quality_zeros,
    latency.bins, latency.counts, first_token.bins, first_token.counts, quality.bins, quality.counts
FROM (
    SELECT quarter, group_id,
           CAST(sum(s.requests) AS bigint) AS requests, CAST(sum(s.successes) AS bigint) AS successes,
           CAST(sum(s.errors) AS bigint) AS errors, CAST(sum(s.pending) AS bigint) AS pending,
           CAST(sum(s.abandoned) AS bigint) AS abandoned, CAST(sum(s.degraded_known) AS bigint) AS degraded_known,
           CAST(sum(s.degraded) AS bigint) AS degraded, CAST(sum(s.warned_requests) AS bigint) AS warned_requests,
           CAST(sum(s.warnings) AS bigint) AS warnings, CAST(sum(s.tasks_known) AS bigint) AS tasks_known,
           CAST(sum(s.tasks_completed) AS bigint) AS tasks_completed, CAST(sum(s.cache_known) AS bigint) AS cache_known,
           CAST(sum(s.cache_hits) AS bigint) AS cache_hits, CAST(sum(s.latency_count) AS bigint) AS latency_count,
           sum(s.latency_sum) AS latency_sum, sum(s.latency_sum_squares) AS latency_sum_squares,
           CAST(sum(s.hit_latency_count) AS bigint) AS hit_latency_count, sum(s.hit_latency_sum) AS hit_latency_sum,
           CAST(sum(s.miss_latency_count) AS bigint) AS miss_latency_count, sum(s.miss_latency_sum) AS miss_latency_sum,
           CAST(sum(s.time_to_first_token_count) AS bigint) AS time_to_first_token_count,
           sum(s.time_to_first_token_sum) AS time_to_first_token_sum,
           sum(s.time_to_first_token_sum_squares) AS time_to_first_token_sum_squares,
           CAST(sum(s.quality_count) AS bigint) AS quality_count, sum(s.quality_sum) AS quality_sum,
           sum(s.quality_sum_squares) AS quality_sum_squares, CAST(sum(s.tokens_count) AS bigint) AS tokens_count,
           CAST(sum(s.input_tokens) AS bigint) AS input_tokens, CAST(sum(s.output_tokens) AS bigint) AS output_tokens,
           CAST(sum(s.total_tokens) AS bigint) AS total_tokens,
           CAST(sum(s.cache_read_tokens_count) AS bigint) AS cache_read_tokens_count,
           CAST(sum(s.cache_read_input_tokens) AS bigint) AS cache_read_input_tokens,
           CAST(sum(s.cache_creation_input_tokens) AS bigint) AS cache_creation_input_tokens,
           CAST(sum(s.reasoning_output_tokens) AS bigint) AS reasoning_output_tokens,
           CAST(sum(s.priced_requests) AS bigint) AS priced_requests, sum(s.requests - s.priced_requests) AS unpriced_requests,
           sum(s.input_cost) * 0.000000000001 AS input_cost, sum(s.output_cost) * 0.000000000001 AS output_cost,
           sum(s.total_cost) * 0.000000000001 AS total_cost, sum(s.total_cost_sum_squares) * 1e-24 AS total_cost_sum_squares,
           CAST(sum(s.hit_priced_requests) AS bigint) AS hit_priced_requests, sum(s.hit_cost) * 0.000000000001 AS hit_cost,
           CAST(sum(s.miss_priced_requests) AS bigint) AS miss_priced_requests, sum(s.miss_cost) * 0.000000000001 AS miss_cost,
           CAST(sum(s.llm_calls) AS bigint) AS llm_calls, CAST(sum(s.tool_calls) AS bigint) AS tool_calls,
           CAST(sum(s.retrievals) AS bigint) AS retrievals, CAST(sum(s.latency_zeros) AS bigint) AS latency_zeros,
           CAST(sum(s.time_to_first_token_zeros) AS bigint) AS time_to_first_token_zeros,
           CAST(sum(s.quality_zeros) AS bigint) AS quality_zeros
    FROM rollup_sums AS s
    GROUP BY quarter, group_id
) AS s
JOIN metamon.metric_groups AS g ON g.day = %(day)s AND g.group_id = s.group_id
LEFT JOIN (
    SELECT quarter, group_id,
           sum(tool_cost) AS tool_cost, sum(retrieval_cost) AS retrieval_cost, sum(tool_results) AS tool_results,
           sum(tool_errors) AS tool_errors, sum(retrieval_results) AS retrieval_results,
           sum(retrieval_errors) AS retrieval_errors
    FROM rollup_call_sums
    GROUP BY quarter, group_id
) AS c ON c.quarter = s.quarter AND c.group_id = s.group_id
LEFT JOIN rollup_histograms AS latency
    ON latency.metric = 'latency' AND latency.quarter = s.quarter AND latency.group_id = s.group_id
LEFT JOIN rollup_histograms AS first_token
    ON first_token.metric = 'time_to_first_token' AND first_token.quarter = s.quarter AND first_token.group_id = s.group_id
LEFT JOIN rollup_histograms AS quality
    ON quality.metric = 'quality' AND quality.quarter = s.quarter AND quality.group_id = s.group_id;
