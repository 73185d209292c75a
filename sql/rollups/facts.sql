-- One narrow row per trace of a window within one day: bucket, group of each dimension, histogram bins, measures.
-- Money is counted in whole picodollars, which add up exactly and ten times faster than numeric. {money} is bigint and
-- {tokens} integer, or numeric(38, 0) and bigint for a window in which a trace costs more than nine million dollars or
-- has more than two thousand million tokens. Parameters: day, window_start, window_end.
CREATE TEMPORARY TABLE rollup_facts ON COMMIT DROP AS
SELECT
    CAST(mod(CAST(floor(date_part('epoch', t.start_time)) AS bigint), 86400) / 900 AS smallint) AS quarter,
    CAST(mod(CAST(floor(date_part('epoch', t.start_time)) AS bigint), 900) / 300 AS smallint) AS third,
    (SELECT group_id FROM metamon.metric_groups WHERE day = %(day)s AND dimension = 'overall') AS overall_group,
    coalesce(tenant.group_id, (SELECT group_id FROM metamon.metric_groups WHERE day = %(day)s AND dimension = 'tenant' AND dimension_value = '(other)')) AS tenant_group,
    coalesce(agent.group_id, (SELECT group_id FROM metamon.metric_groups WHERE day = %(day)s AND dimension = 'agent' AND dimension_value = '(other)')) AS agent_group,
    coalesce(agent_version.group_id,
             (SELECT group_id FROM metamon.metric_groups WHERE day = %(day)s AND dimension = 'agent_version' AND dimension_value = '(other)')) AS agent_version_group,
    coalesce(mode.group_id, (SELECT group_id FROM metamon.metric_groups WHERE day = %(day)s AND dimension = 'mode' AND dimension_value = '(other)')) AS mode_group,
    coalesce(model.group_id, (SELECT group_id FROM metamon.metric_groups WHERE day = %(day)s AND dimension = 'model' AND dimension_value = '(other)')) AS model_group,
    coalesce(prompt_version.group_id,
             (SELECT group_id FROM metamon.metric_groups WHERE day = %(day)s AND dimension = 'prompt_version' AND dimension_value = '(other)')) AS prompt_version_group,
    coalesce(environment.group_id,
             (SELECT group_id FROM metamon.metric_groups WHERE day = %(day)s AND dimension = 'environment' AND dimension_value = '(other)')) AS environment_group,
    CASE WHEN t.variant IS NOT NULL
         THEN coalesce(variant.group_id, (SELECT group_id FROM metamon.metric_groups WHERE day = %(day)s AND dimension = 'variant' AND dimension_value = '(other)'))
    END AS variant_group,
    CAST(NULL AS smallint) AS tool_group,
    metamon.histogram_bin(t.latency_seconds) AS latency_bin,
    metamon.histogram_bin(t.time_to_first_token_seconds) AS time_to_first_token_bin,
    metamon.histogram_bin(t.quality_score) AS quality_bin,
    CAST(1 AS smallint) AS requests,
    CASE t.status WHEN 'success' THEN CAST(1 AS smallint) END AS successes,
    CASE t.status WHEN 'error' THEN CAST(1 AS smallint) END AS errors,
    CASE t.status WHEN 'pending' THEN CAST(1 AS smallint) END AS pending,
    CASE t.status WHEN 'abandoned' THEN CAST(1 AS smallint) END AS abandoned,
    t.degraded,
    nullif(cardinality(t.warnings), 0) AS warnings,
    t.task_completed,
    t.cache_hit,
    t.latency_seconds,
    t.time_to_first_token_seconds,
    t.quality_score,
    CAST(t.input_tokens AS {tokens}) AS input_tokens,
    CAST(t.output_tokens AS {tokens}) AS output_tokens,
    CAST(t.total_tokens AS {tokens}) AS total_tokens,
    CAST(t.cache_read_input_tokens AS {tokens}) AS cache_read_input_tokens,
    CAST(t.cache_creation_input_tokens AS {tokens}) AS cache_creation_input_tokens,
    CAST(t.reasoning_output_tokens AS {tokens}) AS reasoning_output_tokens,
    CAST(t.input_cost * 1000000000000 AS {money}) AS input_cost,
    CAST(t.output_cost * 1000000000000 AS {money}) AS output_cost,
    CAST(t.total_cost * 1000000000000 AS {money}) AS total_cost,
    t.llm_calls,
    t.tool_calls,
    t.retrievals,
    t.trace_id,
    t.project,
    t.source,
    CASE WHEN t.run_type IN ('tool', 'retriever', 'embedding', 'reranker') THEN t.run_type END AS call_type,
    CASE WHEN t.run_type IN ('tool', 'retriever', 'embedding', 'reranker') THEN t.run_id END AS call_run_id
FROM metamon.traces AS t
LEFT JOIN metamon.metric_groups AS tenant ON tenant.day = %(day)s AND tenant.dimension = 'tenant' AND tenant.dimension_value = coalesce(t.tenant_id, '(none)')
LEFT JOIN metamon.metric_groups AS agent ON agent.day = %(day)s AND agent.dimension = 'agent' AND agent.dimension_value = coalesce(t.agent_name, '(none)')
LEFT JOIN metamon.metric_groups AS agent_version
    ON agent_version.day = %(day)s AND agent_version.dimension = 'agent_version' AND agent_version.dimension_value = coalesce(t.agent_version, '(none)')
LEFT JOIN metamon.metric_groups AS mode ON mode.day = %(day)s AND mode.dimension = 'mode' AND mode.dimension_value = coalesce(t.mode, '(none)')
LEFT JOIN metamon.metric_groups AS model
    ON model.day = %(day)s AND model.dimension = 'model' AND model.dimension_value = coalesce(t.response_model, t.request_model, '(none)')
LEFT JOIN metamon.metric_groups AS prompt_version
    ON prompt_version.day = %(day)s AND prompt_version.dimension = 'prompt_version' AND prompt_version.dimension_value = coalesce(t.prompt_version, '(none)')
LEFT JOIN metamon.metric_groups AS environment
    ON environment.day = %(day)s AND environment.dimension = 'environment' AND environment.dimension_value = coalesce(t.environment, '(none)')
LEFT JOIN metamon.metric_groups AS variant ON variant.day = %(day)s AND variant.dimension = 'variant' AND variant.dimension_value = t.variant
WHERE t.day = %(day)s AND t.start_time >= %(window_start)s AND t.start_time < %(window_end)s;
