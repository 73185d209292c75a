"""Small pictures for mails, as PNG: mail programs show these everywhere, and SVG hardly anywhere.

The style is that of the report's pictures (``charts``), on white, since a mail does not choose its background.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from metamon_assets import charts
from metamon_assets.health.measures import of_minutes
from metamon_assets.metrics.completions import BUCKET, bucket_of

if TYPE_CHECKING:
    from metamon_assets.alerts.incidents import Incident
    from metamon_assets.warehouse.connection import Cursor

HOURS = timedelta(hours=6)
FEWEST_POINTS = 3
_INK, _ALARM, _BAND = "#495057", "#c02b2b", "#12b886"


def course(cursor: Cursor, incident: Incident, now: datetime) -> str | None:
    """The metric of an incident over the last hours with its band and threshold, as a data: address; None without data."""
    end = bucket_of(min(now, incident.resolved_at or now)) + BUCKET
    starts = [end - HOURS + number * BUCKET for number in range(int(HOURS / BUCKET))]
    group = (incident.dimension, incident.dimension_value)
    sums = of_minutes(cursor, incident.metric, group, [(start, start + BUCKET) for start in starts], now)
    points = [(start, value) for start, found in zip(starts, sums or [], strict=False) if (value := found.ratio) is not None]
    if len(points) < FEWEST_POINTS:
        return None
    percent = incident.metric.endswith(("_rate", "_share"))
    window = (max(incident.started_at, starts[0]), min(incident.resolved_at or end, end))
    specification = charts.course(
        points, title=f"{incident.metric}, times UTC", window=window if window[0] < window[1] else None, percent=percent
    )
    specification["layer"] = [*_band(incident, starts[0], end), *specification["layer"], *_threshold(incident)]
    specification["layer"][-1 - len(_threshold(incident))]["encoding"]["x"]["axis"] = {"format": "%H:%M", "tickCount": 6}
    return as_data(specification)


def _band(incident: Incident, start: datetime, end: datetime) -> list[dict[str, Any]]:
    if incident.lower is None or incident.upper is None:
        return []
    row = {"from": _utc(start), "to": _utc(end), "lower": incident.lower, "upper": incident.upper}
    return [
        {
            "data": {"values": [row]},
            "mark": {"type": "rect", "color": _BAND, "opacity": 0.2},
            "encoding": {
                "x": {"field": "from", "type": "temporal", "scale": {"type": "utc"}},
                "x2": {"field": "to"},
                "y": {"field": "lower", "type": "quantitative"},
                "y2": {"field": "upper"},
            },
        }
    ]


def _threshold(incident: Incident) -> list[dict[str, Any]]:
    if incident.threshold is None:
        return []
    return [
        {
            "data": {"values": [{"threshold": incident.threshold}]},
            "mark": {"type": "rule", "color": _ALARM, "strokeDash": [4, 4]},
            "encoding": {"y": {"field": "threshold", "type": "quantitative"}},
        }
    ]


def by_day(rows: Sequence[tuple[date, str, float]], title: str, colours: Mapping[str, str]) -> str:
    """Amounts of days, stacked by a name in the order of ``colours``, as a data: address."""
    specification = charts.stacked_days(rows, title=title, order=list(colours))
    specification["encoding"]["color"]["scale"]["range"] = list(colours.values())
    return as_data(specification)


def as_data(specification: dict[str, Any]) -> str:
    """The picture as a data: address, PNG."""
    import vl_convert

    text = json.dumps({**specification, "background": "#ffffff"}).replace("currentColor", _INK)
    png = vl_convert.vegalite_to_png(text.replace('"background": null', '"background": "#ffffff"'), vl_version="6.4", scale=1.5)
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
