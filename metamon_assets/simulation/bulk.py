"""Many plain roots, fast: for benchmarks of ingestion and rollups, where only number and width of rows matter.

These rows are not the sample world: nothing is planted in them, they have no children, their day is even.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metamon_assets.simulation import jsonl
from metamon_assets.simulation.arrivals import day_number
from metamon_assets.simulation.changes import DAY
from metamon_assets.simulation.draws import TOTAL_TIME_NOISE, choose, heavy_tailed, hexadecimal, stream
from metamon_assets.simulation.world import AGENT_MODELS, AGENT_MODES, AGENTS, MODELS, MODES, cast
from metamon_assets.traces import columns

_CHUNK = 100_000
_MESSAGE = "request failed: user mail person@example.com, key sk-0000000000000000000000, code "


def bulk_traces(seed: int, n: int, day: date) -> pa.Table:
    """``n`` ended roots that start on ``day`` (UTC), as RUNS."""
    return pa.concat_tables(list(_chunks(seed, n, day))) if n else columns.RUNS.empty_table()


def write_bulk_jsonl(path: str | Path, n: int, *, seed: int = 0, day: date = date(2026, 1, 15)) -> int:
    """Write ``n`` such roots as JSON lines of some 600 bytes in the unified names; returns the bytes written."""
    written = 0
    with Path(path).open("wb") as file:
        for chunk in _chunks(seed, n, day):
            written += file.write(jsonl.line_bytes(jsonl.lines(chunk)))
    return written


def _chunks(seed: int, n: int, day: date) -> Iterator[pa.Table]:
    for number in range(-(-n // _CHUNK)):
        yield _chunk(seed, min(_CHUNK, n - number * _CHUNK), day, number, n)


def _chunk(seed: int, rows: int, day: date, number: int, n: int) -> pa.Table:
    rng = stream(seed, "bulk", day_number(day), number)
    people = cast(seed)
    uniform = rng.random((10, rows))
    agent = choose(uniform[0], np.array([agent.share for agent in AGENTS]))
    tenant = choose(uniform[1], people.tenant_share)
    model = choose(uniform[2], AGENT_MODELS[agent])
    start = day_number(day) * DAY + ((number * _CHUNK + np.arange(rows)) * (DAY / n)).astype(np.int64)
    length = (2.4e6 * heavy_tailed(uniform[3], TOTAL_TIME_NOISE)).astype(np.int64)
    error = uniform[4] < 0.02
    ids = rng.integers(0, 2**64, (rows, 3), dtype=np.uint64)

    def name(pool: list[str] | tuple[str, ...], codes: np.ndarray) -> pa.Array:
        return pa.array(pool).take(pa.array(codes))

    message = pc.binary_join_element_wise(_MESSAGE, pa.array((uniform[5] * 500).astype(np.int64)).cast(pa.string()), "")
    nothing = pa.scalar(None, pa.string())
    user = pc.binary_join_element_wise("user", pa.array((uniform[6] * 20_000).astype(np.int64)).cast(pa.string()), "-")
    given = {
        "project": pa.repeat("bulk", rows),
        "run_id": hexadecimal(ids[:, 2:], 16),
        "trace_id": hexadecimal(ids[:, :2], 32),
        "run_type": pa.repeat("agent", rows),
        "name": name([agent.name for agent in AGENTS], agent),
        "agent_name": name([agent.name for agent in AGENTS], agent),
        "agent_version": name(["1.4.0", "1.5.0", "2.0.0"], choose(uniform[7], np.array([1.0, 3.0, 1.0]))),
        "mode": name(MODES, choose(uniform[8], AGENT_MODES[agent])),
        "tenant_id": name(people.tenants, tenant),
        "user_id": user,
        "conversation_id": hexadecimal(ids[:, :1], 16),
        "environment": pa.repeat("production", rows),
        "start_time": pa.array(start, columns.TIMESTAMP),
        "end_time": pa.array(start + length, columns.TIMESTAMP),
        "first_token_time": pa.array(start + length // 3, columns.TIMESTAMP),
        "status": name(["success", "error"], error.astype(np.int64)),
        "error_type": pc.if_else(pa.array(error), "InternalServerError", nothing),
        "error_message": pc.if_else(pa.array(error), message, nothing),
        "provider": name([model.provider for model in MODELS], model),
        "request_model": name([model.name for model in MODELS], model),
        "prompt_version": name(["a1b2c3d", "e4f5a6b"], (uniform[9] < 0.3).astype(np.int64)),
        "input_tokens": pa.array((400 + 3000 * uniform[9] ** 3).astype(np.int64)),
        "output_tokens": pa.array((20 + 400 * uniform[8] ** 3).astype(np.int64)),
        "cache_hit": pa.array(uniform[7] < 0.2),
        "quality_score": pa.array(np.round(0.7 + 0.3 * uniform[6], 3)),
        "llm_calls": pa.array(np.full(rows, 2, dtype=np.int32)),
        "tool_calls": pa.array((uniform[5] * 4).astype(np.int32)),
    }
    return pa.Table.from_arrays(
        [given[field.name] if field.name in given else pa.nulls(rows, field.type) for field in columns.RUNS], schema=columns.RUNS
    )
