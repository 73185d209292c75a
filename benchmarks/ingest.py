"""How fast, how large and how much memory: traces into the partitioned, indexed table.

Ratios are taken side by side: each round loads the same day once by a plain COPY of its CSV and once by Metamon.
Times include the commit; nothing is switched off in the server (fsync and synchronous_commit are on).
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from _common import Report, Stopwatch, Target, arguments, database

from metamon_assets.config import FilesSource, Settings
from metamon_assets.simulation import bulk_traces, write_bulk_jsonl
from metamon_assets.traces.configured import open_source, rules_for
from metamon_assets.traces.ingest import ingest
from metamon_assets.traces.merge import RunCounts, RunMerge
from metamon_assets.traces.normalise import normalise_runs
from metamon_assets.traces.sources.base import Batch, Kind, Window
from metamon_assets.traces.sources.catalogue import BATCH_ROWS
from metamon_assets.traces.tables import TRACES
from metamon_assets.warehouse import connect, merge, server

if TYPE_CHECKING:
    import pyarrow as pa
    from psycopg2.extensions import connection as Connection

TARGETS = (
    Target("JSONL to committed traces, payloads off", "rows/s", 25_000),
    Target("JSONL to committed traces, 2 kB payloads on", "rows/s"),
    Target("first load of a day against plain COPY", "×", 1.3),
    Target("re-reading an unchanged day, from Arrow", "rows/s", 80_000),
    Target("re-reading an unchanged day, from JSONL", "rows/s"),
    Target("growth of the table by re-reading", "×", 1.0, at_least=False),
    Target("dead rows after re-reading", "rows", 0, at_least=False),
    Target("table per trace", "bytes"),
    Target("indexes per trace", "bytes"),
    Target("payloads per trace (2 kB)", "bytes"),
    Target("peak memory, fewer rows", "MB"),
    Target("peak memory, five times the rows", "×", 1.3, at_least=False),
)
DAY = date(2026, 1, 15)
MIDNIGHT = datetime(2026, 1, 15, tzinfo=UTC)
WINDOW = Window(MIDNIGHT, MIDNIGHT + timedelta(days=1))
PAYLOAD_BYTES = 2_000


def main() -> int:
    parser = arguments("Ingest: rows per second, ratio to COPY, bytes per trace, peak memory.")
    parser.add_argument("--rows", type=int, help="traces of the day (default 1,000,000; 200,000 with --quick)")
    parser.add_argument("--rounds", type=int, help="rounds of each comparison (default 3)")
    parser.add_argument("--memory-of", type=Path, help="(for the script itself) ingest this file and print the process's peak memory")
    options = parser.parse_args()
    if options.memory_of:
        return _child(options.memory_of)
    options.rows = options.rows or (200_000 if options.quick else 1_000_000)
    options.rounds = options.rounds or 3
    report = Report("ingest", TARGETS, options)
    _first_load_and_reread(report)
    _whole_path(report)
    _with_payloads(report)
    _peak_memory(report)
    return report.finish()


# --- from Arrow ---------------------------------------------------------------------------------------------


def _first_load_and_reread(report: Report) -> None:
    options = report.arguments
    with database() as (settings, url), tempfile.TemporaryDirectory() as folder:
        connection = connect(url)
        owner = connect(server.database_url(settings))
        rows = _normalised_day(connection, settings, options)
        plain_csv = Path(folder) / "day.csv"
        _write_csv(rows, plain_csv)
        plain, direct = [], []
        for _ in range(options.rounds):
            _drop_day(owner)
            plain.append(_plain_copy(connection, rows.column_names, plain_csv))
            _drop_day(owner)
            with Stopwatch() as watch:
                counts = _merge(connection, rows)
            assert counts.inserted == options.rows, counts
            direct.append(watch.seconds)
        note = f"COPY {sorted(plain)[len(plain) // 2]:.1f} s, Metamon {sorted(direct)[len(direct) // 2]:.1f} s, {options.rows:,} rows"
        report.record("first load of a day against plain COPY", [a / b for a, b in zip(plain, direct, strict=True)], note)
        _sizes(report, owner)
        _reread(report, connection, owner, rows)
        connection.close()
        owner.close()


def _reread(report: Report, connection: Connection, owner: Connection, rows: pa.Table) -> None:
    size, speeds = _size(owner), []
    for _ in range(report.arguments.rounds):
        with Stopwatch() as watch:
            counts = _merge(connection, rows)
        assert counts.unchanged == rows.num_rows, counts
        speeds.append(rows.num_rows / watch.seconds)
    report.record("re-reading an unchanged day, from Arrow", speeds)
    report.record("growth of the table by re-reading", _size(owner) / size, f"after {report.arguments.rounds} times")
    report.record("dead rows after re-reading", _dead_rows(owner))


def _normalised_day(connection: Connection, settings: Settings, options: Namespace) -> pa.Table:
    import pyarrow as pa

    rules = rules_for(connection, settings, _source("-"))
    rows = bulk_traces(options.seed, options.rows, DAY)
    parts = [normalise_runs(Batch(Kind.RUNS, rows.slice(at, BATCH_ROWS)), rules).rows for at in range(0, rows.num_rows, BATCH_ROWS)]
    return pa.concat_tables(parts)


def _merge(connection: Connection, rows: pa.Table) -> RunCounts:
    with connection, connection.cursor() as cursor:
        runs = RunMerge(cursor, "files", WINDOW)
        for start in range(0, rows.num_rows, BATCH_ROWS):
            runs.add(rows.slice(start, BATCH_ROWS))
        return runs.finish()


def _write_csv(rows: pa.Table, path: Path) -> None:
    """The rows as COPY takes them, the lists of strings as Postgres writes them."""
    import pyarrow as pa
    from pyarrow import csv

    columns = [
        pa.array([None if value is None else "{" + ",".join(json.dumps(text) for text in value) + "}" for value in column.to_pylist()])
        if pa.types.is_list(column.type)
        else column
        for column in rows.drop_columns(["inputs", "outputs"]).columns
    ]
    names = rows.drop_columns(["inputs", "outputs"]).column_names
    columns.append(pa.repeat(pa.scalar(DAY), rows.num_rows))
    csv.write_csv(pa.table(columns, names=[*names, "day"]), path, csv.WriteOptions(include_header=False))


def _plain_copy(connection: Connection, names: list[str], path: Path) -> float:
    """Seconds for a plain COPY of the CSV into the day's partition, which is there, empty and indexed."""
    columns = ", ".join([*(name for name in names if name not in ("inputs", "outputs")), "day"])
    with connection, connection.cursor() as cursor:
        merge.ensure_partitions(cursor, [TRACES], DAY)
    with path.open("rb") as file, Stopwatch() as watch, connection, connection.cursor() as cursor:
        cursor.copy_expert(f"COPY metamon.traces ({columns}) FROM STDIN (FORMAT csv)", file, size=1 << 18)
    return watch.seconds


# --- from JSONL ---------------------------------------------------------------------------------------------


def _whole_path(report: Report) -> None:
    options = report.arguments
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "runs.jsonl"
        written = write_bulk_jsonl(path, options.rows, seed=options.seed, day=DAY)
        first, again = [], []
        with database() as (settings, url):
            owner = connect(server.database_url(settings))
            for _ in range(options.rounds):
                _drop_day(owner)
                first.append(options.rows / _ingest(settings, url, path, options.rows))
                again.append(options.rows / _ingest(settings, url, path, 0))
            owner.close()
        note = f"{options.rows:,} lines of {written / options.rows:.0f} bytes; parsed, checked, priced, redacted"
        report.record("JSONL to committed traces, payloads off", first, note)
        report.record("re-reading an unchanged day, from JSONL", again)


def _with_payloads(report: Report) -> None:
    options = report.arguments
    rows = options.rows // 4
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "runs.jsonl"
        _write_with_payloads(path, rows, options.seed)
        with database() as (settings, url):
            storing = settings.model_copy(update={"privacy": settings.privacy.model_copy(update={"store_payloads": True})})
            seconds = _ingest(storing, url, path, rows)
            owner = connect(server.database_url(settings))
            report.record("JSONL to committed traces, 2 kB payloads on", rows / seconds, f"{rows:,} rows")
            report.record("payloads per trace (2 kB)", _size(owner, "payloads", "pg_total_relation_size") / rows)
            owner.close()


def _source(path: str) -> FilesSource:
    return FilesSource.model_validate({"type": "files", "project": "bulk", "path": path})


def _ingest(settings: Settings, url: str, path: Path, inserted: int) -> float:
    """Seconds for the file's way through sources, normalisation, merge and ledger, as the asset goes it."""
    connection = connect(url)
    with Stopwatch() as watch:
        source, rules = open_source(connection, settings, _source(str(path))), rules_for(connection, settings, _source(str(path)))
        entry = ingest(connection, source, Kind.RUNS, WINDOW, rules)
    assert entry.rows_inserted == inserted, entry
    connection.close()
    return watch.seconds


def _write_with_payloads(path: Path, rows: int, seed: int) -> None:
    words = random.Random(seed).choices([f"word{number}" for number in range(5_000)], k=100_000)
    text = " ".join(words)
    plain = path.with_suffix(".plain")
    write_bulk_jsonl(plain, rows, seed=seed, day=DAY)
    starts = random.Random(seed)
    with plain.open("rb") as lines, path.open("wb") as file:
        for line in lines:
            at = starts.randrange(len(text) - PAYLOAD_BYTES)
            half = at + PAYLOAD_BYTES // 2
            file.write(line.rstrip()[:-1])
            file.write(
                f',"inputs":{{"question":"{text[at:half]}"}},"outputs":{{"answer":"{text[half : at + PAYLOAD_BYTES]}"}}}}\n'.encode()
            )
    plain.unlink()


# --- memory and size ----------------------------------------------------------------------------------------


def _peak_memory(report: Report) -> None:
    fewer, more = (_memory_of(report.arguments, report.arguments.rows * factor) for factor in (1, 5))
    report.record("peak memory, fewer rows", fewer, f"{report.arguments.rows:,} rows; the process that ingests")
    report.record("peak memory, five times the rows", more / fewer, f"{more:.0f} MB at {report.arguments.rows * 5:,} rows")


def _memory_of(options: Namespace, rows: int) -> float:
    """Peak resident memory in MB of a process of its own that ingests so many rows."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "runs.jsonl"
        write_bulk_jsonl(path, rows, seed=options.seed, day=DAY)
        with database():
            said = subprocess.run([sys.executable, __file__, "--memory-of", path], check=True, capture_output=True, text=True).stdout
    return float(said)


def _child(path: Path) -> int:
    settings = Settings.load()
    connection = connect(server.database_url(settings))
    ingest(
        connection, open_source(connection, settings, _source(str(path))), Kind.RUNS, WINDOW, rules_for(connection, settings, _source("-"))
    )
    print(_peak_megabytes())
    return 0


def _peak_megabytes() -> float:
    """Of this program alone: getrusage would count the memory of the parent, which a child inherits until it execs."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _sizes(report: Report, owner: Connection) -> None:
    rows = report.arguments.rows
    report.record("table per trace", _size(owner, "traces", "pg_table_size") / rows)
    report.record("indexes per trace", _size(owner, "traces", "pg_indexes_size") / rows)


def _size(owner: Connection, table: str = "traces", function: str = "pg_total_relation_size") -> int:
    return _number(owner, f"SELECT {function}('partitions.{table}_{DAY:%Y%m%d}')")


def _dead_rows(owner: Connection) -> int:
    """Rows of the day that are dead or were ever changed, by the server's own books."""
    time.sleep(2)  # a session tells what it did at most once a second
    return _number(
        owner,
        "SELECT n_dead_tup + n_tup_upd + n_tup_del FROM pg_stat_all_tables"
        f" WHERE schemaname = 'partitions' AND relname = 'traces_{DAY:%Y%m%d}'",
    )


def _drop_day(owner: Connection) -> None:
    """Drop what there is of any day, so that the next load is a first one."""
    with owner, owner.cursor() as cursor:
        cursor.execute("SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'partitions'::regnamespace AND relkind = 'r'")
        for (partition,) in cursor.fetchall():
            cursor.execute(f"DROP TABLE {partition}")


def _number(owner: Connection, query: str) -> int:
    with owner, owner.cursor() as cursor:
        cursor.execute(query)
        (number,) = cursor.fetchone()  # type: ignore[misc]
    return int(number)


if __name__ == "__main__":
    sys.exit(main())
