"""The sample world as files that a source reads: runs/, feedback/, events/, gauges/, one JSONL file per day.

Here belongs what files add to the world: lines that come a day late, runs that are pending when their day's file
is written, lines that are damaged or doubled (at low, known rates, told to the truth). A file depends on the seed,
its day and the size of the world only, so a range can be extended or written in pieces. Files carry the time of
their day's end plus ten minutes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from metamon_assets.errors import MetamonError
from metamon_assets.simulation import jsonl, rows, truth
from metamon_assets.simulation.arrivals import day_number
from metamon_assets.simulation.changes import DAY
from metamon_assets.simulation.draws import Bools, stream
from metamon_assets.simulation.rows import SNAPSHOT_DELAY, WHOLE_LATE
from metamon_assets.simulation.simulator import TRACES_PER_DAY, World
from metamon_assets.simulation.traffic import Flow

FORMAT = 1  # of the world: another number means other files for the same seed
DEFAULT_DAYS = 28
DEFAULT_SEED = 7
_DOUBLED, _DAMAGED = 5e-4, 2e-4  # shares of the lines

Progress = Callable[[int, int, date], None]


class SimulationError(MetamonError):
    """The sample world cannot be written as asked."""


@dataclass(frozen=True, slots=True)
class Simulation:
    """What a call wrote: files and bytes of this call; the days that exist now."""

    first_day: date
    last_day: date
    days_written: int
    traces: int
    files: int
    bytes: int


def first_day(today: date, days: int = DEFAULT_DAYS) -> date:
    """The first of the ``days`` whole UTC days that end yesterday."""
    return today - timedelta(days=days)


def simulate(
    seed: int,
    start_day: date,
    days: int,
    traces_per_day: float,
    out_dir: str | Path,
    truth_dir: str | Path,
    *,
    progress: Progress | None = None,
) -> Simulation:
    """Write the days (UTC) of the sample world that are not there yet; a second call does nothing.

    ``progress`` is called after each day with days done, days to do and the day. Raises SimulationError when
    ``out_dir`` holds another world, or when the truth would lie where sources read.
    """
    if days < 1 or traces_per_day <= 0:
        raise SimulationError(f"cannot simulate {days} days of {traces_per_day} traces; ask for at least one of each")
    out, hidden = Path(out_dir).resolve(), Path(truth_dir).resolve()
    if hidden.is_relative_to(out):
        raise SimulationError(f"{hidden}: the truth must not lie in {out}, which sources read; name a folder beside it")
    world = World(seed, traces_per_day)
    known = _manifest(out, world)
    wanted = [start_day + timedelta(days=number) for number in range(days)]
    missing = [day for day in wanted if not (_runs_file(out, day).exists() and _truth_file(hidden, day).exists())]
    files = size = traces = 0
    view = _View(world)
    for done, day in enumerate(missing, 1):
        contents, record = view.day(day)
        for name, content in contents.items():
            size += _write(out / name, content, day)
            files += 1
        truth.write_day(hidden, record)
        traces += record["files"]["traces"]
        if progress:
            progress(done, len(missing), day)
    first, last = min([start_day, *known]), max([wanted[-1], *known])
    if missing or not (hidden / "truth.json").exists():
        every = [first + timedelta(days=number) for number in range((last - first).days + 1)]
        gaps = [day for day in every if not _truth_file(hidden, day).exists()]
        if gaps:
            first, last = wanted[0], wanted[-1]
        truth.write_summary(hidden, world, first, last)
        _write_manifest(out, world, first, last)
    return Simulation(first, last, len(missing), traces, files, size)


class _View:
    """Files of days, one after the other; keeps what neighbouring days share."""

    def __init__(self, world: World) -> None:
        self.world = world
        # Not more than a week: days are visited in order, and each looks back on a few.
        self._dressed = lru_cache(maxsize=2)(world.dressed)
        self._feedback = lru_cache(maxsize=rows.FEEDBACK_DAYS + 1)(lambda day: rows.feedback(world.cast, self._dressed(day)))

    def day(self, day: date) -> tuple[dict[str, Any], dict[str, Any]]:
        """The contents of a day's files by their names, and the day's truth."""
        cast, number = self.world.cast, day_number(day)
        said = self._feedback_of(day)  # oldest days first, so that the neighbours are fresh below
        before, flow = self._dressed(day - timedelta(days=1)), self._dressed(day)
        late = _tomorrow(cast, before)
        lines = jsonl.lines(pa.concat_tables([_today(cast, flow), late, rows.own_runs(cast, number)]).combine_chunks())
        content, damaged, doubled = _spoil(self.world.seed, day, lines)
        contents: dict[str, Any] = {f"runs/{day}.jsonl": content}
        tables = {"feedback": said, "events": rows.events(cast, number, flow.incidents), "gauges": rows.gauges(cast, flow)}
        contents |= {f"{name}/{day}.jsonl": jsonl.line_bytes(jsonl.lines(table)) for name, table in tables.items() if table.num_rows}
        record = truth.day_truth(self.world, day, flow)
        requests = flow.requests
        record["files"] = {
            "traces": len(requests["time"]),
            "calls": len(flow.calls["start"]),
            "late_traces": int((requests["late"] == WHOLE_LATE).sum()),
            "traces_with_late_calls": int((requests["late"] > WHOLE_LATE).sum()),
            "never_ending": int(requests["never"].sum()),
            "own_runs": rows.own_runs(cast, number).num_rows,
            "lines_from_the_day_before": late.num_rows,
            "lines": len(lines) + len(damaged) + doubled,
            "doubled_lines": doubled,
            "damaged": damaged,
        }
        return contents, record

    def _feedback_of(self, day: date) -> pa.Table:
        """What was said or changed on a day, about runs of that day and the days before."""
        start = day_number(day) * DAY
        found = []
        for back in reversed(range(rows.FEEDBACK_DAYS)):
            said = self._feedback(day - timedelta(days=back))
            found += [_within(said.given, "created_at", start), _within(said.edited, "modified_at", start)]
        return pa.concat_tables(found).combine_chunks()


def _today(cast: Any, flow: Flow) -> pa.Table:
    """A day's runs as its own file shows them."""
    late, snapshot = flow.requests["late"], _snapshot(flow)
    begun = flow.calls["start"] <= snapshot
    return rows.runs(cast, flow, late != WHOLE_LATE, (late[flow.calls["request"]] == 0) & begun, as_of=snapshot)


def _tomorrow(cast: Any, flow: Flow) -> pa.Table:
    """A day's runs that the next day's file shows: what was late, and what was pending and has ended since."""
    late, snapshot = flow.requests["late"], _snapshot(flow)
    owner = flow.calls["request"]
    ended = (flow.requests["end"] > snapshot) & ~flow.requests["never"]
    calls_ended = (rows.ends_of_children(flow) > snapshot) & ~flow.requests["never"][owner]
    begun_since = flow.calls["start"] > snapshot
    return rows.runs(cast, flow, (late == WHOLE_LATE) | ended, (late[owner] > 0) | calls_ended | begun_since)


def _snapshot(flow: Flow) -> int:
    return (flow.day + 1) * DAY + SNAPSHOT_DELAY


def _within(table: pa.Table, column: str, start: int) -> pa.Table:
    times = table[column].cast(pa.int64()).to_numpy()
    inside: Bools = (times >= start) & (times < start + DAY)
    return table.filter(pa.array(inside))


# Damage ----------------------------------------------------------------------------------------------------


def _spoil(seed: int, day: date, lines: pa.Array) -> tuple[bytes, list[dict[str, Any]], int]:
    """A file's bytes with a few lines doubled and a few damaged ones put in between (of runs that never were)."""
    rng = stream(seed, "spoil", day_number(day))
    count = len(lines)
    doubled, broken = int(rng.poisson(count * _DOUBLED)), int(rng.poisson(count * _DAMAGED))
    places = np.sort(rng.integers(0, count, doubled + broken))
    damage = rng.permutation(np.arange(doubled + broken) < broken)
    chunks: list[bytes | memoryview] = []
    damaged: list[dict[str, Any]] = []
    position = 0
    for added, (place, is_damaged) in enumerate(zip(places.tolist(), damage.tolist(), strict=True)):
        chunks.append(jsonl.line_bytes(lines.slice(position, place + 1 - position)))
        position = place + 1
        line = lines[place].as_py().encode()
        if is_damaged:
            kind = str(rng.choice(list(_DAMAGE)))
            run_id = f"{int(rng.integers(2**62)):016x}"
            line = _DAMAGE[kind]({**orjson.loads(line), "run_id": run_id})
            damaged.append({"file": f"runs/{day}.jsonl", "line": place + 2 + added, "kind": kind, "run_id": run_id})
        chunks.append(line)
    chunks.append(jsonl.line_bytes(lines.slice(position)))
    return b"".join(chunks), damaged, doubled


def _dump(run: dict[str, Any]) -> bytes:
    return orjson.dumps(run, option=orjson.OPT_APPEND_NEWLINE)


_DAMAGE: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "malformed_json": lambda run: _dump(run)[:90] + b"\n",
    "missing_id": lambda run: _dump({key: value for key, value in run.items() if key != "run_id"}),
    "end_before_start": lambda run: _dump({**run, "end_time": "2020-01-01T00:00:00Z", "status": "success"}),
    "unknown_status": lambda run: _dump({**run, "status": "mostly fine"}),
    "unreadable_time": lambda run: _dump({**run, "start_time": "this morning"}),
    "negative_tokens": lambda run: _dump({**run, "input_tokens": -5}),
    "invalid_utf8": lambda run: _dump({**run, "name": "@@"}).replace(b"@@", b"\xff\xfe"),
}


# Files -----------------------------------------------------------------------------------------------------


def _runs_file(out: Path, day: date) -> Path:
    return out / "runs" / f"{day}.jsonl"


def _truth_file(hidden: Path, day: date) -> Path:
    return hidden / "days" / f"{day}.json"


def _write(path: Path, content: bytes | memoryview, day: date) -> int:
    """Write a file whole or not at all, with the time of its day's end plus the delay. Returns its size."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        written = (day_number(day) + 1) * DAY + SNAPSHOT_DELAY
        os.utime(temporary, ns=(written * 1000, written * 1000))
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise SimulationError(f"{path}: cannot be written: {error.strerror or error}; make room or name another folder") from error
    return len(content)


def _manifest(out: Path, world: World) -> tuple[date, ...]:
    """First and last day of the world that ``out`` holds; nothing when it holds none. Refuses another world."""
    path = out / "manifest.json"
    if not path.exists():
        return ()
    try:
        manifest = json.loads(path.read_text())
        days = (date.fromisoformat(manifest["first_day"]), date.fromisoformat(manifest["last_day"]))
    except (ValueError, KeyError, TypeError) as error:
        raise SimulationError(f"{path}: is damaged ({error}); delete the folder to have it written again") from error
    wanted = _about(world)
    held = {name: manifest.get(name) for name in wanted}
    if held != wanted:
        raise SimulationError(f"{out}: holds another sample world ({held}, asked for {wanted}); delete the folder or name another one")
    return days


def _about(world: World) -> dict[str, Any]:
    return {"seed": world.seed, "traces_per_day": float(world.traces_per_day), "format": FORMAT}


def _write_manifest(out: Path, world: World, first: date, last: date) -> None:
    content = {
        "about": "Simulated traces: invented agents, tenants and people.",
        **_about(world),
        "first_day": str(first),
        "last_day": str(last),
    }
    (out / "manifest.json").write_text(json.dumps(content, indent=1) + "\n")


__all__ = ["DEFAULT_DAYS", "DEFAULT_SEED", "TRACES_PER_DAY", "Progress", "Simulation", "SimulationError", "first_day", "simulate"]
