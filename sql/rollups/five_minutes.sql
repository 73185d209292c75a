-- The facts' sums and histograms as rows of five minutes. Parameters: day.
INSERT INTO metamon.five_minute_metrics (
    day, bucket_start, dimension, dimension_value,
    requests, successes, errors, pending, abandoned, degraded_known, degraded, warned_requests, warnings, tasks_known,
    tasks_completed, cache_known, cache_hits, latency_count, latency_sum, latency_sum_squares, hit_latency_count,
    hit_latency_sum, miss_latency_count, miss_latency_sum, time_to_first_token_count, time_to_first_token_sum,
    time_to_first_token_sum_squares, quality_count, quality_sum, quality_sum_squares, tokens_count, input_tokens, output_tokens,
    total_tokens, cache_read_tokens_count, cache_read_input_tokens, cache_creation_input_tokens, reasoning_output_tokens,
    priced_requests, unpriced_requests, input_cost, output_cost, total_cost, total_cost_sum_squares, hit_priced_requests,
    hit_cost, miss_priced_requests, miss_cost, tool_cost, retrieval_cost, llm_calls, tool_calls, retrievals, tool_results,
    tool_errors, retrieval_results, retrieval_errors, latency_zeros,
    latency_bins, latency_counts)
SELECT
    CAST(%(day)s AS date), CAST(%(day_start)s AS timestamptz) + (s.quarter * 15 + s.third * 5) * interval '1 minute',
    g.dimension, g.dimension_value,
    s.requests, s.successes, s.errors, s.pending, s.abandoned, s.degraded_known, s.degraded, s.warned_requests, s.warnings,
    s.tasks_known, s.tasks_completed, s.cache_known, s.cache_hits, s.latency_count, s.latency_sum, s.latency_sum_squares,
    s.hit_latency_count, s.hit_latency_sum, s.miss_latency_count, s.miss_latency_sum, s.time_to_first_token_count,
    s.time_to_first_token_sum, s.time_to_first_token_sum_squares, s.quality_count, s.quality_sum, s.quality_sum_squares,
    s.tokens_count, s.input_tokens, s.output_tokens, s.total_tokens, s.cache_read_tokens_count, s.cache_read_input_tokens,
    s.cache_creation_input_tokens, s.reasoning_output_tokens, s.priced_requests, s.requests - s.priced_requests,
    s.input_cost * 0.000000000001, s.output_cost * 0.000000000001, s.total_cost * 0.000000000001,
    s.total_cost_sum_squares * 1e-24, s.hit_priced_requests, s.hit_cost * 0.000000000001, s.miss_priced_requests,
    s.miss_cost * 0.000000000001, c.tool_cost * 0.000000000001, c.retrieval_cost * 0.000000000001, s.llm_calls, s.tool_calls,
    s.retrievals, CASE g.dimension WHEN 'tool' THEN s.successes + s.errors ELSE coalesce(c.tool_results, 0) END,
    CASE g.dimension WHEN 'tool' THEN s.errors ELSE coalesce(c.tool_errors, 0) END, coalesce(c.retrieval_results, 0),
    coalesce(c.retrieval_errors, 0), s.latency_zeros,
    CASE s.third WHEN 0 THEN latency.bins_0 WHEN 1 THEN latency.bins_1 ELSE latency.bins_2 END,
    CASE s.third WHEN 0 THEN latency.counts_0 WHEN 1 THEN latency.counts_1 ELSE latency.counts_2 END
FROM rollup_sums AS s
JOIN metamon.metric_groups AS g ON g.day = %(day)s AND g.group_id = s.group_id
LEFT JOIN rollup_call_sums AS c ON c.quarter = s.quarter AND c.third = s.third AND c.group_id = s.group_id
LEFT JOIN rollup_histograms AS latency
    ON latency.metric = 'latency' AND latency.quarter = s.quarter AND latency.group_id = s.group_id;
