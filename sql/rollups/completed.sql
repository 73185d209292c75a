-- The runs of {table} that ended in a window with success or error: those that end within five minutes by the starts that
-- are possible, the longer ones by their own index, and where the source tells no end, by the start. What took more than
-- 14 days had been given up. {days}: how many days before its own start a row may live. Parameters: window_start, window_end
-- (within one UTC day).
SELECT r.*, r.end_time AS ended_at
FROM metamon.{table} AS r
WHERE r.day >= CAST(%(window_start)s AS date) - {days} AND r.day <= CAST(%(window_start)s AS date)
  AND r.start_time >= CAST(%(window_start)s AS timestamptz) - interval '5 minutes' AND r.start_time < %(window_end)s
  AND r.end_time >= %(window_start)s AND r.end_time < %(window_end)s AND NOT (r.end_time - r.start_time > interval '5 minutes')
  AND r.status IN ('success', 'error') AND {condition}
UNION ALL
SELECT r.*, r.end_time
FROM metamon.{table} AS r
WHERE r.day >= CAST(%(window_start)s AS date) - 14 AND r.day <= CAST(%(window_start)s AS date)
  AND r.end_time >= %(window_start)s AND r.end_time < %(window_end)s AND r.end_time - r.start_time > interval '5 minutes'
  AND r.end_time - r.start_time <= interval '336 hours' AND r.status IN ('success', 'error') AND {condition}
UNION ALL
SELECT r.*, r.start_time
FROM metamon.{table} AS r
WHERE r.day >= CAST(%(window_start)s AS date) - {days} AND r.day <= CAST(%(window_start)s AS date)
  AND r.start_time >= %(window_start)s AND r.start_time < %(window_end)s
  AND r.end_time IS NULL AND r.status IN ('success', 'error') AND {condition}
