"""Buckets, unit-level sums and daily metrics: what the traces add up to."""
