-- Dimension tool: one row per call of a tool, in the bucket of the call's own start; a call that starts after its
-- root's day ended is in that day's last bucket. Parameters: day, day_start, day_end, window_start,
-- window_end, and calls_start, calls_end: the same without bounds at the day's own start and end.
INSERT INTO rollup_facts (quarter, third, tool_group, latency_bin, requests, successes, errors, pending, abandoned, latency_seconds,
                          total_cost)
SELECT
    CAST(mod(CAST(floor(date_part('epoch', c.start_time)) AS bigint), 86400) / 900 AS smallint),
    CAST(mod(CAST(floor(date_part('epoch', c.start_time)) AS bigint), 900) / 300 AS smallint),
    coalesce(g.group_id, (SELECT group_id FROM metamon.metric_groups WHERE day = %(day)s AND dimension = 'tool' AND dimension_value = '(other)')),
    metamon.histogram_bin(c.latency_seconds),
    1,
    CASE c.status WHEN 'success' THEN 1 END,
    CASE c.status WHEN 'error' THEN 1 END,
    CASE c.status WHEN 'pending' THEN 1 END,
    CASE c.status WHEN 'abandoned' THEN 1 END,
    c.latency_seconds,
    CAST(c.total_cost * 1000000000000 AS {money})
FROM (
    SELECT least(greatest(start_time, CAST(%(day_start)s AS timestamptz)), %(day_end)s - interval '1 microsecond') AS start_time,
           tool_name, name, status, latency_seconds, total_cost
    FROM metamon.spans
    WHERE day = %(day)s AND start_time >= %(calls_start)s AND start_time < %(calls_end)s AND run_type = 'tool'
    UNION ALL
    SELECT start_time, tool_name, name, status, latency_seconds, total_cost
    FROM metamon.traces
    WHERE day = %(day)s AND start_time >= %(window_start)s AND start_time < %(window_end)s AND run_type = 'tool'
      AND EXISTS (SELECT 1 FROM rollup_facts WHERE call_type = 'tool')
) AS c
LEFT JOIN metamon.metric_groups AS g ON g.day = %(day)s AND g.dimension = 'tool' AND g.dimension_value = coalesce(c.tool_name, c.name, '(none)');
