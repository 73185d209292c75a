-- A day's rows: the sums of its fifteen minutes, with what buckets cannot tell beside them. They count as computed when
-- their computation began: what arrived since may not be in them. Parameters: day, began.
INSERT INTO metamon.daily_metrics (
    day, dimension, dimension_value,
    requests, successes, errors, pending, abandoned, degraded_known, degraded, warned_requests, warnings, tasks_known,
    tasks_completed, cache_known, cache_hits, latency_count, latency_sum, latency_sum_squares, hit_latency_count,
    hit_latency_sum, miss_latency_count, miss_latency_sum, time_to_first_token_count, time_to_first_token_sum,
    time_to_first_token_sum_squares, quality_count, quality_sum, quality_sum_squares, tokens_count, input_tokens, output_tokens,
    total_tokens, cache_read_tokens_count, cache_read_input_tokens, cache_creation_input_tokens, reasoning_output_tokens,
    priced_requests, unpriced_requests, input_cost, output_cost, total_cost, total_cost_sum_squares, hit_priced_requests,
    hit_cost, miss_priced_requests, miss_cost, tool_cost, retrieval_cost, llm_calls, tool_calls, retrievals, tool_results,
    tool_errors, retrieval_results, retrieval_errors, latency_zeros, time_to_first_token_zeros, quality_zeros,
    latency_bins, latency_counts, time_to_first_token_bins, time_to_first_token_counts, quality_bins, quality_counts,
    users, conversations, rated_requests, feedback_count, feedback, error_types, degradation_reasons, warning_types, refreshed_at)
WITH sums AS (
    SELECT dimension, dimension_value,
           sum(requests) AS requests, sum(successes) AS successes, sum(errors) AS errors, sum(pending) AS pending,
           sum(abandoned) AS abandoned, sum(degraded_known) AS degraded_known, sum(degraded) AS degraded,
           sum(warned_requests) AS warned_requests, sum(warnings) AS warnings, sum(tasks_known) AS tasks_known,
           sum(tasks_completed) AS tasks_completed, sum(cache_known) AS cache_known, sum(cache_hits) AS cache_hits,
           sum(latency_count) AS latency_count, sum(latency_sum) AS latency_sum, sum(latency_sum_squares) AS latency_sum_squares,
           sum(hit_latency_count) AS hit_latency_count, sum(hit_latency_sum) AS hit_latency_sum,
           sum(miss_latency_count) AS miss_latency_count, sum(miss_latency_sum) AS miss_latency_sum,
           sum(time_to_first_token_count) AS time_to_first_token_count, sum(time_to_first_token_sum) AS time_to_first_token_sum,
           sum(time_to_first_token_sum_squares) AS time_to_first_token_sum_squares, sum(quality_count) AS quality_count,
           sum(quality_sum) AS quality_sum, sum(quality_sum_squares) AS quality_sum_squares, sum(tokens_count) AS tokens_count,
           sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens, sum(total_tokens) AS total_tokens,
           sum(cache_read_tokens_count) AS cache_read_tokens_count, sum(cache_read_input_tokens) AS cache_read_input_tokens,
           sum(cache_creation_input_tokens) AS cache_creation_input_tokens,
           sum(reasoning_output_tokens) AS reasoning_output_tokens, sum(priced_requests) AS priced_requests,
           sum(unpriced_requests) AS unpriced_requests, sum(input_cost) AS input_cost, sum(output_cost) AS output_cost,
           sum(total_cost) AS total_cost, sum(total_cost_sum_squares) AS total_cost_sum_squares,
           sum(hit_priced_requests) AS hit_priced_requests, sum(hit_cost) AS hit_cost,
           sum(miss_priced_requests) AS miss_priced_requests, sum(miss_cost) AS miss_cost, sum(tool_cost) AS tool_cost,
           sum(retrieval_cost) AS retrieval_cost, sum(llm_calls) AS llm_calls, sum(tool_calls) AS tool_calls,
           sum(retrievals) AS retrievals, sum(tool_results) AS tool_results, sum(tool_errors) AS tool_errors,
           sum(retrieval_results) AS retrieval_results, sum(retrieval_errors) AS retrieval_errors,
           sum(latency_zeros) AS latency_zeros, sum(time_to_first_token_zeros) AS time_to_first_token_zeros,
           sum(quality_zeros) AS quality_zeros
    FROM metamon.fifteen_minute_metrics
    WHERE day = %(day)s
    GROUP BY dimension, dimension_value
)
SELECT
    CAST(%(day)s AS date), s.dimension, s.dimension_value,
    s.requests, s.successes, s.errors, s.pending, s.abandoned, s.degraded_known, s.degraded, s.warned_requests, s.warnings,
    s.tasks_known, s.tasks_completed, s.cache_known, s.cache_hits, s.latency_count, s.latency_sum, s.latency_sum_squares,
    s.hit_latency_count, s.hit_latency_sum, s.miss_latency_count, s.miss_latency_sum, s.time_to_first_token_count,
    s.time_to_first_token_sum, s.time_to_first_token_sum_squares, s.quality_count, s.quality_sum, s.quality_sum_squares,
    s.tokens_count, s.input_tokens, s.output_tokens, s.total_tokens, s.cache_read_tokens_count, s.cache_read_input_tokens,
    s.cache_creation_input_tokens, s.reasoning_output_tokens, s.priced_requests, s.unpriced_requests, s.input_cost,
    s.output_cost, s.total_cost, s.total_cost_sum_squares, s.hit_priced_requests, s.hit_cost, s.miss_priced_requests,
    s.miss_cost, s.tool_cost, s.retrieval_cost, s.llm_calls, s.tool_calls, s.retrievals, s.tool_results, s.tool_errors,
    s.retrieval_results, s.retrieval_errors, s.latency_zeros, s.time_to_first_token_zeros, s.quality_zeros,
    latency.bins, latency.counts, first_token.bins, first_token.counts, quality.bins, quality.counts,
    CASE WHEN s.dimension IN ('overall', 'tenant', 'agent', 'variant') THEN coalesce(u.units, 0) END,
    CASE WHEN s.dimension IN ('overall', 'tenant', 'agent', 'variant') THEN coalesce(c.units, 0) END,
    coalesce(f.rated_requests, 0), coalesce(f.feedback_count, 0), coalesce(f.feedback, '{}'),
    coalesce(r.error_types, '{}'), coalesce(r.degradation_reasons, '{}'), coalesce(r.warning_types, '{}'), %(began)s
FROM sums AS s
JOIN metamon.metric_groups AS g ON g.day = %(day)s AND g.dimension = s.dimension AND g.dimension_value = s.dimension_value
LEFT JOIN rollup_day_histograms AS latency ON latency.metric = 'latency' AND latency.group_id = g.group_id
LEFT JOIN rollup_day_histograms AS first_token ON first_token.metric = 'time_to_first_token' AND first_token.group_id = g.group_id
LEFT JOIN rollup_day_histograms AS quality ON quality.metric = 'quality' AND quality.group_id = g.group_id
LEFT JOIN rollup_distinct AS u ON u.unit_type = 'user' AND u.group_id = g.group_id
LEFT JOIN rollup_distinct AS c ON c.unit_type = 'conversation' AND c.group_id = g.group_id
LEFT JOIN rollup_feedback AS f ON f.group_id = g.group_id
LEFT JOIN rollup_reasons AS r ON r.group_id = g.group_id;
