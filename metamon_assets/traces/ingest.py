"""One way in for every source: read, normalise, merge, book. Assets, the live feed and the command line all call it.

Here belongs the order of the steps and what happens when one fails: the rows of a read and its ledger entry are
committed together or not at all, so a window is either as the source said or as it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import psycopg2
import psycopg2.errors

from metamon_assets.errors import MetamonError, first_line
from metamon_assets.traces import ledger, security
from metamon_assets.traces.configured import ConfiguredSource
from metamon_assets.traces.ledger import LedgerEntry
from metamon_assets.traces.merge import RunMerge
from metamon_assets.traces.normalise import Normalised, Rules, normalise_events, normalise_feedback, normalise_gauges, normalise_runs
from metamon_assets.traces.sources.base import Batch, Kind, NamedSource, Reject, Source, SourceError, Window
from metamon_assets.traces.tables import EVENTS, FEEDBACK, GAUGE_SAMPLES
from metamon_assets.warehouse import merge
from metamon_assets.warehouse.connection import first_complaint
from metamon_assets.warehouse.merge import MergeTable

if TYPE_CHECKING:
    import pyarrow as pa
    from psycopg2.extensions import connection as Connection
    from psycopg2.extensions import cursor as Cursor

FEEDBACK_REACHES_BACK = 31  # days before it was given in which the trace that it is about is looked for
Progress = Callable[[int], None]  # called with the rows read so far

# Kinds whose rows stand for themselves: where they go, what puts them in order, and into a day and a window.
_SIMPLE: dict[Kind, tuple[MergeTable, Callable[[Batch, Rules], Normalised], str]] = {
    Kind.FEEDBACK: (FEEDBACK, normalise_feedback, "created_at"),
    Kind.EVENTS: (EVENTS, normalise_events, "time"),
    Kind.GAUGES: (GAUGE_SAMPLES, normalise_gauges, "time"),
}


class IngestError(MetamonError):
    """A read failed; nothing of it was written. The message says what, where and how to mend it."""


def ingest(
    connection: Connection,
    source: Source,
    kind: Kind,
    window: Window | None,
    rules: Rules,
    *,
    dagster_run_id: str | None = None,
    progress: Progress | None = None,
    touch: bool = False,
) -> LedgerEntry:
    """Read ``kind`` from ``source`` for ``window`` (None: everything it has) and merge it; gives the ledger entry.

    With ``touch`` the five-minute buckets of the runs that changed are booked in metamon.touched_buckets, in the same
    transaction: live data ask for it, daily reads compute their days anyway.

    Raises IngestError when the source cannot be read whole or the database fails: then no row has been written
    and, unless the database is gone, the ledger has a failed entry with the message.
    """
    try:
        return _ingest(connection, source, kind, window, rules, dagster_run_id, progress, touch=touch)
    except _DeadlockError:
        # Two reads that share days asked for them in different order; the other one is through by now.
        return _ingest(connection, source, kind, window, rules, dagster_run_id, progress, touch=touch)


class _DeadlockError(IngestError):
    """The database gave this read up for another one."""


def _ingest(
    connection: Connection,
    source: Source,
    kind: Kind,
    window: Window | None,
    rules: Rules,
    dagster_run_id: str | None,
    progress: Progress | None,
    *,
    touch: bool,
) -> LedgerEntry:
    entry = ledger.open_entry(
        connection, source.name, source.project, kind, window, started_at=datetime.now(UTC), dagster_run_id=dagster_run_id, live=touch
    )
    where = f"{source.name} {source.project!r}, {kind}" + (
        f" of {window.start:%Y-%m-%d %H:%M} to {window.end:%Y-%m-%d %H:%M}" if window else ""
    )
    try:
        with connection, connection.cursor() as cursor:
            if window is not None:
                entry.count = source.count(window)
            batches = source.read(kind, window or _ALL_TIME)
            write_batches(cursor, source, entry, batches, rules, touch=touch, progress=progress)
            entry.status = "complete" if entry.rows_read else "empty"
            _remember_files(cursor, source, entry)
            ledger.close_entry(cursor, entry)
    except SourceError as error:
        ledger.fail_entry(connection, entry, str(error))
        raise IngestError(f"{where}: {error}") from error
    except psycopg2.errors.DeadlockDetected as error:
        ledger.fail_entry(connection, entry, "another read of the same days was in the way; nothing was written. Read the window again.")
        raise _DeadlockError(f"{where}: another read of the same days was in the way; nothing was written. Read it again.") from error
    except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
        raise IngestError(_database_failed(connection, entry, where, error)) from error
    except psycopg2.Error as error:
        # Only the first line: the others hold the row, payload and all, and analysts read the ledger.
        message = f"the database refused a row ({first_line(error)}); nothing was written. Please report this as a defect."
        ledger.fail_entry(connection, entry, message)
        raise IngestError(f"{where}: {message}") from None
    except BaseException as error:
        ledger.fail_entry(connection, entry, f"{type(error).__name__}: {error}")
        raise
    return entry


def write_batches(
    cursor: Cursor,
    source: NamedSource,
    entry: LedgerEntry,
    batches: Iterable[Batch],
    rules: Rules,
    *,
    touch: bool,
    progress: Progress | None = None,
) -> None:
    """Merge what was read, in the caller's transaction, and count it in the entry, which is the caller's to write.

    Raises psycopg2's errors, and SourceError from the batches.
    """
    counted = _counted(batches, entry, progress)
    if entry.kind is Kind.RUNS:
        _read_runs(cursor, source, entry, counted, rules, touch=touch)
    else:
        _read_simple(cursor, source, entry, counted, rules)


def _remember_files(cursor: Cursor, source: Source, read: LedgerEntry) -> None:
    """Keep what a source of files found out about them, so that a later read opens only those that matter.

    A row of such a file that had been rejected before and was not rejected now has been mended.
    """
    for entry in getattr(source, "catalogue_entries", list)():
        if entry.kind is not read.kind:
            continue
        path = entry.path.split(" mapping ")[0]
        cursor.execute(
            "UPDATE quarantine.rejected_rows SET replayed_at = statement_timestamp() WHERE replayed_at IS NULL AND ledger_id < %s"
            " AND source = %s AND project = %s AND kind = %s AND starts_with(location, %s)",
            (read.ledger_id, source.name, source.project, entry.kind.value, f"{path}:"),
        )
        cursor.execute(
            "INSERT INTO metamon.source_files (path, source, project, kind, size_bytes, modified_at, first_time, last_time, rows)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (path, kind, project, source) DO UPDATE SET"
            " (size_bytes, modified_at, first_time, last_time, rows, seen_at) ="
            " (excluded.size_bytes, excluded.modified_at, excluded.first_time, excluded.last_time, excluded.rows, statement_timestamp())",
            (entry.path, source.name, source.project, entry.kind.value, entry.size, entry.modified, entry.first, entry.last, entry.rows),
        )


_ALL_TIME = Window(datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC))


def _database_failed(connection: Connection, entry: LedgerEntry, where: str, error: psycopg2.Error) -> str:
    cause = first_complaint(error)
    full = isinstance(cause, psycopg2.errors.DiskFull)
    mend = "Free some room on the database's disk" if full else "Check the server with `metamon doctor`"
    message = f"the database failed ({first_line(cause)}); nothing was written. {mend}, then read the window again."
    if not connection.closed:
        ledger.fail_entry(connection, entry, message)
    return f"{where}: {message}"


def _counted(batches: Iterable[Batch], entry: LedgerEntry, progress: Progress | None) -> Iterable[Batch]:
    for batch in batches:
        entry.rows_read += batch.rows.num_rows + len(batch.rejects)
        yield batch
        if progress is not None:
            progress(entry.rows_read)


def _read_runs(cursor: Cursor, source: NamedSource, entry: LedgerEntry, batches: Iterable[Batch], rules: Rules, *, touch: bool) -> None:
    runs = RunMerge(
        cursor,
        source.name,
        entry.window,
        across_projects=source.name == "otlp",
        direct=not getattr(source, "answers_slowly", False),
        touch=touch,
    )
    flags: list[security.Flag] = []
    for batch in batches:
        normalised = _normalised(cursor, entry, batch, rules, normalise_runs)
        runs.add(normalised.rows)
        flags += normalised.flags
    counts = runs.finish()
    security.write(cursor, flags, rules.now, entry.window)
    ledger.quarantine(cursor, entry, counts.conflicts, rules.redactor, store_payloads=rules.store_payloads)
    entry.rows_inserted, entry.rows_updated, entry.rows_unchanged = counts.inserted, counts.updated, counts.unchanged
    entry.rows_duplicate, entry.rows_moved, entry.rows_outside = counts.duplicate, counts.moved, counts.outside
    entry.days = tuple(sorted(counts.days))


def _read_simple(cursor: Cursor, source: NamedSource, entry: LedgerEntry, batches: Iterable[Batch], rules: Rules) -> None:
    table, normalise, time_column = _SIMPLE[entry.kind]
    merge.create_staging(cursor, table)
    days = set()
    for batch in batches:
        rows = _inside(_normalised(cursor, entry, batch, rules, normalise).rows, entry, time_column)
        if table.partitioned:
            rows = _with_day(rows, time_column)
            days.update(rows["day"].unique().to_pylist())
        merge.copy_rows(cursor, table.staged(), rows)
    for day in sorted(days):
        merge.lock_day(cursor, source.name, day)
    conflicts = []
    for row, contradicts in merge.remove_duplicates(cursor, table, table.staged(), per_day=False):
        if contradicts:
            conflicts.append(_conflict(entry.kind, table, row))
        else:
            entry.rows_duplicate += 1
    ledger.quarantine(cursor, entry, conflicts, rules.redactor, store_payloads=rules.store_payloads)
    merged, changed = merge.merge_staged(cursor, table)
    entry.rows_inserted, entry.rows_updated, entry.rows_unchanged = merged.inserted, merged.updated, merged.unchanged
    days_of_traces = _days_judged(cursor) if entry.kind is Kind.FEEDBACK and entry.rows_written else []
    entry.days = tuple(sorted({*changed, *days_of_traces}))


def _days_judged(cursor: Cursor) -> list[date]:
    """The days of the traces that the staged feedback is about: their metrics count it, however late it came."""
    cursor.execute("SELECT min(day) - %s, max(day) FROM staged_feedback", (FEEDBACK_REACHES_BACK,))
    first, last = cursor.fetchone()  # type: ignore[misc]
    cursor.execute(
        "SELECT DISTINCT t.day FROM staged_feedback f JOIN metamon.traces t ON t.source = f.source AND t.project = f.project"
        " AND t.trace_id = f.trace_id WHERE t.day BETWEEN %(first)s AND %(last)s"
        " UNION SELECT DISTINCT r.day FROM staged_feedback f JOIN metamon.traces r ON r.source = f.source AND r.project = f.project"
        " AND r.run_id = f.run_id WHERE r.day BETWEEN %(first)s AND %(last)s"
        " UNION SELECT DISTINCT s.day FROM staged_feedback f JOIN metamon.spans s ON s.source = f.source AND s.project = f.project"
        " AND s.run_id = f.run_id WHERE s.day BETWEEN %(first)s AND %(last)s",
        {"first": first, "last": last},
    )
    return [day for (day,) in cursor.fetchall()]


def _normalised(
    cursor: Cursor, entry: LedgerEntry, batch: Batch, rules: Rules, normalise: Callable[[Batch, Rules], Normalised]
) -> Normalised:
    """A batch with its good rows; its bad ones have gone to quarantine, its excluded ones are counted."""
    normalised = normalise(batch, rules)
    entry.rows_excluded += normalised.excluded
    rejects = (*batch.rejects, *normalised.rejects)
    if rejects:
        ledger.quarantine(cursor, entry, rejects, rules.redactor, store_payloads=rules.store_payloads)
    return normalised


def _inside(rows: pa.Table, entry: LedgerEntry, time_column: str) -> pa.Table:
    """The rows that happened (feedback: were given or edited) in the window; the others are counted as outside."""
    import pyarrow.compute as pc

    if entry.window is None:
        return rows
    inside = pc.and_(pc.greater_equal(rows[time_column], entry.window.start), pc.less(rows[time_column], entry.window.end))
    if "modified_at" in rows.column_names:
        edited = pc.and_(pc.greater_equal(rows["modified_at"], entry.window.start), pc.less(rows["modified_at"], entry.window.end))
        inside = pc.or_(inside, pc.fill_null(edited, False))
    kept = rows.filter(inside)
    entry.rows_outside += rows.num_rows - kept.num_rows
    return kept


def _with_day(rows: pa.Table, time_column: str) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    return rows.append_column("day", pc.cast(pc.floor_temporal(rows[time_column], unit="day"), pa.date32()))


def _conflict(kind: Kind, table: MergeTable, row: dict[str, object]) -> Reject:
    key = ", ".join(str(row[column]) for column in table.key)
    return Reject(
        kind=kind,
        reason="conflicting_duplicate",
        detail=f"{key} stands twice in this read with different contents; one version was kept. Give each row an id of its own.",
        location=key,
        raw=json.dumps(row, ensure_ascii=False),  # not orjson: a number in metadata may be larger than 64 bits
    )


def ingest_days(
    connection: Connection,
    sources: Sequence[ConfiguredSource],
    kind: Kind,
    days: Sequence[date],
    *,
    dagster_run_id: str | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> list[LedgerEntry]:
    """Read ``kind`` for consecutive UTC days from every source; what one of them cannot give does not stop the others.

    A span of days that cannot be read whole is read day by day, so that one bad day costs no other.
    Raises IngestError at the end, with every failure, when there was one; what was read until then stays.
    """
    window = Window.of_days(days[0], days[-1])
    entries: list[LedgerEntry] = []
    failures: list[str] = []
    for configured in sources:
        try:
            entries.append(ingest(connection, configured.source, kind, window, configured.rules, dagster_run_id=dagster_run_id))
        except IngestError as error:
            report(str(error))
            if len(days) == 1 or connection.closed:
                failures.append(str(error))
                continue
            for day in days:
                of_day = Window.of_days(day, day)
                try:
                    entries.append(ingest(connection, configured.source, kind, of_day, configured.rules, dagster_run_id=dagster_run_id))
                except IngestError as day_error:
                    failures.append(str(day_error))
    for entry in entries:
        report(
            f"{entry.source} {entry.project!r}, {kind}: {entry.rows_read:,} rows read, {entry.rows_inserted:,} new,"
            f" {entry.rows_updated:,} newer, {entry.rows_unchanged:,} unchanged, {entry.rows_rejected:,} rejected"
            f" {dict(entry.reject_reasons) or ''}"
        )
    if failures:
        raise IngestError("\n".join(failures))
    return entries
