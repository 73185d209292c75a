"""What metrics should be: the targets that are suggested, and accepting and withdrawing them.

Here belong the rows of ``metamon.slo_targets``. A target counts only after a person accepted it, or because it stands
in metamon.yaml. How targets stand, and how fast their error budgets burn, is told in ``slo``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from metamon_assets.errors import MetamonError, closest
from metamon_assets.metrics.registry import BY_NAME
from metamon_assets.warehouse import audit

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from metamon_assets.config import Configuration

Direction = Literal["at_most", "at_least"]
Kind = Literal["share", "level", "amount"]
CONFIGURATION = "metamon.yaml"  # who accepted what stands there
WEEK, MONTH = 7, 30  # days


class TargetError(MetamonError):
    """A target cannot be accepted or withdrawn; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a metric should be. ``kind``: a share of good events, a level (mean, percentile), an amount (a sum).

    The value of a day is that of ``window_days`` up to it; the error budget is counted over ``budget_days``.
    """

    name: str
    description: str
    metric: str
    direction: Direction
    objective: float
    kind: Kind
    window_days: int = 1
    budget_days: int = MONTH
    dimension: str = "overall"
    dimension_value: str = "(all)"
    accepted_at: datetime | None = field(default=None, compare=False)
    accepted_by: str | None = field(default=None, compare=False)

    @property
    def words(self) -> str:
        """What is wanted, in short."""
        where = "" if self.dimension == "overall" else f" of {self.dimension} {self.dimension_value}"
        over = "" if self.window_days == 1 else f" over {self.window_days} days"
        return f"{self.metric}{where} {self.direction.replace('_', ' ')} {self.objective:g}{over}"

    @property
    def allowed(self) -> float:
        """The share of bad events that the objective allows (kind share)."""
        return self.objective if self.direction == "at_most" else 1 - self.objective

    def met(self, value: float) -> bool:
        """Whether a value is on the right side of the objective."""
        return value <= self.objective if self.direction == "at_most" else value >= self.objective


def _weekly(name: str, description: str, metric: str, direction: Direction, objective: float, kind: Kind) -> Target:
    return Target(f"weekly_{name}", description, metric, direction, objective, kind, WEEK, 4 * WEEK)


# Those of the requirements (TGT), in their order. Metrics of the last part come with the stages that measure them.
SUGGESTED: tuple[Target, ...] = (
    Target("response_time", "Requests are answered in less than 2 seconds on average.", "latency_mean", "at_most", 2, "level"),
    Target("tokens_per_operation", "A request takes fewer than 1,000 tokens on average.", "tokens_per_request", "at_most", 1000, "level"),
    Target("cost_per_interaction", "A request costs less than one cent on average.", "cost_per_request", "at_most", 0.01, "level"),
    Target("task_success", "More than 95 % of tasks are completed.", "task_completion_rate", "at_least", 0.95, "share"),
    Target("satisfaction", "Users rate answers above 4.5 of 5 on average.", "user_satisfaction", "at_least", 4.5, "level"),
    Target("uptime", "Metamon itself works 99.9 % of the time.", "uptime", "at_least", 0.999, "share"),
    Target("error_rate", "Fewer than 1 % of requests fail.", "error_rate", "at_most", 0.01, "share"),
    Target("api_latency", "The web API answers in less than half a second on average.", "api_latency", "at_most", 0.5, "level"),
    Target("monthly_cost", "Thirty days cost less than $10: put your own budget here.", "total_cost", "at_most", 10, "amount", MONTH),
    Target("engagement", "More than 80 % of a day's users come back on the same day.", "engagement", "at_least", 0.8, "share"),
    # The questions of the weekly review
    _weekly("error_rate", "Fewer than 2 % of a week's requests fail.", "error_rate", "at_most", 0.02, "share"),
    _weekly("latency", "95 % of a week's requests are answered within 5 seconds.", "latency_p95", "at_most", 5, "level"),
    _weekly("cache_hits", "The cache answers more than 60 % of a week's requests.", "cache_hit_rate", "at_least", 0.6, "share"),
    _weekly("cache_saving", "The cache saves more than 60 % of the cost of requests.", "cache_saving_share", "at_least", 0.6, "level"),
    _weekly("degradation", "Degraded answers do not become more frequent.", "degradation_rate.change", "at_most", 0, "level"),
    _weekly("quality", "Quality does not fall.", "quality_mean.change", "at_least", 0, "level"),
    _weekly("targets_met", "Every accepted target was met in the seven days before.", "targets_met", "at_least", 1, "share"),
    # What the loop itself promises
    Target("detection_in_time", "Errors are detected within 5 minutes.", "detection_in_time", "at_least", 0.98, "share"),
    Target("critical_alerts_in_time", "Critical alerts are out within 5 minutes.", "critical_alerts_in_time", "at_least", 0.99, "share"),
    Target("critical_alerts_true", "No critical alert is false.", "critical_alerts_true", "at_least", 1, "share"),
    _weekly("evaluations", "The daily evaluation succeeds every day.", "evaluations_succeeded", "at_least", 1, "share"),
    Target("validation_right", "More than 95 % of validations are right.", "validation_right", "at_least", 0.95, "share"),
    Target("proposals_done", "At least three proposals are carried through.", "proposals_done", "at_least", 3, "amount", MONTH),
    Target(
        "automatic_improvement",
        "Changes that were approved automatically improve their metric by more than 5 %.",
        "automatic_improvement",
        "at_least",
        0.05,
        "level",
        MONTH,
    ),
    Target("no_regression", "Automation ships no regression.", "changes_without_regression", "at_least", 1, "share", MONTH),
    Target("rollback_exercised", "A rollback is exercised.", "rollbacks_exercised", "at_least", 1, "amount", MONTH),
    Target("routing_quality", "Routing feedback improves quality by 5 %.", "routing_quality_gain", "at_least", 0.05, "level", MONTH),
)

_COLUMNS = (
    "name, description, metric, direction, objective, kind, window_days, budget_days, dimension, dimension_value, accepted_at, accepted_by"
)
_INSERT = f"""
    INSERT INTO metamon.slo_targets ({_COLUMNS}, suggested_at)
    VALUES (%(name)s, %(description)s, %(metric)s, %(direction)s, %(objective)s, %(kind)s, %(window_days)s, %(budget_days)s,
        %(dimension)s, %(dimension_value)s, %(accepted_at)s, %(accepted_by)s, %(now)s)"""


def listed(connection: Connection, *, accepted: bool = False) -> list[Target]:
    """All targets, or those that were accepted: the suggested ones in the order of SUGGESTED, then the others by name."""
    with connection, connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {_COLUMNS} FROM metamon.slo_targets WHERE accepted_at IS NOT NULL OR NOT %s"
            " ORDER BY array_position(%s, name) NULLS LAST, name",
            (accepted, [target.name for target in SUGGESTED]),
        )
        return [Target(*row) for row in cursor.fetchall()]


def suggest(connection: Connection, now: datetime) -> int:
    """Add the suggested targets that are missing; gives how many. What a person decided about the others stays."""
    added = 0
    with connection, connection.cursor() as cursor:
        for target in SUGGESTED:
            cursor.execute(f"{_INSERT} ON CONFLICT (name) DO NOTHING", _parameters(target, now))
            added += cursor.rowcount
    return added


def accept(connection: Connection, name: str, actor: str, now: datetime, objective: float | None = None) -> Target:
    """Let a target count from now on, with another objective if one is given. Raises TargetError when there is none of that name."""
    with connection, connection.cursor() as cursor:
        target = _decidable(connection, name)
        cursor.execute(
            "UPDATE metamon.slo_targets SET objective = %s, accepted_at = %s, accepted_by = %s WHERE name = %s",
            (target.objective if objective is None else _usable(target, objective), now, actor, name),
        )
        evidence = {"objective": target.objective if objective is None else objective, "before": target.objective}
        audit.record(connection, actor, "accept_target", f"target:{name}", None, evidence)
        return _found(connection, name)


def withdraw(connection: Connection, name: str, actor: str, now: datetime) -> Target:
    """Make an accepted target a suggestion again: it is measured and no longer alerts. Raises TargetError."""
    with connection, connection.cursor() as cursor:
        target = _decidable(connection, name)
        if target.accepted_at is None:
            raise TargetError(f"The target {name} is not accepted, so there is nothing to withdraw: `metamon targets list` shows them.")
        cursor.execute("UPDATE metamon.slo_targets SET accepted_at = NULL, accepted_by = NULL WHERE name = %s", (name,))
        evidence = {"accepted_by": target.accepted_by, "accepted_at": target.accepted_at.isoformat(), "withdrawn_at": now.isoformat()}
        audit.record(connection, actor, "withdraw_target", f"target:{name}", None, evidence)
        return _found(connection, name)


def follow(connection: Connection, configuration: Configuration, now: datetime) -> list[str]:
    """Bring the targets that stand in metamon.yaml in line with it; gives the names of those that changed.

    They are accepted as they stand there. One that stands there no longer is removed.
    """
    wanted = {target.name: target for target in of_configuration(configuration)}
    with connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT {_COLUMNS} FROM metamon.slo_targets WHERE accepted_by = %s FOR UPDATE", (CONFIGURATION,))
        present = {row[0]: Target(*row) for row in cursor.fetchall()}
        changed = sorted(name for name in wanted.keys() | present.keys() if wanted.get(name) != present.get(name))
        for name in changed:
            cursor.execute("DELETE FROM metamon.slo_targets WHERE name = %s", (name,))
            if name in wanted:
                cursor.execute(_INSERT, {**_parameters(wanted[name], now), "accepted_at": now, "accepted_by": CONFIGURATION})
            action = "accept_target" if name in wanted else "remove_target"
            evidence = {"target": wanted[name].words if name in wanted else None}
            audit.record(connection, CONFIGURATION, action, f"target:{name}", None, evidence)
    return changed


def of_configuration(configuration: Configuration) -> Iterator[Target]:
    """The targets and budgets of the agents in metamon.yaml."""
    for agent, part in configuration.agents.items():
        for metric, bounds in part.targets.items():
            if bounds.max is not None:
                yield _configured(agent, metric, "max", "at_most", bounds.max)
            if bounds.min is not None:
                yield _configured(agent, metric, "min", "at_least", bounds.min)
        if part.monthly_budget is not None:
            yield Target(
                f"{agent}.monthly_budget",
                f"Thirty days of {agent} cost at most ${part.monthly_budget}.",
                "total_cost",
                "at_most",
                float(part.monthly_budget),
                "amount",
                MONTH,
                dimension="agent",
                dimension_value=agent,
            )


def _configured(agent: str, metric: str, bound: str, direction: Direction, objective: float) -> Target:
    description = f"{metric} of {agent} is {direction.replace('_', ' ')} {objective:g}."
    kind = kind_of(metric)
    if kind == "share" and not 0 <= objective <= 1:
        kind = "level"  # no share reaches it
    return Target(f"{agent}.{metric}.{bound}", description, metric, direction, objective, kind, dimension="agent", dimension_value=agent)


def kind_of(metric: str) -> Kind:
    """What a metric of the rollups is to a target; agents' own metrics are levels."""
    known = BY_NAME.get(metric)
    if known is None or known.quantile is not None:
        return "level"
    if not known.denominator:
        return "amount"
    counts = "_sum" not in known.numerator and "CAST" not in known.numerator
    return "share" if known.unit == "1" and counts else "level"


def _found(connection: Connection, name: str) -> Target:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {_COLUMNS} FROM metamon.slo_targets WHERE name = %s FOR UPDATE", (name,))
        row = cursor.fetchone()
        if row is not None:
            return Target(*row)
        cursor.execute("SELECT name FROM metamon.slo_targets")
        near = closest(name, [known for (known,) in cursor.fetchall()])
    raise TargetError(f"There is no target {name}: " + (f"did you mean {near}?" if near else "`metamon targets list` shows them."))


def _decidable(connection: Connection, name: str) -> Target:
    target = _found(connection, name)
    if target.accepted_by == CONFIGURATION:
        raise TargetError(f"The target {name} stands in metamon.yaml (agents.{target.dimension_value}): change it or remove it there.")
    return target


def _usable(target: Target, objective: float) -> float:
    if target.kind == "share" and not 0 <= objective <= 1:
        raise TargetError(f"The objective of {target.name} is a share from 0 to 1, not {objective:g}: write 0.02 for 2 %.")
    return objective


def _parameters(target: Target, now: datetime) -> Mapping[str, object]:
    return {name: getattr(target, name) for name in _COLUMNS.split(", ")} | {"now": now}
