-- Users, conversations, caches and gauges, for analysts: what rollups by request do not tell.

CREATE OR REPLACE VIEW analytics.unit_daily WITH (security_invoker = true) AS
SELECT * FROM metamon.unit_daily;
COMMENT ON VIEW analytics.unit_daily IS 'Sums by user and by conversation and UTC day: where distinct counts, ratio metrics and clustered tests start from.';
SELECT metamon.copy_comments('metamon.unit_daily', 'analytics.unit_daily');

CREATE OR REPLACE VIEW analytics.engagement_daily WITH (security_invoker = true) AS
SELECT day, tenant_id, count(*) AS users, count(*) FILTER (WHERE requests >= 2) AS engaged_users,
       CAST(count(*) FILTER (WHERE requests >= 2) AS double precision) / count(*) AS engagement,
       sum(requests) AS requests
FROM (SELECT day, tenant_id, unit_id, sum(requests) AS requests
      FROM metamon.unit_daily WHERE unit_type = 'user' GROUP BY day, tenant_id, unit_id) AS units
GROUP BY day, tenant_id;
COMMENT ON VIEW analytics.engagement_daily IS 'Daily active users by tenant, and how many of them came back on the same day.';
COMMENT ON COLUMN analytics.engagement_daily.day IS 'UTC day.';
COMMENT ON COLUMN analytics.engagement_daily.tenant_id IS 'Tenant of the users; NULL when they have none.';
COMMENT ON COLUMN analytics.engagement_daily.users IS 'Distinct users of the day.';
COMMENT ON COLUMN analytics.engagement_daily.engaged_users IS 'Of them those with at least two requests.';
COMMENT ON COLUMN analytics.engagement_daily.engagement IS 'engaged_users / users.';
COMMENT ON COLUMN analytics.engagement_daily.requests IS 'Requests of these users.';

CREATE OR REPLACE VIEW analytics.cache_operations WITH (security_invoker = true) AS
SELECT day, date_bin('5 minutes', time, '2000-01-01 00:00Z') AS bucket_start, coalesce(labels ->> 'cache', '(none)') AS cache,
       coalesce(labels ->> 'mode', '(none)') AS mode,
       sum(value) FILTER (WHERE labels ->> 'operation' = 'hit') AS hits,
       sum(value) FILTER (WHERE labels ->> 'operation' = 'miss') AS misses,
       sum(value) FILTER (WHERE labels ->> 'operation' = 'write') AS writes,
       sum(value) FILTER (WHERE labels ->> 'operation' = 'evict') AS evictions,
       sum(value) FILTER (WHERE labels ->> 'operation' = 'invalidate') AS invalidations,
       sum(value) FILTER (WHERE labels ->> 'operation' = 'hit')
           / nullif(sum(value) FILTER (WHERE labels ->> 'operation' IN ('hit', 'miss')), 0) AS hit_rate,
       sum(value) FILTER (WHERE labels ->> 'operation' = 'evict') / 300 AS evictions_per_second
FROM metamon.gauge_samples
WHERE name = 'cache_operations' AND kind = 'counter'
GROUP BY day, bucket_start, cache, mode;
COMMENT ON VIEW analytics.cache_operations IS 'What caches did in five minutes, from the gauges: for caches that traces cannot tell about. NULL: that operation is not reported.';
COMMENT ON COLUMN analytics.cache_operations.day IS 'UTC day.';
COMMENT ON COLUMN analytics.cache_operations.bucket_start IS 'Start of the five minutes (UTC).';
COMMENT ON COLUMN analytics.cache_operations.cache IS 'Which cache (label cache).';
COMMENT ON COLUMN analytics.cache_operations.mode IS 'Mode of operation (label mode), where it is reported.';
COMMENT ON COLUMN analytics.cache_operations.hits IS 'Lookups that found an entry.';
COMMENT ON COLUMN analytics.cache_operations.misses IS 'Lookups that found none.';
COMMENT ON COLUMN analytics.cache_operations.writes IS 'Entries written.';
COMMENT ON COLUMN analytics.cache_operations.evictions IS 'Entries thrown out for room.';
COMMENT ON COLUMN analytics.cache_operations.invalidations IS 'Entries declared stale.';
COMMENT ON COLUMN analytics.cache_operations.hit_rate IS 'hits / (hits + misses).';
COMMENT ON COLUMN analytics.cache_operations.evictions_per_second IS 'evictions / 300 s.';

CREATE OR REPLACE VIEW analytics.gauges WITH (security_invoker = true) AS
SELECT day, date_bin('5 minutes', time, '2000-01-01 00:00Z') AS bucket_start, name, labels, max(unit) AS unit, count(*) AS samples,
       avg(value) AS mean, min(value) AS least, max(value) AS greatest
FROM metamon.gauge_samples
WHERE kind = 'gauge'
GROUP BY day, bucket_start, name, labels;
COMMENT ON VIEW analytics.gauges IS 'Levels such as cache size, memory, queue length, by five minutes.';
COMMENT ON COLUMN analytics.gauges.day IS 'UTC day.';
COMMENT ON COLUMN analytics.gauges.bucket_start IS 'Start of the five minutes (UTC).';
COMMENT ON COLUMN analytics.gauges.name IS 'What was measured.';
COMMENT ON COLUMN analytics.gauges.labels IS 'What tells readings of one name apart.';
COMMENT ON COLUMN analytics.gauges.unit IS 'Its unit.';
COMMENT ON COLUMN analytics.gauges.samples IS 'Number of readings.';
COMMENT ON COLUMN analytics.gauges.mean IS 'Mean of the readings.';
COMMENT ON COLUMN analytics.gauges.least IS 'Lowest reading.';
COMMENT ON COLUMN analytics.gauges.greatest IS 'Highest reading.';
