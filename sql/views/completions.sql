-- What ended in five minutes and what was in flight then, for analysts: the figures that detection looks at.

CREATE OR REPLACE VIEW analytics.completion_metrics WITH (security_invoker = true) AS
SELECT m.*,
       CAST(m.errors AS double precision) / nullif(m.completed, 0) AS error_rate,
       m.latency_sum / nullif(m.latency_count, 0) AS latency_mean,
       metamon.histogram_quantile(m.latency_bins, m.latency_counts, m.latency_zeros, 0.95) AS latency_p95,
       m.in_flight_over_p99 / nullif(CAST(m.in_flight_known AS double precision), 0) AS hung_share
FROM metamon.completion_metrics AS m;
COMMENT ON VIEW analytics.completion_metrics IS 'Five-minute buckets of the last 14 days by the end of the runs, one dimension at a time: sums, what is in flight, and figures derived from them.';
SELECT metamon.copy_comments('metamon.completion_metrics', 'analytics.completion_metrics');
COMMENT ON COLUMN analytics.completion_metrics.error_rate IS 'errors / completed.';
COMMENT ON COLUMN analytics.completion_metrics.latency_mean IS 'Mean latency in seconds.';
COMMENT ON COLUMN analytics.completion_metrics.latency_p95 IS '95th percentile of latency in seconds, within 1 %.';
COMMENT ON COLUMN analytics.completion_metrics.hung_share IS 'in_flight_over_p99 / in_flight_known.';
