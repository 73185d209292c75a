"""The metric expressions of metamon.yaml over the columns of a trace."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metamon_assets.config.expressions import Compiled, ExpressionError, compile_expression
from metamon_assets.traces.columns import RUNS

if TYPE_CHECKING:
    from metamon_assets.config import Settings

# What a trace has of the columns that sources give; inputs and outputs are payloads, which metrics do not read.
COLUMNS = frozenset(RUNS.names) - {"inputs", "outputs"}


def compile_metric(text: str) -> Compiled:
    """SQL for an expression over a row ``t`` of ``metamon.traces``. Raises ExpressionError."""
    return compile_expression(text, COLUMNS)


def check_expressions(settings: Settings) -> list[str]:
    """What is wrong with the expressions of the configuration, each with its place."""
    problems = []
    for agent, part in settings.agents.items():
        for name, metric in part.metrics.items():
            try:
                if metric.sql is not None:
                    compile_metric(metric.sql)
            except ExpressionError as error:
                problems.append(f"agents.{agent}.metrics.{name}.sql: {error}")
    return problems
