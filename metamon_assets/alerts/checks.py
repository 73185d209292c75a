"""Verdicts of the detector as checks of the day, and that incidents and their books agree."""

from __future__ import annotations

import dagster as dg

from metamon_assets.warehouse.checks import sql_check

anomalies_are_possible = sql_check(
    asset="anomalies",
    name="anomalies_are_possible",
    description="Windows lie in their day, rest on runs, and have an expectation within its band.",
    query="""
        SELECT day, format('%%s of %%s %%s at %%s', metric, dimension, dimension_value, bucket_start) FROM metamon.anomalies
        WHERE day = ANY(%(days)s) AND ((bucket_start AT TIME ZONE 'UTC')::date <> day OR sample < 0
            OR NOT (coalesce(lower, expected) <= expected AND expected <= coalesce(upper, expected)))""",
)
nothing_critical = sql_check(
    asset="anomalies",
    name="nothing_critical",
    description="No series was critically far from what is usual. What was, is an incident too, and told there.",
    severity=dg.AssetCheckSeverity.WARN,
    query="""
        SELECT day, format('%%s of %%s %%s was %%s at %%s, expected %%s', metric, dimension, dimension_value, value, bucket_start, expected)
        FROM metamon.anomalies WHERE day = ANY(%(days)s) AND level = 'critical'""",
)
incidents_agree_with_their_events = sql_check(
    asset="incident_snapshots",
    name="incidents_agree_with_their_events",
    description="Each incident of the day was opened once in its events, and one that is resolved was resolved in them.",
    query="""
        SELECT s.day, format('incident %%s', s.incident_id) FROM metamon.incident_snapshots AS s
        LEFT JOIN LATERAL (SELECT count(*) FILTER (WHERE event = 'opened') AS opened, bool_or(event = 'resolved') AS resolved
            FROM metamon.incident_events AS e WHERE e.incident_id = s.incident_id) AS e ON true
        WHERE s.day = ANY(%(days)s) AND (e.opened = 0 OR (s.status = 'resolved' AND e.resolved IS NOT TRUE))""",
)

checks = [anomalies_are_possible, nothing_critical, incidents_agree_with_their_events]
