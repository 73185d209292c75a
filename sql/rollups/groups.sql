-- Chooses the values that get rows of their own on a day: the largest of each dimension in the window, and the watched
-- ones, in addition to those of the day that are there already. Parameters: top, and those of tools.sql.
INSERT INTO metamon.metric_groups (day, dimension, dimension_value, group_id)
WITH counted AS (
    SELECT CASE GROUPING(tenant_id, agent_name, agent_version, mode, coalesce(response_model, request_model), prompt_version, environment, variant)
               WHEN 127 THEN 'tenant' WHEN 191 THEN 'agent' WHEN 223 THEN 'agent_version' WHEN 239 THEN 'mode' WHEN 247 THEN 'model'
               WHEN 251 THEN 'prompt_version' WHEN 253 THEN 'environment' WHEN 254 THEN 'variant' END AS dimension,
           coalesce(tenant_id, agent_name, agent_version, mode, coalesce(response_model, request_model), prompt_version, environment, variant)
               AS dimension_value,
           count(*) AS requests
    FROM metamon.traces
    WHERE day = %(day)s AND start_time >= %(window_start)s AND start_time < %(window_end)s
    GROUP BY GROUPING SETS ((tenant_id), (agent_name), (agent_version), (mode), (coalesce(response_model, request_model)),
                            (prompt_version), (environment), (variant))
    UNION ALL
    SELECT 'tool', coalesce(tool_name, name), count(*)
    FROM (SELECT tool_name, name FROM metamon.spans
          WHERE day = %(day)s AND start_time >= %(calls_start)s AND start_time < %(calls_end)s AND run_type = 'tool'
          UNION ALL
          SELECT tool_name, name FROM metamon.traces
          WHERE day = %(day)s AND start_time >= %(window_start)s AND start_time < %(window_end)s AND run_type = 'tool') AS calls
    GROUP BY coalesce(tool_name, name)
), earlier AS (
    SELECT dimension, dimension_value, group_id FROM metamon.metric_groups WHERE day = %(day)s
), fresh AS (
    SELECT c.dimension, c.dimension_value,
           row_number() OVER (PARTITION BY c.dimension ORDER BY c.requests DESC, c.dimension_value)
               + (SELECT count(*) FROM earlier AS e WHERE e.dimension = c.dimension AND e.dimension_value NOT IN ('(none)', '(other)'))
               AS place
    FROM counted AS c
    LEFT JOIN earlier AS e ON e.dimension = c.dimension AND e.dimension_value = c.dimension_value
    WHERE c.dimension_value IS NOT NULL AND e.dimension IS NULL AND c.dimension_value NOT IN ('(none)', '(other)')
), chosen AS (
    SELECT f.dimension, f.dimension_value
    FROM fresh AS f
    LEFT JOIN metamon.watched_groups AS w ON w.dimension = f.dimension AND w.dimension_value = f.dimension_value
    WHERE f.place <= %(top)s OR w.dimension IS NOT NULL
    UNION ALL
    SELECT 'overall', '(all)' WHERE NOT EXISTS (SELECT 1 FROM earlier)
    UNION ALL
    SELECT dimension, dimension_value
    FROM (VALUES ('tenant'), ('agent'), ('agent_version'), ('mode'), ('model'), ('prompt_version'), ('environment'), ('variant'), ('tool'))
             AS d (dimension)
    CROSS JOIN (VALUES ('(none)'), ('(other)')) AS v (dimension_value)
    WHERE NOT EXISTS (SELECT 1 FROM earlier)
)
SELECT CAST(%(day)s AS date), dimension, dimension_value,
       (SELECT coalesce(max(group_id), 0) FROM earlier) + row_number() OVER (ORDER BY dimension, dimension_value)
FROM chosen;
