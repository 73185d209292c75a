"""Files as a source: JSONL, CSV and Parquet, in the unified column names or through a mapping (IN-4).

Here belongs turning files into batches; ``reading`` finds and splits them, ``mapping`` renames, ``conversion``
reads the values. Nothing is written, priced, redacted or deduplicated here.

What a file holds is decided by the mapping, else by its name or the nearest folder: ``runs`` (also ``traces``,
``spans``), ``feedback``, ``events`` or ``gauges``, as in ``feedback/2026-08-22.jsonl`` or ``events.csv``; without
such a name, runs. Keys that are no unified columns are kept in metadata (of gauges: in labels). A row's own
``project`` and ``observed_time`` go before the source's and the file's modification time; its ``source`` does not.

A file whose name is a day (``2026-08-22.jsonl``, ``day=2026-08-22/…``) is read only for windows within one day of
it, and so is one that the catalogue knows unchanged. Rows beyond the window may be yielded; ingest drops them.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from metamon_assets.traces import columns
from metamon_assets.traces.sources import reading
from metamon_assets.traces.sources.base import Batch, Kind, Reject, SourceCount, SourceError, Window
from metamon_assets.traces.sources.conversion import DERIVED, IDENTIFIERS, SCHEMAS, TIMES, Problem, Problems, json_text, to_table
from metamon_assets.traces.sources.reading import SourceFile

if TYPE_CHECKING:
    from metamon_assets.traces.sources.mapping import Mapping as ColumnMapping

BATCH_ROWS = 50_000
SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv", ".jsonl.gz", ".ndjson.gz", ".csv.gz", ".tsv.gz", ".parquet")
_KIND_OF_NAME = {
    "runs": Kind.RUNS,
    "traces": Kind.RUNS,
    "spans": Kind.RUNS,
    "feedback": Kind.FEEDBACK,
    "events": Kind.EVENTS,
    "gauges": Kind.GAUGES,
    "gauge_samples": Kind.GAUGES,
}
_KIND_WORD = re.compile(r"^(gauge_samples|[a-z]+)(?![a-z])")
_ADVICE = {
    "line_too_long": "is longer than {limit} bytes; split it, store its payload elsewhere, or raise max_line_bytes",
    "truncated_gzip": "the gzip data end or break here; copy the file again from where it came",
}


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """What a complete reading found out about a file: a row of metamon.source_files.

    ``first`` and ``last`` are the earliest and latest start of its runs (feedback: creation, others: time), NULL when
    it has none. ``path`` and ``kind`` together name the entry.
    """

    path: str
    kind: Kind
    size: int  # bytes
    modified: datetime
    first: datetime | None
    last: datetime | None
    rows: int


@dataclass(slots=True)
class _Tally:
    """Rows and times of a file, as its batches go by."""

    rows: int = 0
    first: datetime | None = None
    last: datetime | None = None

    def add(self, kind: Kind, rows: pa.Table) -> None:
        self.rows += rows.num_rows
        if TIMES[kind] not in rows.column_names:
            return
        span = pc.min_max(rows[TIMES[kind]]).as_py()
        if span["min"] is not None:
            self.first = min(self.first or span["min"], span["min"])
            self.last = max(self.last or span["max"], span["max"])


@dataclass(slots=True)
class FilesSource:
    """JSONL, CSV and Parquet files as a source.

    ``paths``: files, folders (searched through) or patterns. ``project``: of rows that name none. ``mapping``: for
    files in other column names; a mapping makes every file one of its kind. ``catalogue``: entries of earlier
    readings by (path, kind), so that unchanged files which cannot hold a window are not opened.
    """

    paths: Sequence[str | Path]
    project: str
    mapping: ColumnMapping | None = None
    catalogue: Mapping[tuple[str, Kind], CatalogueEntry] = field(default_factory=dict)
    max_line_bytes: int = reading.MAX_LINE_BYTES
    name: str = "files"
    _read: dict[tuple[str, Kind], CatalogueEntry] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.paths, (str, Path)):
            self.paths = [self.paths]

    def read(self, kind: Kind, window: Window | None) -> Iterator[Batch]:
        """Batches of some 50,000 rows from every file that may hold rows of the window (None: from every file).

        Raises SourceError for a path that is missing, a file that cannot be read or is not what its name says.
        """
        for file in reading.find_files(self.paths, SUFFIXES):
            if self.kind_of(file) is kind and self._may_hold(file, kind, window):
                yield from self._read_file(file, kind, window)

    def count(self, window: Window) -> SourceCount:
        """Files keep no count of their own."""
        return SourceCount()

    def catalogue_entries(self) -> list[CatalogueEntry]:
        """One entry for each file that was read to its end since this source was made."""
        return list(self._read.values())

    def kind_of(self, file: SourceFile) -> Kind:
        """What the file holds, by the mapping or by its name."""
        return self.mapping.kind if self.mapping else kind_of_name(file)

    def _may_hold(self, file: SourceFile, kind: Kind, window: Window | None) -> bool:
        if window is None:
            return True
        if not reading.can_hold(file, window):
            return False
        known = self._read.get((str(file.path), kind)) or self.catalogue.get((str(file.path), kind))
        if known is None or (known.size, known.modified) != (file.size, file.modified) or known.first is None or known.last is None:
            return True
        return reading.overlaps(known.first, known.last, window)

    def _read_file(self, file: SourceFile, kind: Kind, window: Window | None) -> Iterator[Batch]:
        tally, whole = _Tally(), True
        suffix = file.path.name.lower().removesuffix(".gz").rpartition(".")[2]
        if suffix == "parquet":
            groups = _parquet_groups(file, kind, None if self.mapping else window)
            whole = groups is None
            batches = self._read_parquet(file, kind, groups)
        elif suffix in ("csv", "tsv"):
            batches = self._read_csv(file, kind, "\t" if suffix == "tsv" else ",")
        else:
            batches = self._read_jsonl(file, kind)
        for batch in _gathered(batches):
            tally.add(kind, batch.rows)
            yield batch
        if whole:
            key = (str(file.path), kind)
            self._read[key] = CatalogueEntry(key[0], kind, file.size, file.modified, tally.first, tally.last, tally.rows)

    # JSONL -------------------------------------------------------------------------------------------------

    def _read_jsonl(self, file: SourceFile, kind: Kind) -> Iterator[Batch]:
        seen_traces: set[Any] = set()
        for chunk in reading.read_lines(file.path, self.max_line_bytes):
            if chunk.fault is not None:
                detail = _ADVICE[chunk.fault].format(limit=self.max_line_bytes)
                yield _rejected(kind, file, chunk.first, chunk.fault, detail, chunk.lines[0])
                continue
            rows, lines, rejects = _parse_lines(chunk, kind, file)
            for start in range(0, max(len(rows), 1), BATCH_ROWS):
                part = slice(start, start + BATCH_ROWS)
                batch = self._batch(kind, file, rows[part], lines[part], seen_traces)
                yield Batch(kind, batch.rows, (*(rejects if start == 0 else ()), *batch.rejects), str(file.path), batch.row_locations)

    # CSV ---------------------------------------------------------------------------------------------------

    def _read_csv(self, file: SourceFile, kind: Kind, delimiter: str) -> Iterator[Batch]:
        if self.mapping and self.mapping.delimiter:
            delimiter = self.mapping.delimiter
        faults: list[Reject] = []
        csv.field_size_limit(self.max_line_bytes)
        reader = csv.reader(_text_lines(file, kind, self.max_line_bytes, faults), delimiter=delimiter, strict=True)
        header = _header(reader, file)
        if not header:
            return
        if self.mapping:
            self.mapping.require(header, str(file.path))
        seen_traces: set[Any] = set()
        rows: list[dict[str, Any]] = []
        lines: list[int] = []
        rejects: list[Reject] = []
        while True:
            line = reader.line_num + 1
            try:
                values = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                rejects.append(_reject(kind, file, line, "malformed_csv", f"{error}; quote texts that hold the delimiter or line ends", ""))
                continue
            if len(values) == len(header):
                rows.append(dict(zip(header, [value or None for value in values], strict=True)))
                lines.append(line)
            elif values:
                rejects.append(_uneven(kind, file, line, values, len(header), delimiter))
            if len(rows) >= BATCH_ROWS or len(rejects) >= BATCH_ROWS:
                yield self._checked(kind, file, rows, lines, [*faults, *rejects], seen_traces)
                rows, lines, rejects = [], [], []
                faults.clear()
        yield self._checked(kind, file, rows, lines, [*faults, *rejects], seen_traces)

    def _checked(
        self, kind: Kind, file: SourceFile, rows: list[dict[str, Any]], lines: list[int], rejects: list[Reject], seen: set[Any]
    ) -> Batch:
        """A batch of CSV rows without those whose bytes are not UTF-8 (they stand as lone surrogates in the text)."""
        invalid = {place for place, row in enumerate(rows) if not _encodable(row)}
        for place in invalid:
            raw = ",".join(str(value or "") for value in rows[place].values()).encode(errors="surrogateescape")
            rejects.append(_reject(kind, file, lines[place], "invalid_utf8", "the line is not UTF-8; convert the file to UTF-8", raw))
        if invalid:
            rows = [row for place, row in enumerate(rows) if place not in invalid]
            lines = [line for place, line in enumerate(lines) if place not in invalid]
        batch = self._batch(kind, file, rows, lines, seen)
        return Batch(kind, batch.rows, (*rejects, *batch.rejects), batch.location, batch.row_locations)

    # Parquet -----------------------------------------------------------------------------------------------

    def _read_parquet(self, file: SourceFile, kind: Kind, groups: list[int] | None) -> Iterator[Batch]:
        import pyarrow.parquet as pq

        seen_traces: set[Any] = set()
        try:
            with pq.ParquetFile(file.path) as parquet:
                if self.mapping:
                    self.mapping.require(parquet.schema_arrow.names, str(file.path))
                starts = _group_starts(parquet.metadata)
                for group in range(len(starts)) if groups is None else groups:
                    first = starts[group]
                    for part in parquet.iter_batches(BATCH_ROWS, [group], use_threads=False):
                        table = pa.Table.from_batches([part])
                        if self.mapping:
                            yield self._batch(kind, file, table.to_pylist(), range(first, first + part.num_rows), seen_traces)
                        else:
                            yield self._arrow_batch(kind, file, table, first)
                        first += part.num_rows
        except OSError as error:
            raise reading.unreadable(file.path, error) from error
        except pa.ArrowException as error:
            raise _not_parquet(file, error) from error

    def _arrow_batch(self, kind: Kind, file: SourceFile, table: pa.Table, first: int) -> Batch:
        names = set(SCHEMAS[kind].names) - {"source"}
        values: dict[str, Any] = {name: table[name] for name in table.column_names if name in names}
        extras = [name for name in table.column_names if name not in names and name not in DERIVED]
        folded = _fold_columns(kind, table, extras, self.name)
        if folded is not None:
            values[_folding(kind)] = folded
        lines = range(first, first + table.num_rows)
        return self._finish(kind, file, values, lines, lambda row: json_text(table.slice(row, 1).to_pylist()[0]))

    # Any format --------------------------------------------------------------------------------------------

    def _batch(self, kind: Kind, file: SourceFile, rows: list[dict[str, Any]], lines: Sequence[int], seen_traces: set[Any]) -> Batch:
        """Rows of a file as a batch: through the mapping, or by their own names."""
        if self.mapping:
            values, origins, problems = self.mapping.apply(rows, lines, file.relative, seen_traces)
            lines = [lines[origin] for origin in origins]
            return self._finish(kind, file, values, lines, lambda row: json_text(rows[origins[row]]), problems)
        return self._finish(kind, file, _columns_of(kind, rows, self.name), lines, lambda row: json_text(rows[row]))

    def _finish(
        self, kind: Kind, file: SourceFile, values: Mapping[str, Any], lines: Sequence[int], raw: Any, problems: Problems | None = None
    ) -> Batch:
        """Typed columns with the source's own filled in, without the rows that have a problem, which become rejects."""
        table, found = to_table(kind, values, len(lines))
        problems = {**found, **(problems or {})}
        table = _filled(table, "source", pa.scalar(self.name))
        table = _filled(table, "project", pa.scalar(self.project))
        table = _filled(table, "observed_time", pa.scalar(file.modified, columns.TIMESTAMP))
        place = str(file.path) + ":"
        if not problems:
            return Batch(kind, table, (), str(file.path), tuple(map(place.__add__, map(str, lines))))
        ids = table[IDENTIFIERS[kind]] if kind is Kind.RUNS else None
        rejects = tuple(
            _reject(kind, file, lines[row], *problem, raw(row), run_id=ids[row].as_py() if ids is not None else None)
            for row, problem in sorted(problems.items())
        )
        kept = [row for row in range(len(lines)) if row not in problems]
        return Batch(kind, table.take(pa.array(kept, pa.int64())), rejects, str(file.path), tuple(f"{place}{lines[row]}" for row in kept))


def kind_of_name(file: SourceFile) -> Kind:
    """What a file holds by its name (events.csv, feedback-2026.jsonl) or the nearest folder of such a name; runs otherwise."""
    *folders, name = file.relative.lower().split("/")
    word = _KIND_WORD.match(name)
    for part in (word.group() if word else "", *reversed(folders), file.path.absolute().parent.name.lower()):
        if part in _KIND_OF_NAME:
            return _KIND_OF_NAME[part]
    return Kind.RUNS


# Lines and rows --------------------------------------------------------------------------------------------


def _parse_lines(chunk: reading.Chunk, kind: Kind, file: SourceFile) -> tuple[list[dict[str, Any]], Sequence[int], list[Reject]]:
    """JSON objects of the lines, their line numbers, and the lines that hold none. Blank lines are passed over."""
    lines: Sequence[bytes] = chunk.lines
    numbers: Sequence[int] = range(chunk.first, chunk.first + len(lines))
    if b"" in lines:
        numbers = [number for number, line in zip(numbers, lines, strict=True) if line]
        lines = [line for line in lines if line]
    try:
        rows = list(map(orjson.loads, lines))
        if set(map(type, rows)) <= {dict}:
            return rows, numbers, []
    except orjson.JSONDecodeError:
        pass  # some line is bad: find out which
    rows, kept, rejects = [], [], []
    last = len(lines) - 1
    for place, (number, line) in enumerate(zip(numbers, lines, strict=True)):
        if not line.strip():
            continue
        row, problem = _parse_line(line, chunk.unfinished and place == last)
        if problem is None:
            rows.append(row)
            kept.append(number)
        else:
            rejects.append(_reject(kind, file, number, *problem, line))
    return rows, kept, rejects


def _parse_line(line: bytes, unfinished: bool) -> tuple[dict[str, Any], Problem | None]:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        if unfinished:
            return {}, Problem("truncated_line", "the last line has no end and is not complete JSON; write it again when its writer is done")
        try:
            line.decode()
        except UnicodeDecodeError:
            return {}, Problem("invalid_utf8", "the line is not UTF-8; convert the file to UTF-8")
        return {}, Problem("malformed_json", f"not JSON: {error}; write one JSON object per line")
    if not isinstance(row, dict):
        return {}, Problem("not_an_object", f"the line holds a JSON {type(row).__name__}; write one JSON object per line")
    return row, None


def _columns_of(kind: Kind, rows: list[dict[str, Any]], source: str) -> dict[str, list[Any]]:
    """Columns of the unified names among the rows' keys; other keys are folded into metadata (of gauges: labels)."""
    present: set[str] = set().union(*rows)
    names = set(SCHEMAS[kind].names) - {"source"}
    values = {name: [row.get(name) for row in rows] for name in present & names}
    extras = present - names - DERIVED
    if "source" in extras and all(row.get("source") in (None, source) for row in rows):
        extras.discard("source")
    if extras:
        target = _folding(kind)
        values[target] = [_folded(row, extras, row.get(target)) for row in rows]
    return values


def _folded(row: dict[str, Any], extras: set[str], own: Any) -> Any:
    """The row's own metadata with its extra keys; an extra key never hides one of the metadata."""
    found = {key: value for key in row.keys() & extras if (value := row[key]) is not None}
    if not found:
        return own
    if isinstance(own, str):
        try:
            parsed = orjson.loads(own)
        except orjson.JSONDecodeError:
            parsed = None
        own = parsed if isinstance(parsed, dict) else {"metadata": own}
    elif own is not None and not isinstance(own, dict):
        own = {"metadata": own}
    for key, value in (own or {}).items():
        if key in found and found[key] != value:
            found[f"column.{key}"] = found[key]
        found[key] = value
    return found


def _fold_columns(kind: Kind, table: pa.Table, extras: list[str], source: str) -> list[Any] | None:
    if "source" in extras and pc.all(pc.equal(table["source"].cast(pa.string()), source)).as_py():
        extras = [name for name in extras if name != "source"]
    if not extras:
        return None
    target = _folding(kind)
    own: Iterable[Any] = table[target].to_pylist() if target in table.column_names else repeat(None, table.num_rows)
    wanted = set(extras)
    return [_folded(row, wanted, value) for row, value in zip(table.select(extras).to_pylist(), own, strict=True)]


def _folding(kind: Kind) -> str:
    return "labels" if kind is Kind.GAUGES else "metadata"


def _filled(table: pa.Table, name: str, value: pa.Scalar) -> pa.Table:
    """The column with its gaps filled, or made."""
    if name not in table.column_names:
        return table.append_column(name, pa.repeat(value, table.num_rows))
    return table.set_column(table.column_names.index(name), name, pc.fill_null(table[name], value))


def _gathered(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Batches joined up to some 50,000 rows, so that each is worth a merge."""
    held: list[Batch] = []
    rows = 0
    for batch in batches:
        held.append(batch)
        rows += batch.rows.num_rows + len(batch.rejects)
        if rows >= BATCH_ROWS:
            yield _joined(held)
            held, rows = [], 0
    if rows:
        yield _joined(held)


def _joined(batches: list[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    table = pa.concat_tables([batch.rows for batch in batches], promote_options="default").combine_chunks()
    rejects = tuple(reject for batch in batches for reject in batch.rejects)
    locations = tuple(location for batch in batches for location in batch.row_locations or ())
    return Batch(batches[0].kind, table, rejects, batches[0].location, locations)


# Rejects ---------------------------------------------------------------------------------------------------


def _reject(kind: Kind, file: SourceFile, line: int, reason: str, detail: str, raw: str | bytes, run_id: str | None = None) -> Reject:
    text = raw.decode(errors="replace") if isinstance(raw, bytes) else raw
    return Reject(kind, reason, detail, f"{file.path}:{line}", text, run_id)


def _rejected(kind: Kind, file: SourceFile, line: int, reason: str, detail: str, raw: bytes) -> Batch:
    """A batch of no rows that only carries a reject."""
    return Batch(kind, pa.table({}), (_reject(kind, file, line, reason, detail, raw),), str(file.path), ())


# CSV -------------------------------------------------------------------------------------------------------


def _text_lines(file: SourceFile, kind: Kind, max_line_bytes: int, faults: list[Reject]) -> Iterator[str]:
    """Lines with their ends, for the csv module. Bytes that are not UTF-8 become lone surrogates.

    A line that is too long or broken off is noted in ``faults`` and stands as an empty one, so that numbers stay right.
    """
    for chunk in reading.read_lines(file.path, max_line_bytes):
        if chunk.fault is not None:
            detail = _ADVICE[chunk.fault].format(limit=max_line_bytes)
            faults.append(_reject(kind, file, chunk.first, chunk.fault, detail, chunk.lines[0]))
            yield "\n"
            continue
        for line in chunk.lines:
            yield line.decode("utf-8", "surrogateescape") + "\n"


def _header(reader: Iterator[list[str]], file: SourceFile) -> list[str]:
    try:
        header = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise SourceError(f"{file.path}: the header cannot be read as CSV: {error}; the first line must name the columns") from error
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise SourceError(f"{file.path}: the header names {', '.join(twice)} more than once; give every column its own name")
    return header


def _uneven(kind: Kind, file: SourceFile, line: int, values: list[str], wanted: int, delimiter: str) -> Reject:
    detail = f"{len(values)} columns where the header has {wanted}; quote texts that hold the delimiter, or complete the row"
    return _reject(kind, file, line, "wrong_column_count", detail, delimiter.join(values).encode(errors="surrogateescape"))


def _encodable(row: dict[str, Any]) -> bool:
    return all(value is None or value.isascii() or value.encode(errors="replace") == value.encode(errors="surrogatepass") for value in row.values())


# Parquet ---------------------------------------------------------------------------------------------------


def _group_starts(metadata: Any) -> list[int]:
    """Number of the first row of each row group, from 1."""
    starts, row = [], 1
    for group in range(metadata.num_row_groups):
        starts.append(row)
        row += metadata.row_group(group).num_rows
    return starts


def _parquet_groups(file: SourceFile, kind: Kind, window: Window | None) -> list[int] | None:
    """Row groups that may hold rows of the window by their statistics; None: all of them."""
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file.path) as parquet:
            metadata, schema = parquet.metadata, parquet.schema_arrow
    except OSError as error:
        raise reading.unreadable(file.path, error) from error
    except pa.ArrowException as error:
        raise _not_parquet(file, error) from error
    name = TIMES[kind]
    if window is None or name not in schema.names or not pa.types.is_timestamp(schema.field(name).type) or pa.types.is_nested(schema.types[0]):
        return None
    chosen = []
    for group in range(metadata.num_row_groups):
        span = _group_span(metadata.row_group(group), name)
        if span is None or reading.overlaps(*span, window):
            chosen.append(group)
    return None if len(chosen) == metadata.num_row_groups else chosen


def _group_span(group: Any, name: str) -> tuple[datetime, datetime] | None:
    from metamon_assets.traces.sources.conversion import parse_time

    for position in range(group.num_columns):
        column = group.column(position)
        if column.path_in_schema == name:
            statistics = column.statistics
            if statistics is None or not statistics.has_min_max or statistics.null_count != 0:
                return None
            first, last = parse_time(statistics.min), parse_time(statistics.max)
            return (first, last) if first and last else None
    return None


def _not_parquet(file: SourceFile, error: pa.ArrowException) -> SourceError:
    return SourceError(f"{file.path}: is not a whole Parquet file: {error}; copy it again, or rename it to what it is")
