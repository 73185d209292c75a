-- Distinct users and conversations by group, from unit_daily: a unit is its id within its tenant. Parameters: day.
CREATE TEMPORARY TABLE rollup_distinct ON COMMIT DROP AS
WITH units AS (
    SELECT unit_type, tenant_id, unit_id
    FROM metamon.unit_daily WHERE day = %(day)s
    GROUP BY unit_type, tenant_id, unit_id
), counted AS (
    SELECT 'tenant' AS dimension, coalesce(tenant_id, '(none)') AS dimension_value, unit_type, count(*) AS units
    FROM units GROUP BY tenant_id, unit_type
    UNION ALL
    SELECT 'overall', '(all)', unit_type, count(*)
    FROM units GROUP BY unit_type
), labelled AS (
    SELECT 'agent' AS dimension, coalesce(g.dimension_value, '(other)') AS dimension_value, unit_type, tenant_id, unit_id
    FROM metamon.unit_daily AS u
    LEFT JOIN rollup_groups AS g ON g.dimension = 'agent' AND g.dimension_value = coalesce(u.agent_name, '(none)')
    WHERE u.day = %(day)s
    UNION
    SELECT 'variant', coalesce(g.dimension_value, '(other)'), unit_type, tenant_id, unit_id
    FROM metamon.unit_daily AS u
    LEFT JOIN rollup_groups AS g ON g.dimension = 'variant' AND g.dimension_value = u.variant
    WHERE u.day = %(day)s AND u.variant IS NOT NULL
), counts AS (
    -- Units of different tenants are different, so those of the tenants in (other) add up.
    SELECT c.dimension, coalesce(g.dimension_value, '(other)') AS dimension_value, unit_type, sum(units) AS units
    FROM counted AS c
    LEFT JOIN rollup_groups AS g ON g.dimension = c.dimension AND g.dimension_value = c.dimension_value
    GROUP BY c.dimension, coalesce(g.dimension_value, '(other)'), unit_type
    UNION ALL
    SELECT dimension, dimension_value, unit_type, count(*) FROM labelled GROUP BY dimension, dimension_value, unit_type
)
SELECT g.group_id,
       sum(units) FILTER (WHERE unit_type = 'user') AS users,
       sum(units) FILTER (WHERE unit_type = 'conversation') AS conversations
FROM counts
JOIN rollup_groups AS g ON g.dimension = counts.dimension AND g.dimension_value = counts.dimension_value
GROUP BY g.group_id;
