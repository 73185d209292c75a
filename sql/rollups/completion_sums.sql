-- Sums of the traces that ended in five minutes by all dimensions at once, with their latency bins side by side: a few
-- thousand rows, from which every dimension follows. Where the root is itself a call of a tool, call says which. The runs are
-- those of completed.sql.
CREATE TEMPORARY TABLE completion_sums ON COMMIT DROP AS
SELECT CAST(floor(date_part('epoch', ended_at) / 300) AS integer) AS bucket,
       tenant_id AS tenant, agent_name AS agent, agent_version, mode, coalesce(response_model, request_model) AS model, environment,
       CAST(NULL AS text) AS tool, CASE WHEN run_type = 'tool' THEN coalesce(tool_name, name, '(none)') END AS call,
       count(*) AS completed,
       count(*) FILTER (WHERE status = 'success') AS successes,
       count(degraded) AS degraded_known,
       count(*) FILTER (WHERE degraded) AS degraded,
       count(cache_hit) AS cache_known,
       count(*) FILTER (WHERE cache_hit) AS cache_hits,
       count(latency_seconds) AS latency_count,
       sum(latency_seconds) AS latency_sum,
       sum(latency_seconds * latency_seconds) AS latency_sum_squares,
       count(time_to_first_token_seconds) AS time_to_first_token_count,
       sum(time_to_first_token_seconds) AS time_to_first_token_sum,
       sum(time_to_first_token_seconds * time_to_first_token_seconds) AS time_to_first_token_sum_squares,
       count(quality_score) AS quality_count,
       sum(quality_score) AS quality_sum,
       sum(quality_score * quality_score) AS quality_sum_squares,
       count(total_tokens) AS tokens_count,
       sum(input_tokens) AS input_tokens,
       sum(output_tokens) AS output_tokens,
       sum(total_tokens) AS total_tokens,
       count(total_cost) AS priced_runs,
       sum(total_cost) AS total_cost,
       sum(CAST(total_cost AS double precision) * CAST(total_cost AS double precision)) AS total_cost_sum_squares,
       array_agg(metamon.histogram_bin(latency_seconds)) FILTER (WHERE latency_seconds > 0) AS latency_bins
FROM ({completed}) AS runs
GROUP BY 1, 2, 3, 4, 5, 6, 7, 9;
