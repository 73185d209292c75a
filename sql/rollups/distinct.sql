-- Distinct units of one type (users, conversations) by group, from unit_daily: a unit is its id within its tenant.
-- Parameters: day, unit_type.
INSERT INTO rollup_distinct
WITH by_agent AS (
    SELECT tenant_id, agent_name, unit_id
    FROM metamon.unit_daily WHERE day = %(day)s AND unit_type = %(unit_type)s
    GROUP BY tenant_id, agent_name, unit_id
), by_tenant AS (
    SELECT tenant_id, count(*) AS units
    FROM (SELECT DISTINCT tenant_id, unit_id FROM metamon.unit_daily WHERE day = %(day)s AND unit_type = %(unit_type)s) AS units
    GROUP BY tenant_id
), counts AS (
    SELECT 'overall' AS dimension, '(all)' AS dimension_value, sum(units) AS units FROM by_tenant
    UNION ALL
    SELECT 'tenant', coalesce(tenant_id, '(none)'), units FROM by_tenant
    UNION ALL
    SELECT 'agent', coalesce(u.agent_name, '(none)'), count(*)
    FROM by_agent AS u
    GROUP BY u.agent_name
    UNION ALL
    SELECT 'variant', variant, count(*)
    FROM (SELECT DISTINCT variant, tenant_id, unit_id FROM metamon.unit_daily WHERE day = %(day)s AND unit_type = %(unit_type)s AND variant IS NOT NULL) AS units
    GROUP BY variant
), own AS (
    SELECT g.group_id, sum(c.units) AS units
    FROM counts AS c
    JOIN metamon.metric_groups AS g ON g.day = %(day)s AND g.dimension = c.dimension AND g.dimension_value = c.dimension_value
    GROUP BY g.group_id
    UNION ALL
    -- (other) stands for several agents or variants, of which a unit may have had more than one; never several tenants.
    SELECT o.group_id, sum(t.units)
    FROM by_tenant AS t
    JOIN metamon.metric_groups AS o ON o.day = %(day)s AND o.dimension = 'tenant' AND o.dimension_value = '(other)'
    WHERE NOT EXISTS (SELECT 1 FROM metamon.metric_groups AS g
                      WHERE g.day = %(day)s AND g.dimension = 'tenant' AND g.dimension_value = coalesce(t.tenant_id, '(none)'))
    GROUP BY o.group_id
    UNION ALL
    SELECT o.group_id, count(DISTINCT (a.tenant_id, a.unit_id))
    FROM by_agent AS a
    JOIN metamon.metric_groups AS o ON o.day = %(day)s AND o.dimension = 'agent' AND o.dimension_value = '(other)'
    WHERE NOT EXISTS (SELECT 1 FROM metamon.metric_groups AS g
                      WHERE g.day = %(day)s AND g.dimension = 'agent' AND g.dimension_value = coalesce(a.agent_name, '(none)'))
    GROUP BY o.group_id
    UNION ALL
    SELECT o.group_id, count(DISTINCT (u.tenant_id, u.unit_id))
    FROM metamon.unit_daily AS u
    JOIN metamon.metric_groups AS o ON o.day = %(day)s AND o.dimension = 'variant' AND o.dimension_value = '(other)'
    WHERE u.day = %(day)s AND u.unit_type = %(unit_type)s AND u.variant IS NOT NULL
      AND NOT EXISTS (SELECT 1 FROM metamon.metric_groups AS g
                      WHERE g.day = %(day)s AND g.dimension = 'variant' AND g.dimension_value = u.variant)
    GROUP BY o.group_id
)
SELECT %(unit_type)s, group_id, sum(units)
FROM own
GROUP BY group_id;
