"""The report as rows of ``metamon.report_findings``, so that what it said can be compared from day to day."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import date
from typing import TYPE_CHECKING, Any

import orjson

from metamon_assets.words import clean

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from metamon_assets.reports.findings import Finding
    from metamon_assets.reports.report import Report

COLUMNS = (
    "day, project, section, rank, key, severity, statement, certainty,"
    " value, low, high, unit, sample, p_value, money_per_month, cost, runs, query"
)


def replace_day(connection: Connection, day: date, report: Report) -> int:
    """Write what the report found in the place of what was there for the day; gives the number of rows."""
    from psycopg2.extras import execute_values

    rows = list(_rows(day, report))
    with connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM metamon.report_findings WHERE day = %s", (day,))
        execute_values(cursor, f"INSERT INTO metamon.report_findings ({COLUMNS}) VALUES %s", rows)
    return len(rows)


def _rows(day: date, report: Report) -> Iterator[tuple[Any, ...]]:
    for part in report.parts:
        for rank, finding in enumerate(part.content.findings, start=1):
            yield (day, report.project, part.section.key, rank, *_fields(finding))
        if part.failure:
            told = f"The section {part.section.title} failed and is missing: {clean(part.failure)}"
            yield (day, report.project, part.section.key, 1, f"{part.section.key}.failed", "serious", told, "", *[None] * 8, "[]", "")


def _fields(finding: Finding) -> tuple[Any, ...]:
    found = finding.estimate
    figures = (None,) * 6 if found is None else (found.value, found.low, found.high, found.unit, found.sample, found.p_value)
    known = (_plain(figure) for figure in figures)
    texts = (clean(finding.key), finding.severity, clean(finding.statement), clean(finding.certainty))
    return (*texts, *known, finding.money_per_month, finding.cost, orjson.dumps(list(finding.runs)).decode(), finding.query)


def _plain(figure: Any) -> Any:
    """NULL for what is not a number, and NumPy's floats as Python's: the database's driver would write their names."""
    if not isinstance(figure, float):
        return figure
    return None if math.isnan(figure) else float(figure)
