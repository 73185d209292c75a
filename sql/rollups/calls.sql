-- What spans add to the facts of their traces: tool calls and retrievals that ended, failed, or cost something.
-- A call counts in the bucket and the groups of its trace. The cost of a run whose children tell costs is theirs.
-- Parameters: day.
INSERT INTO rollup_facts (quarter, third, overall_group, tenant_group, agent_group, agent_version_group, mode_group, model_group,
                          prompt_version_group, environment_group, variant_group,
                          tool_results, tool_errors, retrieval_results, retrieval_errors, tool_cost, retrieval_cost)
WITH calls AS (
    SELECT source, project, trace_id, run_id, run_type, status, total_cost
    FROM metamon.spans WHERE day = %(day)s AND run_type IN ('tool', 'retriever', 'embedding', 'reranker')
    UNION ALL
    SELECT source, project, trace_id, run_id, run_type, status, total_cost
    FROM metamon.traces WHERE day = %(day)s AND run_type IN ('tool', 'retriever', 'embedding', 'reranker')
), own_costs AS (
    SELECT source, project, run_id, CAST(total_cost * 1000000000000 AS {money}) AS cost
    FROM calls AS c
    WHERE total_cost IS NOT NULL
      AND NOT EXISTS (SELECT 1 FROM metamon.spans AS s
                      WHERE s.day = %(day)s AND s.total_cost IS NOT NULL
                        AND s.parent_run_id = c.run_id AND s.project = c.project AND s.source = c.source)
)
SELECT f.quarter, f.third, f.overall_group, f.tenant_group, f.agent_group, f.agent_version_group, f.mode_group, f.model_group,
       f.prompt_version_group, f.environment_group, f.variant_group,
       CASE WHEN c.run_type = 'tool' AND c.status IN ('success', 'error') THEN 1 END,
       CASE WHEN c.run_type = 'tool' AND c.status = 'error' THEN 1 END,
       CASE WHEN c.run_type = 'retriever' AND c.status IN ('success', 'error') THEN 1 END,
       CASE WHEN c.run_type = 'retriever' AND c.status = 'error' THEN 1 END,
       CASE WHEN c.run_type = 'tool' THEN o.cost END,
       CASE WHEN c.run_type <> 'tool' THEN o.cost END
FROM calls AS c
JOIN rollup_facts AS f ON f.trace_id = c.trace_id AND f.project = c.project AND f.source = c.source
LEFT JOIN own_costs AS o ON o.run_id = c.run_id AND o.project = c.project AND o.source = c.source;
