-- Feedback on a day's traces, by the day of the trace however late it came, by group and key. Parameters: day.
CREATE TEMPORARY TABLE rollup_feedback ON COMMIT DROP AS
WITH given AS (
    SELECT t.source, t.project, t.run_id, f.key, f.score
    FROM metamon.feedback AS f
    JOIN metamon.traces AS t ON t.run_id = f.run_id AND t.project = f.project AND t.source = f.source
    WHERE t.day = %(day)s AND f.day >= %(day)s
    UNION ALL
    -- Feedback on a child counts for its trace,
    SELECT t.source, t.project, t.run_id, f.key, f.score
    FROM metamon.feedback AS f
    JOIN metamon.spans AS s ON s.run_id = f.run_id AND s.project = f.project AND s.source = f.source
    JOIN metamon.traces AS t ON t.trace_id = s.trace_id AND t.project = f.project AND t.source = f.source
    WHERE t.day = %(day)s AND s.day = %(day)s AND f.day >= %(day)s
    UNION ALL
    -- and so does feedback that names no run of it that is here. (Three joins on plain columns: one join on whichever
    -- trace is known would compare every judgement with every trace.)
    SELECT t.source, t.project, t.run_id, f.key, f.score
    FROM metamon.feedback AS f
    JOIN metamon.traces AS t ON t.trace_id = f.trace_id AND t.project = f.project AND t.source = f.source
    WHERE t.day = %(day)s AND f.day >= %(day)s AND f.run_id IS DISTINCT FROM t.run_id AND NOT EXISTS (
        SELECT 1 FROM metamon.spans AS s
        WHERE s.day = %(day)s AND s.run_id = f.run_id AND s.project = f.project AND s.source = f.source)
), grouped AS (
    SELECT coalesce(g.group_id, other.group_id) AS group_id, i.source, i.project, i.run_id, i.key, i.score
    FROM given AS i
    JOIN metamon.traces AS t ON t.day = %(day)s AND t.run_id = i.run_id AND t.project = i.project AND t.source = i.source
    CROSS JOIN LATERAL (VALUES
        ('overall', '(all)'), ('tenant', coalesce(t.tenant_id, '(none)')), ('agent', coalesce(t.agent_name, '(none)')),
        ('agent_version', coalesce(t.agent_version, '(none)')), ('mode', coalesce(t.mode, '(none)')),
        ('model', coalesce(t.response_model, t.request_model, '(none)')), ('prompt_version', coalesce(t.prompt_version, '(none)')),
        ('environment', coalesce(t.environment, '(none)')), ('variant', t.variant)) AS d (dimension, dimension_value)
    LEFT JOIN metamon.metric_groups AS g ON g.day = %(day)s AND g.dimension = d.dimension AND g.dimension_value = d.dimension_value
    LEFT JOIN metamon.metric_groups AS other ON other.day = %(day)s AND other.dimension = d.dimension AND other.dimension_value = '(other)'
    WHERE d.dimension_value IS NOT NULL
), by_key AS (
    SELECT group_id, key, count(*) AS n, count(score) AS scores, sum(score) AS total
    FROM grouped GROUP BY group_id, key
), rated AS (
    SELECT group_id, count(*) AS requests
    FROM (SELECT DISTINCT group_id, source, project, run_id FROM grouped) AS traces GROUP BY group_id
)
SELECT k.group_id, max(rated.requests) AS rated_requests, sum(k.n) AS feedback_count,
       jsonb_object_agg(k.key, jsonb_build_object('count', k.n, 'score_count', k.scores, 'score_sum', k.total)) AS feedback
FROM by_key AS k
JOIN rated ON rated.group_id = k.group_id
GROUP BY k.group_id;
