"""How rows get into tables: COPY, staging, merging into a day, and building a day that does not exist yet.

Here belongs what is the same for every table. What a trace is, and which of its versions wins, is told by
the caller. Raw tables merge: a day in use is never detached, swapped or emptied, since that would wait behind
every reader and drop the rows of other sources. A day that does not exist yet is filled before it is attached:
nobody can see it, it needs no index while it fills, and where the server allows it (wal_level = minimal)
no WAL is written for it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from io import RawIOBase
from queue import Queue
from typing import TYPE_CHECKING

from psycopg2 import sql

if TYPE_CHECKING:
    import pyarrow as pa
    from psycopg2.extensions import cursor as Cursor

CHUNK_ROWS = 16_384


@dataclass(frozen=True, slots=True)
class MergeTable:
    """A table that merges: its schema and name, its key without the day, and what makes a version newer.

    ``version`` is a list of SQL expressions over ``{row}`` that together compare greater for the newer version.
    """

    name: str
    key: tuple[str, ...]
    version: str
    partitioned: bool = True

    @property
    def qualified(self) -> sql.Composed:
        return sql.SQL("metamon.") + sql.Identifier(self.name)

    def staged(self) -> sql.Identifier:
        return sql.Identifier(f"staged_{self.name}")

    def version_of(self, row: str) -> sql.SQL:
        return sql.SQL(self.version.format(row=row))

    def same_key(self, left: str, right: str) -> sql.Composed:
        return sql.SQL(" AND ").join(
            sql.SQL("{}.{} = {}.{}").format(sql.Identifier(left), sql.Identifier(column), sql.Identifier(right), sql.Identifier(column))
            for column in self.key
        )


@dataclass(frozen=True, slots=True)
class Merged:
    """Rows that a merge wrote or left as they were."""

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0

    def __add__(self, other: Merged) -> Merged:
        return Merged(self.inserted + other.inserted, self.updated + other.updated, self.unchanged + other.unchanged)


# --- COPY ---------------------------------------------------------------------------------------------------


class _CsvStream(RawIOBase):
    """File object for COPY whose bytes are encoded by another thread, so that encoding and sending overlap."""

    def __init__(self, table: pa.Table) -> None:
        self._chunks: Queue[bytes | BaseException | None] = Queue(maxsize=4)
        self._rest = memoryview(b"")
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._encode, args=(table,), name="copy-encoder", daemon=True)
        self._thread.start()

    def _encode(self, table: pa.Table) -> None:
        import pyarrow as pa
        from pyarrow import csv

        options = csv.WriteOptions(include_header=False)
        try:
            for start in range(0, table.num_rows, CHUNK_ROWS):
                if self._stopped.is_set():
                    return
                sink = pa.BufferOutputStream()
                csv.write_csv(table.slice(start, CHUNK_ROWS), sink, options)
                self._chunks.put(sink.getvalue().to_pybytes())
            self._chunks.put(None)
        except BaseException as error:  # noqa: BLE001 - handed to the reading thread, which raises it
            self._chunks.put(error)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if not self._rest:
            chunk = self._chunks.get()
            if isinstance(chunk, BaseException):
                raise chunk
            if chunk is None:
                self._chunks.put(None)
                return b""
            self._rest = memoryview(chunk)
        if size < 0:
            size = len(self._rest)
        head, self._rest = self._rest[:size], self._rest[size:]
        return bytes(head)

    def close(self) -> None:
        self._stopped.set()
        while self._thread.is_alive():  # a full queue would keep the encoder waiting for ever
            while not self._chunks.empty():
                self._chunks.get_nowait()
            self._thread.join(timeout=0.01)
        super().close()


def _as_csv_columns(table: pa.Table) -> pa.Table:
    """Lists of strings become Postgres array literals; every other type has a CSV form of its own.

    Times lose their zone, which Arrow would spell out twenty times as slowly; the session's zone is UTC as theirs is.
    """
    import pyarrow as pa

    for index, field in enumerate(table.schema):
        if pa.types.is_list(field.type):
            table = table.set_column(index, field.name, _array_literals(table.column(index)))
        elif pa.types.is_timestamp(field.type) and field.type.tz:
            plain = [chunk.view(pa.timestamp(field.type.unit)) for chunk in table.column(index).chunks]
            table = table.set_column(index, field.name, pa.chunked_array(plain, pa.timestamp(field.type.unit)))
    return table


def _array_literals(lists: pa.ChunkedArray) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    column = lists.combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], lists.type)
    if column.null_count == len(column):
        return pa.nulls(len(column), pa.string())
    values = pc.replace_substring(pc.replace_substring(column.flatten(), "\\", "\\\\"), '"', '\\"')
    offsets = pc.cumulative_sum(pc.fill_null(pc.list_value_length(column), 0))
    quoted = pa.ListArray.from_arrays(
        pa.concat_arrays([pa.array([0], pa.int32()), offsets.cast(pa.int32())]),
        pc.binary_join_element_wise('"', pc.fill_null(values, ""), '"', ""),
    )
    joined = pc.binary_join_element_wise("{", pc.binary_join(quoted, ","), "}", "")
    return pc.if_else(pc.is_valid(column), joined, pa.scalar(None, pa.string()))


def copy_rows(cursor: Cursor, target: sql.Composable, table: pa.Table) -> int:
    """COPY an Arrow table into ``target``, columns by name; gives the number of rows.

    A NULL stays NULL and an empty string an empty string. Raises psycopg2's errors.
    """
    if table.num_rows == 0:
        return 0
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT csv)").format(target, sql.SQL(", ").join(map(sql.Identifier, table.column_names)))
    stream = _CsvStream(_as_csv_columns(table))
    try:
        cursor.copy_expert(statement.as_string(cursor), stream, size=1 << 18)
    finally:
        stream.close()
    return table.num_rows


# --- staging and days ---------------------------------------------------------------------------------------


def table_columns(cursor: Cursor, table: MergeTable) -> list[str]:
    """The columns that are written: all but generated ones and the time of writing."""
    cursor.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"
        " AND attgenerated = '' AND attname <> 'ingested_at' ORDER BY attnum",
        (f"metamon.{table.name}",),
    )
    return [name for (name,) in cursor.fetchall()]


def create_staging(cursor: Cursor, table: MergeTable) -> None:
    """A temporary table of the same columns, emptied at the end of the transaction.

    It stays for the session: creating it takes milliseconds, which is more than a small merge that comes every second.
    """
    cursor.execute(
        sql.SQL("CREATE TEMPORARY TABLE IF NOT EXISTS {} (LIKE {} INCLUDING DEFAULTS INCLUDING GENERATED) ON COMMIT DELETE ROWS").format(
            table.staged(), table.qualified
        )
    )


def keep_result(cursor: Cursor, name: str, query: str, values: Mapping[str, object]) -> int:
    """The rows of a query in a temporary table, in place of what it held; emptied at the end of the transaction. Gives their number.

    Like ``create_staging``'s it stays for the session, so the query must give the same columns each time.
    """
    cursor.execute(f"CREATE TEMPORARY TABLE IF NOT EXISTS {name} ON COMMIT DELETE ROWS AS {query} WITH NO DATA", values)
    cursor.execute(f"DELETE FROM {name}")
    cursor.execute(f"INSERT INTO {name} {query}", values)
    return cursor.rowcount


def analyze_staging(cursor: Cursor, table: MergeTable, *more: str) -> None:
    """Tell the planner about the staged rows: the columns that they are joined by (``more``: beside the key) only."""
    joined_by = [*table.key, *(["day"] if table.partitioned else []), *more]
    cursor.execute(sql.SQL("ANALYZE {} ({})").format(table.staged(), sql.SQL(", ").join(map(sql.Identifier, joined_by))))


def loading(table: MergeTable, day: date) -> sql.Composed:
    """The table in which a day is being filled, between ``begin_partition`` and ``attach_partition``."""
    return sql.SQL("loading.") + sql.Identifier(f"{table.name}_{day:%Y%m%d}")


def lock_day(cursor: Cursor, source: str, day: date) -> None:
    """Keep every other writer of this source and day out until the transaction ends."""
    cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"day:{source}:{day}",))


def try_lock_day(cursor: Cursor, source: str, day: date) -> bool:
    """``lock_day`` without waiting; False when another writer has the day."""
    cursor.execute("SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))", (f"day:{source}:{day}",))
    return bool(cursor.fetchone()[0])  # type: ignore[index]


def begin_partition(cursor: Cursor, table: MergeTable, day: date, *, wait: bool) -> bool:
    """Create the unattached table for a day that does not exist yet; False when the day exists (or, without
    ``wait``, when somebody else is making it)."""
    cursor.execute("SELECT metamon.begin_partition(%s, %s, %s)", (table.name, day, wait))
    return bool(cursor.fetchone()[0])  # type: ignore[index]


def attach_partition(cursor: Cursor, table: MergeTable, day: date) -> None:
    """Index the filled table as its parent is indexed and make it a partition.

    The parent is locked only against other changes of its partitions; readers go on.
    """
    cursor.execute("SELECT metamon.attach_partition(%s, %s)", (table.name, day))


# --- merging ------------------------------------------------------------------------------------------------


def allow_bulk_memory(cursor: Cursor) -> None:
    """Room for hash joins and index builds over a whole day, for this transaction only."""
    cursor.execute("SET LOCAL work_mem = '256MB'")
    cursor.execute("SET LOCAL maintenance_work_mem = '512MB'")


def remove_duplicates(cursor: Cursor, table: MergeTable, target: sql.Composable, *, per_day: bool) -> list[tuple[dict[str, object], bool]]:
    """Keep the newest version of each key in ``target``; gives what was removed, and whether it contradicts.

    A version contradicts the one that was kept when neither is newer by more than its content: somebody wrote two
    different rows under one id.
    """
    key = [*table.key, "day"] if per_day else list(table.key)
    keys = sql.SQL(", ").join(map(sql.Identifier, key))
    cursor.execute(
        sql.SQL(
            "WITH twice AS (SELECT {keys} FROM {target} GROUP BY {keys} HAVING count(*) > 1),"
            " ranked AS (SELECT t.ctid AS place, t.content_hash,"
            "   row_number() OVER w AS rank,"
            "   ROW({version}) AS version, first_value(ROW({version})) OVER w AS best, first_value(t.content_hash) OVER w AS kept"
            "   FROM {target} t JOIN twice USING ({keys})"
            "   WINDOW w AS (PARTITION BY {keys} ORDER BY ROW({version}) DESC, t.content_hash DESC)),"
            " removed AS (DELETE FROM {target} t USING ranked r WHERE t.ctid = r.place AND r.rank > 1"
            "   RETURNING to_jsonb(t) AS removed_row, r.content_hash <> r.kept AND r.version = r.best AS contradicts)"
            " SELECT removed_row, contradicts FROM removed"
        ).format(keys=keys, target=target, version=table.version_of("t"))
    )
    return cursor.fetchall()


@dataclass(frozen=True, slots=True)
class Notes:
    """A table that takes these columns of every row that a merge writes, as it is now and as it was."""

    target: str
    columns: tuple[str, ...]

    def names(self, prefix: str = "") -> sql.Composed:
        return sql.SQL(", ").join(sql.Identifier(prefix + column) for column in self.columns)

    def of_old_rows(self) -> sql.Composed:
        """What is to be selected of the old row ``t``, beside the new one."""
        return sql.SQL("").join(
            sql.SQL(", t.{} AS {}").format(sql.Identifier(column), sql.Identifier(f"old_{column}")) for column in self.columns
        )

    def taken(self) -> sql.Composed:
        """The step of ``merge_day`` that takes them."""
        return sql.SQL(
            " noted AS (INSERT INTO {target} ({names}) SELECT {names} FROM changed"
            "   UNION ALL SELECT {old_names} FROM changed WHERE NOT is_new),"
        ).format(target=sql.Identifier(self.target), names=self.names(), old_names=self.names("old_"))


def merge_day(cursor: Cursor, table: MergeTable, columns: Sequence[str], day: date | None, notes: Notes | None = None) -> Merged:
    """Merge the staged rows of a day (all, for a table without days) into the table: new and newer rows only.

    A row whose content is the same is not written, so that reading a day again leaves no dead rows behind.
    """
    newer = sql.SQL("({}, {}.content_hash) > ({}, t.content_hash)")
    statement = sql.SQL(
        "WITH changed AS (SELECT {staged_names}, t.content_hash IS NULL AS is_new{old_rows}"
        "   FROM {staged} s LEFT JOIN {target} t ON {same_key} AND {t_of_day}"
        "   WHERE {s_of_day} AND (t.content_hash IS NULL OR (t.content_hash <> s.content_hash AND {newer_staged}))),{noted}"
        " written AS (INSERT INTO {target} AS t ({names}) SELECT {names} FROM changed"
        "   ON CONFLICT ({key}) DO UPDATE SET {assignments}, ingested_at = statement_timestamp()"
        "   WHERE t.content_hash <> excluded.content_hash AND {newer_excluded})"
        " SELECT count(*) FILTER (WHERE is_new), count(*) FILTER (WHERE NOT is_new),"
        "   (SELECT count(*) FROM {staged} s WHERE {s_of_day}) FROM changed"
    ).format(
        staged_names=sql.SQL(", ").join(sql.SQL("s.") + sql.Identifier(name) for name in columns),
        old_rows=notes.of_old_rows() if notes else sql.SQL(""),
        noted=notes.taken() if notes else sql.SQL(""),
        names=sql.SQL(", ").join(map(sql.Identifier, columns)),
        staged=table.staged(),
        target=table.qualified,
        same_key=table.same_key("s", "t"),
        # The day as a literal, so that the planner looks at its partition alone.
        s_of_day=sql.SQL("s.day = {}").format(sql.Literal(day)) if table.partitioned else sql.SQL("true"),
        t_of_day=sql.SQL("t.day = {}").format(sql.Literal(day)) if table.partitioned else sql.SQL("true"),
        newer_staged=newer.format(table.version_of("s"), sql.Identifier("s"), table.version_of("t")),
        newer_excluded=newer.format(table.version_of("excluded"), sql.Identifier("excluded"), table.version_of("t")),
        key=sql.SQL(", ").join(map(sql.Identifier, (*table.key, "day") if table.partitioned else table.key)),
        assignments=sql.SQL(", ").join(
            sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in columns if name not in (*table.key, "day")
        ),
    )
    cursor.execute(statement)
    inserted, updated, staged = cursor.fetchone()  # type: ignore[misc]
    return Merged(inserted, updated, staged - inserted - updated)


def merge_staged(cursor: Cursor, table: MergeTable, notes: Notes | None = None) -> tuple[Merged, list[date]]:
    """Merge everything staged for a table, day by day; gives the counts and the days that changed.

    The caller holds the locks of the days and has removed duplicates. ``notes`` takes what was written.
    """
    columns = table_columns(cursor, table)
    analyze_staging(cursor, table)
    if not table.partitioned:
        merged = merge_day(cursor, table, columns, None)
        return merged, []
    cursor.execute(sql.SQL("SELECT day, count(*) FROM {} GROUP BY day ORDER BY day").format(table.staged()))
    total, changed = Merged(), []
    for day, rows in cursor.fetchall():
        if begin_partition(cursor, table, day, wait=True):
            cursor.execute(
                sql.SQL("INSERT INTO {target} ({names}) SELECT {names} FROM {staged} WHERE day = {day}").format(
                    target=loading(table, day),
                    names=sql.SQL(", ").join(map(sql.Identifier, columns)),
                    staged=table.staged(),
                    day=sql.Literal(day),
                )
            )
            if notes:
                cursor.execute(
                    sql.SQL("INSERT INTO {target} ({names}) SELECT {names} FROM {staged} WHERE day = {day}").format(
                        target=sql.Identifier(notes.target), names=notes.names(), staged=table.staged(), day=sql.Literal(day)
                    )
                )
            attach_partition(cursor, table, day)
            merged = Merged(inserted=rows)
        else:
            merged = merge_day(cursor, table, columns, day, notes)
        total += merged
        if merged.inserted or merged.updated:
            changed.append(day)
    return total, changed


def ensure_partitions(cursor: Cursor, tables: Iterable[MergeTable], day: date) -> None:
    """Make sure that a day exists in each table, empty where nothing has been read for it."""
    for table in tables:
        if table.partitioned:
            cursor.execute("SELECT metamon.ensure_partition(%s, %s)", (table.name, day))
