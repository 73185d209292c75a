-- Sums by unit of one type, straight from the traces. {unit} is user_id or conversation_id. Parameters: day, unit_type.
INSERT INTO metamon.unit_daily (
    day, unit_type, unit_id, tenant_id, agent_name, variant, requests, successes, errors, degraded, tasks_known, tasks_completed,
    latency_count, latency_sum, quality_count, quality_sum, total_tokens, priced_requests, total_cost, first_start_time, last_start_time)
SELECT
    CAST(%(day)s AS date), %(unit_type)s, {unit}, tenant_id, agent_name, variant,
    count(*),
    count(*) FILTER (WHERE status = 'success'),
    count(*) FILTER (WHERE status = 'error'),
    count(*) FILTER (WHERE degraded),
    count(task_completed),
    count(*) FILTER (WHERE task_completed),
    count(latency_seconds),
    sum(latency_seconds),
    count(quality_score),
    sum(quality_score),
    sum(total_tokens),
    count(total_cost),
    sum(total_cost),
    min(start_time),
    max(start_time)
FROM metamon.traces
WHERE day = %(day)s AND {unit} IS NOT NULL
GROUP BY {unit}, tenant_id, agent_name, variant;
