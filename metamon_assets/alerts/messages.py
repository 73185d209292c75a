"""What messages say: of an incident, and the shape that digests share; as plain text and as HTML.

A ``Letter`` is written once and rendered twice, so both forms say the same. Everything that comes from traces is a stranger's: it is
cleaned of control characters, escaped in HTML, and a subject is one line. Addresses follow the scheme of the dashboard:
``<base>/traces/<source>/<project>/<trace_id>``, ``<base>/incidents/<id>``, ``<base>/docs/runbooks/<rule>``, and ``<ui>/runs/<id>`` of
Dagster.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

from metamon_assets import words
from metamon_assets.metrics.registry import BY_NAME

if TYPE_CHECKING:
    from jinja2 import Template

    from metamon_assets.alerts.incidents import Incident
    from metamon_assets.alerts.routing import Policy

TEMPLATE = Path(__file__).with_name("templates") / "message.html"
PICTURE = "<!-- picture -->"  # where the picture of an incident goes, which is drawn when the message is sent
SUBJECT_LIMIT, LEAD_LIMIT = 180, 600
EXAMPLES = 5
_LABEL_WIDTH = 12


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a list; with ``url`` it leads there."""

    text: str
    url: str | None = None


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a letter: facts with labels, then lines of a list, then a picture (data: address) with its meaning."""

    heading: str = ""
    facts: Sequence[tuple[str, str]] = ()
    lines: Sequence[Line] = ()
    picture: str | None = None
    picture_says: str = ""


@dataclass(frozen=True, slots=True)
class Letter:
    """A message before it is text or HTML. ``of_incident``: there is room for the picture that is drawn when it is sent."""

    subject: str
    lead: str
    sections: Sequence[Section]
    severity: str = "info"
    of_incident: bool = False

    def text(self) -> str:
        """Plain text."""
        parts = [words.clean(self.lead)]
        for section in self.sections:
            lines = [words.clean(section.heading)] if section.heading else []
            lines += [f"{label:<{_LABEL_WIDTH}} {words.clean(value)}" for label, value in section.facts]
            lines += [f"- {words.clean(line.text)}" + (f": {line.url}" if line.url else "") for line in section.lines]
            parts.append("\n".join(lines))
        return "\n\n".join(part for part in parts if part) + "\n"

    def html(self) -> str:
        """A whole page that needs nothing but itself."""
        return _template().render(letter=self, room=PICTURE if self.of_incident else "", colour=COLOURS[self.severity])


COLOURS = {"critical": "#c02b2b", "warning": "#a56300", "info": "#2f55d4"}


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_finalize)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))


def _finalize(value: Any) -> Any:
    """Texts are cleaned before they are escaped."""
    return words.clean(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def one_line(text: str, limit: int = SUBJECT_LIMIT) -> str:
    """A subject: one line of bearable length without control characters."""
    line = " ".join(words.clean(text).split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def local(moment: datetime, timezone: str) -> str:
    """A moment as people of that time zone write it."""
    return f"{moment.astimezone(ZoneInfo(timezone)):%Y-%m-%d %H:%M %Z}"


def figure(metric: str, value: float | None) -> str:
    """A value of a metric in its unit."""
    if value is None:
        return "unknown"
    known = BY_NAME.get(metric)
    unit = known.unit if known else ""
    if unit == "s":
        return words.seconds(value)
    if unit == "USD":
        return words.dollars(value)
    if metric.endswith(("_rate", "_share")) and 0 <= value <= 1:
        return words.percent(value)
    return f"{value:,.4g}"


def group(incident: Incident) -> str:
    """Where: ``agent sales``, or ``everything``."""
    return "everything" if incident.dimension == "overall" else f"{incident.dimension} {words.name(incident.dimension_value)}"


# --- addresses ---------------------------------------------------------------------------------------------------


def incident_url(policy: Policy, incident_id: int) -> str:
    """Where an incident is shown."""
    return f"{policy.base_url}/incidents/{incident_id}"


def trace_url(policy: Policy, trace: Mapping[str, str]) -> str:
    """Where a trace is shown."""
    return f"{policy.base_url}/traces/" + "/".join(quote(trace[part], safe="") for part in ("source", "project", "trace_id"))


def run_url(policy: Policy, run_id: str) -> str:
    """Where Dagster shows a run of the pipeline."""
    return f"{policy.dagster_url}/runs/{quote(run_id, safe='')}"


def runbook_url(policy: Policy, rule: str) -> str:
    """Where it is told what to do when a rule fires."""
    return f"{policy.base_url}/docs/runbooks/{quote(rule, safe='')}"


# --- an incident -------------------------------------------------------------------------------------------------


def of_incident(policy: Policy, incident: Incident, event: str) -> tuple[str, str, str]:
    """Subject, text and HTML of the message that an incident opened, worsened or was resolved."""
    letter = Letter(
        subject=_subject(incident, event),
        lead=one_line(incident.summary, LEAD_LIMIT),
        sections=[
            Section(facts=list(_facts(policy, incident, event))),
            Section("Why Metamon thinks so", lines=[Line(reason) for reason in incident.reasons]) if incident.reasons else Section(),
            Section("Examples", lines=_examples(policy, incident)) if incident.examples else Section(),
            Section("What to do", lines=list(_to_do(policy, incident, event))),
        ],
        severity="info" if event == "resolved" else incident.severity,
        of_incident=True,
    )
    return letter.subject, letter.text(), letter.html()


def _subject(incident: Incident, event: str) -> str:
    head = {"opened": f"[{incident.severity}]", "worsened": f"[{incident.severity}] worse:", "resolved": "[resolved]"}[event]
    return one_line(f"{head} {incident.rule}, {group(incident)}: {incident.summary}")


def _facts(policy: Policy, incident: Incident, event: str) -> Iterator[tuple[str, str]]:
    yield "What", f"{incident.metric} of {group(incident)}"
    yield "Since", f"{local(incident.started_at, policy.timezone)}, found {local(incident.opened_at, policy.timezone)}"
    if event == "resolved" and incident.resolved_at is not None:
        lasted = ((incident.quiet_since or incident.resolved_at) - incident.started_at).total_seconds()
        yield "Over", f"quiet long enough at {local(incident.resolved_at, policy.timezone)}; it lasted {words.duration(lasted)}"
    if incident.value is not None:
        yield "How bad", how_bad(incident)
    if incident.peak is not None and incident.peak != incident.value:
        yield "At worst", figure(incident.metric, incident.peak)
    affected = [
        words.many(count, noun)
        for count, noun in ((incident.affected_requests, "request"), (incident.affected_users, "user"))
        if count is not None
    ]
    if affected:
        yield "Affected", ", ".join(affected)
    yield "Rule", f"{incident.rule}, {incident.severity}" + (f", fired {incident.episodes} times" if incident.episodes > 1 else "")


def how_bad(incident: Incident) -> str:
    """The value against what it should be, and what it rests on."""
    metric = incident.metric
    parts = [figure(metric, incident.value)]
    if incident.threshold is not None:
        parts.append(f"threshold {figure(metric, incident.threshold)}")
    if incident.lower is not None and incident.upper is not None:
        parts.append(f"usually {figure(metric, incident.lower)} to {figure(metric, incident.upper)}")
    elif incident.expected is not None:
        parts.append(f"usually {figure(metric, incident.expected)}")
    if incident.sample is not None:
        window = f" in {words.seconds(incident.window_seconds)}" if incident.window_seconds else ""
        parts.append(f"sample {incident.sample:,}{window}")
    return ", ".join(parts)


def _examples(policy: Policy, incident: Incident) -> list[Line]:
    return [Line(words.name(trace["trace_id"]), trace_url(policy, trace)) for trace in incident.examples[:EXAMPLES]]


def _to_do(policy: Policy, incident: Incident, event: str) -> Iterator[Line]:
    yield Line(f"Incident {incident.incident_id}", incident_url(policy, incident.incident_id))
    if incident.dagster_run_id:
        yield Line("Run of the pipeline", run_url(policy, incident.dagster_run_id))
    yield Line(f"Runbook of {incident.rule}", runbook_url(policy, incident.rule))
    if event != "resolved" and incident.rule in policy.runbooks:
        yield Line(policy.runbooks[incident.rule])
    yield Line(f"Was this worth telling? metamon incidents feedback {incident.incident_id} true|false")
