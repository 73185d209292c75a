-- The groups of the pair of a row p.
CROSS JOIN LATERAL (
    SELECT CAST(mod(p.pair, 3000) AS smallint) AS group_id
    UNION ALL
    SELECT CAST(p.pair / 3000 AS smallint) WHERE p.pair >= 3000
    UNION ALL
    SELECT (SELECT group_id FROM completion_groups WHERE dimension = 'overall')
    WHERE p.pair / 3000 IN (SELECT group_id FROM completion_groups WHERE dimension = 'environment')
) AS g
