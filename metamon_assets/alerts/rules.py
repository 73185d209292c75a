"""All rules of the catalogue at one moment: what each says of each group, kept in ``metamon.rule_states``, as observations of incidents.

Here belong the words of an observation and the books; the test of a figure is ``judgement``'s, what decides by itself is in ``sources``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from psycopg2.extras import execute_values

from metamon_assets import words
from metamon_assets.alerts import evidence
from metamon_assets.alerts.catalogue import duration_text
from metamon_assets.alerts.incidents import Observation
from metamon_assets.alerts.judgement import RuleState, Verdict, advance, judge, smallest_sample
from metamon_assets.alerts.signals import ALL, SIGNALS, Look

if TYPE_CHECKING:
    from metamon_assets.alerts.catalogue import Catalogue, Rule
    from metamon_assets.alerts.series import Group
    from metamon_assets.alerts.signals import Signal
    from metamon_assets.warehouse.connection import Cursor

Place = tuple[str, str, str]  # rule, dimension, value
Fresh = Mapping[Place, tuple[RuleState, Verdict | None]]
FORGOTTEN = timedelta(days=1)
NAMES = {"overall": "all runs"}


def evaluate(look: Look, catalogue: Catalogue) -> list[Observation]:
    """What every rule sees at ``look.at``, for groups that it has an opinion on; its states are stored in the caller's transaction."""
    states = _states(look.cursor)
    seen: list[Observation] = []
    fresh: dict[Place, tuple[RuleState, Verdict | None]] = {}
    for name, rule in catalogue.enabled.items():
        signal = SIGNALS[rule.metric]
        if signal.decides:
            continue
        if not _exists(look, signal):
            fresh[name, *ALL] = RuleState("not_applicable", look.at), None
            continue
        for verdict in judge(rule, look):
            place = (name, *verdict.group)
            state = advance(states.get(place), verdict, rule, look.at)
            fresh[place] = state, verdict
            before = states.get(place)
            new = before is None or before.state != "firing"
            if (observation := _observed(look, name, rule, signal, verdict, state, new=new)) is not None:
                seen.append(observation)
    _store(look.cursor, states, fresh, look.at)
    return seen


def _observed(look: Look, name: str, rule: Rule, signal: Signal, verdict: Verdict, state: RuleState, *, new: bool) -> Observation | None:
    """What is to be told of a group; None where it stays as it is for want of data. ``new``: it did not fire at the last look."""
    reading, window = verdict.reading, verdict.window
    firing = state.state == "firing"
    if verdict.outcome in ("no_data", "too_few") and rule.no_data == "keep":
        return None
    dimension, value = verdict.group
    if not firing:
        return Observation(name, rule.metric, dimension, value, False, rule.severity, state.since)
    started = state.since - window
    found = evidence.Evidence()
    if evidence.is_due(look.at, new=new):
        found = evidence.gather(look.cursor, signal.bad, verdict.group, started, look.at, rule.threshold)
    least = smallest_sample(rule, signal)
    wider = (f"over {duration_text(window)}, since fewer than {least} events fell into {duration_text(rule.window)}",)
    return Observation(
        rule=name,
        metric=rule.metric,
        dimension=dimension,
        dimension_value=value,
        firing=True,
        severity=rule.severity,
        started_at=started,
        summary=summary(rule, signal, verdict),
        value=reading.value if reading else None,
        threshold=rule.threshold,
        worst_is=rule.worst_is,
        sample=reading.sample if reading else None,
        window_seconds=int(window.total_seconds()),
        affected_requests=found.requests,
        affected_users=found.users,
        examples=found.examples,
        reasons=wider if window > rule.window else (),
        shadow=rule.shadow,
    )


def summary(rule: Rule, signal: Signal, verdict: Verdict) -> str:
    """The rule's sentence, filled in."""
    reading = verdict.reading
    unit = "1" if signal.kind == "quantile" else signal.unit  # the value is the share beyond the limit
    return rule.summary.format(
        group=group_text(verdict.group),
        value=figure(reading.value if reading else None, unit, signal.name),
        threshold=figure(rule.threshold, signal.unit, signal.name),
        window=words.duration(verdict.window.total_seconds()),
        hold=words.duration(rule.hold.total_seconds()),
        sample=f"{reading.sample if reading else 0:,}",
    )


def group_text(group: Group) -> str:
    """A group for people: ``agent “support”``."""
    dimension, value = group
    return NAMES.get(dimension) or f"{dimension.replace('_', ' ')} “{words.name(value)}”"


def figure(value: float | None, unit: str, metric: str = "") -> str:
    """A figure in its unit for people."""
    if value is None:
        return "unknown"
    if unit == "USD":
        return words.dollars(value)
    if unit == "s":
        return words.seconds(value)
    if metric == "cost_growth":
        return f"{value:.1f} times"
    if unit == "1" and metric not in COUNTS:
        return words.percent(value) if metric != "quality_mean" else f"{value:.3f}"
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.2g}"


COUNTS = frozenset(
    {"queue_length", "database_connections", "pending_annotations", "optimisation_failures", "prompt_optimisations", "requests"}
    | {"jobs_finished", "feedback_count", "slo_burn"}
)


def _exists(look: Look, signal: Signal) -> bool:
    """Whether the signal's input was ever seen."""
    if signal.exists is None:
        return True
    if signal.exists not in look.memo:
        look.cursor.execute(signal.exists)
        look.memo[signal.exists] = bool((look.cursor.fetchone() or (False,))[0])
    return bool(look.memo[signal.exists])


def _states(cursor: Cursor) -> dict[Place, RuleState]:
    cursor.execute("SELECT rule, dimension, dimension_value, state, since FROM metamon.rule_states")
    return {(rule, dimension, value): RuleState(state, since) for rule, dimension, value, state, since in cursor.fetchall()}


def _store(cursor: Cursor, before: Mapping[Place, RuleState], fresh: Fresh, at: datetime) -> None:
    """Write the states that there are; groups and rules that have been gone for a day have none any more."""
    cursor.execute("DELETE FROM metamon.rule_states WHERE evaluated_at < %s", (at - FORGOTTEN,))
    execute_values(
        cursor,
        "INSERT INTO metamon.rule_states"
        " (rule, dimension, dimension_value, state, since, evaluated_at, value, sample, window_seconds) VALUES %s"
        " ON CONFLICT (rule, dimension, dimension_value) DO UPDATE SET (state, since, evaluated_at, value, sample, window_seconds) ="
        " (excluded.state, excluded.since, excluded.evaluated_at, excluded.value, excluded.sample, excluded.window_seconds)",
        list(_rows(before, fresh, at)),
    )


def _rows(before: Mapping[Place, RuleState], fresh: Fresh, at: datetime) -> Iterator[tuple[object, ...]]:
    for place, (state, verdict) in fresh.items():
        known = before.get(place)
        since = known.since if known is not None and known.state == state.state else state.since
        reading = verdict.reading if verdict else None
        window = verdict.window if verdict else timedelta(0)
        figures = (reading.value if reading else None, reading.sample if reading else None, int(window.total_seconds()))
        yield (*place, state.state, since, at, *figures)
