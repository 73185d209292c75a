-- Distinct users and conversations by group, from unit_daily: a unit is its id within its tenant. Parameters: day.
CREATE TEMPORARY TABLE rollup_distinct ON COMMIT DROP AS
WITH by_agent AS (
    SELECT unit_type, tenant_id, agent_name, unit_id
    FROM metamon.unit_daily WHERE day = %(day)s
    GROUP BY unit_type, tenant_id, agent_name, unit_id
), by_tenant AS (
    SELECT unit_type, tenant_id, count(*) AS units
    FROM (SELECT DISTINCT unit_type, tenant_id, unit_id FROM metamon.unit_daily WHERE day = %(day)s) AS units
    GROUP BY unit_type, tenant_id
), counts AS (
    SELECT 'overall' AS dimension, '(all)' AS dimension_value, unit_type, sum(units) AS units FROM by_tenant GROUP BY unit_type
    UNION ALL
    SELECT 'tenant', coalesce(tenant_id, '(none)'), unit_type, units FROM by_tenant
    UNION ALL
    SELECT 'agent', coalesce(u.agent_name, '(none)'), u.unit_type, count(*)
    FROM by_agent AS u
    GROUP BY u.agent_name, u.unit_type
    UNION ALL
    SELECT 'variant', variant, unit_type, count(*)
    FROM (SELECT DISTINCT variant, unit_type, tenant_id, unit_id FROM metamon.unit_daily WHERE day = %(day)s AND variant IS NOT NULL) AS units
    GROUP BY variant, unit_type
), own AS (
    SELECT g.group_id, c.unit_type, sum(c.units) AS units
    FROM counts AS c
    JOIN metamon.metric_groups AS g ON g.day = %(day)s AND g.dimension = c.dimension AND g.dimension_value = c.dimension_value
    GROUP BY g.group_id, c.unit_type
    UNION ALL
    -- A unit may have several of the agents, or variants, that (other) stands for; never several tenants.
    SELECT o.group_id, u.unit_type, count(DISTINCT (u.tenant_id, u.unit_id))
    FROM metamon.unit_daily AS u
    CROSS JOIN LATERAL (VALUES ('tenant', coalesce(u.tenant_id, '(none)')), ('agent', coalesce(u.agent_name, '(none)')), ('variant', u.variant))
        AS d (dimension, dimension_value)
    LEFT JOIN metamon.metric_groups AS g ON g.day = %(day)s AND g.dimension = d.dimension AND g.dimension_value = d.dimension_value
    JOIN metamon.metric_groups AS o ON o.day = %(day)s AND o.dimension = d.dimension AND o.dimension_value = '(other)'
    WHERE u.day = %(day)s AND d.dimension_value IS NOT NULL AND g.group_id IS NULL
    GROUP BY o.group_id, u.unit_type
)
SELECT group_id,
       sum(units) FILTER (WHERE unit_type = 'user') AS users,
       sum(units) FILTER (WHERE unit_type = 'conversation') AS conversations
FROM own
GROUP BY group_id;
