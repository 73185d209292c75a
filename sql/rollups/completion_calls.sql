-- The same of the calls of tools that ended, by tool. A root that is itself a call counts too; it has been read already. The
-- calls are those of completed.sql.
INSERT INTO completion_sums (bucket, tool, completed, successes, degraded_known, degraded, cache_known, cache_hits, latency_count, latency_sum,
                             latency_sum_squares, time_to_first_token_count, quality_count, tokens_count, priced_runs, total_cost,
                             total_cost_sum_squares, latency_bins)
SELECT CAST(floor(date_part('epoch', ended_at) / 300) AS integer), coalesce(tool_name, name, '(none)'), count(*),
       count(*) FILTER (WHERE status = 'success'), 0, 0, 0, 0, count(latency_seconds), sum(latency_seconds),
       sum(latency_seconds * latency_seconds), 0, 0, 0, count(total_cost), sum(total_cost),
       sum(CAST(total_cost AS double precision) * CAST(total_cost AS double precision)),
       array_agg(metamon.histogram_bin(latency_seconds)) FILTER (WHERE latency_seconds > 0)
FROM ({completed}) AS calls
GROUP BY 1, 2
UNION ALL
SELECT bucket, call, completed, successes, 0, 0, 0, 0, latency_count, latency_sum, latency_sum_squares, 0, 0, 0, priced_runs, total_cost,
       total_cost_sum_squares, latency_bins
FROM completion_sums
WHERE call IS NOT NULL;
