-- The cost of a call whose children tell costs is theirs, not its own. Parameters: day.
UPDATE rollup_calls AS c
SET tool_cost = NULL, retrieval_cost = NULL
FROM metamon.spans AS s
WHERE s.day = %(day)s AND s.total_cost IS NOT NULL
  AND s.trace_id = c.trace_id AND s.parent_run_id = c.priced_run_id AND s.project = c.project AND s.source = c.source;
