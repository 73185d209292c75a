"""Error patterns: what failed runs say, with numbers and ids masked; how often, and what is new, rising or gone.

The last quarter of the observed time is held against the part before. Conversations (or users, or runs where neither is
known) are counted, so that one that fails ten times is one; the ratio of their rates has an exact interval, given how many failed
in both parts, and the p-values of all patterns are corrected together. What came in an incident that is over is told with it (see
``incidents``): whether a pattern rises is judged by the time outside, lest one bad afternoon be told twice.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal

from metamon_assets import words
from metamon_assets.reports import outcomes, runs
from metamon_assets.reports.findings import Content, Context, Estimate, Finding, Severity, Table
from metamon_assets.reports.history import clock
from metamon_assets.reports.measures import FAILED
from metamon_assets.reports.past_incidents import searched
from metamon_assets.reports.sections.masking import PLACEHOLDER, template

State = Literal["new", "rising", "falling", "gone", "steady"]
Window = tuple[datetime, datetime]

LAST_PART = 1 / 4  # of the observed time
LEAST_DAYS = 2  # of observed time, for a part of it to mean anything
LEAST_UNITS = 30  # in each part
LEAST_FAILED = 5  # units that a pattern was met by; of fewer nothing is said but the count
CHANCE = 0.01  # of the patterns called new, rising, falling or gone at most so many are not (Benjamini, Hochberg)
FACTOR = 1.5  # a smaller change is not worth a sentence
LARGEST = 3  # patterns that are told in any case
MOST = 10  # findings
ROWS = 15
FAILED_SILENTLY = "failed without a message"
SPENT = "what the failed runs cost"
SHARE_OF_ALL = 0.01  # of the runs: a new or rising pattern with so many hurts now

_FAILED = """
    SELECT t.start_time, COALESCE(t.error_type, first.error_type), left(COALESCE(t.error_message, first.error_message), 2000),
        t.error_message IS NULL AND first.error_message IS NOT NULL, t.total_cost, COALESCE(t.conversation_id, t.user_id, t.run_id)
    FROM metamon.traces AS t
    LEFT JOIN LATERAL (
        SELECT s.error_type, s.error_message FROM metamon.spans AS s
        WHERE s.day = t.day AND s.trace_id = t.trace_id AND s.project = t.project AND s.source = t.source AND s.status = 'error'
            AND s.error_message IS NOT NULL
        ORDER BY s.start_time LIMIT 1) AS first ON t.error_message IS NULL
    WHERE {where} AND t.status = 'error' AND t.start_time < %(now)s"""
_OBSERVED = (
    "SELECT count(*), min(start_time), count(*) FILTER (WHERE status = 'error'), count(conversation_id), count(user_id)"
    " FROM metamon.traces WHERE {where} AND start_time < %(now)s"
)
_UNITS = """
    SELECT count(DISTINCT COALESCE(conversation_id, user_id, run_id)) FILTER (WHERE start_time < %(split)s),
        count(DISTINCT COALESCE(conversation_id, user_id, run_id)) FILTER (WHERE start_time >= %(split)s)
    FROM metamon.traces WHERE {where} AND start_time < %(now)s AND NOT EXISTS (
        SELECT FROM unnest(%(begins)s::timestamptz[], %(ends)s::timestamptz[]) AS incident (begins, ends)
        WHERE start_time >= begins AND start_time < ends)"""


@dataclass(slots=True)
class _Pattern:
    """Failed runs with one error type and one template."""

    error_type: str | None
    text: str | None  # None: no message
    count: int = 0
    from_child: bool = False  # whether a message was taken from a failed call, since the root has none
    cost: Decimal = Decimal(0)
    first: datetime | None = None
    last: datetime | None = None
    in_incidents: int = 0  # runs in incidents that are over
    before: set[str] = field(default_factory=set)  # units, outside incidents
    late: set[str] = field(default_factory=set)
    ratio: tuple[float, float, float] | None = None  # rate of late over before, and its interval
    p_value: float = math.nan  # corrected
    state: State = "steady"

    @property
    def digest(self) -> str:
        """A short name that stays the same from report to report."""
        return hashlib.sha256(repr((self.error_type, self.text)).encode("utf-8", "replace")).hexdigest()[:8]

    @property
    def told(self) -> bool:
        """Whether there is anything that failed runs have in common: those without type and message may have any cause."""
        return self.text is not None or bool(self.error_type)

    @property
    def name(self) -> str:
        """The pattern for people."""
        kind, text = words.name(self.error_type), words.clean(self.text or "")
        if self.text is None:
            return f"{kind} without a message" if self.error_type else FAILED_SILENTLY
        text = text.removeprefix(f"{self.error_type}:").strip() or text
        shown = text if len(text) <= 120 else f"{text[:119]}…"
        return f"{kind}: {shown}" if self.error_type else shown


def build(context: Context) -> Content:
    """The largest patterns, and those that are new, rising, falling or gone."""
    where = f"{runs.traces_where(context)} AND {runs.told(context)}"
    ((total, first, failed, conversations, users),) = runs.rows(context, _OBSERVED.format(where=where))
    silent = _untold(context)
    if not total:
        return Content(silence=silent or "There are no runs in this period, so there are no errors to speak of.")
    if not failed:
        return Content(silence=f"None of {words.many(total, 'run')} failed.{_at_most(total)} {silent}".strip())
    end = min(context.end, context.now)
    split = end - (end - first) * LAST_PART
    windows = _incidents(context, (end - split) / 2)
    patterns = _patterns(runs.rows(context, _FAILED.format(where=where)), split, windows)
    unit = "conversations" if 2 * conversations >= total else "users" if 2 * users >= total else "runs"
    reason = _judged(context, where, patterns, windows, (first, split, end), unit)
    patterns.sort(key=lambda pattern: -pattern.count)
    told = patterns[:LARGEST] + [pattern for pattern in patterns[LARGEST:] if pattern.state != "steady"]
    findings = [
        _overall(context, total, failed, patterns, reason),
        *(_finding(context, pattern, total, split, end, unit) for pattern in told[:MOST]),
    ]
    return Content(tuple(findings), (_table(context, patterns, total, failed),), silence=silent)


def _untold(context: Context) -> str:
    """That some runs, or all, do not tell whether they failed."""
    query = f"SELECT count(*) FILTER (WHERE NOT {runs.told(context)}), count(*) FROM metamon.traces WHERE {runs.traces_where(context)}"
    ((count, total),) = runs.rows(context, query)
    if not count:
        return ""
    which = "These runs do not tell whether they" if count == total else f"{words.of(count, total, 'run')} do not tell whether they"
    return f"{which} failed, so nothing is said of errors{'' if count == total else ' in them'}. {outcomes.HOW}"


def _at_most(total: int) -> str:
    """The rule of three, exact: what a rate may be of which no case was seen."""
    return f" The error rate may still be up to {words.bound(1 - 0.05 ** (1 / total))} (95%)." if total >= 2 else ""


def _incidents(context: Context, longest: timedelta) -> list[Window]:
    """The incidents of failures that are over and were no longer than that."""
    done = searched(context)
    if done is None:
        return []
    search, found = done
    start, hours = search.history.start, search.history.hours
    return [
        (start + timedelta(hours=incident.start), start + timedelta(hours=incident.end))
        for incident in found.incidents
        if FAILED in (incident.measure, *incident.also)
        and incident.end < hours - 1
        and timedelta(hours=incident.end - incident.start) <= longest
    ]


def _patterns(failed: Iterable[runs.Row], split: datetime, windows: list[Window]) -> list[_Pattern]:
    found: dict[tuple[str | None, str | None], _Pattern] = {}
    for start, error_type, message, from_child, cost, unit in failed:
        text = template(message) if message and message.strip() else None
        pattern = found.setdefault((error_type, text), _Pattern(error_type, text))
        pattern.count += 1
        pattern.from_child |= bool(from_child)
        pattern.cost += cost or 0
        pattern.first = start if pattern.first is None else min(pattern.first, start)
        pattern.last = start if pattern.last is None else max(pattern.last, start)
        if any(begin <= start < end for begin, end in windows):
            pattern.in_incidents += 1
        else:
            (pattern.late if start >= split else pattern.before).add(unit)
    return list(found.values())


def _judged(
    context: Context, where: str, patterns: list[_Pattern], windows: list[Window], times: tuple[datetime, datetime, datetime], unit: str
) -> str:
    """Give patterns their state; the reason why none can have one, or an empty text. ``times``: first run, split and end."""
    first, split, end = times
    if end - first < timedelta(days=LEAST_DAYS):
        return f"Nothing is said of new or rising ones before {LEAST_DAYS} days of runs are here."
    bounds = {"begins": [begin for begin, _ in windows], "ends": [end for _, end in windows]}
    ((before, late),) = runs.rows(context, _UNITS.format(where=where), bounds | {"split": split})
    if min(before, late) < LEAST_UNITS:
        return f"Nothing is said of new or rising ones with fewer than {LEAST_UNITS} {unit} in either part of the time."
    from scipy.stats import binomtest

    from metamon_assets.statistics.significance import adjust_p_values

    judged = [pattern for pattern in patterns if len(pattern.before | pattern.late) >= LEAST_FAILED]
    p_values = []
    for pattern in judged:
        k, n = len(pattern.late), len(pattern.late) + len(pattern.before)
        test = binomtest(k, n, late / (late + before))
        interval = test.proportion_ci(method="exact")
        low, middle, high = (_odds(share) * before / late for share in (interval.low, k / n, interval.high))
        pattern.ratio = (middle, low, high)
        p_values.append(test.pvalue)
    for pattern, p_value in zip(judged, adjust_p_values(p_values).tolist() if p_values else [], strict=True):
        pattern.p_value = p_value
        pattern.state = _state(pattern) if p_value <= CHANCE else "steady"
    return ""


def _state(pattern: _Pattern) -> State:
    assert pattern.ratio is not None
    if not pattern.before:
        return "new"
    if not pattern.late:
        return "gone"
    if pattern.ratio[0] >= FACTOR:
        return "rising"
    return "falling" if pattern.ratio[0] <= 1 / FACTOR else "steady"


def _odds(share: float) -> float:
    return math.inf if share >= 1 else share / (1 - share)


def _overall(context: Context, total: int, failed: int, patterns: list[_Pattern], reason: str) -> Finding:
    query = runs.listing(context, "status = 'error'", order="start_time DESC")
    told = [pattern for pattern in patterns if pattern.told]
    counts = {state: sum(pattern.state == state for pattern in told) for state in ("new", "rising", "gone")}
    moved = [f"{count} {state}" for state, count in counts.items() if count]
    statement = f"{words.of(failed, total, 'run')} failed{', in ' + words.many(len(told), 'pattern') if told else ''}"
    statement += f", of which {' and '.join(moved)}." if moved else "." if reason or not told else "; none is new, clearly rising or gone."
    return Finding(
        key="errors.total",
        statement=statement,
        certainty=f"Counted, not estimated. {reason}".strip(),
        estimate=Estimate(failed / total, None, None, "share", total),
        money_per_month=runs.a_month(context, sum((pattern.cost for pattern in patterns), Decimal(0)) or None),
        money_is=SPENT,
        runs=runs.examples(context, query),
        query=query,
        severity="info",
    )


def _finding(context: Context, pattern: _Pattern, total: int, split: datetime, end: datetime, unit: str) -> Finding:
    query = _query(context, pattern)
    passing = pattern.state in ("new", "gone")
    return Finding(
        key=f"errors.{pattern.state}.{pattern.digest}",
        statement=_statement(context, pattern, total, split),
        certainty=_certainty(context, pattern, split, end, unit),
        estimate=_estimate(pattern, total),
        money_per_month=None if passing else runs.a_month(context, pattern.cost or None),
        cost=(pattern.cost or None) if passing else None,
        money_is=SPENT,
        runs=runs.examples(context, query),
        query=query,
        severity=_severity(pattern, total),
    )


def _statement(context: Context, pattern: _Pattern, total: int, split: datetime) -> str:
    assert pattern.first is not None
    assert pattern.last is not None
    since, what = clock(context, split), f"“{pattern.name}”" if pattern.told else pattern.name
    if pattern.state == "new":
        return f"New since {clock(context, pattern.first)}: {what}, {words.of(pattern.count, total, 'run')}."
    if pattern.state == "gone":
        return f"Gone: {what} was in {words.many(pattern.count, 'run')} until {clock(context, pattern.last)} and in none since {since}."
    if pattern.state in ("rising", "falling"):
        assert pattern.ratio is not None
        times = f"{pattern.ratio[0]:.2g} times as frequent since {since} as before"
        return f"{pattern.state.capitalize()}: {what} is {times}; {words.of(pattern.count, total, 'run')} in all.{_in_incidents(pattern)}"
    return f"{words.of(pattern.count, total, 'run')}{': ' if pattern.told else ' '}{what}.{_in_incidents(pattern)}"


def _in_incidents(pattern: _Pattern) -> str:
    return (
        f" {pattern.in_incidents:,} of them came in incidents that are over; these are told as incidents." if pattern.in_incidents else ""
    )


def _certainty(context: Context, pattern: _Pattern, split: datetime, end: datetime, unit: str) -> str:
    assert pattern.first is not None
    assert pattern.last is not None
    seen = f"Counted; seen from {clock(context, pattern.first)} to {clock(context, pattern.last)}."
    seen += "" if pattern.told else " Their source tells neither message nor type, so they may have any number of causes."
    if pattern.ratio is None:
        outside = " outside these incidents" if pattern.in_incidents else ""
        return f"{seen} Too few{outside} to say whether it rises."
    _, low, high = pattern.ratio
    bounds = f"{low:.2g} to {high:.2g}" if math.isfinite(high) else f"at least {low:.2g}"
    days = (end - split).total_seconds() / 86_400
    seen += " Incidents that are over are left out of what follows." if pattern.in_incidents else ""
    rate = f"The rate of affected {unit} in the last {days:.1f} days is {bounds} times that before (95%)"
    return f"{seen} {rate}; p {_p(pattern.p_value)}, corrected for all patterns" + (
        "." if pattern.state != "steady" else ": no clear change."
    )


def _estimate(pattern: _Pattern, total: int) -> Estimate:
    if pattern.state in ("steady", "new") or pattern.ratio is None:
        return Estimate(pattern.count / total, None, None, "share", total, None if math.isnan(pattern.p_value) else pattern.p_value)
    ratio, low, high = pattern.ratio
    units = len(pattern.before) + len(pattern.late)
    return Estimate(ratio, low, high if math.isfinite(high) else None, "ratio", units, pattern.p_value)


def _severity(pattern: _Pattern, total: int) -> Severity:
    if pattern.state in ("new", "rising"):
        return "serious" if pattern.told and pattern.count >= SHARE_OF_ALL * total else "notice"
    return "info"


def _query(context: Context, pattern: _Pattern) -> str:
    """The runs of a pattern: what stands between its masks, in this order. (Messages that only look alike may be among them.)"""
    conditions, values = ["status = 'error'"], {"error_type": pattern.error_type, "pattern": _like(pattern.text or "")}
    if not pattern.from_child:
        conditions.append("error_type IS NOT DISTINCT FROM %(error_type)s")
    if pattern.text is None:
        conditions.append("error_message ~ '[^[:space:]]' IS NOT TRUE")
    elif pattern.from_child:
        conditions.append(
            "(error_message LIKE %(pattern)s OR error_message IS NULL AND (trace_id, project, source) IN ("
            "SELECT trace_id, project, source FROM analytics.spans"
            " WHERE day BETWEEN %(first_day)s AND %(last_day)s AND status = 'error' AND error_message LIKE %(pattern)s))"
        )
    else:
        conditions.append("error_message LIKE %(pattern)s")
    return runs.listing(context, " AND ".join(conditions), values, order="start_time DESC")


def _like(text: str) -> str:
    """A template as a pattern of LIKE; white space matches any, since it was collapsed."""
    parts = [part for piece in PLACEHOLDER.split(text) for part in piece.split()]
    escaped = [part.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") for part in parts]
    return f"%{'%'.join(escaped)}%" if escaped else "%"


def _table(context: Context, patterns: list[_Pattern], total: int, failed: int) -> Table:
    rows = []
    for pattern in patterns[:ROWS]:
        assert pattern.first is not None
        assert pattern.last is not None
        share = (words.percent(pattern.count / failed), words.percent(pattern.count / total))
        seen = (clock(context, pattern.first), clock(context, pattern.last))
        rows.append((pattern.name, f"{pattern.count:,}", *share, _course(pattern), *seen))
    title = "Error patterns" if len(patterns) <= ROWS else f"Error patterns (the first {ROWS} of {len(patterns):,})"
    return Table(title, ("pattern", "runs", "of failed", "of all", "course", "first seen", "last seen"), tuple(rows))


def _course(pattern: _Pattern) -> str:
    if pattern.ratio:
        return pattern.state
    return "in incidents" if 2 * pattern.in_incidents >= pattern.count else "too few"


def _p(value: float) -> str:
    return "under 0.0001" if value < 0.0001 else f"{value:.4f}"
