-- The values among them that have no rows of their own on the day yet. Parameters: day.
CREATE TEMPORARY TABLE rollup_counted ON COMMIT DROP AS
SELECT l.dimension, l.label AS dimension_value, l.requests
FROM completion_labels AS l
LEFT JOIN metamon.metric_groups AS g ON g.day = %(day)s AND g.dimension = l.dimension AND g.dimension_value = l.label
WHERE l.dimension <> 'overall' AND g.day IS NULL;
