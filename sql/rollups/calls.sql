-- What calls tell about their traces: tool calls and retrievals that ended or failed, and what calls cost. A call counts in
-- the bucket and the groups of its trace; a root that is itself a call counts too. Parameters: day.
CREATE TEMPORARY TABLE rollup_calls ON COMMIT DROP AS
SELECT f.quarter, f.third, f.overall_group, f.tenant_group, f.agent_group, f.agent_version_group, f.mode_group, f.model_group,
       f.prompt_version_group, f.environment_group, f.variant_group,
       CASE WHEN c.run_type = 'tool' AND c.status IN ('success', 'error') THEN CAST(1 AS smallint) END AS tool_results,
       CASE WHEN c.run_type = 'tool' AND c.status = 'error' THEN CAST(1 AS smallint) END AS tool_errors,
       CASE WHEN c.run_type = 'retriever' AND c.status IN ('success', 'error') THEN CAST(1 AS smallint) END AS retrieval_results,
       CASE WHEN c.run_type = 'retriever' AND c.status = 'error' THEN CAST(1 AS smallint) END AS retrieval_errors,
       CASE WHEN c.run_type = 'tool' THEN CAST(c.total_cost * 1000000000000 AS {money}) END AS tool_cost,
       CASE WHEN c.run_type <> 'tool' THEN CAST(c.total_cost * 1000000000000 AS {money}) END AS retrieval_cost,
       CASE WHEN c.total_cost IS NOT NULL THEN c.run_id END AS priced_run_id,
       CASE WHEN c.total_cost IS NOT NULL THEN c.trace_id END AS trace_id,
       CASE WHEN c.total_cost IS NOT NULL THEN c.project END AS project,
       CASE WHEN c.total_cost IS NOT NULL THEN c.source END AS source
FROM metamon.spans AS c
JOIN rollup_facts AS f ON f.trace_id = c.trace_id AND f.project = c.project AND f.source = c.source
WHERE c.day = %(day)s AND c.run_type IN ('tool', 'retriever', 'embedding', 'reranker')
UNION ALL
SELECT quarter, third, overall_group, tenant_group, agent_group, agent_version_group, mode_group, model_group,
       prompt_version_group, environment_group, variant_group,
       CASE WHEN call_type = 'tool' THEN coalesce(successes, errors) END,
       CASE WHEN call_type = 'tool' THEN errors END,
       CASE WHEN call_type = 'retriever' THEN coalesce(successes, errors) END,
       CASE WHEN call_type = 'retriever' THEN errors END,
       CASE WHEN call_type = 'tool' THEN total_cost END,
       CASE WHEN call_type <> 'tool' THEN total_cost END,
       call_run_id, trace_id, project, source
FROM rollup_facts
WHERE call_type IS NOT NULL;
