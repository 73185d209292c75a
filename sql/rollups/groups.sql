-- Chooses the values that get rows of their own on a day: the largest ones of each dimension in rollup_counted, and the
-- watched ones, in addition to those of the day that are there already. Parameters: day, top.
INSERT INTO metamon.metric_groups (day, dimension, dimension_value, group_id)
WITH earlier AS (
    SELECT dimension, dimension_value, group_id FROM metamon.metric_groups WHERE day = %(day)s
), fresh AS (
    SELECT c.dimension, c.dimension_value,
           row_number() OVER (PARTITION BY c.dimension ORDER BY c.requests DESC, c.dimension_value)
               + (SELECT count(*) FROM earlier AS e WHERE e.dimension = c.dimension AND e.dimension_value NOT IN ('(none)', '(other)'))
               AS place
    FROM rollup_counted AS c
    LEFT JOIN earlier AS e ON e.dimension = c.dimension AND e.dimension_value = c.dimension_value
    WHERE c.dimension_value IS NOT NULL AND e.dimension IS NULL AND c.dimension_value NOT IN ('(none)', '(other)')
), chosen AS (
    SELECT f.dimension, f.dimension_value
    FROM fresh AS f
    LEFT JOIN metamon.watched_groups AS w ON w.dimension = f.dimension AND w.dimension_value = f.dimension_value
    WHERE f.place <= %(top)s OR w.dimension IS NOT NULL
    UNION ALL
    SELECT 'overall', '(all)' WHERE NOT EXISTS (SELECT 1 FROM earlier)
    UNION ALL
    SELECT dimension, dimension_value
    FROM (VALUES ('tenant'), ('agent'), ('agent_version'), ('mode'), ('model'), ('prompt_version'), ('environment'), ('variant'), ('tool'))
             AS d (dimension)
    CROSS JOIN (VALUES ('(none)'), ('(other)')) AS v (dimension_value)
    WHERE NOT EXISTS (SELECT 1 FROM earlier)
)
SELECT CAST(%(day)s AS date), dimension, dimension_value,
       (SELECT coalesce(max(group_id), 0) FROM earlier) + row_number() OVER (ORDER BY dimension, dimension_value)
FROM chosen;
