"""Collected mails: the hourly one of held-back warnings, the daily digest, the weekly review (NOT-1).

Each period is told once, however often ``write_due`` is called: its key is in the outbox. After an outage there is one digest of all
that has happened since the last, since what was told is remembered by the numbers of events and messages, which no clock changes. The
digest falls due at an hour (nine o'clock) of the configured time zone, the review on Mondays then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any, Literal
from zoneinfo import ZoneInfo

import orjson

from metamon_assets import words
from metamon_assets.alerts import messages, movements, outbox, pictures
from metamon_assets.alerts.incidents import SEVERITIES
from metamon_assets.alerts.messages import Letter, Line, Section, local, one_line
from metamon_assets.health import targets
from metamon_assets.health.measures import of_days

if TYPE_CHECKING:
    from metamon_assets.alerts.movements import Movement
    from metamon_assets.alerts.routing import Policy
    from metamon_assets.health.targets import Target
    from metamon_assets.warehouse.connection import Connection, Cursor

MONDAY = 0
MOST_LINES = 25
CHART_DAYS = 14
WEEK = timedelta(days=7)
QUIET_HEARTBEAT = timedelta(minutes=10)
FEEDBACK_DAYS = 28
EVERYTHING = ("overall", "(all)")

Period = Literal["daily", "weekly"]


def write_due(connection: Connection, policy: Policy, now: datetime) -> list[str]:
    """Write what has fallen due by ``now`` into the outbox; gives the keys of what was written."""
    written = _hourly(connection, policy, now)
    for period in ("daily", "weekly"):
        written += _digest(connection, policy, period, now)
    return written


def due_at(now: datetime, timezone: str, hour: int, period: Period) -> datetime:
    """When the last digest that is due by ``now`` fell due: that hour of the zone, whatever its clocks were put to in between."""
    zone = ZoneInfo(timezone)
    today = now.astimezone(zone).date()
    days = [today - timedelta(days=back) for back in range(9)]
    moments = [datetime.combine(day, time(hour), zone) for day in days if period == "daily" or day.weekday() == MONDAY]
    return max(moment for moment in moments if moment.astimezone(UTC) <= now)


# --- the hourly mail ---------------------------------------------------------------------------------------------


def _hourly(connection: Connection, policy: Policy, now: datetime) -> list[str]:
    """One mail for what was held back before the full hour. ``sent_at`` of a held row says when it was told."""
    if not policy.digest_channels:
        return []
    hour = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    key = f"hourly-{hour:%Y-%m-%dT%H}"
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT m.message_id, m.incident_id, m.subject, i.status, m.severity FROM metamon.outbox m"
            " JOIN metamon.incidents i USING (incident_id)"
            " WHERE m.suppressed = 'hourly' AND m.sent_at IS NULL AND (m.created_at < %s OR m.created_at > %s)"
            " ORDER BY m.message_id FOR UPDATE OF m",
            (hour, now),
        )
        rows = cursor.fetchall()
        if not rows:
            return []
        told = outbox.write(cursor, _hourly_letter(policy, rows), channels=policy.digest_channels, event="hourly", key=key, now=now)
        if told:  # else this hour was told already, by a clock that has been put back since: the next one tells it
            cursor.execute("UPDATE metamon.outbox SET sent_at = %s WHERE message_id = ANY(%s)", (now, [row[0] for row in rows]))
    return [key] if told else []


def _hourly_letter(policy: Policy, rows: Sequence[tuple[Any, ...]]) -> Letter:
    latest = {incident: (subject, status) for _, incident, subject, status, _ in rows}
    lines = [Line(f"{subject} ({status})", messages.incident_url(policy, incident)) for incident, (subject, status) in latest.items()]
    count = words.many(len(latest), "warning")
    return Letter(
        subject=one_line(f"[hourly] {count} held back" + (f": {rows[0][2]}" if len(latest) == 1 else "")),
        lead=f"{count} held back: another one of the same group had been sent within the hour, or no channel is there for it.",
        sections=[Section(lines=_shortened(lines))],
        severity="warning",
    )


def _shortened(lines: Sequence[Line], most: int = MOST_LINES) -> list[Line]:
    kept = list(lines[:most])
    return kept + ([Line(f"and {len(lines) - most:,} more")] if len(lines) > most else [])


# --- the daily digest and the weekly review ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Reach:
    """What a digest covers: events and messages after ``event`` and ``message``, up to the others; what is not numbered by its time."""

    since: datetime
    until: datetime
    event: int
    message: int
    last_event: int
    last_message: int


def _digest(connection: Connection, policy: Policy, period: Period, now: datetime) -> list[str]:
    due = due_at(now, policy.timezone, policy.digest_hour, period)
    reach = _reach(connection, period, due, now)
    key = f"{period}-{due:%Y-%m-%d}"
    if reach is None or (policy.digest_channels and _is_written(connection, key)):
        return []
    letter = compose(connection, policy, period, reach, due) if policy.digest_channels else None
    with connection, connection.cursor() as cursor:
        told = outbox.write(cursor, letter, channels=policy.digest_channels, event=period, key=key, now=now) if letter else []
        if told or letter is None:
            _remember(cursor, period, due, reach.last_event, reach.last_message, now)
    return [key] if told else []


def _reach(connection: Connection, period: Period, due: datetime, now: datetime) -> _Reach | None:
    """What the next digest covers; None when it is not due: the first one falls due at the next such hour."""
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT coalesce((SELECT max(event_id) FROM metamon.incident_events), 0),"
            " coalesce((SELECT max(message_id) FROM metamon.outbox), 0)"
        )
        last_event, last_message = cursor.fetchone() or (0, 0)
        cursor.execute("SELECT reached, detail FROM metamon.alert_progress WHERE work = %s", (f"{period}_digest",))
        row = cursor.fetchone()
        if row is None:
            _remember(cursor, period, due, last_event, last_message, now)
            return None
        reached, detail = row
    if reached == due:
        return None
    return _Reach(min(reached, due), due, detail["event"], detail["message"], last_event, last_message)


def _is_written(connection: Connection, key: str) -> bool:
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT FROM metamon.outbox WHERE dedup_key = %s)", (key,))
        (found,) = cursor.fetchone() or (False,)
    return bool(found)


def _remember(cursor: Cursor, period: Period, due: datetime, event: int, message: int, now: datetime) -> None:
    cursor.execute(
        "INSERT INTO metamon.alert_progress (work, reached, ticked_at, detail) VALUES (%s, %s, %s, %s)"
        " ON CONFLICT (work) DO UPDATE SET (reached, ticked_at, detail) = (excluded.reached, excluded.ticked_at, excluded.detail)",
        (f"{period}_digest", due, now, orjson.dumps({"event": event, "message": message}).decode()),
    )


def compose(connection: Connection, policy: Policy, period: Period, reach: _Reach, due: datetime) -> Letter:
    """The letter of a period. What there is nothing to say of is left out."""
    yesterday = due.astimezone(UTC).date() - timedelta(days=1)
    questions = _questions(connection) if period == "weekly" else []
    with connection, connection.cursor() as cursor:
        incidents = _Incidents(cursor, policy, reach)
        sections = [
            *incidents.sections(),
            _slo(cursor),
            *([_review(cursor, questions, yesterday, due)] if questions else []),
            _moves(cursor, yesterday, 1 if period == "daily" else 7),
            _cost(cursor, yesterday, 1 if period == "daily" else 7),
            _own_health(cursor, reach),
            *([_feedback(cursor, due)] if period == "weekly" else []),
        ]
        sections = [section for section in sections if section.facts or section.lines]
        if incidents.any:
            sections.append(_chart(cursor, yesterday))
    name = "Digest" if period == "daily" else "Weekly review"
    since = local(reach.since, policy.timezone)
    nothing = f"Nothing to report since {since}: no incident, nothing held back, no traffic, nothing wrong with the pipeline."
    return Letter(
        subject=one_line(f"[{period}] {name} of {due:%Y-%m-%d}: {incidents.short()}"),
        lead=f"Since {since}: {incidents.lead()}" if sections else nothing,
        sections=sections,
    )


class _Incidents:
    """What happened to incidents in a reach."""

    def __init__(self, cursor: Cursor, policy: Policy, reach: _Reach) -> None:
        self._policy = policy
        span = {"event": reach.event, "last_event": reach.last_event, "message": reach.message, "last_message": reach.last_message}
        columns = "i.incident_id, i.severity, i.rule, i.dimension, i.dimension_value, i.summary, i.status, i.shadow, i.late"
        happened = f"""
            SELECT {columns} FROM metamon.incidents i WHERE EXISTS (SELECT FROM metamon.incident_events e
            WHERE e.incident_id = i.incident_id AND e.event = %(what)s AND e.event_id > %(event)s AND e.event_id <= %(last_event)s)
            ORDER BY array_position(ARRAY['critical', 'warning', 'info'], i.severity), i.incident_id DESC"""
        cursor.execute(happened, span | {"what": "opened"})
        self.opened = cursor.fetchall()
        cursor.execute(happened, span | {"what": "resolved"})
        self.resolved = cursor.fetchall()
        cursor.execute(
            f"SELECT {columns} FROM metamon.incidents i WHERE i.status = 'open'"
            " ORDER BY array_position(ARRAY['critical', 'warning', 'info'], i.severity), i.incident_id DESC"
        )
        self.still_open = cursor.fetchall()
        # What is late has no message at all.
        cursor.execute(
            "SELECT reason, rule, count(DISTINCT incident_id) FROM ("
            " SELECT m.suppressed AS reason, i.rule, i.incident_id FROM metamon.outbox m JOIN metamon.incidents i USING (incident_id)"
            " WHERE m.suppressed IS NOT NULL AND m.message_id > %(message)s AND m.message_id <= %(last_message)s"
            " UNION ALL SELECT 'late', i.rule, i.incident_id FROM metamon.incidents i JOIN metamon.incident_events e USING (incident_id)"
            " WHERE i.late AND e.event = 'opened' AND e.event_id > %(event)s AND e.event_id <= %(last_event)s"
            ") AS held GROUP BY reason, rule ORDER BY reason, 3 DESC, rule",
            span,
        )
        self.suppressed = cursor.fetchall()

    @property
    def any(self) -> bool:
        return bool(self.opened or self.resolved or self.still_open or self.suppressed)

    def lead(self) -> str:
        if not self.any:
            return "no incident, and nothing was held back."
        critical = sum(row[1] == "critical" for row in self.opened)
        return (
            f"{words.many(len(self.opened), 'incident')} opened ({critical:,} critical), {len(self.resolved):,} resolved,"
            f" {len(self.still_open):,} open now."
        )

    def short(self) -> str:
        """For the subject."""
        return f"{len(self.opened):,} opened, {len(self.still_open):,} open" if self.any else "no incident"

    def sections(self) -> Iterator[Section]:
        opened = {row[0] for row in self.opened}
        yield Section("Opened", lines=self._lines(self.opened))
        yield Section("Still open from before", lines=self._lines([row for row in self.still_open if row[0] not in opened]))
        yield Section("Resolved", lines=self._lines([row for row in self.resolved if row[0] not in opened]))
        yield Section("Recorded and not sent", facts=self._held())
        shadow: dict[str, int] = {}
        for row in {row[0]: row for row in (*self.opened, *self.still_open) if row[7]}.values():
            shadow[row[2]] = shadow.get(row[2], 0) + 1
        yield Section("In shadow, since its source or rule is new", lines=[Line(f"{rule}: {n:,}") for rule, n in sorted(shadow.items())])

    def _held(self) -> list[tuple[str, str]]:
        reasons = dict.fromkeys(row[0] for row in self.suppressed)
        return [(why, ", ".join(f"{rule} {n:,}" for reason, rule, n in self.suppressed if reason == why)) for why in reasons]

    def _lines(self, rows: Sequence[tuple[Any, ...]]) -> list[Line]:
        lines = []
        for number, severity, rule, dimension, value, summary, status, shadow, late in rows:
            notes = [status, *(["shadow"] if shadow else []), *(["found late"] if late else [])]
            where = "everything" if dimension == "overall" else f"{dimension} {words.name(value)}"
            text = one_line(f"[{severity}] {rule}, {where}: {summary}")
            lines.append(Line(f"{text} ({', '.join(notes)})", messages.incident_url(self._policy, number)))
        return _shortened(lines)


def _slo(cursor: Cursor) -> Section:
    """How the accepted targets stood on the last day that was computed."""
    cursor.execute(
        "SELECT t.name, t.description, t.metric, s.value, s.met, s.error_budget_left, s.day FROM metamon.slo_status s"
        " JOIN metamon.slo_targets t ON t.name = s.target WHERE t.accepted_at IS NOT NULL"
        " AND s.day = (SELECT max(day) FROM metamon.slo_status) ORDER BY s.met NULLS LAST, s.error_budget_left, t.name"
    )
    rows = cursor.fetchall()
    if not rows:
        return Section()
    known = [row for row in rows if row[4] is not None]
    facts = [("Met", f"{sum(row[4] for row in known)} of {words.many(len(known), 'target')} on {rows[0][6]}")]
    lines = []
    for name, description, metric, value, met, left, _ in known:
        if not met or (left is not None and left < 0.25):
            budget = "" if left is None else f", {max(left, 0.0):.0%} of the error budget left"
            lines.append(Line(f"{name}: {messages.figure(metric, value)}, {'met' if met else 'missed'}{budget}. {description}"))
    return Section("Targets", facts=facts, lines=_shortened(lines))


def _moves(cursor: Cursor, last: date, days: int) -> Section:
    """What got better and worse, against the seven days before."""
    first = last - timedelta(days=days - 1)
    found = movements.moved(cursor, (first - WEEK, first - timedelta(days=1)), (first, last))
    if not found:
        return Section()
    lines = [Line(f"{verdict}: {one.words()}") for verdict in ("worse", "better") for one in found if one.verdict == verdict]
    unclear = [one.metric for one in found if one.verdict == "unclear"]
    if unclear:
        lines.append(Line(f"no clear change: {', '.join(unclear)}"))
    if found[0].unit == "request":
        lines.append(Line("Requests were counted as independent of each other, since fewer than half name a conversation or user."))
    what = f"{last} (UTC)" if days == 1 else f"{first} to {last} (UTC)"
    return Section(f"Better and worse: {what} against the seven days before", lines=lines)


def _cost(cursor: Cursor, last: date, days: int) -> Section:
    first = last - timedelta(days=days - 1)
    spans = [(first, last), (first - WEEK, first - timedelta(days=1)), (last.replace(day=1), last)]
    costs = []
    for start, end in spans:
        cursor.execute(
            "SELECT sum(total_cost), coalesce(sum(requests), 0), coalesce(sum(unpriced_requests), 0), count(DISTINCT day)"
            " FROM metamon.daily_metrics WHERE dimension = 'overall' AND day BETWEEN %s AND %s",
            (start, end),
        )
        costs.append(cursor.fetchone() or (None, 0, 0, 0))
    (cost, requests, unpriced, _), (before, _, _, days_before), (month, _, _, _) = costs
    if not requests:
        return Section()
    facts = [("Cost", f"{words.dollars(cost)} for {words.many(requests, 'request')}")]
    if unpriced:
        facts.append(("Unpriced", words.of(unpriced, requests, "request")))
    if before is not None and days_before:
        facts.append(("Before", f"{words.dollars(before / days_before)} a day in the seven days before"))
    facts.append(("This month", f"{words.dollars(month)} by {last}"))
    return Section("Cost and traffic", facts=facts)


def _own_health(cursor: Cursor, reach: _Reach) -> Section:
    """What is wrong with the pipeline itself, and what could not be delivered."""
    cursor.execute("SELECT detail -> 'findings' FROM metamon.heartbeats WHERE component = 'supervisor'")
    findings = (cursor.fetchone() or ([],))[0] or []
    lines = [Line(f"{finding['component']} is {finding['state']}: {finding['detail']}") for finding in findings]
    cursor.execute(
        "SELECT component, beat_at FROM metamon.heartbeats WHERE beat_at < %s AND beat_at > %s ORDER BY component",
        (reach.until - QUIET_HEARTBEAT, reach.until - WEEK),
    )
    lines += [Line(f"{component} gave its last sign of life at {at:%Y-%m-%d %H:%M} UTC") for component, at in cursor.fetchall()]
    cursor.execute(
        "SELECT name, what, count(*) FROM analytics.pipeline_failures WHERE happened_at > %s AND happened_at <= %s"
        " GROUP BY name, what ORDER BY 3 DESC, name LIMIT 10",
        (reach.since, reach.until),
    )
    lines += [Line(f"{what} {name} failed {words.many(count, 'time')}") for name, what, count in cursor.fetchall()]
    cursor.execute(
        "SELECT channel, count(*) FILTER (WHERE dead_at IS NULL), count(dead_at), max(last_error) FROM metamon.outbox"
        " WHERE sent_at IS NULL AND suppressed IS NULL AND attempts > 0 GROUP BY channel ORDER BY channel"
    )
    for channel, waiting, dead, error in cursor.fetchall():
        lines.append(Line(f"channel {channel}: {waiting:,} tried and still waiting, {dead:,} given up ({error})"))
    if lines:
        lines.append(Line("`metamon outbox list` shows what waits; `metamon doctor` looks at the rest."))
    return Section("The pipeline itself", lines=_shortened(lines))


def _feedback(cursor: Cursor, due: datetime) -> Section:
    """What people said of alerts."""
    lines = [
        Line(f"{rule}: {words.of(false, said, 'alert')} judged false")
        for rule, said, false in false_positives(cursor, due - timedelta(days=FEEDBACK_DAYS))
    ]
    return Section(f"Judged by people, last {FEEDBACK_DAYS} days", lines=lines)


def false_positives(cursor: Cursor, since: datetime) -> list[tuple[str, int, int]]:
    """For each rule how many incidents were judged since then, and how many of them false (NOT-5); the most first."""
    cursor.execute(
        "SELECT i.rule, count(*), count(*) FILTER (WHERE f.verdict = 'false_positive') FROM metamon.incident_feedback f"
        " JOIN metamon.incidents i USING (incident_id) WHERE f.given_at >= %s GROUP BY i.rule ORDER BY 3 DESC, 2 DESC, 1",
        (since,),
    )
    return cursor.fetchall()


def _chart(cursor: Cursor, last: date) -> Section:
    first = last - timedelta(days=CHART_DAYS - 1)
    cursor.execute(
        "SELECT d::date, s, count(i.incident_id) FROM generate_series(%s::date, %s::date, interval '1 day') d"
        " CROSS JOIN unnest(%s) s LEFT JOIN metamon.incidents i ON (i.opened_at AT TIME ZONE 'UTC')::date = d::date AND i.severity = s"
        " GROUP BY 1, 2 ORDER BY 1, 2",
        (first, last + timedelta(days=1), list(SEVERITIES)),
    )
    colours: dict[str, str] = {severity: messages.COLOURS[severity] for severity in reversed(SEVERITIES)}
    return Section(
        picture=pictures.by_day(cursor.fetchall(), "Incidents opened", colours), picture_says="Incidents opened on each day (UTC)"
    )


# --- the questions of the weekly review --------------------------------------------------------------------------


def _questions(connection: Connection) -> list[Target]:
    """The targets of the review, with the objectives that people gave them."""
    listed = {target.name: target for target in targets.listed(connection)}
    return [listed.get(one.name, one) for one in targets.SUGGESTED if one.name.startswith("weekly_") or one.name == "monthly_cost"]


def _review(cursor: Cursor, questions: Sequence[Target], last: date, now: datetime) -> Section:
    moved = {one.metric: one for one in movements.moved(cursor, (last - 2 * WEEK + timedelta(days=1), last - WEEK), _week(last))}
    return Section("The week's questions", lines=[Line(_answer(cursor, question, moved, last, now)) for question in questions])


def _week(last: date) -> tuple[date, date]:
    return last - WEEK + timedelta(days=1), last


def _answer(cursor: Cursor, question: Target, moved: dict[str, Movement], last: date, now: datetime) -> str:
    """Yes, no or unknown, with the figure that it rests on."""
    metric = question.metric.removesuffix(".change")
    group = (question.dimension, question.dimension_value)
    spans = [(last - timedelta(days=question.window_days - 1), last)]
    if question.metric != metric:
        spans.append((spans[0][0] - WEEK, spans[0][0] - timedelta(days=1)))
    sums = of_days(cursor, metric, group, spans, now)
    values = [one.numerator if question.kind == "amount" else one.ratio for one in sums]
    if any(value is None for value in values):
        return f"{question.description} Unknown: no data."
    value = values[0]
    assert value is not None
    if question.metric == metric:
        return f"{question.description} {_yes(question.met(value))}: {messages.figure(metric, value)} ({_n(sums[0].n)})."
    before = values[1]
    assert before is not None
    rest = f"{messages.figure(metric, before)} → {messages.figure(metric, value)}"
    if metric in moved:
        verdict = moved[metric].verdict
        rest = f"{moved[metric].words()}, {'no clear change' if verdict == 'unclear' else f'clearly {verdict}'}"
    return f"{question.description} {_yes(question.met(value - before))}: {rest} ({_n(sums[0].n)})."


def _yes(met: bool) -> str:
    return "Yes" if met else "No"


def _n(count: int) -> str:
    return f"n = {count:,}"
