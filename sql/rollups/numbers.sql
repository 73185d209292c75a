-- Numbers the groups of a day, so that rows are grouped by small integers and not by text. Parameters: day.
CREATE TEMPORARY TABLE rollup_groups ON COMMIT DROP AS
SELECT CAST(row_number() OVER (ORDER BY dimension, dimension_value) AS smallint) AS group_id, dimension, dimension_value
FROM (
    SELECT dimension, dimension_value FROM metamon.metric_groups WHERE day = %(day)s
    UNION
    SELECT 'overall', '(all)'
    UNION
    SELECT dimension, dimension_value
    FROM (VALUES ('tenant'), ('agent'), ('agent_version'), ('mode'), ('model'), ('prompt_version'), ('environment'), ('variant'), ('tool'))
             AS d (dimension)
    CROSS JOIN (VALUES ('(none)'), ('(other)')) AS v (dimension_value)
) AS groups;
