"""The sample world as the contents of a home: files that a source reads, a configuration that names them, the truth apart.

A home holds either the sample world or data of one's own, never both.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from metamon_assets.simulation.writer import DEFAULT_DAYS, DEFAULT_SEED, Progress, Simulation, SimulationError, first_day, simulate

if TYPE_CHECKING:
    from metamon_assets.config import Settings

DEFAULT_TRACES_PER_DAY = 1000  # with the days, what a small machine computes in a few minutes
CONFIGURATION = """\
# The sample world: simulated agents, tenants and people, written by `metamon simulate`.
# Data of your own belong into a home of their own.
start_day: {start}
sources:
  - type: files
    project: sample
    path: sample
"""


def furnish(
    settings: Settings,
    *,
    days: int | None = None,
    traces_per_day: int | None = None,
    seed: int | None = None,
    say: Callable[[str], None],
    today: date | None = None,
) -> Simulation:
    """Write the world's days up to yesterday (UTC) that the home lacks, and the home's metamon.yaml.

    A home that has a world keeps its first day, size and seed. Raises SimulationError where the home holds something
    else, or another world was asked for.
    """
    today = today or datetime.now(UTC).date()
    folder, manifest = settings.home / "sample", settings.home / "sample" / "manifest.json"
    if not manifest.exists():
        if settings.config_path.exists() or (settings.home / "postgres").exists():
            raise SimulationError(f"{settings.home} is in use for other data: give the sample world a METAMON_HOME of its own.")
        start = first_day(today, days or DEFAULT_DAYS)
        size, number = traces_per_day or DEFAULT_TRACES_PER_DAY, DEFAULT_SEED if seed is None else seed
    else:
        world = json.loads(manifest.read_text())
        start = date.fromisoformat(world["first_day"])
        if days is not None and first_day(today, days) < start:
            raise SimulationError(f"The sample world in {folder} begins on {start}: delete {settings.home}, or use another METAMON_HOME.")
        size, number = traces_per_day or world["traces_per_day"], world["seed"] if seed is None else seed
    written = simulate(number, start, (today - start).days, size, folder, settings.home / "truth", progress=_teller(say))
    if not settings.config_path.exists():
        settings.config_path.write_text(CONFIGURATION.format(start=start), encoding="utf-8")
    return written


def _teller(say: Callable[[str], None]) -> Progress:
    """A counter on a terminal; a line every five seconds elsewhere."""
    told = time.monotonic()

    def tell(done: int, total: int, day: date) -> None:
        nonlocal told
        if sys.stderr.isatty():
            print(f"\rSimulating {day} ({done} of {total} days)", end="\n" if done == total else "", file=sys.stderr, flush=True)
        elif done == total or time.monotonic() - told > 5:
            told = time.monotonic()
            say(f"Simulated {done} of {total} days")

    return tell
