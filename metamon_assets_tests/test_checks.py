"""Every check fails for the day that is wrong, says what is wrong there, and for no other day."""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple

import pytest

from metamon_assets_tests.sample import DAYS, Pipeline

BAD = DAYS[1]


class Harm(NamedTuple):
    """What is done to the day, and what the check says then (a part of it)."""

    check: str
    sql: str
    says: str


# %(day)s is the day that is harmed.
FIRST = "(run_id) = (SELECT min(run_id) FROM metamon.{0} WHERE day = %(day)s AND {1})"


def one(table: str, change: str, among: str = "true") -> str:
    return f"UPDATE metamon.{table} SET {change} WHERE day = %(day)s AND {FIRST.format(table, among)}"


def run_shapes(table: str) -> list[Harm]:
    name = f"{table}:shape_and_ranges"
    return [
        Harm(name, one(table, "latency_seconds = 1e6"), "longest_seconds ≤ 604800, found 1e+06"),
        Harm(name, one(table, "latency_seconds = 1, time_to_first_token_seconds = 2"), "first_token_after_end"),
        Harm(name, one(table, "input_tokens = -5"), "0 ≤ fewest_tokens, found -5"),
        Harm(name, one(table, "total_tokens = 200000000"), "most_tokens"),
        Harm(name, one(table, "input_tokens = 5, cache_read_input_tokens = 10"), "more_cached_than_input"),
        Harm(name, one(table, "total_cost = -1, cost_source = 'reported'"), "0 ≤ lowest_cost, found -1"),
        Harm(name, one(table, "total_cost = 20000, cost_source = 'reported'"), "highest_cost"),
        Harm(name, one(table, "quality_score = 1.5"), "highest_quality ≤ 1, found 1.5"),
        Harm(name, one(table, "quality_score = -0.5"), "lowest_quality"),
        Harm(name, one(table, "status = 'success', error_type = 'Timeout'"), "successes_with_error"),
        Harm(name, one(table, "name = name, trace_id = ' '"), "empty_ids"),
        Harm(name, one(table, "start_time = now() + interval '3 days', end_time = NULL"), "in_the_future"),
    ]


def rollup_shapes(table: str) -> list[Harm]:
    name = f"{table}:shape_and_ranges"
    change = f"UPDATE metamon.{table} SET {{}} WHERE day = %(day)s AND dimension = 'agent'"
    return [
        Harm(name, change.format("successes = successes + 1"), "statuses_do_not_add_up"),
        Harm(name, change.format("priced_requests = priced_requests + 1"), "prices_do_not_add_up"),
        Harm(name, change.format("total_cost = -1"), "lowest_cost"),
        Harm(name, change.format("latency_sum = -1"), "lowest_latency"),
        Harm(name, change.format("requests = -1, successes = -1, errors = 0, pending = 0, abandoned = 0"), "fewest_requests"),
        Harm(name, change.format("quality_count = 1, quality_sum = 9"), "highest_mean_quality"),
        Harm(name, change.format("dimension_value = ''") + " AND dimension_value = 'support'", "nameless_groups"),
    ]


def completion_harms() -> list[Harm]:
    name = "completion_metrics:shape_and_ranges"
    change = "UPDATE metamon.completion_metrics SET {} WHERE day = %(day)s AND dimension = 'overall'"
    return [
        Harm(name, change.format("successes = successes + 1"), "statuses_do_not_add_up"),
        Harm(name, change.format("completed = -1, successes = -1, errors = 0"), "fewest_completed"),
        Harm(name, change.format("in_flight_known = in_flight + 1"), "more_hung_than_in_flight"),
        Harm(name, change.format("oldest_in_flight_seconds = NULL, in_flight = 1"), "ages_of_nothing"),
        Harm(name, change.format("in_flight_at = in_flight_at + interval '1 hour'"), "looked_too_late"),
        Harm(name, change.format("total_cost = -1"), "lowest_cost"),
        Harm(name, change.format("latency_sum = -1"), "lowest_latency"),
        Harm(name, change.format("quality_count = 1, quality_sum = 9"), "highest_mean_quality"),
        Harm(name, change.format("dimension_value = ''"), "nameless_groups"),
        Harm("completion_metrics:matches_traces", change.format("completed = completed + 1"), "ended, "),
        Harm(
            "completion_metrics:matches_traces", one("traces", "total_cost = 7, cost_source = 'reported'", "end_time IS NOT NULL"), "and $"
        ),
        Harm(
            "completion_metrics:in_flight_matches_traces",
            one("traces", "start_time = %(day)s::date + time '11:59', end_time = %(day)s::date + time '12:01'"),
            "in flight at 12:00, the traces say",
        ),
    ]


OVERALL = "UPDATE metamon.{0} SET requests = requests + 1, successes = successes + 1 WHERE day = %(day)s AND dimension = '{1}'"
BOOK = "INSERT INTO metamon.ingestion_ledger (source, project, kind, window_start, window_end, started_at, status"
REPORTED = (
    "INSERT INTO metamon.report_findings (day, section, rank, key, severity, statement, certainty, value, low, high)"
    " VALUES (%(day)s, 'cost', 99,"
)
UNUSUAL = (
    "INSERT INTO metamon.anomalies (day, bucket_start, minutes, metric, dimension, dimension_value, value, score, expected, level, sample)"
    " VALUES (%(day)s, (%(day)s + time '12:00') AT TIME ZONE 'UTC', 5, 'error_rate', 'overall', '(all)', 0.5, 0.9, 0.02,"
)
LEDGER = "UPDATE metamon.ingestion_ledger SET {}"
HARMS = [
    *run_shapes("traces"),
    *run_shapes("spans"),
    *rollup_shapes("daily_metrics"),
    *rollup_shapes("fifteen_minute_metrics")[:2],
    *rollup_shapes("five_minute_metrics")[:2],
    Harm("feedback:shape_and_ranges", "UPDATE metamon.feedback SET key = ' ' WHERE day = %(day)s", "empty_keys"),
    Harm("feedback:shape_and_ranges", "UPDATE metamon.feedback SET score = 1e9 WHERE day = %(day)s", "largest_score"),
    Harm(
        "feedback:shape_and_ranges",
        "UPDATE metamon.feedback SET score = NULL, value = NULL, comment = NULL, correction = NULL WHERE day = %(day)s",
        "saying_nothing",
    ),
    Harm(
        "feedback:shape_and_ranges",
        "UPDATE metamon.feedback SET modified_at = created_at - interval '1 hour' WHERE day = %(day)s",
        "edited_before_given",
    ),
    Harm(
        "events:shape_and_ranges",
        "INSERT INTO metamon.events (source, project, event_id, kind, time, inferred, observed_time)"
        " VALUES ('files', 'sample', 'x', 'deployment', %(day)s::date + time '12:00', false, now())",
        "saying_nothing",
    ),
    Harm(
        "events:shape_and_ranges",
        "INSERT INTO metamon.events (source, project, event_id, kind, version, time, inferred, observed_time)"
        " VALUES ('files', 'sample', 'x', 'version', '2', %(day)s::date + time '12:00', true, now())",
        "inferred_by_others",
    ),
    Harm("gauge_samples:shape_and_ranges", "UPDATE metamon.gauge_samples SET value = 'NaN' WHERE day = %(day)s", "not_finite"),
    Harm(
        "gauge_samples:shape_and_ranges",
        "UPDATE metamon.gauge_samples SET kind = 'counter', value = -1 WHERE day = %(day)s",
        "falling_counters",
    ),
    Harm(
        "gauge_samples:shape_and_ranges",
        "UPDATE metamon.gauge_samples SET name = ' ', labels = jsonb_build_object('n', name) || labels WHERE day = %(day)s",
        "empty_names",
    ),
    Harm(
        "unit_daily:shape_and_ranges", "UPDATE metamon.unit_daily SET requests = 0, successes = 0, errors = 0 WHERE day = %(day)s", "fewest"
    ),
    Harm("unit_daily:shape_and_ranges", "UPDATE metamon.unit_daily SET errors = requests + 1 WHERE day = %(day)s", "more_outcomes"),
    Harm("unit_daily:shape_and_ranges", "UPDATE metamon.unit_daily SET total_cost = -1 WHERE day = %(day)s", "lowest_cost"),
    Harm(
        "unit_daily:shape_and_ranges",
        "UPDATE metamon.unit_daily SET first_start_time = last_start_time + interval '1 second' WHERE day = %(day)s",
        "times_reversed",
    ),
    Harm(
        "traces:ledger_is_complete",
        f"{BOOK}, message) VALUES ('files', 'sample', 'runs', %(day)s::date, %(day)s::date + 1, now(), 'failed', 'the folder is gone')",
        "files sample: the last reading is failed: the folder is gone",
    ),
    Harm(  # and a few runs that were asked for again since do not make it good
        "traces:ledger_is_complete",
        f"{BOOK}, message) VALUES ('files', 'sample', 'runs', %(day)s::date, %(day)s::date + 1, now(), 'failed', 'no answer');"
        " INSERT INTO metamon.ingestion_ledger (source, project, kind, started_at, finished_at, status, rows_read, rows_updated, days)"
        " VALUES ('files', 'sample', 'runs', now(), now(), 'complete', 1, 1, ARRAY[%(day)s::date])",
        "files sample: the last reading is failed: no answer",
    ),
    Harm(
        "traces:ledger_is_complete",
        LEDGER.format("window_end = %(day)s::date, days = '{}'") + "; INSERT INTO metamon.ingestion_ledger"
        " (source, project, kind, window_start, window_end, started_at, finished_at, status) VALUES"
        " ('files', 'sample', 'runs', %(day)s::date + 1, %(day)s::date + 2, now(), now(), 'empty')",
        "no reading of any source covers the day",
    ),
    Harm(
        "traces:ledger_is_complete",
        f"{BOOK}, rows_read, rows_inserted) VALUES ('files', 'sample', 'runs', %(day)s::date, %(day)s::date + 1, now(), 'complete', 10, 9)",
        "10 rows read, 9 accounted for",
    ),
    Harm("traces:has_rows", "DELETE FROM metamon.traces WHERE day = %(day)s", "no traces from files assistants, which had"),
    Harm(
        "traces:agrees_with_the_source",
        f"{BOOK}, source_runs, source_cost)"
        " VALUES ('files', 'sample', 'runs', %(day)s::date, %(day)s::date + 1, now(), 'complete', 1000, NULL)",
        "files sample: the source counts 1000 runs, here are",
    ),
    Harm(
        "traces:agrees_with_the_source",
        f"{BOOK}, source_runs, source_cost)"
        " SELECT 'files', 'sample', 'runs', %(day)s::date, %(day)s::date + 1, now(), 'complete', count(*), 99 FROM metamon.traces"
        " WHERE day = %(day)s",
        "the source reports $99",
    ),
    Harm("traces:runs_have_one_day", "", "stands also on"),
    Harm("spans:no_orphans", one("spans", "trace_id = 'nobody'"), "1 spans without their trace, such as"),
    Harm(
        "spans:totals_match_children",
        one("traces", "total_cost = 99, cost_source = 'computed', derived_columns = '{total_cost}'", "llm_calls > 0"),
        "1 traces whose cost is not the sum of their calls, such as",
    ),
    Harm(
        "feedback:feedback_finds_its_run",
        "UPDATE metamon.feedback SET run_id = 'nobody' WHERE day = %(day)s",
        "are about runs that are not here",
    ),
    Harm("five_minute_metrics:adds_up_to_quarters", OVERALL.format("five_minute_metrics", "overall"), "traces and $"),
    Harm("fifteen_minute_metrics:matches_traces", one("traces", "total_cost = 7, cost_source = 'reported'"), "traces and $"),
    Harm("daily_metrics:matches_quarters", OVERALL.format("daily_metrics", "overall"), "traces and $"),
    Harm("daily_metrics:matches_traces", "DELETE FROM metamon.daily_metrics WHERE day = %(day)s AND dimension = 'overall'", "against"),
    Harm("daily_metrics:dimensions_are_complete", OVERALL.format("daily_metrics", "tenant"), "tenant: "),
    Harm("unit_daily:matches_traces", "DELETE FROM metamon.unit_daily WHERE day = %(day)s AND unit_type = 'user'", "user: "),
    Harm(
        "report_findings:sections_were_built",
        f"{REPORTED} 'cost.failed', 'serious', 'The section failed.', '', NULL, NULL, NULL)",
        "failed",
    ),
    Harm(
        "report_findings:figures_are_whole", f"{REPORTED} 'cost.total', 'info', 'It cost.', 'Counted.', 9, 1, 2)", "cost.total: 9 in 1 to 2"
    ),
    *completion_harms(),
    Harm(
        "system_metrics:figures_are_possible",
        "INSERT INTO metamon.system_metrics (time, name, value) VALUES"
        " ((%(day)s + time '12:00') AT TIME ZONE 'UTC', 'host_memory_share', 1.5)",
        "host_memory_share : 1 times",
    ),
    Harm(
        "slo_status:every_target_has_a_status", "DELETE FROM metamon.slo_status WHERE day = %(day)s AND target = 'error_rate'", "error_rate"
    ),
    Harm(
        "slo_status:status_agrees_with_targets",
        "UPDATE metamon.slo_status SET good = total + 1 WHERE day = %(day)s AND target = 'error_rate'",
        "of the budget left",
    ),
    Harm("anomalies:anomalies_are_possible", f"{UNUSUAL} 'warning', -1)", "error_rate of overall (all)"),
    Harm("anomalies:nothing_critical", f"{UNUSUAL} 'critical', 5)", "expected 0.02"),
    Harm(
        "incident_snapshots:incidents_agree_with_their_events",
        "INSERT INTO metamon.incident_snapshots (day, incident_id, status, severity, incident) VALUES (%(day)s, 99, 'open', 'info', '{}')",
        "incident 99",
    ),
]


def harmed(pipeline: Pipeline, harm: Harm) -> None:
    if harm.check == "traces:runs_have_one_day":
        run_id = pipeline.rows("SELECT min(run_id) FROM metamon.traces WHERE day = %s", BAD - timedelta(days=1))[0][0]
        pipeline.copy_row("traces", BAD, run_id=run_id)
        return
    pipeline.rows(harm.sql.replace("%(day)s", f"date '{BAD}'"))


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: f"{harm.check} {harm.says}"[:80])
def test_a_check_fails_for_the_day_that_is_wrong(pipeline: Pipeline, harm: Harm) -> None:
    asset, name = harm.check.split(":")
    harmed(pipeline, harm)

    found = pipeline.check(asset, name, DAYS)

    assert {day for day, (passed, _) in found.items() if not passed} == {BAD}, found
    assert harm.says in found[BAD][1]
    assert all(text == "" for day, (_, text) in found.items() if day != BAD)


def test_every_check_is_shown_to_fail(pipeline: Pipeline) -> None:
    assert {key.to_user_string() for key in pipeline.check_keys()} == {harm.check for harm in HARMS}
