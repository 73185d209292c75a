"""When the runs come and how long they take: a picture of their number and of their typical latency over time.

Here belongs what needs nothing but a time, so that a table of time and status has a picture too. What stands out in it is searched
by ``incidents``.
"""

from __future__ import annotations

import math
from datetime import timedelta

import numpy as np

from metamon_assets import charts, words
from metamon_assets.reports import history as histories
from metamon_assets.reports.findings import Content, Context

HOURLY = 24 * 14  # hours up to which each has a point; of longer times each day has one
FEWEST = 3  # points of a line


def build(context: Context) -> Content:
    """One picture with runs and, where it is known, latency below."""
    history = histories.load(context)
    each, unit = (1, "hour") if history.hours <= HOURLY else (24, "day")
    shift = history.start.hour if unit == "day" else 0  # days begin at midnight
    bins = math.ceil((history.hours + shift) / each)
    if bins < FEWEST:
        return Content(silence=f"{words.many(len(history.runs), 'run')}, in too short a time for a picture.")
    at = ((history.runs["hour"].to_numpy() + shift) / each).astype(np.int64).clip(0, bins - 1)
    times = [history.start + timedelta(hours=each * number - shift) for number in range(bins)]
    counts = np.bincount(at, minlength=bins)
    pictures = [charts.course([(time, float(count)) for time, count in zip(times, counts, strict=True)], title=f"Runs by {unit}")]
    medians = history.runs["latency"].groupby(at).median().dropna()
    if len(medians) >= FEWEST:
        points = [(times[number], value) for number, value in zip(medians.index.tolist(), medians.tolist(), strict=True)]
        pictures.append(charts.course(points, title=f"Median latency by {unit} (seconds)"))
    busiest = int(np.argmax(counts))
    when = histories.clock(context, times[busiest])
    told = f"{words.many(len(history.runs), 'run')}; the most in one {unit} were {counts[busiest]:,}, from {when} on."
    return Content(charts=(charts.above_each_other(pictures),), silence=told)
