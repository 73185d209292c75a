-- completion_sums with its groups, as pairs of dimensions that go together: first * 3000 + second, as in sums.sql. The pairs
-- of environments make up the whole.
CREATE TEMPORARY TABLE completion_pairs ON COMMIT DROP AS
SELECT r.*, CAST(tenant.group_id AS integer) AS tenant_pair, agent.group_id * 3000 + agent_version.group_id AS agent_pair,
       CAST(model.group_id AS integer) AS model_pair, environment.group_id * 3000 + mode.group_id AS environment_pair,
       CAST(tool.group_id AS integer) AS tool_pair
FROM completion_sums AS r
LEFT JOIN completion_groups AS tenant ON tenant.dimension = 'tenant' AND tenant.label = coalesce(r.tenant, '(none)') AND r.tool IS NULL
LEFT JOIN completion_groups AS agent ON agent.dimension = 'agent' AND agent.label = coalesce(r.agent, '(none)') AND r.tool IS NULL
LEFT JOIN completion_groups AS agent_version
    ON agent_version.dimension = 'agent_version' AND agent_version.label = coalesce(r.agent_version, '(none)') AND r.tool IS NULL
LEFT JOIN completion_groups AS mode ON mode.dimension = 'mode' AND mode.label = coalesce(r.mode, '(none)') AND r.tool IS NULL
LEFT JOIN completion_groups AS model ON model.dimension = 'model' AND model.label = coalesce(r.model, '(none)') AND r.tool IS NULL
LEFT JOIN completion_groups AS environment
    ON environment.dimension = 'environment' AND environment.label = coalesce(r.environment, '(none)') AND r.tool IS NULL
LEFT JOIN completion_groups AS tool ON tool.dimension = 'tool' AND tool.label = r.tool;
