-- Sums of the calls of five minutes by every group; a dimension that counts calls (tool) has them in its facts.
CREATE TEMPORARY TABLE rollup_call_sums ON COMMIT DROP AS
SELECT
    c.quarter, c.third, g.group_id,
    count(tool_results) AS tool_results,
    count(tool_errors) AS tool_errors,
    count(retrieval_results) AS retrieval_results,
    count(retrieval_errors) AS retrieval_errors,
    sum(tool_cost) AS tool_cost,
    sum(retrieval_cost) AS retrieval_cost
FROM rollup_calls AS c
CROSS JOIN LATERAL (VALUES (overall_group), (tenant_group), (agent_group), (agent_version_group), (mode_group), (model_group),
                           (prompt_version_group), (environment_group), (variant_group)) AS g (group_id)
WHERE g.group_id IS NOT NULL
GROUP BY c.quarter, c.third, g.group_id;
