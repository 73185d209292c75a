"""Great Expectations over days: the data of a day are described by one row of figures, and suites speak of those.

Here belongs how a suite is run and read; the suites stand in each stage's ``checks.py``. The figures are computed in
the database (one row per day: counts, shares, extremes), so a suite costs the same on a thousand rows and on ten
million, and each row that fails an expectation names its day. Importing Great Expectations takes some five seconds,
so it happens when a check runs, never when definitions load.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from psycopg2.extensions import connection as Connection


@dataclass(frozen=True, slots=True)
class Between:
    """The figure ``column`` of a day lies between ``least`` and ``most`` (both inclusive; None: open). NULL passes."""

    column: str
    least: float | None = None
    most: float | None = None

    def __str__(self) -> str:
        low = f"{self.least:g} ≤ " if self.least is not None else ""
        high = f" ≤ {self.most:g}" if self.most is not None else ""
        return f"{low}{self.column}{high}"


@dataclass(frozen=True, slots=True)
class Failure:
    """An expectation that a day does not meet, and the figure that was found."""

    expectation: Between
    found: Any

    def __str__(self) -> str:
        return (
            f"expected {self.expectation}, found {self.found:g}"
            if isinstance(self.found, float)
            else f"expected {self.expectation}, found {self.found}"
        )


def profile(connection: Connection, query: str, days: Sequence[date]) -> pd.DataFrame:
    """One row of figures per day that has rows. ``query`` takes %(days)s and gives a column ``day`` first."""
    import pandas as pd

    with connection, connection.cursor() as cursor:
        cursor.execute(query, {"days": list(days)})
        names = [column.name for column in cursor.description or ()]
        rows = cursor.fetchall()
    frame = pd.DataFrame(rows, columns=names)
    figures = [name for name in names if name != "day"]
    return frame.assign(**{name: pd.to_numeric(frame[name]) for name in figures})


def failures(frame: pd.DataFrame, suite: Sequence[Between]) -> Mapping[date, list[Failure]]:
    """What the days of ``frame`` fail in ``suite``; a day that meets all of it is absent."""
    found: dict[date, list[Failure]] = {}
    if frame.empty:
        return found
    for expectation, rows in _validate(frame, suite):
        for row in rows:
            found.setdefault(row["day"], []).append(Failure(expectation, row[expectation.column]))
    return found


def _validate(frame: pd.DataFrame, suite: Sequence[Between]) -> list[tuple[Between, list[dict[str, Any]]]]:
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig
    from great_expectations.expectations.core.expect_column_values_to_be_between import ExpectColumnValuesToBeBetween

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("days").add_dataframe_asset("profile")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch(batch_parameters={"dataframe": frame})
    results = batch.validate(
        gx.ExpectationSuite(
            name="days",
            expectations=[ExpectColumnValuesToBeBetween(column=item.column, min_value=item.least, max_value=item.most) for item in suite],
        ),
        result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["day"], "return_unexpected_index_query": False},
    )
    # Results come in no order that is promised: they are told apart by what they say about themselves.
    by_column = {(item.column, item.least, item.most): item for item in suite}
    outcomes = []
    for result in results.results:
        if result.exception_info and (result.exception_info.get("raised_exception") or _raised(result.exception_info)):
            raise RuntimeError(f"an expectation could not be checked: {result.exception_info}")
        told = result.expectation_config.kwargs if result.expectation_config else {}
        item = by_column[told["column"], told.get("min_value"), told.get("max_value")]
        outcomes.append((item, list(result.result.get("unexpected_index_list") or ())))
    return outcomes


def _raised(info: Mapping[str, Any]) -> bool:
    return any(isinstance(part, Mapping) and part.get("raised_exception") for part in info.values())
