-- The sums of pairs as sums of the groups in them; the groups of environments make up the whole. Parameters: day.
CREATE TEMPORARY TABLE rollup_sums ON COMMIT DROP AS
SELECT
    s.quarter, s.third, g.group_id,
    CAST(sum(requests) AS bigint) AS requests, CAST(sum(successes) AS bigint) AS successes,
    CAST(sum(errors) AS bigint) AS errors, CAST(sum(pending) AS bigint) AS pending, CAST(sum(abandoned) AS bigint) AS abandoned,
    CAST(sum(degraded_known) AS bigint) AS degraded_known, CAST(sum(degraded) AS bigint) AS degraded,
    CAST(sum(warned_requests) AS bigint) AS warned_requests, CAST(sum(warnings) AS bigint) AS warnings,
    CAST(sum(tasks_known) AS bigint) AS tasks_known, CAST(sum(tasks_completed) AS bigint) AS tasks_completed,
    CAST(sum(cache_known) AS bigint) AS cache_known, CAST(sum(cache_hits) AS bigint) AS cache_hits,
    CAST(sum(latency_count) AS bigint) AS latency_count, sum(latency_sum) AS latency_sum,
    sum(latency_sum_squares) AS latency_sum_squares, CAST(sum(hit_latency_count) AS bigint) AS hit_latency_count,
    sum(hit_latency_sum) AS hit_latency_sum, CAST(sum(miss_latency_count) AS bigint) AS miss_latency_count,
    sum(miss_latency_sum) AS miss_latency_sum, CAST(sum(time_to_first_token_count) AS bigint) AS time_to_first_token_count,
    sum(time_to_first_token_sum) AS time_to_first_token_sum,
    sum(time_to_first_token_sum_squares) AS time_to_first_token_sum_squares, CAST(sum(quality_count) AS bigint) AS quality_count,
    sum(quality_sum) AS quality_sum, sum(quality_sum_squares) AS quality_sum_squares,
    CAST(sum(tokens_count) AS bigint) AS tokens_count, CAST(sum(input_tokens) AS bigint) AS input_tokens,
    CAST(sum(output_tokens) AS bigint) AS output_tokens, CAST(sum(total_tokens) AS bigint) AS total_tokens,
    CAST(sum(cache_read_tokens_count) AS bigint) AS cache_read_tokens_count,
    CAST(sum(cache_read_input_tokens) AS bigint) AS cache_read_input_tokens,
    CAST(sum(cache_creation_input_tokens) AS bigint) AS cache_creation_input_tokens,
    CAST(sum(reasoning_output_tokens) AS bigint) AS reasoning_output_tokens,
    CAST(sum(priced_requests) AS bigint) AS priced_requests, sum(input_cost) AS input_cost, sum(output_cost) AS output_cost,
    sum(total_cost) AS total_cost, sum(total_cost_sum_squares) AS total_cost_sum_squares,
    CAST(sum(hit_priced_requests) AS bigint) AS hit_priced_requests, sum(hit_cost) AS hit_cost,
    CAST(sum(miss_priced_requests) AS bigint) AS miss_priced_requests, sum(miss_cost) AS miss_cost,
    CAST(sum(llm_calls) AS bigint) AS llm_calls, CAST(sum(tool_calls) AS bigint) AS tool_calls,
    CAST(sum(retrievals) AS bigint) AS retrievals, CAST(sum(latency_zeros) AS bigint) AS latency_zeros,
    CAST(sum(time_to_first_token_zeros) AS bigint) AS time_to_first_token_zeros,
    CAST(sum(quality_zeros) AS bigint) AS quality_zeros
FROM rollup_fine_sums AS s
CROSS JOIN LATERAL (
    SELECT CAST(mod(s.pair, 3000) AS smallint) AS group_id
    UNION ALL
    SELECT CAST(s.pair / 3000 AS smallint) WHERE s.pair >= 3000
    UNION ALL
    SELECT (SELECT group_id FROM metamon.metric_groups WHERE day = %(day)s AND dimension = 'overall')
    WHERE s.pair / 3000 IN (SELECT group_id FROM metamon.metric_groups WHERE day = %(day)s AND dimension = 'environment')
) AS g
GROUP BY s.quarter, s.third, g.group_id;
