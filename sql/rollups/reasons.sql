-- Why traces failed, were degraded or warned, by group; the fifty most frequent reasons of each kind, the rest as (other).
-- Parameters: day.
CREATE TEMPORARY TABLE rollup_reasons ON COMMIT DROP AS
WITH told AS (
    SELECT coalesce(g.group_id, other.group_id) AS group_id, t.status, t.error_type, t.degraded, t.degradation_reason, t.warnings
    FROM metamon.traces AS t
    CROSS JOIN LATERAL (VALUES
        ('overall', '(all)'), ('tenant', coalesce(t.tenant_id, '(none)')), ('agent', coalesce(t.agent_name, '(none)')),
        ('agent_version', coalesce(t.agent_version, '(none)')), ('mode', coalesce(t.mode, '(none)')),
        ('model', coalesce(t.response_model, t.request_model, '(none)')), ('prompt_version', coalesce(t.prompt_version, '(none)')),
        ('environment', coalesce(t.environment, '(none)')), ('variant', t.variant)) AS d (dimension, dimension_value)
    LEFT JOIN rollup_groups AS g ON g.dimension = d.dimension AND g.dimension_value = d.dimension_value
    LEFT JOIN rollup_groups AS other ON other.dimension = d.dimension AND other.dimension_value = '(other)'
    WHERE t.day = %(day)s AND (t.status = 'error' OR t.degraded OR cardinality(t.warnings) > 0) AND d.dimension_value IS NOT NULL
), counted AS (
    SELECT group_id, 'error' AS kind, coalesce(error_type, '(none)') AS reason, count(*) AS n
    FROM told WHERE status = 'error' GROUP BY group_id, coalesce(error_type, '(none)')
    UNION ALL
    SELECT group_id, 'degradation', coalesce(degradation_reason, '(none)'), count(*)
    FROM told WHERE degraded GROUP BY group_id, coalesce(degradation_reason, '(none)')
    UNION ALL
    SELECT group_id, 'warning', coalesce(warning, '(none)'), count(*)
    FROM told CROSS JOIN LATERAL unnest(warnings) AS w (warning) GROUP BY group_id, coalesce(warning, '(none)')
), ranked AS (
    SELECT group_id, kind, reason, n, row_number() OVER (PARTITION BY group_id, kind ORDER BY n DESC, reason) AS place
    FROM counted
), bounded AS (
    SELECT group_id, kind, CASE WHEN place <= 50 THEN reason ELSE '(other)' END AS reason, sum(n) AS n
    FROM ranked GROUP BY group_id, kind, CASE WHEN place <= 50 THEN reason ELSE '(other)' END
)
SELECT group_id,
       jsonb_object_agg(reason, n) FILTER (WHERE kind = 'error') AS error_types,
       jsonb_object_agg(reason, n) FILTER (WHERE kind = 'degradation') AS degradation_reasons,
       jsonb_object_agg(reason, n) FILTER (WHERE kind = 'warning') AS warning_types
FROM bounded GROUP BY group_id;
