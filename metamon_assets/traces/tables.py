"""The raw tables as the merge sees them: their keys, and which version of a row is the newer one.

A run that has ended beats one that is pending, whatever was read last; then the later end, then the fresher
reading. A row that stands in for a root nobody saw loses to the root itself. ``abandoned`` is a verdict of ours over
pending runs, so it beats pending and loses to any real end.
"""

from __future__ import annotations

from metamon_assets.warehouse.merge import MergeTable

_RUN_KEY = ("run_id", "project", "source")
_RUN_VERSION = (
    "NOT {row}.root_inferred, CASE {row}.status WHEN 'pending' THEN 0 WHEN 'abandoned' THEN 1 ELSE 2 END,"
    " COALESCE({row}.end_time, '-infinity'), {row}.observed_time"
)
_EDITED_VERSION = "COALESCE({row}.modified_at, {row}.created_at), {row}.observed_time"
_FRESHNESS = "{row}.observed_time"

TRACES = MergeTable("traces", _RUN_KEY, _RUN_VERSION)
SPANS = MergeTable("spans", _RUN_KEY, _RUN_VERSION)
PAYLOADS = MergeTable("payloads", _RUN_KEY, _FRESHNESS)
FEEDBACK = MergeTable("feedback", ("feedback_id", "project", "source"), _EDITED_VERSION)
GAUGE_SAMPLES = MergeTable("gauge_samples", ("name", "time", "labels", "project", "source"), _FRESHNESS)
EVENTS = MergeTable("events", ("event_id", "project", "source"), _FRESHNESS, partitioned=False)
