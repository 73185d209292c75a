-- The sums of pairs as sums of the groups in them; the groups of environments make up the whole. Parameters: day.
CREATE TEMPORARY TABLE rollup_sums ON COMMIT DROP AS
SELECT
    s.quarter, s.third, g.group_id,
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
    sum(cache_creation_input_tokens) AS cache_creation_input_tokens, sum(reasoning_output_tokens) AS reasoning_output_tokens,
    sum(priced_requests) AS priced_requests, sum(input_cost) AS input_cost, sum(output_cost) AS output_cost,
    sum(total_cost) AS total_cost, sum(total_cost_sum_squares) AS total_cost_sum_squares,
    sum(hit_priced_requests) AS hit_priced_requests, sum(hit_cost) AS hit_cost,
    sum(miss_priced_requests) AS miss_priced_requests, sum(miss_cost) AS miss_cost, sum(llm_calls) AS llm_calls,
    sum(tool_calls) AS tool_calls, sum(retrievals) AS retrievals, sum(latency_zeros) AS latency_zeros,
    sum(time_to_first_token_zeros) AS time_to_first_token_zeros, sum(quality_zeros) AS quality_zeros
FROM rollup_fine_sums AS s
CROSS JOIN LATERAL (
    SELECT CAST(mod(s.pair, 3000) AS smallint) AS group_id
    UNION ALL
    SELECT CAST(s.pair / 3000 AS smallint) WHERE s.pair >= 3000
    UNION ALL
    SELECT o.group_id
    FROM metamon.metric_groups AS o
    JOIN metamon.metric_groups AS e ON e.day = o.day AND e.dimension = 'environment' AND e.group_id = s.pair / 3000
    WHERE o.day = %(day)s AND o.dimension = 'overall'
) AS g
GROUP BY s.quarter, s.third, g.group_id;
