-- Where day_histograms.sql and distinct.sql put their rows.
CREATE TEMPORARY TABLE rollup_day_histograms (metric text, group_id smallint, bins smallint[], counts integer[]) ON COMMIT DROP;
CREATE TEMPORARY TABLE rollup_distinct (unit_type text, group_id smallint, units bigint) ON COMMIT DROP;
