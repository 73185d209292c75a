-- Why traces failed, were degraded or warned, by group; the fifty most frequent reasons of each kind, the rest as (other).
-- Parameters: day.
CREATE TEMPORARY TABLE rollup_reasons ON COMMIT DROP AS
WITH told AS (
    SELECT tenant_id, agent_name, agent_version, mode, coalesce(response_model, request_model) AS model, prompt_version, environment, variant,
           CASE WHEN status = 'error' THEN coalesce(error_type, '(none)') END AS error,
           CASE WHEN degraded THEN coalesce(degradation_reason, '(none)') END AS degradation,
           warnings
    FROM metamon.traces
    WHERE day = %(day)s AND (status = 'error' OR degraded OR cardinality(warnings) > 0)
), reasons AS (
    SELECT t.*, 'error' AS kind, error AS reason FROM told AS t WHERE error IS NOT NULL
    UNION ALL
    SELECT t.*, 'degradation', degradation FROM told AS t WHERE degradation IS NOT NULL
    UNION ALL
    SELECT t.*, 'warning', coalesce(w.warning, '(none)') FROM told AS t CROSS JOIN LATERAL unnest(t.warnings) AS w (warning)
), counted AS (
    SELECT d.dimension, d.dimension_value, r.kind, r.reason, count(*) AS n
    FROM reasons AS r
    CROSS JOIN LATERAL (VALUES
        ('overall', '(all)'), ('tenant', coalesce(tenant_id, '(none)')), ('agent', coalesce(agent_name, '(none)')),
        ('agent_version', coalesce(agent_version, '(none)')), ('mode', coalesce(mode, '(none)')), ('model', coalesce(model, '(none)')),
        ('prompt_version', coalesce(prompt_version, '(none)')), ('environment', coalesce(environment, '(none)')), ('variant', variant)
    ) AS d (dimension, dimension_value)
    WHERE d.dimension_value IS NOT NULL
    GROUP BY d.dimension, d.dimension_value, r.kind, r.reason
), grouped AS (
    SELECT coalesce(g.group_id, other.group_id) AS group_id, c.kind, c.reason, sum(c.n) AS n
    FROM counted AS c
    LEFT JOIN metamon.metric_groups AS g ON g.day = %(day)s AND g.dimension = c.dimension AND g.dimension_value = c.dimension_value
    LEFT JOIN metamon.metric_groups AS other ON other.day = %(day)s AND other.dimension = c.dimension AND other.dimension_value = '(other)'
    GROUP BY coalesce(g.group_id, other.group_id), c.kind, c.reason
), ranked AS (
    SELECT group_id, kind, reason, n, row_number() OVER (PARTITION BY group_id, kind ORDER BY n DESC, reason) AS place
    FROM grouped
), bounded AS (
    SELECT group_id, kind, CASE WHEN place <= 50 THEN reason ELSE '(other)' END AS reason, sum(n) AS n
    FROM ranked GROUP BY group_id, kind, CASE WHEN place <= 50 THEN reason ELSE '(other)' END
)
SELECT group_id,
       jsonb_object_agg(reason, n) FILTER (WHERE kind = 'error') AS error_types,
       jsonb_object_agg(reason, n) FILTER (WHERE kind = 'degradation') AS degradation_reasons,
       jsonb_object_agg(reason, n) FILTER (WHERE kind = 'warning') AS warning_types
FROM bounded GROUP BY group_id;
