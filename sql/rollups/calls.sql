-- What spans tell about their traces: tool calls and retrievals that ended or failed. A call counts in the bucket and the
-- groups of its trace. Parameters: day, window_start, window_end.
CREATE TEMPORARY TABLE rollup_calls ON COMMIT DROP AS
SELECT f.quarter, f.third, f.overall_group, f.tenant_group, f.agent_group, f.agent_version_group, f.mode_group, f.model_group,
       f.prompt_version_group, f.environment_group, f.variant_group,
       CASE WHEN c.run_type = 'tool' THEN CAST(1 AS smallint) END AS tool_results,
       CASE WHEN c.run_type = 'tool' AND c.status = 'error' THEN CAST(1 AS smallint) END AS tool_errors,
       CASE WHEN c.run_type = 'retriever' THEN CAST(1 AS smallint) END AS retrieval_results,
       CASE WHEN c.run_type = 'retriever' AND c.status = 'error' THEN CAST(1 AS smallint) END AS retrieval_errors,
       CAST(NULL AS {money}) AS tool_cost,
       CAST(NULL AS {money}) AS retrieval_cost
FROM (
    SELECT source, project, trace_id, run_type, status
    FROM metamon.spans
    WHERE day = %(day)s AND run_type IN ('tool', 'retriever') AND status IN ('success', 'error')
    UNION ALL
    SELECT source, project, trace_id, run_type, status
    FROM metamon.traces
    WHERE day = %(day)s AND start_time >= %(window_start)s AND start_time < %(window_end)s
      AND run_type IN ('tool', 'retriever') AND status IN ('success', 'error')
) AS c
JOIN rollup_facts AS f ON f.trace_id = c.trace_id AND f.project = c.project AND f.source = c.source;
