-- Histograms of one metric in one dimension, of fifteen minutes only; {bin} and {group} name the columns of bins and of groups.
INSERT INTO rollup_histograms (metric, quarter, group_id, bins, counts)
SELECT {metric_name}, CAST(place / 32768 AS smallint), CAST(mod(place, 32768) AS smallint), array_agg(bin ORDER BY bin), array_agg(n ORDER BY bin)
FROM (
    SELECT CAST(quarter AS integer) * 32768 + {group} AS place, {bin} AS bin, CAST(count(*) AS integer) AS n
    FROM rollup_facts
    WHERE {group} IS NOT NULL AND {bin} IS NOT NULL
    GROUP BY 1, 2
) AS counted
GROUP BY place;
