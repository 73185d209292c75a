-- The p99 of the latency of the agents and tools that have something in flight, over the seven UTC days before, where at
-- least 1,000 latencies are known: ten of them lie beyond it. Parameters: day.
CREATE TEMPORARY TABLE completion_limits ON COMMIT DROP AS
SELECT dimension, dimension_value, metamon.histogram_quantile((latency).bins, (latency).counts, latency_zeros, 0.99) AS seconds
FROM (
    SELECT dimension, dimension_value, CAST(sum(latency_zeros) AS bigint) AS latency_zeros,
           metamon.histogram_merge(latency_bins, latency_counts) AS latency
    FROM metamon.daily_metrics
    WHERE day >= CAST(%(day)s AS date) - 7 AND day < %(day)s
      AND (dimension, dimension_value) IN (
          SELECT g.dimension, g.dimension_value
          FROM completion_flights AS f
          JOIN completion_groups AS g ON g.dimension = CASE WHEN f.tool IS NULL THEN 'agent' ELSE 'tool' END
                                     AND g.label = coalesce(f.tool, f.agent, '(none)'))
    GROUP BY dimension, dimension_value
    HAVING sum(latency_count) >= 1000
) AS earlier;
