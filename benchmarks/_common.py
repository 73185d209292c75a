"""What every benchmark shares: its arguments, its table of targets, a server of its own, how figures are shown and kept.

A script names its targets at the top, measures, records one figure for each, and ends with ``Report.finish()``.
Nothing about a particular claim belongs here.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from metamon_assets.config import Settings
from metamon_assets.warehouse import server


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure must reach: at least ``limit`` (``at_least`` False: at most), with ``upper`` at most that too.

    ``limit`` None: reported beside the others, without a target. A figure that is NaN meets no target.
    """

    name: str
    unit: str
    limit: float | None = None
    at_least: bool = True
    upper: float | None = None

    @property
    def wanted(self) -> str:
        if self.limit is None:
            return "–"
        if self.upper is not None:
            return f"{_number(self.limit)} to {_number(self.upper)} {self.unit}".strip()
        return f"{'≥' if self.at_least else '≤'} {_number(self.limit)} {self.unit}".strip()

    def met(self, value: float) -> bool:
        if self.limit is None:
            return True
        if self.upper is not None:
            return self.limit <= value <= self.upper
        return value >= self.limit if self.at_least else value <= self.limit


@dataclass(frozen=True, slots=True)
class Figure:
    """What was measured: the median of ``runs``, and how it came about."""

    name: str
    value: float
    unit: str
    target: str
    met: bool
    runs: tuple[float, ...]
    note: str


@dataclass(slots=True)
class Report:
    """The figures of one script, shown as they come."""

    script: str
    targets: Sequence[Target]
    arguments: argparse.Namespace
    figures: list[Figure] = field(default_factory=list)

    def record(self, name: str, runs: float | Sequence[float], note: str = "", *, limit: float | None = None) -> float:
        """Keep a figure (the median of several); ``limit`` replaces the target's, where --quick measures less of it."""
        target = next(target for target in self.targets if target.name == name)
        if limit is not None:
            target = Target(target.name, target.unit, limit, target.at_least, target.upper)
        several = tuple(map(float, runs)) if isinstance(runs, Sequence) else (float(runs),)
        value = statistics.median(several)
        figure = Figure(name, value, target.unit, target.wanted, target.met(value), several, note)
        self.figures.append(figure)
        spread = f" [{_number(min(several))} to {_number(max(several))}, n={len(several)}]" if len(several) > 1 else ""
        verdict = "" if target.limit is None else f"  target {target.wanted}: {'met' if figure.met else 'MISSED'}"
        print(f"{name}: {_number(value)} {target.unit}{spread}{verdict}{f'  ({note})' if note else ''}", flush=True)
        return value

    def markdown(self) -> str:
        """Rows for the table in docs/benchmarks.md: what, figure, target, how it came about, command."""
        command = f"benchmarks/{self.script}.py" + (" --quick" if self.arguments.quick else "")
        rows = (
            (f.name, f"{'' if f.met else '**missed** '}{_number(f.value)} {f.unit}", f.target, f.note, f"`{command}`") for f in self.figures
        )
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)

    def finish(self) -> int:
        """Write what was asked for; gives the exit code."""
        if self.arguments.json:
            content = {"script": self.script, "seed": self.arguments.seed, "quick": self.arguments.quick, "cpus": os.cpu_count()}
            self.arguments.json.write_text(
                json.dumps(content | {"figures": [asdict(figure) for figure in self.figures]}, indent=1) + "\n", encoding="utf-8"
            )
        if self.arguments.markdown:
            print(self.markdown())
        missed = [figure.name for figure in self.figures if not figure.met]
        if missed:
            print(f"missed: {', '.join(missed)}")
        return 1 if missed and self.arguments.check else 0


def arguments(description: str) -> argparse.ArgumentParser:
    """The options that every script takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seed", type=int, default=1, help="of the simulated rows (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="fewer rows and days: a minute or two")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--markdown", action="store_true", help="print rows for the table in docs/benchmarks.md")
    parser.add_argument("--check", action="store_true", help="exit 1 when a target is missed")
    return parser


@contextmanager
def home() -> Iterator[Settings]:
    """A home of its own in the temporary folder, gone at the end; METAMON_HOME names it to the processes that are started.

    The server that runs in it has the product's own settings.
    """
    with tempfile.TemporaryDirectory(prefix="metamon-benchmark-") as folder:
        Path(folder).chmod(0o755)  # started by root, the server's user has to pass through
        before = {name: os.environ.pop(name, None) for name in ("METAMON_HOME", "METAMON_CONFIG", "METAMON_DATABASE_URL", "DAGSTER_HOME")}
        os.environ["METAMON_HOME"] = str(Path(folder) / "home")
        try:
            yield Settings.load()
        finally:
            os.environ.pop("METAMON_HOME")
            os.environ.update({name: value for name, value in before.items() if value is not None})


@contextmanager
def database() -> Iterator[tuple[Settings, str]]:
    """Such a home with its server running and migrated, and the address that the pipeline uses."""
    with home() as settings, server.ready(settings, lambda _: None) as url:
        yield settings, url


def reference_cases(kind: str) -> Path:
    """Where the reference cases of a kind lie, if they are here: METAMON_SHARED_CASES, or the folder shared beside the project."""
    return Path(os.environ.get("METAMON_SHARED_CASES", Path(__file__).resolve().parents[2] / "shared" / "cases")) / kind


class Stopwatch:
    """``with Stopwatch() as watch: …``, then ``watch.seconds``."""

    seconds: float

    def __enter__(self) -> Stopwatch:
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
