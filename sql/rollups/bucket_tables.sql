-- Where histograms.sql and histograms_fifteen.sql put their rows; the numbered arrays are those of the three five minutes.
CREATE TEMPORARY TABLE rollup_histograms (
    metric text, quarter smallint, group_id smallint,
    bins smallint[], counts integer[],
    bins_0 smallint[], counts_0 integer[], bins_1 smallint[], counts_1 integer[], bins_2 smallint[], counts_2 integer[]
) ON COMMIT DROP;
