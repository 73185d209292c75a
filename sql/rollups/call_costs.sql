-- What tools and retrieval cost by themselves, where they tell. The cost of a run whose children tell costs is theirs.
-- Parameters: day, window_start, window_end.
INSERT INTO rollup_calls (quarter, third, overall_group, tenant_group, agent_group, agent_version_group, mode_group, model_group,
                          prompt_version_group, environment_group, variant_group, tool_cost, retrieval_cost)
SELECT f.quarter, f.third, f.overall_group, f.tenant_group, f.agent_group, f.agent_version_group, f.mode_group, f.model_group,
       f.prompt_version_group, f.environment_group, f.variant_group,
       CASE WHEN c.run_type = 'tool' THEN CAST(c.total_cost * 1000000000000 AS {money}) END,
       CASE WHEN c.run_type <> 'tool' THEN CAST(c.total_cost * 1000000000000 AS {money}) END
FROM (
    SELECT source, project, trace_id, run_id, run_type, total_cost
    FROM metamon.spans
    WHERE day = %(day)s AND run_type IN ('tool', 'retriever', 'embedding', 'reranker') AND total_cost IS NOT NULL
    UNION ALL
    SELECT source, project, trace_id, run_id, run_type, total_cost
    FROM metamon.traces
    WHERE day = %(day)s AND start_time >= %(window_start)s AND start_time < %(window_end)s
      AND run_type IN ('tool', 'retriever', 'embedding', 'reranker') AND total_cost IS NOT NULL
) AS c
JOIN rollup_facts AS f ON f.trace_id = c.trace_id AND f.project = c.project AND f.source = c.source
WHERE NOT EXISTS (SELECT 1 FROM metamon.spans AS s
                  WHERE s.day = %(day)s AND s.total_cost IS NOT NULL
                    AND s.parent_run_id = c.run_id AND s.project = c.project AND s.source = c.source);
