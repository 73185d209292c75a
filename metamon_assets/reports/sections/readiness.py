"""What can be seen with the traffic there is: ``readiness`` as a section of the report."""

from __future__ import annotations

from dataclasses import replace

from metamon_assets import words
from metamon_assets.reports.findings import Content, Context, Table
from metamon_assets.reports.readiness import FEATURES, Readiness, State, assess

TRAFFIC = (
    "This is about traffic: whether there are enough runs for a feature to work. Which features are built, and set up, it does not tell."
)
STATES: dict[State, str] = {"ready": "enough traffic", "wider window": "in a wider window", "not yet": "not yet"}


def build(context: Context) -> Content:
    """A table for all runs together, and one of states by agent."""
    found = assess(context)
    tables = [_overall([entry for entry in found if entry.agent is None])]
    agents = list(dict.fromkeys(entry.agent for entry in found if entry.agent is not None))
    if agents:
        tables.append(_by_agent(found, agents))
    return Content(tables=tuple(tables), silence=TRAFFIC)


def _overall(found: list[Readiness]) -> Table:
    rows = tuple((entry.feature, STATES[entry.state], entry.why, entry.smallest_effect or "–", waiting(entry)) for entry in merged(found))
    return Table("All runs together", ("feature", "traffic", "why", "smallest effect seen", "enough in about"), rows)


def _by_agent(found: list[Readiness], agents: list[str]) -> Table:
    states = {(entry.agent, entry.feature): STATES[entry.state] for entry in found}
    rows = tuple((feature, *(states[agent, feature] for agent in agents)) for feature in FEATURES)
    return Table("By agent", ("feature", *(words.name(agent) for agent in agents)), rows)


def merged(found: list[Readiness]) -> list[Readiness]:
    """One answer where all features have the same."""
    same = {(entry.state, entry.why, entry.ready_in_days) for entry in found}
    return [replace(found[0], feature="all features")] if len(found) > 1 and len(same) == 1 else found


def waiting(entry: Readiness) -> str:
    """How long it takes at this rate."""
    if entry.state == "ready":
        return "enough now"
    return "–" if entry.ready_in_days is None else words.many(entry.ready_in_days, "day")
