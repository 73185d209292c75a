"""Buckets, unit-level sums and daily metrics: what the traces add up to.

``rollups`` computes them, ``registry`` says which metrics follow from them, ``histogram`` reads their percentiles.
"""

from metamon_assets.metrics.registry import METRICS, Metric
from metamon_assets.metrics.rollups import Refreshed, refresh_buckets, refresh_days, refresh_five_minutes, touched_buckets

__all__ = ["METRICS", "Metric", "Refreshed", "refresh_buckets", "refresh_days", "refresh_five_minutes", "touched_buckets"]
