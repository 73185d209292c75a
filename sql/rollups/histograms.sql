-- Histograms of one metric in one dimension, of fifteen minutes and of each five minutes in it; {bin} and {group} name
-- the columns of bins and of groups. One number as key, (quarter, group, bin), is grouped twice as fast as three columns.
INSERT INTO rollup_histograms
SELECT
    {metric_name}, CAST(key / 65536 / 32768 AS smallint), CAST(mod(key / 65536, 32768) AS smallint),
    array_agg(CAST(mod(key, 65536) - 32768 AS smallint) ORDER BY key),
    array_agg(n ORDER BY key),
    array_agg(CAST(mod(key, 65536) - 32768 AS smallint) ORDER BY key) FILTER (WHERE n0 > 0),
    array_agg(n0 ORDER BY key) FILTER (WHERE n0 > 0),
    array_agg(CAST(mod(key, 65536) - 32768 AS smallint) ORDER BY key) FILTER (WHERE n1 > 0),
    array_agg(n1 ORDER BY key) FILTER (WHERE n1 > 0),
    array_agg(CAST(mod(key, 65536) - 32768 AS smallint) ORDER BY key) FILTER (WHERE n2 > 0),
    array_agg(n2 ORDER BY key) FILTER (WHERE n2 > 0)
FROM (
    SELECT (CAST(quarter AS bigint) * 32768 + {group}) * 65536 + {bin} + 32768 AS key,
           CAST(count(*) AS integer) AS n,
           CAST(count(*) FILTER (WHERE third = 0) AS integer) AS n0,
           CAST(count(*) FILTER (WHERE third = 1) AS integer) AS n1,
           CAST(count(*) FILTER (WHERE third = 2) AS integer) AS n2
    FROM rollup_facts
    WHERE {group} IS NOT NULL AND {bin} IS NOT NULL
    GROUP BY 1
) AS counted
GROUP BY key / 65536;
