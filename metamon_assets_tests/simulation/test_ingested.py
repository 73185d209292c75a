"""The sample world's files through the real ingestion into a real database."""

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from metamon_assets.simulation import World, simulate
from metamon_assets.traces.ingest import ingest
from metamon_assets.traces.normalise import Rules
from metamon_assets.traces.sources.base import Kind, Window
from metamon_assets.traces.sources.files import FilesSource
from metamon_assets.warehouse import connect

FIRST, DAYS, PER_DAY = date(2026, 9, 14), 3, 700


def test_every_trace_arrives_once_and_only_damage_is_rejected(database: str, tmp_path: Path) -> None:
    simulate(7, FIRST, DAYS, PER_DAY, tmp_path / "sample", tmp_path / "truth")
    files = json.loads((tmp_path / "truth" / "truth.json").read_text())["files"]
    start = datetime(FIRST.year, FIRST.month, FIRST.day, tzinfo=UTC)
    window = Window(start, start + timedelta(days=DAYS))
    rules = Rules(source="files", project="sample", now=start + timedelta(days=DAYS + 1), exclude_projects=frozenset({"metamon"}))
    source = FilesSource([tmp_path / "sample"], "sample")
    world = World(7, PER_DAY)
    days = [world.day(FIRST + timedelta(days=number)) for number in range(DAYS)]
    connection = connect(database)
    try:
        entries = {kind: ingest(connection, source, kind, window, rules) for kind in Kind}
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT run_id, status, input_tokens, total_cost, cost_source FROM metamon.traces")
            stored = {row[0]: row[1:] for row in cursor.fetchall()}
            cursor.execute("SELECT count(*) FROM metamon.spans")
            spans = cursor.fetchone()
            cursor.execute(
                "SELECT count(*), count(*) FILTER (WHERE abs(t.total_cost - s.cost) > 1e-9) FROM metamon.traces t JOIN"
                " (SELECT trace_id, sum(total_cost) AS cost FROM metamon.spans GROUP BY trace_id) s USING (trace_id)"
                " WHERE t.total_cost IS NOT NULL AND t.status <> 'pending'"
            )
            priced = cursor.fetchone()
    finally:
        connection.close()

    runs = entries[Kind.RUNS]
    assert sum(runs.reject_reasons.values()) == runs.rows_rejected == len(files["damaged"]) > 0
    assert runs.rows_excluded == files["own_runs"]
    assert runs.rows_duplicate >= files["doubled_lines"] - files["own_runs"]
    assert all(entry.rows_rejected == 0 for kind, entry in entries.items() if kind is not Kind.RUNS)
    assert entries[Kind.GAUGES].rows_inserted == sum(day.gauges.num_rows for day in days)

    missing = 0
    for day in days:
        for run in day.runs.select(["run_id", "parent_run_id", "status", "input_tokens", "total_cost", "cost_source"]).to_pylist():
            if run["parent_run_id"] is None:
                if run["run_id"] not in stored:
                    missing += 1
                    continue
                status, tokens, cost, cost_source = stored[run["run_id"]]
                assert (status, tokens) in ((run["status"], run["input_tokens"]), ("pending", None))
                if run["total_cost"] is not None:
                    assert (cost, cost_source) == (run["total_cost"], "reported")
                elif run["input_tokens"] is not None and status != "pending":
                    assert cost_source in ("computed", "unpriced")
    # What the last day sent late stands in a file that is not there yet.
    assert missing <= 0.012 * PER_DAY * 2
    assert spans is not None
    assert priced is not None
    assert spans[0] > 2 * len(stored)
    assert priced[0] > len(stored) / 2
    assert priced[1] == 0
