-- How many traces (calls of a tool) of a window each value has. Parameters: those of tools.sql.
CREATE TEMPORARY TABLE rollup_counted ON COMMIT DROP AS
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
GROUP BY coalesce(tool_name, name);
