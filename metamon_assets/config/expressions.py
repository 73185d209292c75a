"""Metric expressions of ``metamon.yaml``: parsed, compared with a list of what is allowed, and written anew.

Here belongs what an expression may contain. It is a scalar over the columns of one trace: no queries, no aggregates, no
windows, no functions but those named here. What reaches the database is never the text of the file: ``compile_expression``
builds SQL from the parsed tree, with every literal as a parameter.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metamon_assets.config.secret import ConfigError
from metamon_assets.errors import closest

if TYPE_CHECKING:
    from sqlglot import exp

LONGEST = 2_000  # characters
MOST_PARTS = 200
_ALLOWED = frozenset(
    "Column Identifier Literal Boolean Null Paren And Or Not EQ NEQ GT GTE LT LTE Is NullSafeEQ NullSafeNEQ Between In Like ILike Any "  # noqa: SIM905
    "Add Sub Mul Div Neg Case If Coalesce Nullif Least Greatest Abs Round Ceil Floor Ln Exp Sqrt Length Lower Upper Extract Var Cast "
    "DataType JSONExtractScalar JSONPath JSONPathRoot JSONPathKey".split()
)
_TYPES = frozenset({"DECIMAL", "DOUBLE", "INT", "BIGINT", "BOOLEAN", "TEXT", "VARCHAR"})
_FUNCTIONS = frozenset({"cardinality"})
_EXTRACTED = frozenset({"EPOCH", "HOUR", "DOW", "ISODOW"})
_KEY = re.compile(r"[^\x00-\x1f]{1,200}")


class ExpressionError(ConfigError):
    """An expression that cannot be used; the message says which part of it, and what may stand there."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """SQL over a row called ``t``, with the named parameters (psycopg2's style) that it takes."""

    sql: str
    parameters: dict[str, str | int | float]


def parse(text: str) -> exp.Expr:
    """The tree of an expression. Raises ExpressionError for anything that is not on the list."""
    import sqlglot
    from sqlglot.errors import SqlglotError

    if len(text) > LONGEST:
        raise ExpressionError(f"the expression has {len(text)} characters; at most {LONGEST} are read")
    try:
        statements = sqlglot.parse(text, dialect="postgres")
    except (SqlglotError, RecursionError) as error:
        raise ExpressionError(f"not an SQL expression: {_first_line(error)}") from None
    if len(statements) != 1 or statements[0] is None:
        raise ExpressionError("give one SQL expression over the columns of a trace")
    tree: exp.Expr = statements[0]
    nodes = list(tree.walk())
    if len(nodes) > MOST_PARTS:
        raise ExpressionError(f"the expression has {len(nodes)} parts; at most {MOST_PARTS} are read")
    for node in nodes:
        _check(node)
    return tree


def compile_expression(text: str, columns: Collection[str]) -> Compiled:
    """SQL for an expression over one of ``columns``' rows, called ``t``. Raises ExpressionError, also for other columns.

    >>> compile_expression("latency_seconds > 2 AND mode = 'chat'", {"latency_seconds", "mode"})
    Compiled(sql='t."latency_seconds" > %(p0)s AND t."mode" = %(p1)s', parameters={'p0': 2, 'p1': 'chat'})
    """
    from sqlglot import exp

    tree = parse(text)
    unknown = sorted({column.name for column in tree.find_all(exp.Column)} - set(columns))
    if unknown:
        near = closest(unknown[0], columns)
        hint = f"did you mean {near}?" if near else "see `metamon dictionary traces`"
        raise ExpressionError(f"there is no column {unknown[0]}; {hint}")
    parameters: dict[str, str | int | float] = {}
    compiled = tree.transform(lambda node: _replaced(node, parameters))
    return Compiled(compiled.sql(dialect="postgres", comments=False), parameters)


def _check(node: exp.Expr) -> None:
    from sqlglot import exp

    kind, shown = type(node).__name__, node.sql(dialect="postgres")[:60]
    if isinstance(node, exp.Anonymous):
        if node.name.lower() not in _FUNCTIONS or isinstance(node.this, exp.Identifier):
            raise ExpressionError(f"the function {node.name.lower()} is not among those that may be used")
        return
    if kind not in _ALLOWED:
        raise ExpressionError(f"{shown!r} ({kind}) is not allowed here: an expression computes one value from one trace")
    if isinstance(node, exp.Column) and node.table:
        raise ExpressionError(f"write {node.name} instead of {shown}")
    if isinstance(node, exp.DataType) and node.this.name not in _TYPES:
        raise ExpressionError(f"a value is not turned into {shown} here; numeric, integer, boolean and text are possible")
    if isinstance(node, exp.Var) and node.name.upper() not in _EXTRACTED:
        raise ExpressionError(f"{node.name} is not allowed here; of a time, epoch, hour, dow and isodow can be taken")
    _check_inside(node, shown)


def _check_inside(node: exp.Expr, shown: str) -> None:
    """What a kind of node that is allowed may not hold."""
    from sqlglot import exp

    if isinstance(node, exp.JSONPathKey) and not _KEY.fullmatch(str(node.this)):
        raise ExpressionError("the key of a JSON value must be text without control characters")
    if isinstance(node, exp.JSONExtractScalar) and not isinstance(node.expression, exp.JSONPath):
        raise ExpressionError(f"write the key of {shown} as text: metadata ->> 'resolved'")
    if isinstance(node, exp.Cast) and node.args.get("format"):
        raise ExpressionError(f"{shown!r} is not allowed here: a value is turned into a type without FORMAT")
    if isinstance(node, exp.Literal) and "\x00" in node.name:
        raise ExpressionError("a text cannot hold the character NUL")
    if isinstance(node, exp.In) and (node.args.get("query") or node.args.get("unnest")):
        raise ExpressionError("IN takes a list of values here")


def _replaced(node: exp.Expr, parameters: dict[str, str | int | float]) -> exp.Expr:
    """A node as it goes to the database: columns of ``t``, literals as parameters, JSON keys as parameters of a function."""
    from sqlglot import exp

    if isinstance(node, exp.Column):
        return exp.column(exp.to_identifier(node.name, quoted=True), table="t")
    if isinstance(node, exp.Literal):
        return _parameter(str(node.this) if node.is_string else _number(str(node.this)), parameters)
    if isinstance(node, exp.JSONExtractScalar):
        keys = [_parameter(str(key.this), parameters) for key in node.expression.find_all(exp.JSONPathKey)]
        column = _replaced(node.this, parameters)
        return exp.Anonymous(this="jsonb_extract_path_text", expressions=[column, *keys])
    return node


def _parameter(value: str | float, parameters: dict[str, str | int | float]) -> exp.Placeholder:
    from sqlglot import exp

    name = f"p{len(parameters)}"
    parameters[name] = value
    return exp.Placeholder(this=name)


def _number(text: str) -> int | float:
    number = int(text) if text.isdigit() else float(text)
    if number == float("inf"):
        raise ExpressionError(f"the number {text} is too large")
    return number


def _first_line(error: BaseException) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines()[0] if str(error) else "too deeply nested"
