"""Pictures of metrics: data in, Altair chart out; the same chart is SVG here, interactive in the dashboard.

Importing Altair and the renderer takes half a second, so it happens where a chart is drawn.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import date
from typing import Any

TrendRow = tuple[date, int, float | None, float | None, Any]
_PANEL = {"width": 190, "height": 70}


def daily_trend(rows: Sequence[TrendRow]) -> Any:
    """Small multiples over days. ``rows``: day, requests, error rate (0 to 1), p95 latency (s), cost (US dollars)."""
    import altair as alt

    values = [
        {
            "day": day.isoformat(),
            "requests": requests,
            "errors %": None if errors is None else 100 * errors,
            "p95 latency s": p95,
            "cost $": None if cost is None else float(cost),
        }
        for day, requests, errors, p95, cost in rows
    ]
    base = alt.Chart(alt.Data(values=values)).properties(**_PANEL)
    panels = [
        base.mark_line(strokeWidth=1.5, color="#4c6ef5").encode(
            x=alt.X("day:T", title=None, axis=alt.Axis(format="%d %b", tickCount=3, grid=False, ticks=False)),
            y=alt.Y(f"{name}:Q", title=name, axis=alt.Axis(tickCount=3, gridColor="#e9ecef", ticks=False), scale=alt.Scale(zero=True)),
        )
        for name in ("requests", "errors %", "p95 latency s", "cost $")
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
