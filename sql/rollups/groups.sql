-- Chooses the values that get rows of their own on a day: the largest of each dimension, and the watched ones.
-- Parameters: day, top. metrics/rollups.py empties metamon.metric_groups for the day before.
INSERT INTO metamon.metric_groups (day, dimension, dimension_value)
WITH counted AS (
    SELECT CASE GROUPING(tenant_id, agent_name, agent_version, mode, coalesce(response_model, request_model), prompt_version, environment, variant)
               WHEN 127 THEN 'tenant' WHEN 191 THEN 'agent' WHEN 223 THEN 'agent_version' WHEN 239 THEN 'mode' WHEN 247 THEN 'model'
               WHEN 251 THEN 'prompt_version' WHEN 253 THEN 'environment' WHEN 254 THEN 'variant' END AS dimension,
           coalesce(tenant_id, agent_name, agent_version, mode, coalesce(response_model, request_model), prompt_version, environment, variant)
               AS dimension_value,
           count(*) AS requests
    FROM metamon.traces
    WHERE day = %(day)s
    GROUP BY GROUPING SETS ((tenant_id), (agent_name), (agent_version), (mode), (coalesce(response_model, request_model)),
                            (prompt_version), (environment), (variant))
    UNION ALL
    SELECT 'tool', coalesce(tool_name, name), count(*)
    FROM (SELECT tool_name, name FROM metamon.spans WHERE day = %(day)s AND run_type = 'tool'
          UNION ALL
          SELECT tool_name, name FROM metamon.traces WHERE day = %(day)s AND run_type = 'tool') AS calls
    GROUP BY coalesce(tool_name, name)
), ranked AS (
    SELECT dimension, dimension_value, row_number() OVER (PARTITION BY dimension ORDER BY requests DESC, dimension_value) AS place
    FROM counted
    WHERE dimension_value IS NOT NULL
)
SELECT CAST(%(day)s AS date), r.dimension, r.dimension_value
FROM ranked AS r
LEFT JOIN metamon.watched_groups AS w ON w.dimension = r.dimension AND w.dimension_value = r.dimension_value
WHERE r.place <= %(top)s OR w.dimension IS NOT NULL;
