"""Pictures of metrics: data in, Altair chart out; the same chart is SVG here, interactive in the dashboard.

Importing Altair and the renderer takes half a second, so it happens where a chart is drawn.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import date
from typing import Any

TrendRow = tuple[date, int, float | None, float | None, float | None]
FIGURES = ("requests", "errors %", "p95 seconds", "cost $")  # of a TrendRow, after the day
_BLOCKS = "▁▂▃▄▅▆▇█"
_PANEL = {"width": 190, "height": 70}


def sparkline(values: Sequence[float | None]) -> str:
    """A course in one line of text, from zero to the largest value; ``·`` where there is none."""
    largest = max((value for value in values if value is not None), default=0.0)
    return "".join("·" if value is None else _BLOCKS[round(7 * value / largest) if largest > 0 else 0] for value in values)


def daily_courses(rows: Sequence[TrendRow]) -> list[tuple[str, str, float | None, float | None]]:
    """Each figure's name, its course as a sparkline, its least and its largest value. A day without a row is a gap."""
    by_day = {row[0]: row[1:] for row in rows}
    first, last = min(by_day), max(by_day)
    days = [date.fromordinal(number) for number in range(first.toordinal(), last.toordinal() + 1)]
    courses = []
    for index, name in enumerate(FIGURES):
        values = [by_day[day][index] if day in by_day else None for day in days]
        known = [value for value in values if value is not None]
        courses.append((name, sparkline(values), min(known, default=None), max(known, default=None)))
    return courses


def daily_trend(rows: Sequence[TrendRow]) -> Any:
    """Small multiples over days. ``rows``: day, requests, error rate (%), p95 latency (s), cost (US dollars)."""
    import altair as alt

    values = [{"day": day.isoformat(), **dict(zip(FIGURES, figures, strict=True))} for day, *figures in rows]
    every = {"interval": "day", "step": max(1, len(values) // 3)}
    axis = alt.Axis(format="%d %b", tickCount=every, grid=False, ticks=False)
    base = alt.Chart(alt.Data(values=values)).properties(**_PANEL)
    panels = [
        base.mark_line(strokeWidth=1.5, color="#4c6ef5", point=alt.OverlayMarkDef(size=14, color="#4c6ef5")).encode(
            x=alt.X("day:T", title=None, axis=axis),
            y=alt.Y(f"{name}:Q", title=name, axis=alt.Axis(tickCount=3, gridColor="#e9ecef", ticks=False), scale=alt.Scale(zero=True)),
        )
        for name in FIGURES
    ]
    return alt.hconcat(*panels).configure_view(stroke=None).configure_axis(labelFontSize=9, titleFontSize=10)


def as_svg(chart: Any) -> str:
    """The chart as an SVG document, drawn offline."""
    import vl_convert

    return vl_convert.vegalite_to_svg(chart.to_json(), vl_version="6.4")


def as_markdown(chart: Any, *, alt: str) -> str:
    """The chart as a picture inside Markdown, for Dagster metadata."""
    encoded = base64.b64encode(as_svg(chart).encode()).decode()
    return f"![{alt}](data:image/svg+xml;base64,{encoded})"
