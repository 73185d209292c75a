-- What the traces add up to, for analysts. Written by metamon_assets/metrics/registry.py from the one list of metrics;
-- a test fails when the two differ. Ratios of rows are for reading a row: over several rows divide the sums, and
-- take percentiles from metamon.histogram_merge, never from averages.

CREATE OR REPLACE VIEW analytics.five_minute_metrics WITH (security_invoker = true) AS
SELECT m.*,
       CAST(requests AS double precision) / nullif(300, 0) AS request_rate,
       CAST(errors AS double precision) / nullif((successes + errors), 0) AS error_rate,
       CAST(successes AS double precision) / nullif((successes + errors), 0) AS success_rate,
       pending AS pending_requests,
       abandoned AS abandoned_requests,
       CAST(latency_sum AS double precision) / nullif(latency_count, 0) AS latency_mean,
       metamon.histogram_quantile(latency_bins, latency_counts, latency_zeros, 0.5) AS latency_p50,
       metamon.histogram_quantile(latency_bins, latency_counts, latency_zeros, 0.95) AS latency_p95,
       metamon.histogram_quantile(latency_bins, latency_counts, latency_zeros, 0.99) AS latency_p99,
       CAST(hit_latency_sum AS double precision) / nullif(hit_latency_count, 0) AS cache_hit_latency_mean,
       CAST(miss_latency_sum AS double precision) / nullif(miss_latency_count, 0) AS cache_miss_latency_mean,
       CAST(time_to_first_token_sum AS double precision) / nullif(time_to_first_token_count, 0) AS time_to_first_token_mean,
       CAST(latency_sum AS double precision) / nullif(300, 0) AS active_workflows,
       CAST((tool_results - tool_errors) AS double precision) / nullif(tool_results, 0) AS tool_success_rate,
       CAST((retrieval_results - retrieval_errors) AS double precision) / nullif(retrieval_results, 0) AS retrieval_success_rate,
       CAST(cache_hits AS double precision) / nullif(cache_known, 0) AS cache_hit_rate,
       hit_priced_requests * miss_cost / nullif(miss_priced_requests, 0) - hit_cost AS cache_saved_cost,
       CAST(quality_sum AS double precision) / nullif(quality_count, 0) AS quality_mean,
       CAST(degraded AS double precision) / nullif(degraded_known, 0) AS degradation_rate,
       CAST(warned_requests AS double precision) / nullif(requests, 0) AS warning_rate,
       CAST(tasks_completed AS double precision) / nullif(tasks_known, 0) AS task_completion_rate,
       total_cost - coalesce(retrieval_cost, 0) AS llm_cost,
       CAST(total_cost AS double precision) / nullif(priced_requests, 0) AS cost_per_request,
       CAST(unpriced_requests AS double precision) / nullif(requests, 0) AS unpriced_share,
       CAST(hit_cost AS double precision) / nullif(hit_priced_requests, 0) AS cache_hit_cost_per_request,
       CAST(miss_cost AS double precision) / nullif(miss_priced_requests, 0) AS cache_miss_cost_per_request,
       CAST(total_tokens AS double precision) / nullif(tokens_count, 0) AS tokens_per_request
FROM metamon.five_minute_metrics AS m;
COMMENT ON VIEW analytics.five_minute_metrics IS 'Five-minute buckets of the last 14 days by one dimension at a time: sums, and the figures derived from them.';
SELECT metamon.copy_comments('metamon.five_minute_metrics', 'analytics.five_minute_metrics');
COMMENT ON COLUMN analytics.five_minute_metrics.request_rate IS 'Requests per second. Unit 1/s.';
COMMENT ON COLUMN analytics.five_minute_metrics.error_rate IS 'Failed share of the requests that ended. Unit 1.';
COMMENT ON COLUMN analytics.five_minute_metrics.success_rate IS 'Successful share of the requests that ended. Unit 1.';
COMMENT ON COLUMN analytics.five_minute_metrics.pending_requests IS 'Requests still pending. Unit {request}.';
COMMENT ON COLUMN analytics.five_minute_metrics.abandoned_requests IS 'Requests pending for 14 days and given up. Unit {request}.';
COMMENT ON COLUMN analytics.five_minute_metrics.latency_mean IS 'Mean latency. Unit s.';
COMMENT ON COLUMN analytics.five_minute_metrics.latency_p50 IS 'Median latency, within 1 %. Unit s.';
COMMENT ON COLUMN analytics.five_minute_metrics.latency_p95 IS '95th percentile of latency, within 1 %. Unit s.';
COMMENT ON COLUMN analytics.five_minute_metrics.latency_p99 IS '99th percentile of latency, within 1 %. Unit s.';
COMMENT ON COLUMN analytics.five_minute_metrics.cache_hit_latency_mean IS 'Mean latency of requests that the cache answered. Unit s.';
COMMENT ON COLUMN analytics.five_minute_metrics.cache_miss_latency_mean IS 'Mean latency of requests that the cache did not answer. Unit s.';
COMMENT ON COLUMN analytics.five_minute_metrics.time_to_first_token_mean IS 'Mean time to the first token. Unit s.';
COMMENT ON COLUMN analytics.five_minute_metrics.active_workflows IS 'Requests under way at a time, on average (Little''s law). Unit {request}.';
COMMENT ON COLUMN analytics.five_minute_metrics.tool_success_rate IS 'Successful share of the tool calls that ended. Unit 1.';
COMMENT ON COLUMN analytics.five_minute_metrics.retrieval_success_rate IS 'Successful share of the retrievals that ended. Unit 1.';
COMMENT ON COLUMN analytics.five_minute_metrics.cache_hit_rate IS 'Share of the requests that the application''s cache answered. Unit 1.';
COMMENT ON COLUMN analytics.five_minute_metrics.cache_saved_cost IS 'What the priced cache hits would have cost at the mean cost of the misses, less what they did cost. Unit USD.';
COMMENT ON COLUMN analytics.five_minute_metrics.quality_mean IS 'Mean quality score. Unit 1.';
COMMENT ON COLUMN analytics.five_minute_metrics.degradation_rate IS 'Share of degraded answers. Unit 1.';
COMMENT ON COLUMN analytics.five_minute_metrics.warning_rate IS 'Share of requests with a warning. Unit 1.';
COMMENT ON COLUMN analytics.five_minute_metrics.task_completion_rate IS 'Share of completed tasks. Unit 1.';
COMMENT ON COLUMN analytics.five_minute_metrics.llm_cost IS 'US dollars of model calls: the total less embeddings, reranking and retrieval. Unit USD.';
COMMENT ON COLUMN analytics.five_minute_metrics.cost_per_request IS 'US dollars per priced request. Unit USD.';
COMMENT ON COLUMN analytics.five_minute_metrics.unpriced_share IS 'Share of requests whose cost is unknown. Unit 1.';
COMMENT ON COLUMN analytics.five_minute_metrics.cache_hit_cost_per_request IS 'US dollars per request that the cache answered. Unit USD.';
COMMENT ON COLUMN analytics.five_minute_metrics.cache_miss_cost_per_request IS 'US dollars per request that the cache did not answer. Unit USD.';
COMMENT ON COLUMN analytics.five_minute_metrics.tokens_per_request IS 'Tokens per request that tells them. Unit {token}.';

CREATE OR REPLACE VIEW analytics.fifteen_minute_metrics WITH (security_invoker = true) AS
SELECT m.*,
       CAST(requests AS double precision) / nullif(900, 0) AS request_rate,
       CAST(errors AS double precision) / nullif((successes + errors), 0) AS error_rate,
       CAST(successes AS double precision) / nullif((successes + errors), 0) AS success_rate,
       pending AS pending_requests,
       abandoned AS abandoned_requests,
       CAST(latency_sum AS double precision) / nullif(latency_count, 0) AS latency_mean,
       metamon.histogram_quantile(latency_bins, latency_counts, latency_zeros, 0.5) AS latency_p50,
       metamon.histogram_quantile(latency_bins, latency_counts, latency_zeros, 0.95) AS latency_p95,
       metamon.histogram_quantile(latency_bins, latency_counts, latency_zeros, 0.99) AS latency_p99,
       CAST(hit_latency_sum AS double precision) / nullif(hit_latency_count, 0) AS cache_hit_latency_mean,
       CAST(miss_latency_sum AS double precision) / nullif(miss_latency_count, 0) AS cache_miss_latency_mean,
       CAST(time_to_first_token_sum AS double precision) / nullif(time_to_first_token_count, 0) AS time_to_first_token_mean,
       metamon.histogram_quantile(time_to_first_token_bins, time_to_first_token_counts, time_to_first_token_zeros, 0.5) AS time_to_first_token_p50,
       metamon.histogram_quantile(time_to_first_token_bins, time_to_first_token_counts, time_to_first_token_zeros, 0.95) AS time_to_first_token_p95,
       CAST(latency_sum AS double precision) / nullif(900, 0) AS active_workflows,
       CAST((tool_results - tool_errors) AS double precision) / nullif(tool_results, 0) AS tool_success_rate,
       CAST((retrieval_results - retrieval_errors) AS double precision) / nullif(retrieval_results, 0) AS retrieval_success_rate,
       CAST(cache_hits AS double precision) / nullif(cache_known, 0) AS cache_hit_rate,
       hit_priced_requests * miss_cost / nullif(miss_priced_requests, 0) - hit_cost AS cache_saved_cost,
       CAST(quality_sum AS double precision) / nullif(quality_count, 0) AS quality_mean,
       metamon.histogram_quantile(quality_bins, quality_counts, quality_zeros, 0.1) AS quality_p10,
       metamon.histogram_quantile(quality_bins, quality_counts, quality_zeros, 0.5) AS quality_p50,
       CAST(degraded AS double precision) / nullif(degraded_known, 0) AS degradation_rate,
       CAST(warned_requests AS double precision) / nullif(requests, 0) AS warning_rate,
       CAST(tasks_completed AS double precision) / nullif(tasks_known, 0) AS task_completion_rate,
       total_cost - coalesce(retrieval_cost, 0) AS llm_cost,
       CAST(total_cost AS double precision) / nullif(priced_requests, 0) AS cost_per_request,
       CAST(unpriced_requests AS double precision) / nullif(requests, 0) AS unpriced_share,
       CAST(hit_cost AS double precision) / nullif(hit_priced_requests, 0) AS cache_hit_cost_per_request,
       CAST(miss_cost AS double precision) / nullif(miss_priced_requests, 0) AS cache_miss_cost_per_request,
       CAST(total_tokens AS double precision) / nullif(tokens_count, 0) AS tokens_per_request
FROM metamon.fifteen_minute_metrics AS m;
COMMENT ON VIEW analytics.fifteen_minute_metrics IS 'Fifteen-minute buckets by one dimension at a time: sums, and the figures derived from them.';
SELECT metamon.copy_comments('metamon.fifteen_minute_metrics', 'analytics.fifteen_minute_metrics');
COMMENT ON COLUMN analytics.fifteen_minute_metrics.request_rate IS 'Requests per second. Unit 1/s.';
COMMENT ON COLUMN analytics.fifteen_minute_metrics.error_rate IS 'Failed share of the requests that ended. Unit 1.';
COMMENT ON COLUMN analytics.fifteen_minute_metrics.success_rate IS 'Successful share of the requests that ended. Unit 1.';
COMMENT ON COLUMN analytics.fifteen_minute_metrics.pending_requests IS 'Requests still pending. Unit {request}.';
COMMENT ON COLUMN analytics.fifteen_minute_metrics.abandoned_requests IS 'Requests pending for 14 days and given up. Unit {request}.';
COMMENT ON COLUMN analytics.fifteen_minute_metrics.latency_mean IS 'Mean latency. Unit s.';
COMMENT ON COLUMN analytics.fifteen_minute_metrics.latency_p50 IS 'Median latency, within 1 %. Unit s.';
COMMENT ON COLUMN analytics.fifteen_minute_metrics.latency_p95 IS '95th percentile of latency, within 1 %. Unit s.';
COMMENT ON COLUMN analytics.fifteen_minute_metrics.latency_p99 IS '99th percentile of latency, within 1 %. Unit s.';
COMMENT ON COLUMN analytics.fifteen_minute_metrics.cache_hit_latency_mean IS 'Mean latency of requests that the cache answered. Unit s.';
COMMENT ON COLUMN analytics.fifteen_minute_metrics.cache_miss_latency_mean IS 'Mean latency of requests that the cache did not answer. Unit s.';
COMMENT ON COLUMN analytics.fifteen_minute_metrics.time_to_first_token_mean IS 'Mean time to the first token. Unit s.';
COMMENT ON COLUMN analytics.fifteen_minute_metrics.time_to_first_token_p50 IS '50th percentile of the time to the first token, within 1 %. Unit s.';
COMMENT ON COLUMN analytics.fifteen_minute_metrics.time_to_first_token_p95 IS '95th percentile of the time to the first token, within 1 %. Unit s.';
COMMENT ON COLUMN analytics.fifteen_minute_metrics.active_workflows IS 'Requests under way at a time, on average (Little''s law). Unit {request}.';
COMMENT ON COLUMN analytics.fifteen_minute_metrics.tool_success_rate IS 'Successful share of the tool calls that ended. Unit 1.';
COMMENT ON COLUMN analytics.fifteen_minute_metrics.retrieval_success_rate IS 'Successful share of the retrievals that ended. Unit 1.';
COMMENT ON COLUMN analytics.fifteen_minute_metrics.cache_hit_rate IS 'Share of the requests that the application''s cache answered. Unit 1.';
COMMENT ON COLUMN analytics.fifteen_minute_metrics.cache_saved_cost IS 'What the priced cache hits would have cost at the mean cost of the misses, less what they did cost. Unit USD.';
COMMENT ON COLUMN analytics.fifteen_minute_metrics.quality_mean IS 'Mean quality score. Unit 1.';
COMMENT ON COLUMN analytics.fifteen_minute_metrics.quality_p10 IS '10th percentile of the quality score, within 1 %. Unit 1.';
COMMENT ON COLUMN analytics.fifteen_minute_metrics.quality_p50 IS '50th percentile of the quality score, within 1 %. Unit 1.';
COMMENT ON COLUMN analytics.fifteen_minute_metrics.degradation_rate IS 'Share of degraded answers. Unit 1.';
COMMENT ON COLUMN analytics.fifteen_minute_metrics.warning_rate IS 'Share of requests with a warning. Unit 1.';
COMMENT ON COLUMN analytics.fifteen_minute_metrics.task_completion_rate IS 'Share of completed tasks. Unit 1.';
COMMENT ON COLUMN analytics.fifteen_minute_metrics.llm_cost IS 'US dollars of model calls: the total less embeddings, reranking and retrieval. Unit USD.';
COMMENT ON COLUMN analytics.fifteen_minute_metrics.cost_per_request IS 'US dollars per priced request. Unit USD.';
COMMENT ON COLUMN analytics.fifteen_minute_metrics.unpriced_share IS 'Share of requests whose cost is unknown. Unit 1.';
COMMENT ON COLUMN analytics.fifteen_minute_metrics.cache_hit_cost_per_request IS 'US dollars per request that the cache answered. Unit USD.';
COMMENT ON COLUMN analytics.fifteen_minute_metrics.cache_miss_cost_per_request IS 'US dollars per request that the cache did not answer. Unit USD.';
COMMENT ON COLUMN analytics.fifteen_minute_metrics.tokens_per_request IS 'Tokens per request that tells them. Unit {token}.';

CREATE OR REPLACE VIEW analytics.daily_metrics WITH (security_invoker = true) AS
SELECT m.*,
       CAST(requests AS double precision) / nullif(86400, 0) AS request_rate,
       CAST(errors AS double precision) / nullif((successes + errors), 0) AS error_rate,
       CAST(successes AS double precision) / nullif((successes + errors), 0) AS success_rate,
       pending AS pending_requests,
       abandoned AS abandoned_requests,
       CAST(latency_sum AS double precision) / nullif(latency_count, 0) AS latency_mean,
       metamon.histogram_quantile(latency_bins, latency_counts, latency_zeros, 0.5) AS latency_p50,
       metamon.histogram_quantile(latency_bins, latency_counts, latency_zeros, 0.95) AS latency_p95,
       metamon.histogram_quantile(latency_bins, latency_counts, latency_zeros, 0.99) AS latency_p99,
       CAST(hit_latency_sum AS double precision) / nullif(hit_latency_count, 0) AS cache_hit_latency_mean,
       CAST(miss_latency_sum AS double precision) / nullif(miss_latency_count, 0) AS cache_miss_latency_mean,
       CAST(time_to_first_token_sum AS double precision) / nullif(time_to_first_token_count, 0) AS time_to_first_token_mean,
       metamon.histogram_quantile(time_to_first_token_bins, time_to_first_token_counts, time_to_first_token_zeros, 0.5) AS time_to_first_token_p50,
       metamon.histogram_quantile(time_to_first_token_bins, time_to_first_token_counts, time_to_first_token_zeros, 0.95) AS time_to_first_token_p95,
       CAST(latency_sum AS double precision) / nullif(86400, 0) AS active_workflows,
       CAST((tool_results - tool_errors) AS double precision) / nullif(tool_results, 0) AS tool_success_rate,
       CAST((retrieval_results - retrieval_errors) AS double precision) / nullif(retrieval_results, 0) AS retrieval_success_rate,
       CAST(cache_hits AS double precision) / nullif(cache_known, 0) AS cache_hit_rate,
       hit_priced_requests * miss_cost / nullif(miss_priced_requests, 0) - hit_cost AS cache_saved_cost,
       CAST(quality_sum AS double precision) / nullif(quality_count, 0) AS quality_mean,
       metamon.histogram_quantile(quality_bins, quality_counts, quality_zeros, 0.1) AS quality_p10,
       metamon.histogram_quantile(quality_bins, quality_counts, quality_zeros, 0.5) AS quality_p50,
       CAST(degraded AS double precision) / nullif(degraded_known, 0) AS degradation_rate,
       CAST(warned_requests AS double precision) / nullif(requests, 0) AS warning_rate,
       CAST(tasks_completed AS double precision) / nullif(tasks_known, 0) AS task_completion_rate,
       CAST(CAST(feedback #>> '{user_rating,score_sum}' AS double precision) AS double precision) / nullif(CAST(feedback #>> '{user_rating,score_count}' AS bigint), 0) AS user_satisfaction,
       total_cost - coalesce(retrieval_cost, 0) AS llm_cost,
       CAST(total_cost AS double precision) / nullif(priced_requests, 0) AS cost_per_request,
       CAST(unpriced_requests AS double precision) / nullif(requests, 0) AS unpriced_share,
       CAST(hit_cost AS double precision) / nullif(hit_priced_requests, 0) AS cache_hit_cost_per_request,
       CAST(miss_cost AS double precision) / nullif(miss_priced_requests, 0) AS cache_miss_cost_per_request,
       CAST(total_tokens AS double precision) / nullif(tokens_count, 0) AS tokens_per_request,
       total_cost * extract(day FROM date_trunc('month', day) + interval '1 month' - interval '1 day') AS month_cost_estimate,
       users AS daily_active_users,
       conversations AS daily_conversations,
       CAST(rated_requests AS double precision) / nullif(requests, 0) AS feedback_collection_rate
FROM metamon.daily_metrics AS m;
COMMENT ON VIEW analytics.daily_metrics IS 'UTC days by one dimension at a time: sums, and the figures derived from them.';
SELECT metamon.copy_comments('metamon.daily_metrics', 'analytics.daily_metrics');
COMMENT ON COLUMN analytics.daily_metrics.request_rate IS 'Requests per second. Unit 1/s.';
COMMENT ON COLUMN analytics.daily_metrics.error_rate IS 'Failed share of the requests that ended. Unit 1.';
COMMENT ON COLUMN analytics.daily_metrics.success_rate IS 'Successful share of the requests that ended. Unit 1.';
COMMENT ON COLUMN analytics.daily_metrics.pending_requests IS 'Requests still pending. Unit {request}.';
COMMENT ON COLUMN analytics.daily_metrics.abandoned_requests IS 'Requests pending for 14 days and given up. Unit {request}.';
COMMENT ON COLUMN analytics.daily_metrics.latency_mean IS 'Mean latency. Unit s.';
COMMENT ON COLUMN analytics.daily_metrics.latency_p50 IS 'Median latency, within 1 %. Unit s.';
COMMENT ON COLUMN analytics.daily_metrics.latency_p95 IS '95th percentile of latency, within 1 %. Unit s.';
COMMENT ON COLUMN analytics.daily_metrics.latency_p99 IS '99th percentile of latency, within 1 %. Unit s.';
COMMENT ON COLUMN analytics.daily_metrics.cache_hit_latency_mean IS 'Mean latency of requests that the cache answered. Unit s.';
COMMENT ON COLUMN analytics.daily_metrics.cache_miss_latency_mean IS 'Mean latency of requests that the cache did not answer. Unit s.';
COMMENT ON COLUMN analytics.daily_metrics.time_to_first_token_mean IS 'Mean time to the first token. Unit s.';
COMMENT ON COLUMN analytics.daily_metrics.time_to_first_token_p50 IS '50th percentile of the time to the first token, within 1 %. Unit s.';
COMMENT ON COLUMN analytics.daily_metrics.time_to_first_token_p95 IS '95th percentile of the time to the first token, within 1 %. Unit s.';
COMMENT ON COLUMN analytics.daily_metrics.active_workflows IS 'Requests under way at a time, on average (Little''s law). Unit {request}.';
COMMENT ON COLUMN analytics.daily_metrics.tool_success_rate IS 'Successful share of the tool calls that ended. Unit 1.';
COMMENT ON COLUMN analytics.daily_metrics.retrieval_success_rate IS 'Successful share of the retrievals that ended. Unit 1.';
COMMENT ON COLUMN analytics.daily_metrics.cache_hit_rate IS 'Share of the requests that the application''s cache answered. Unit 1.';
COMMENT ON COLUMN analytics.daily_metrics.cache_saved_cost IS 'What the priced cache hits would have cost at the mean cost of the misses, less what they did cost. Unit USD.';
COMMENT ON COLUMN analytics.daily_metrics.quality_mean IS 'Mean quality score. Unit 1.';
COMMENT ON COLUMN analytics.daily_metrics.quality_p10 IS '10th percentile of the quality score, within 1 %. Unit 1.';
COMMENT ON COLUMN analytics.daily_metrics.quality_p50 IS '50th percentile of the quality score, within 1 %. Unit 1.';
COMMENT ON COLUMN analytics.daily_metrics.degradation_rate IS 'Share of degraded answers. Unit 1.';
COMMENT ON COLUMN analytics.daily_metrics.warning_rate IS 'Share of requests with a warning. Unit 1.';
COMMENT ON COLUMN analytics.daily_metrics.task_completion_rate IS 'Share of completed tasks. Unit 1.';
COMMENT ON COLUMN analytics.daily_metrics.user_satisfaction IS 'Mean user_rating, on the scale of the feedback itself. Unit 1.';
COMMENT ON COLUMN analytics.daily_metrics.llm_cost IS 'US dollars of model calls: the total less embeddings, reranking and retrieval. Unit USD.';
COMMENT ON COLUMN analytics.daily_metrics.cost_per_request IS 'US dollars per priced request. Unit USD.';
COMMENT ON COLUMN analytics.daily_metrics.unpriced_share IS 'Share of requests whose cost is unknown. Unit 1.';
COMMENT ON COLUMN analytics.daily_metrics.cache_hit_cost_per_request IS 'US dollars per request that the cache answered. Unit USD.';
COMMENT ON COLUMN analytics.daily_metrics.cache_miss_cost_per_request IS 'US dollars per request that the cache did not answer. Unit USD.';
COMMENT ON COLUMN analytics.daily_metrics.tokens_per_request IS 'Tokens per request that tells them. Unit {token}.';
COMMENT ON COLUMN analytics.daily_metrics.month_cost_estimate IS 'What the month would cost if each of its days cost what this one did. Unit USD.';
COMMENT ON COLUMN analytics.daily_metrics.daily_active_users IS 'Distinct users of the day. Unit {user}.';
COMMENT ON COLUMN analytics.daily_metrics.daily_conversations IS 'Distinct conversations of the day. Unit {conversation}.';
COMMENT ON COLUMN analytics.daily_metrics.feedback_collection_rate IS 'Share of requests that got feedback, however late. Unit 1.';

CREATE OR REPLACE VIEW analytics.metric_values WITH (security_invoker = true) AS
SELECT m.day, m.dimension, m.dimension_value, v.metric, v.value, v.n
FROM metamon.daily_metrics AS m
CROSS JOIN LATERAL (VALUES
    ('requests', CAST(requests AS double precision), requests),
    ('request_rate', CAST(CAST(requests AS double precision) / nullif(86400, 0) AS double precision), requests),
    ('errors', CAST(errors AS double precision), requests),
    ('error_rate', CAST(CAST(errors AS double precision) / nullif((successes + errors), 0) AS double precision), successes + errors),
    ('success_rate', CAST(CAST(successes AS double precision) / nullif((successes + errors), 0) AS double precision), successes + errors),
    ('pending_requests', CAST(pending AS double precision), requests),
    ('abandoned_requests', CAST(abandoned AS double precision), requests),
    ('latency_mean', CAST(CAST(latency_sum AS double precision) / nullif(latency_count, 0) AS double precision), latency_count),
    ('latency_p50', CAST(metamon.histogram_quantile(latency_bins, latency_counts, latency_zeros, 0.5) AS double precision), latency_count),
    ('latency_p95', CAST(metamon.histogram_quantile(latency_bins, latency_counts, latency_zeros, 0.95) AS double precision), latency_count),
    ('latency_p99', CAST(metamon.histogram_quantile(latency_bins, latency_counts, latency_zeros, 0.99) AS double precision), latency_count),
    ('cache_hit_latency_mean', CAST(CAST(hit_latency_sum AS double precision) / nullif(hit_latency_count, 0) AS double precision), hit_latency_count),
    ('cache_miss_latency_mean', CAST(CAST(miss_latency_sum AS double precision) / nullif(miss_latency_count, 0) AS double precision), miss_latency_count),
    ('time_to_first_token_mean', CAST(CAST(time_to_first_token_sum AS double precision) / nullif(time_to_first_token_count, 0) AS double precision), time_to_first_token_count),
    ('time_to_first_token_p50', CAST(metamon.histogram_quantile(time_to_first_token_bins, time_to_first_token_counts, time_to_first_token_zeros, 0.5) AS double precision), time_to_first_token_count),
    ('time_to_first_token_p95', CAST(metamon.histogram_quantile(time_to_first_token_bins, time_to_first_token_counts, time_to_first_token_zeros, 0.95) AS double precision), time_to_first_token_count),
    ('active_workflows', CAST(CAST(latency_sum AS double precision) / nullif(86400, 0) AS double precision), latency_count),
    ('tool_calls', CAST(tool_calls AS double precision), requests),
    ('tool_errors', CAST(tool_errors AS double precision), tool_results),
    ('tool_success_rate', CAST(CAST((tool_results - tool_errors) AS double precision) / nullif(tool_results, 0) AS double precision), tool_results),
    ('retrievals', CAST(retrievals AS double precision), requests),
    ('retrieval_success_rate', CAST(CAST((retrieval_results - retrieval_errors) AS double precision) / nullif(retrieval_results, 0) AS double precision), retrieval_results),
    ('llm_calls', CAST(llm_calls AS double precision), requests),
    ('cache_hit_rate', CAST(CAST(cache_hits AS double precision) / nullif(cache_known, 0) AS double precision), cache_known),
    ('cache_saved_cost', CAST(hit_priced_requests * miss_cost / nullif(miss_priced_requests, 0) - hit_cost AS double precision), hit_priced_requests),
    ('quality_mean', CAST(CAST(quality_sum AS double precision) / nullif(quality_count, 0) AS double precision), quality_count),
    ('quality_p10', CAST(metamon.histogram_quantile(quality_bins, quality_counts, quality_zeros, 0.1) AS double precision), quality_count),
    ('quality_p50', CAST(metamon.histogram_quantile(quality_bins, quality_counts, quality_zeros, 0.5) AS double precision), quality_count),
    ('degradation_rate', CAST(CAST(degraded AS double precision) / nullif(degraded_known, 0) AS double precision), degraded_known),
    ('warning_rate', CAST(CAST(warned_requests AS double precision) / nullif(requests, 0) AS double precision), requests),
    ('task_completion_rate', CAST(CAST(tasks_completed AS double precision) / nullif(tasks_known, 0) AS double precision), tasks_known),
    ('user_satisfaction', CAST(CAST(CAST(feedback #>> '{user_rating,score_sum}' AS double precision) AS double precision) / nullif(CAST(feedback #>> '{user_rating,score_count}' AS bigint), 0) AS double precision), coalesce(CAST(feedback #>> '{user_rating,score_count}' AS bigint), 0)),
    ('total_cost', CAST(total_cost AS double precision), priced_requests),
    ('input_cost', CAST(input_cost AS double precision), priced_requests),
    ('output_cost', CAST(output_cost AS double precision), priced_requests),
    ('llm_cost', CAST(total_cost - coalesce(retrieval_cost, 0) AS double precision), priced_requests),
    ('tool_cost', CAST(tool_cost AS double precision), tool_results),
    ('retrieval_cost', CAST(retrieval_cost AS double precision), retrieval_results),
    ('cost_per_request', CAST(CAST(total_cost AS double precision) / nullif(priced_requests, 0) AS double precision), priced_requests),
    ('unpriced_share', CAST(CAST(unpriced_requests AS double precision) / nullif(requests, 0) AS double precision), requests),
    ('cache_hit_cost_per_request', CAST(CAST(hit_cost AS double precision) / nullif(hit_priced_requests, 0) AS double precision), hit_priced_requests),
    ('cache_miss_cost_per_request', CAST(CAST(miss_cost AS double precision) / nullif(miss_priced_requests, 0) AS double precision), miss_priced_requests),
    ('input_tokens', CAST(input_tokens AS double precision), tokens_count),
    ('output_tokens', CAST(output_tokens AS double precision), tokens_count),
    ('total_tokens', CAST(total_tokens AS double precision), tokens_count),
    ('cache_read_input_tokens', CAST(cache_read_input_tokens AS double precision), tokens_count),
    ('reasoning_output_tokens', CAST(reasoning_output_tokens AS double precision), tokens_count),
    ('tokens_per_request', CAST(CAST(total_tokens AS double precision) / nullif(tokens_count, 0) AS double precision), tokens_count),
    ('month_cost_estimate', CAST(total_cost * extract(day FROM date_trunc('month', day) + interval '1 month' - interval '1 day') AS double precision), priced_requests),
    ('daily_active_users', CAST(users AS double precision), users),
    ('daily_conversations', CAST(conversations AS double precision), conversations),
    ('feedback_collection_rate', CAST(CAST(rated_requests AS double precision) / nullif(requests, 0) AS double precision), requests)
) AS v (metric, value, n);
COMMENT ON VIEW analytics.metric_values IS 'Every metric of every day and group as one row, for whatever takes any metric.';
SELECT metamon.copy_comments('metamon.daily_metrics', 'analytics.metric_values');
COMMENT ON COLUMN analytics.metric_values.metric IS 'Name of the metric.';
COMMENT ON COLUMN analytics.metric_values.value IS 'Its value; NULL when there is nothing to tell it from.';
COMMENT ON COLUMN analytics.metric_values.n IS 'Number of requests (calls, users) that the value rests on.';

CREATE OR REPLACE VIEW analytics.instrumentation WITH (security_invoker = true) AS
WITH seen AS (
    SELECT metric, max(day) FILTER (WHERE n > 0 AND value IS NOT NULL) AS last_day
    FROM analytics.metric_values WHERE dimension = 'overall' GROUP BY metric
    UNION ALL
    SELECT name, max(day) FROM metamon.gauge_samples GROUP BY name
)
SELECT e.metric, e.requirement, CASE WHEN s.last_day IS NULL THEN 'not instrumented' ELSE 'instrumented' END AS state, s.last_day,
       e.what_would_change_that
FROM (VALUES
    ('cache_hit_latency_mean', 'MET-1', 'cache_hit on the run, true or false'),
    ('cache_miss_latency_mean', 'MET-1', 'cache_hit on the run, true or false'),
    ('time_to_first_token_mean', 'MET-1', 'first_token_time on the run'),
    ('time_to_first_token_p50', 'MET-1', 'first_token_time on the run'),
    ('time_to_first_token_p95', 'MET-1', 'first_token_time on the run'),
    ('tool_calls', 'MET-1', 'a child run of run_type tool, with its status'),
    ('tool_errors', 'MET-1', 'a child run of run_type tool, with its status'),
    ('tool_success_rate', 'MET-1', 'a child run of run_type tool, with its status'),
    ('retrievals', 'MET-1', 'a child run of run_type retriever, with its status'),
    ('retrieval_success_rate', 'MET-1', 'a child run of run_type retriever, with its status'),
    ('llm_calls', 'MET-1', 'a child run of run_type llm'),
    ('cache_hit_rate', 'MET-2', 'cache_hit on the run, true or false'),
    ('cache_saved_cost', 'MET-2', 'cache_hit on the run, true or false'),
    ('quality_mean', 'MET-3', 'quality_score on the run, 0 to 1'),
    ('quality_p10', 'MET-3', 'quality_score on the run, 0 to 1'),
    ('quality_p50', 'MET-3', 'quality_score on the run, 0 to 1'),
    ('degradation_rate', 'MET-3', 'degraded on the run, true or false'),
    ('task_completion_rate', 'MET-3', 'task_completed on the run, true or false'),
    ('user_satisfaction', 'MET-3', 'feedback with the run_id: LangSmith''s create_feedback, or a line of feedback in a file, key user_rating'),
    ('total_cost', 'MET-4', 'provider, request_model and token counts on the run, or total_cost'),
    ('input_cost', 'MET-4', 'provider, request_model and token counts on the run, or total_cost'),
    ('output_cost', 'MET-4', 'provider, request_model and token counts on the run, or total_cost'),
    ('llm_cost', 'MET-4', 'provider, request_model and token counts on the run, or total_cost'),
    ('tool_cost', 'MET-4', 'total_cost on the tool''s run'),
    ('retrieval_cost', 'MET-4', 'total_cost on the retriever''s, embedding''s or reranker''s run'),
    ('cost_per_request', 'MET-4', 'provider, request_model and token counts on the run, or total_cost'),
    ('cache_hit_cost_per_request', 'MET-4', 'cache_hit on the run, true or false'),
    ('cache_miss_cost_per_request', 'MET-4', 'cache_hit on the run, true or false'),
    ('input_tokens', 'MET-4', 'input_tokens and output_tokens on the run'),
    ('output_tokens', 'MET-4', 'input_tokens and output_tokens on the run'),
    ('total_tokens', 'MET-4', 'input_tokens and output_tokens on the run'),
    ('cache_read_input_tokens', 'MET-4', 'input_tokens and output_tokens on the run'),
    ('reasoning_output_tokens', 'MET-4', 'input_tokens and output_tokens on the run'),
    ('tokens_per_request', 'MET-4', 'input_tokens and output_tokens on the run'),
    ('month_cost_estimate', 'MET-4', 'provider, request_model and token counts on the run, or total_cost'),
    ('daily_active_users', 'MET-5', 'user_id on the run'),
    ('daily_conversations', 'MET-5', 'conversation_id on the run'),
    ('feedback_collection_rate', 'MET-5', 'feedback with the run_id: LangSmith''s create_feedback, or a line of feedback in a file'),
    ('cache_operations', 'MET-2', '{"name": "cache_operations", "time": "2026-08-22T12:00:00Z", "value": 1, "kind": "counter", "labels": {"operation": "hit"}}'),
    ('cache_size', 'MET-2', '{"name": "cache_size", "time": "2026-08-22T12:00:00Z", "value": 1}'),
    ('cache_memory', 'MET-2', '{"name": "cache_memory", "time": "2026-08-22T12:00:00Z", "value": 1, "unit": "By"}'),
    ('cache_entry_age', 'MET-2', '{"name": "cache_entry_age", "time": "2026-08-22T12:00:00Z", "value": 1, "unit": "s"}'),
    ('cache_entry_lifetime', 'MET-2', '{"name": "cache_entry_lifetime", "time": "2026-08-22T12:00:00Z", "value": 1, "unit": "s"}')
) AS e (metric, requirement, what_would_change_that)
LEFT JOIN seen AS s ON s.metric = e.metric;
COMMENT ON VIEW analytics.instrumentation IS 'Which metrics have a producer. Where one has none, show that and what would change it.';
COMMENT ON COLUMN analytics.instrumentation.metric IS 'Name of the metric or gauge.';
COMMENT ON COLUMN analytics.instrumentation.requirement IS 'Requirement that asks for it.';
COMMENT ON COLUMN analytics.instrumentation.state IS 'instrumented or not instrumented.';
COMMENT ON COLUMN analytics.instrumentation.last_day IS 'Last UTC day that had it.';
COMMENT ON COLUMN analytics.instrumentation.what_would_change_that IS 'What to put on the run, or the line to write.';
