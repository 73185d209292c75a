"""The metrics of metamon.yaml: their expressions over the columns of a trace, and targets that name metrics there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from metamon_assets.config.expressions import Compiled, ExpressionError, compile_expression
from metamon_assets.errors import closest
from metamon_assets.metrics.registry import BY_NAME
from metamon_assets.traces.columns import RUNS

if TYPE_CHECKING:
    from metamon_assets.config import Agent, Configuration

# What a trace has of the columns that sources give; inputs and outputs are payloads, which metrics do not read.
COLUMNS = frozenset(RUNS.names) - {"inputs", "outputs"}


def compile_metric(text: str) -> Compiled:
    """SQL for an expression over a row ``t`` of ``metamon.traces``. Raises ExpressionError."""
    return compile_expression(text, COLUMNS)


def check_expressions(configuration: Configuration, left_out: Sequence[tuple[Any, ...]] = ()) -> list[str]:
    """What is wrong with the expressions and the targets of the configuration, each with its place.

    ``left_out``: places of the file that the configuration lacks because they have mistakes of their own.
    """
    problems = []
    for agent, part in configuration.agents.items():
        others = [str(place[3]) for place in left_out if place[:3] == ("agents", agent, "metrics") and len(place) > 3]
        problems += [*_metrics(agent, part), *_targets(agent, part, [*part.metrics, *others, *BY_NAME])]
    return problems


def _metrics(agent: str, part: Agent) -> Iterator[str]:
    for name, metric in part.metrics.items():
        try:
            if metric.sql is not None:
                compile_metric(metric.sql)
        except ExpressionError as error:
            yield f"agents.{agent}.metrics.{name}.sql: {error}"


def _targets(agent: str, part: Agent, known: Sequence[str]) -> Iterator[str]:
    for name in part.targets:
        if name not in known:
            near = closest(name, known)
            others = f"define it under agents.{agent}.metrics, or name one of `metamon dictionary analytics.daily_metrics`"
            hint = f"did you mean {near}?" if near else others
            yield f"agents.{agent}.targets.{name}: there is no metric {name}; {hint}"
