"""A seeded world of agents in production whose truth is known. Tests, benchmarks and the cli use it; no stage may.

``World(seed).day(date)`` gives a day as tables, ``simulate`` writes days as files and the truth beside them,
``bulk_traces`` and ``write_bulk_jsonl`` give many plain rows. The modules, from the ground up: ``draws`` (random
streams), ``world`` (who there is), ``changes`` and ``incidents`` (what is planted), ``arrivals`` and ``traffic`` (what
happens), ``rows`` and ``jsonl`` (how it looks), ``simulator``, ``truth``, ``writer``, ``bulk``.
"""

from __future__ import annotations

from metamon_assets.simulation.bulk import bulk_traces, write_bulk_jsonl
from metamon_assets.simulation.simulator import TRACES_PER_DAY, Day, World
from metamon_assets.simulation.writer import DEFAULT_DAYS, DEFAULT_SEED, Simulation, SimulationError, first_day, simulate

__all__ = [
    "DEFAULT_DAYS",
    "DEFAULT_SEED",
    "TRACES_PER_DAY",
    "Day",
    "Simulation",
    "SimulationError",
    "World",
    "bulk_traces",
    "first_day",
    "simulate",
    "write_bulk_jsonl",
]
