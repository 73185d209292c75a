-- Latency histograms of what ended, by every group.
CREATE TEMPORARY TABLE completion_histograms ON COMMIT DROP AS
SELECT bucket, group_id, array_agg(bin ORDER BY bin) AS bins, array_agg(n ORDER BY bin) AS counts
FROM (
    SELECT p.bucket, g.group_id, p.bin, CAST(sum(p.n) AS integer) AS n
    FROM (
        SELECT r.bucket, d.pair, b.bin, count(*) AS n
        FROM completion_pairs AS r
        CROSS JOIN LATERAL unnest(r.latency_bins) AS b (bin)
        CROSS JOIN LATERAL (VALUES (tenant_pair), (agent_pair), (model_pair), (environment_pair), (tool_pair)) AS d (pair)
        WHERE d.pair IS NOT NULL
        GROUP BY r.bucket, d.pair, b.bin
    ) AS p
    {groups}
    GROUP BY p.bucket, g.group_id, p.bin
) AS counted
GROUP BY bucket, group_id;
