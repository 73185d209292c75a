"""That figures about the pipeline are possible ones, and that the status of targets agrees with the targets."""

from __future__ import annotations

from metamon_assets.warehouse.checks import sql_check

figures_are_possible = sql_check(
    asset="system_metrics",
    name="figures_are_possible",
    description="Shares lie between 0 and 1, and no age, number or size is negative.",
    query="""
        SELECT (time AT TIME ZONE 'UTC')::date, format('%%s %%s: %%s times', name, component, count(*)) FROM metamon.system_metrics
        WHERE time >= (SELECT min(d) FROM unnest(%(days)s) d)::timestamp AT TIME ZONE 'UTC'
            AND time < ((SELECT max(d) FROM unnest(%(days)s) d) + 1)::timestamp AT TIME ZONE 'UTC'
            AND (time AT TIME ZONE 'UTC')::date = ANY(%(days)s)
            AND (value < 0 OR value = 'NaN' OR (name LIKE 'host\\_%%\\_share' AND value > 1)) GROUP BY 1, name, component""",
)
every_target_has_a_status = sql_check(
    asset="slo_status",
    name="every_target_has_a_status",
    description="Each target has a row, with a value or the reason why there is none.",
    query="""
        SELECT d.day, t.name FROM unnest(%(days)s) d(day) CROSS JOIN metamon.slo_targets t
        LEFT JOIN metamon.slo_status s ON s.day = d.day AND s.target = t.name
        WHERE t.suggested_at <= (SELECT max(computed_at) FROM metamon.slo_status WHERE day = d.day)
            AND (s.target IS NULL OR (s.value IS NULL) <> (s.remark IS NOT NULL))""",
)
status_agrees_with_targets = sql_check(
    asset="slo_status",
    name="status_agrees_with_targets",
    description="Good events are some of all events, and nobody has more than the whole error budget left.",
    query="""
        SELECT day, format('%%s: %%s good of %%s, %%s of the budget left', target, good, total, error_budget_left)
        FROM metamon.slo_status
        WHERE day = ANY(%(days)s)
            AND (good < 0 OR good > total OR error_budget_left > 1 OR (value IS NULL) <> (met IS NULL))""",
)

checks = [figures_are_possible, every_target_has_a_status, status_agrees_with_targets]
