"""The books of ingestion: a ledger entry for every read, however it ends, and the quarantine of rejected rows.

An entry is committed as ``running`` before the first row is read and closed in the same transaction that writes
the rows, so that the books and the rows cannot disagree. While a read runs it holds an advisory lock on its entry;
an entry that is ``running`` and whose lock is free belongs to a process that died.

Live entries (``live``: polls of the live feed, and what is sent here) change the current day every minute, and its
five-minute buckets are computed as they are touched; so the sensor for late data passes over their current day and
asks for a day again only when it was over. What is sent here commits up to many times a second: it shares one entry
for each minute (``receiving_entry``), written again with every commit, in the transaction of the rows.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

import orjson
from psycopg2.extras import execute_values

from metamon_assets.traces.sources.base import Kind, Reject, SourceCount, Window

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
    from psycopg2.extensions import cursor as Cursor

    from metamon_assets.traces.redaction import Redactor

LIVE_KEPT = timedelta(days=90)  # each source has 1,440 live entries a day
RAW_LIMIT = 64 * 1024  # characters of a rejected row that are kept
_LOCK_CLASS = 20_481  # keeps these advisory locks apart from others with the same number


@dataclass(slots=True)
class LedgerEntry:
    """One read of one source: what was asked for and what became of every row."""

    ledger_id: int
    source: str
    project: str
    kind: Kind
    window: Window | None
    rows_read: int = 0
    rows_inserted: int = 0
    rows_updated: int = 0
    rows_unchanged: int = 0
    rows_duplicate: int = 0
    rows_moved: int = 0
    rows_excluded: int = 0
    rows_rejected: int = 0
    rows_outside: int = 0
    reject_reasons: Counter[str] = field(default_factory=Counter)
    days: tuple[date, ...] = ()
    count: SourceCount = field(default_factory=SourceCount)
    status: str = "running"
    message: str | None = None
    rejects: list[Reject] | None = None  # filled where it is a list, for whoever has to answer for what was rejected

    def part(self) -> LedgerEntry:
        """An entry for a further part of the same read, which keeps what is rejected; nothing is counted in it yet."""
        return LedgerEntry(self.ledger_id, self.source, self.project, self.kind, self.window, rejects=[])

    def add(self, other: LedgerEntry) -> None:
        """Count what another part of the same read brought."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.reject_reasons += other.reject_reasons
        self.days = tuple(sorted({*self.days, *other.days}))

    @property
    def rows_written(self) -> int:
        return self.rows_inserted + self.rows_updated

    @property
    def rows_accounted_for(self) -> int:
        """Must equal ``rows_read``: every row that was read is one of these."""
        return self.rows_written + self.rows_unchanged + self.rows_duplicate + self.rows_excluded + self.rows_rejected + self.rows_outside


_COUNTS = (
    "rows_read",
    "rows_inserted",
    "rows_updated",
    "rows_unchanged",
    "rows_duplicate",
    "rows_moved",
    "rows_excluded",
    "rows_rejected",
    "rows_outside",
)


def open_entry(
    connection: Connection,
    source: str,
    project: str,
    kind: Kind,
    window: Window | None,
    *,
    started_at: datetime,
    dagster_run_id: str | None,
    live: bool = False,
) -> LedgerEntry:
    """Book that a read begins, and commit it. Entries of processes that died are closed as failed on the way."""
    with connection, connection.cursor() as cursor:
        _close_interrupted(cursor)
        cursor.execute(
            "INSERT INTO metamon.ingestion_ledger"
            " (source, project, kind, window_start, window_end, started_at, status, dagster_run_id, live)"
            " VALUES (%s, %s, %s, %s, %s, %s, 'running', %s, %s) RETURNING ledger_id",
            (source, project, kind.value, window and window.start, window and window.end, started_at, dagster_run_id, live),
        )
        ledger_id = cursor.fetchone()[0]  # type: ignore[index]
        cursor.execute("SELECT pg_advisory_lock(%s, %s)", (_LOCK_CLASS, ledger_id % 2**31))
    return LedgerEntry(ledger_id, source, project, kind, window)


def receiving_entry(connection: Connection, source: str, project: str, kind: Kind) -> LedgerEntry:
    """A live entry for what is sent here, to be given to ``write_entry`` with each commit.

    It is committed before the first rows are, since whoever reads the ledger up to its newest entry would pass over one
    with a lower number that appears later; and begins by the server's clock, by which it is told whether it still grows.
    It is never ``running``: what was not committed was not acknowledged either, so nothing of it can be lost.
    """
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO metamon.ingestion_ledger (source, project, kind, started_at, status, live)"
            " VALUES (%s, %s, %s, statement_timestamp(), 'empty', true) RETURNING ledger_id",
            (source, project, kind.value),
        )
        return LedgerEntry(cursor.fetchone()[0], source, project, kind, None)  # type: ignore[index]


def close_entry(cursor: Cursor, entry: LedgerEntry) -> None:
    """Write the outcome, in the caller's transaction; the lock goes with it."""
    write_entry(cursor, entry)
    cursor.execute("SELECT pg_advisory_unlock(%s, %s)", (_LOCK_CLASS, entry.ledger_id % 2**31))


def write_entry(cursor: Cursor, entry: LedgerEntry) -> None:
    """Write the entry as it is now, in the caller's transaction."""
    cursor.execute(
        "UPDATE metamon.ingestion_ledger SET finished_at = clock_timestamp(), status = %s, rows_read = %s, rows_inserted = %s,"
        " rows_updated = %s, rows_unchanged = %s, rows_duplicate = %s, rows_moved = %s, rows_excluded = %s, rows_rejected = %s,"
        " rows_outside = %s, reject_reasons = %s, days = %s, source_runs = %s, source_cost = %s, message = %s WHERE ledger_id = %s",
        (
            entry.status,
            entry.rows_read,
            entry.rows_inserted,
            entry.rows_updated,
            entry.rows_unchanged,
            entry.rows_duplicate,
            entry.rows_moved,
            entry.rows_excluded,
            entry.rows_rejected,
            entry.rows_outside,
            orjson.dumps(dict(entry.reject_reasons)).decode(),
            list(entry.days),
            entry.count.runs,
            entry.count.cost,
            entry.message,
            entry.ledger_id,
        ),
    )


def fail_entry(connection: Connection, entry: LedgerEntry, message: str) -> None:
    """Book that nothing was written, and why. The transaction of the read has been rolled back by then."""
    failed = LedgerEntry(entry.ledger_id, entry.source, entry.project, entry.kind, entry.window, status="failed", message=message)
    with connection, connection.cursor() as cursor:
        close_entry(cursor, failed)


def drop_old_live_entries(connection: Connection, now: datetime) -> int:
    """Drop live entries older than ``LIVE_KEPT`` whose rows are not in quarantine; gives how many. Other reads stay booked for ever."""
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM metamon.ingestion_ledger AS e WHERE e.live AND e.started_at < %s AND e.status <> 'running'"
            " AND NOT EXISTS (SELECT FROM quarantine.rejected_rows AS q WHERE q.ledger_id = e.ledger_id)",
            (now - LIVE_KEPT,),
        )
        return cursor.rowcount


def _close_interrupted(cursor: Cursor) -> None:
    cursor.execute("SELECT ledger_id FROM metamon.ingestion_ledger WHERE status = 'running'")
    for (ledger_id,) in cursor.fetchall():
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s, %s)", (_LOCK_CLASS, ledger_id % 2**31))
        if cursor.fetchone()[0]:  # type: ignore[index]
            cursor.execute(
                "UPDATE metamon.ingestion_ledger SET status = 'failed', finished_at = clock_timestamp(),"
                " message = 'interrupted: the process or the database stopped before the read was done; nothing was written."
                " Read the window again.'"
                " WHERE ledger_id = %s AND status = 'running'",
                (ledger_id,),
            )


def quarantine(cursor: Cursor, entry: LedgerEntry, rejects: Sequence[Reject], redactor: Redactor, *, store_payloads: bool) -> None:
    """Keep rejected rows with their reasons; a row that is rejected again is counted, not added."""
    if not rejects:
        return
    import pyarrow as pa

    if entry.rejects is not None:
        entry.rejects.extend(rejects)

    def redacted(texts: list[str]) -> list[str]:
        return redactor.column(pa.array(texts, pa.string())).to_pylist()  # one pass over all: a pass over each is slow

    raws = redacted([_storable(reject.raw, store_payloads=store_payloads) for reject in rejects])
    details = redacted([_clean(reject.detail) for reject in rejects])
    rows: dict[str, tuple[object, ...]] = {}
    for reject, raw, detail in zip(rejects, raws, details, strict=True):
        entry.rows_rejected += 1
        entry.reject_reasons[reject.reason] += 1
        fingerprint = hashlib.blake2b(f"{reject.reason}\n{reject.raw}".encode("utf-8", "replace"), digest_size=16).hexdigest()
        run_id = reject.run_id and _clean(reject.run_id)
        rows[fingerprint] = (
            entry.ledger_id,
            entry.source,
            entry.project,
            reject.kind.value,
            reject.reason,
            detail,
            _clean(reject.location),
            run_id,
            raw,
            fingerprint,
        )
    execute_values(
        cursor,
        "INSERT INTO quarantine.rejected_rows AS q"
        " (ledger_id, source, project, kind, reason, detail, location, run_id, raw, fingerprint) VALUES %s"
        " ON CONFLICT (source, project, kind, fingerprint) DO UPDATE SET ledger_id = excluded.ledger_id, location = excluded.location,"
        " last_rejected_at = statement_timestamp(), times_rejected = q.times_rejected + 1, replayed_at = NULL",
        list(rows.values()),
    )


def _clean(text: str) -> str:
    """Without what Postgres cannot store: NUL characters and lone surrogates."""
    return text.replace("\x00", "\\u0000").encode("utf-8", "replace").decode()


def _storable(raw: str, *, store_payloads: bool) -> str:
    """The raw row as it may be kept: without payloads where those are not stored, and not endless."""
    text = _clean(raw)
    if not store_payloads:
        text = _without_payloads(text)
    if len(text) > RAW_LIMIT:
        text = f"{text[:RAW_LIMIT]}… [{len(text) - RAW_LIMIT} more characters]"
    return text


def _without_payloads(text: str) -> str:
    try:
        row = orjson.loads(text)
    except orjson.JSONDecodeError:
        # What cannot be parsed cannot be stripped: keep what tells where it stood and what it looked like.
        return f"{text[:200]}… [{max(len(text) - 200, 0)} more characters, payload storage is off]"
    if isinstance(row, dict):
        row = {key: value for key, value in row.items() if key not in ("inputs", "outputs", "events", "serialized")}
    return orjson.dumps(row).decode()
