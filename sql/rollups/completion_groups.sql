-- The group of every one of these values, read at one moment, since another refresh may choose the day's groups anew.
-- Parameters: day.
CREATE TEMPORARY TABLE completion_groups ON COMMIT DROP AS
WITH chosen AS (
    SELECT dimension, dimension_value, group_id FROM metamon.metric_groups WHERE day = %(day)s
)
SELECT l.dimension, l.label, coalesce(own.dimension_value, other.dimension_value) AS dimension_value,
       coalesce(own.group_id, other.group_id) AS group_id
FROM completion_labels AS l
LEFT JOIN chosen AS own ON own.dimension = l.dimension AND own.dimension_value = l.label
LEFT JOIN chosen AS other ON other.dimension = l.dimension AND other.dimension_value = '(other)';
