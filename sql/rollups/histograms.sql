-- Histograms of one metric in one dimension, of fifteen minutes and of each five minutes in it; {bin} and {group} name
-- the columns of bins and of groups. Two narrow keys are grouped twice as fast as three, or as one wide one.
INSERT INTO rollup_histograms
SELECT
    {metric_name}, CAST(place / 32768 AS smallint), CAST(mod(place, 32768) AS smallint),
    array_agg(bin ORDER BY bin), array_agg(n ORDER BY bin),
    array_agg(bin ORDER BY bin) FILTER (WHERE n0 > 0), array_agg(n0 ORDER BY bin) FILTER (WHERE n0 > 0),
    array_agg(bin ORDER BY bin) FILTER (WHERE n1 > 0), array_agg(n1 ORDER BY bin) FILTER (WHERE n1 > 0),
    array_agg(bin ORDER BY bin) FILTER (WHERE n2 > 0), array_agg(n2 ORDER BY bin) FILTER (WHERE n2 > 0)
FROM (
    SELECT CAST(quarter AS integer) * 32768 + {group} AS place, {bin} AS bin,
           CAST(count(*) AS integer) AS n,
           CAST(count(*) FILTER (WHERE third = 0) AS integer) AS n0,
           CAST(count(*) FILTER (WHERE third = 1) AS integer) AS n1,
           CAST(count(*) FILTER (WHERE third = 2) AS integer) AS n2
    FROM rollup_facts
    WHERE {group} IS NOT NULL AND {bin} IS NOT NULL
    GROUP BY 1, 2
) AS counted
GROUP BY place;
