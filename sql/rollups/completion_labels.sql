-- Every value of the runs that ended or were in flight, and how many of them have it.
CREATE TEMPORARY TABLE completion_labels ON COMMIT DROP AS
SELECT dimension, label, CAST(sum(requests) AS bigint) AS requests
FROM (
    SELECT d.dimension, d.label, r.completed AS requests FROM completion_sums AS r {dimensions}
    UNION ALL
    SELECT d.dimension, d.label, 1 FROM completion_flights AS r {dimensions}
) AS labels
WHERE label IS NOT NULL
GROUP BY dimension, label;
