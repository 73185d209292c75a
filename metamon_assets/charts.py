"""Pictures: data in, Vega-Lite specification out. ``as_svg`` draws them offline.

Colours are chosen by the page (light, dark, print), so axes and texts are drawn in ``currentColor``.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

from metamon_assets.words import clean

_WIDTH, _HEIGHT = 500, 170
_COLOURS = ["#4c6ef5", "#12b886", "#f59f00", "#e64980", "#7950f2", "#868e96"]  # told apart on white and on near-black
_INK = "currentColor"
_CONFIG = {
    "background": None,
    "view": {"stroke": None},
    "font": "system-ui, sans-serif",
    "axis": {
        "labelColor": _INK,
        "titleColor": _INK,
        "domainColor": _INK,
        "tickColor": _INK,
        "gridColor": "#8884",
        "labelFontSize": 13,
        "titleFontSize": 13,
        "titleFontWeight": "normal",
        "domainOpacity": 0.4,
        "tickOpacity": 0.4,
    },
    "legend": {"labelColor": _INK, "titleColor": _INK, "labelFontSize": 13, "orient": "top", "title": None, "symbolType": "square"},
    "range": {"category": _COLOURS},
}


def stacked_days(rows: Sequence[tuple[date, str, float]], *, title: str, order: Sequence[str]) -> dict[str, Any]:
    """Bars over days, stacked by a name. ``rows``: day, name, amount; ``order``: the names, largest first."""
    values = [{"day": day.isoformat(), "name": clean(name), "amount": amount} for day, name, amount in rows]
    names = [clean(name) for name in order]
    return {
        "width": _WIDTH,
        "height": _HEIGHT,
        "description": title,
        "data": {"values": values},
        "mark": {"type": "bar"},
        "encoding": {
            "x": {"field": "day", "type": "ordinal", "timeUnit": "utcyearmonthdate", "title": None, "axis": _DAYS},
            "y": {"field": "amount", "type": "quantitative", "aggregate": "sum", "title": title, "axis": {"tickCount": 4}},
            "color": {
                "field": "name",
                "type": "nominal",
                "scale": {"domain": names},
                "legend": {"columns": 2, "labelLimit": 180, "columnPadding": 56},
            },
        },
        "config": _CONFIG,
    }


def bars(rows: Sequence[tuple[str, float]], *, title: str, percent: bool = False) -> dict[str, Any]:
    """Lying bars, in the order given. ``rows``: name, amount."""
    values = [{"name": clean(name), "amount": amount, "place": place} for place, (name, amount) in enumerate(rows)]
    axis = {"tickCount": 4, **({"format": "%"} if percent else {})}
    return {
        "width": 330,
        "padding": {"left": 48, "top": 5, "right": 5, "bottom": 5},  # a browser's letters may be wider than those measured here
        "height": {"step": 22},
        "description": title,
        "data": {"values": values},
        "mark": {"type": "bar", "color": _COLOURS[0]},
        "encoding": {
            "y": {
                "field": "name",
                "type": "nominal",
                "sort": {"field": "place"},
                "title": None,
                "axis": {"labelLimit": 260, "ticks": False},
            },
            "x": {"field": "amount", "type": "quantitative", "title": title, "axis": axis},
        },
        "config": _CONFIG,
    }


def course(
    points: Sequence[tuple[datetime, float]], *, title: str, window: tuple[datetime, datetime] | None = None, percent: bool = False
) -> dict[str, Any]:
    """A line over time (UTC), with the hours from start to end of a window shaded."""
    axis = {"tickCount": 4, **({"format": "%"} if percent else {})}
    line = {
        "data": {"values": [{"time": _utc(time), "value": value} for time, value in points]},
        "mark": {"type": "line", "color": _COLOURS[0], "strokeWidth": 1.5},
        "encoding": {
            "x": {"field": "time", "type": "temporal", "scale": {"type": "utc"}, "title": None, "axis": _TIMES},
            "y": {"field": "value", "type": "quantitative", "title": None, "axis": axis},
        },
    }
    shade = {
        "data": {"values": [{"from": _utc(start), "to": _utc(end)} for start, end in ([window] if window else [])]},
        "mark": {"type": "rect", "color": _COLOURS[2], "opacity": 0.3},
        "encoding": {"x": {"field": "from", "type": "temporal", "scale": {"type": "utc"}}, "x2": {"field": "to"}},
    }
    return {
        "width": _WIDTH,
        "height": 110,
        "description": clean(title),
        "title": {"text": clean(title), "anchor": "start", "fontSize": 13, "fontWeight": "normal", "color": _INK, "limit": _WIDTH},
        "layer": [shade, line] if window else [line],
        "config": _CONFIG,
    }


def above_each_other(pictures: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Several pictures as one, each below the one before."""
    parts = [{name: value for name, value in picture.items() if name != "config"} for picture in pictures]
    return {"description": ", ".join(picture["description"] for picture in pictures), "vconcat": parts, "config": _CONFIG}


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def as_svg(specification: dict[str, Any], *, prefix: str) -> str:
    """The picture as an SVG element for a page: scales with the page, has a description, and its ids begin with ``prefix``."""
    import vl_convert

    svg: str = vl_convert.vegalite_to_svg(json.dumps(specification), vl_version="6.4")
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", svg)
    return re.sub(r' width="[\d.]+" height="[\d.]+"', ' preserveAspectRatio="xMinYMin meet"', svg, count=1)


def as_markdown(specification: dict[str, Any], *, alt: str) -> str:
    """The picture inside Markdown, for Dagster metadata."""
    import vl_convert

    svg = vl_convert.vegalite_to_svg(json.dumps(specification), vl_version="6.4").replace(_INK, "#495057")
    return f"![{alt}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"


_TIMES = {"format": "%d %b", "labelAngle": 0, "labelOverlap": "greedy", "labelSeparation": 12, "tickCount": 7}
_DAYS = {"format": "%d %b", "labelAngle": 0, "labelOverlap": "greedy", "labelSeparation": 6}
