"""The sections of the report: a module for each, and the registry that says which there are."""

from __future__ import annotations

from metamon_assets.reports.findings import Registry, Section


def default_registry() -> Registry:
    """All sections as a report has them. A later stage registers its own form under the same key."""
    from metamon_assets.reports.sections import (
        changes,
        cost,
        errors,
        incidents,
        readiness,
        repeats,
        retries,
        savings,
        slices,
        steps,
        traffic,
    )

    registry = Registry()
    for section in (
        Section("cost", "What it costs", 10, cost.build),
        Section("traffic", "When it runs", 15, traffic.build),
        Section("incidents", "What went wrong in this time", 20, incidents.build),
        Section("changes", "What changes did", 30, changes.build),
        Section("errors", "How runs fail", 40, errors.build),
        Section("steps", "Where the time goes", 50, steps.build),
        Section("slices", "Who and what stands out", 60, slices.build),
        Section("retries", "Work done again after a failure", 70, retries.build),
        Section("repeats", "The same input again", 80, repeats.build),
        Section("savings", "What could be saved", 90, savings.build),
        Section("readiness", "What can be seen with this traffic", 100, readiness.build),
    ):
        registry.register(section)
    return registry
