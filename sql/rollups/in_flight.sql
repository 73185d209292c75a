-- The runs of {table} that were in flight at some moment from the first to the last, and until when they were: the end, or
-- 14 days after the start, when they are given up. What ends within five minutes is found by the starts that are possible;
-- the longer ones and those without an end have indexes of their own. {days}: how many days before its own start a row may live. Parameters: first_moment, last_moment, now.
SELECT r.*, r.end_time AS gone_at
FROM metamon.{table} AS r
WHERE r.day >= CAST(%(first_moment)s AS date) - {days} AND r.day <= CAST(%(last_moment)s AS date)
  AND r.start_time >= CAST(%(first_moment)s AS timestamptz) - interval '5 minutes' AND r.start_time < %(last_moment)s
  AND r.end_time >= %(first_moment)s AND NOT (r.end_time - r.start_time > interval '5 minutes')
  AND (floor(date_part('epoch', r.start_time) / 300) <> floor(date_part('epoch', r.end_time) / 300) OR r.end_time >= %(now)s)
  AND {condition}
UNION ALL
SELECT r.*, least(r.end_time, r.start_time + interval '336 hours')
FROM metamon.{table} AS r
WHERE r.day >= CAST(%(first_moment)s AS date) - 15 AND r.day <= CAST(%(last_moment)s AS date)
  AND r.end_time >= %(first_moment)s AND r.end_time - r.start_time > interval '5 minutes'
  AND r.start_time >= CAST(%(first_moment)s AS timestamptz) - interval '336 hours' AND r.start_time < %(last_moment)s AND {condition}
UNION ALL
SELECT r.*, r.start_time + interval '336 hours'
FROM metamon.{table} AS r
WHERE r.day >= CAST(%(first_moment)s AS date) - 15 AND r.day <= CAST(%(last_moment)s AS date)
  AND r.end_time IS NULL AND r.status IN ('pending', 'abandoned')
  AND r.start_time >= CAST(%(first_moment)s AS timestamptz) - interval '336 hours' AND r.start_time < %(last_moment)s AND {condition}
