-- The runs that were in flight at the end of each five minutes (now, while they last), with the p99 of their agent or tool.
-- The runs are those of in_flight.sql. Parameters: window_start, first_moment, last_moment, last_bucket, now.
CREATE TEMPORARY TABLE completion_flights ON COMMIT DROP AS
SELECT f.bucket, m.moment, r.start_time, r.tenant, r.agent, r.agent_version, r.mode, r.model, r.environment, r.tool
FROM (
    SELECT start_time, gone_at, CASE WHEN NOT is_call THEN tenant_id END AS tenant, CASE WHEN NOT is_call THEN agent_name END AS agent,
           CASE WHEN NOT is_call THEN agent_version END AS agent_version, CASE WHEN NOT is_call THEN mode END AS mode,
           CASE WHEN NOT is_call THEN coalesce(response_model, request_model) END AS model,
           CASE WHEN NOT is_call THEN environment END AS environment, CASE WHEN is_call THEN coalesce(tool_name, name, '(none)') END AS tool
    FROM ({in_flight}) AS traces
    CROSS JOIN LATERAL (VALUES (false), (true)) AS c (is_call)  -- a root that is itself a call of a tool counts as both
    WHERE NOT is_call OR run_type = 'tool'
    UNION ALL
    SELECT start_time, gone_at, NULL, NULL, NULL, NULL, NULL, NULL, coalesce(tool_name, name, '(none)') FROM ({in_flight_spans}) AS spans
) AS r
CROSS JOIN LATERAL generate_series(
    greatest(CAST(floor(date_part('epoch', r.start_time) / 300) AS integer),
             CAST(floor(date_part('epoch', CAST(%(window_start)s AS timestamptz)) / 300) AS integer)),
    CAST(floor(date_part('epoch', least(r.gone_at, CAST(%(last_bucket)s AS timestamptz))) / 300) AS integer)) AS f (bucket)
CROSS JOIN LATERAL (
    SELECT least(timestamptz '1970-01-01 00:00:00+00' + (f.bucket + 1) * interval '5 minutes', CAST(%(now)s AS timestamptz)) AS moment
) AS m
WHERE r.start_time < m.moment AND r.gone_at >= m.moment;
