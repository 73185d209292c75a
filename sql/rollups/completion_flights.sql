-- The runs that were in flight at the end of each five minutes (now, while they last), with the p99 of their agent or tool.
-- The runs are those of in_flight.sql. Parameters: window_start, first_moment, last_moment, last_bucket, now.
CREATE TEMPORARY TABLE completion_flights ON COMMIT DROP AS
SELECT f.bucket, m.moment, r.start_time, r.tenant, r.agent, r.agent_version, r.mode, r.model, r.environment, r.tool
FROM (
    SELECT start_time, gone_at, tenant_id AS tenant, agent_name AS agent, agent_version, mode, coalesce(response_model, request_model) AS model,
           environment, CAST(NULL AS text) AS tool
    FROM ({in_flight}) AS traces
    UNION ALL
    SELECT start_time, gone_at, NULL, NULL, NULL, NULL, NULL, NULL, coalesce(tool_name, name, '(none)') FROM ({in_flight_spans}) AS spans
    UNION ALL
    SELECT start_time, gone_at, NULL, NULL, NULL, NULL, NULL, NULL, coalesce(tool_name, name, '(none)') FROM ({in_flight_roots}) AS roots
) AS r
CROSS JOIN LATERAL generate_series(
    greatest(CAST(floor(date_part('epoch', r.start_time) / 300) AS integer),
             CAST(floor(date_part('epoch', CAST(%(window_start)s AS timestamptz)) / 300) AS integer)),
    CAST(floor(date_part('epoch', least(r.gone_at, CAST(%(last_bucket)s AS timestamptz))) / 300) AS integer)) AS f (bucket)
CROSS JOIN LATERAL (
    SELECT least(timestamptz '1970-01-01 00:00:00+00' + (f.bucket + 1) * interval '5 minutes', CAST(%(now)s AS timestamptz)) AS moment
) AS m
WHERE r.start_time < m.moment AND r.gone_at >= m.moment;
