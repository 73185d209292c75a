-- A day's histogram of one metric by group, merged from those of its fifteen minutes. {bins} and {counts} name its columns.
-- Parameters: day.
INSERT INTO rollup_day_histograms
SELECT {metric_name}, group_id, array_agg(bin ORDER BY bin), array_agg(n ORDER BY bin)
FROM (
    SELECT g.group_id, e.bin, CAST(sum(e.n) AS integer) AS n
    FROM metamon.fifteen_minute_metrics AS m
    JOIN metamon.metric_groups AS g ON g.day = m.day AND g.dimension = m.dimension AND g.dimension_value = m.dimension_value
    CROSS JOIN LATERAL unnest(m.{bins}, m.{counts}) AS e (bin, n)
    WHERE m.day = %(day)s
    GROUP BY g.group_id, e.bin
) AS merged
GROUP BY group_id;
