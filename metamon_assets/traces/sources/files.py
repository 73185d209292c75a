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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from metamon_assets.traces import columns
from metamon_assets.traces.sources import reading
from metamon_assets.traces.sources.base import Batch, Holding, Kind, Reject, SourceCount, SourceError, Window
from metamon_assets.traces.sources.catalogue import BATCH_ROWS, Catalogue, CatalogueEntry, Entries, gathered
from metamon_assets.traces.sources.conversion import (
    DERIVED,
    IDENTIFIERS,
    LEFT_OUT,
    SCHEMAS,
    TIMES,
    Findings,
    Problem,
    json_text,
    parse_time,
    to_table,
)
from metamon_assets.traces.sources.reading import SourceFile

if TYPE_CHECKING:
    from metamon_assets.traces.sources.mapping import Mapping as ColumnMapping

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
_WIRE_LINES = 1_000  # of a CSV row that cannot be read, for quarantine: an open quote may swallow the whole file
_KIND_WORD = re.compile(r"^(gauge_samples|[a-z]+)(?![a-z])")


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
    catalogue: Entries = field(default_factory=dict)
    max_line_bytes: int = reading.MAX_LINE_BYTES
    name: str = "files"
    _files: Catalogue = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.paths, (str, Path)):
            self.paths = [self.paths]
        self._files = Catalogue(self.catalogue, self.mapping.fingerprint if self.mapping else "")

    def read(self, kind: Kind, window: Window | None) -> Iterator[Batch]:
        """Batches of some 50,000 rows from every file that may hold rows of the window (None: from every file).

        Raises SourceError for a path that is missing, a file that cannot be read or is not what its name says.
        """
        files = [file for file in reading.find_files(self.paths, SUFFIXES) if self.kind_of(file) is kind]
        yield from gathered(
            batch for file in files if self._files.may_hold(file, kind, window) for batch in self._read_file(file, kind, window)
        )

    def changed(self, since: datetime) -> set[Kind]:
        """Kinds of the files written at or after ``since`` that were not read since. Raises SourceError."""
        return {kind for _, kind in self._changed_files(since)}

    def read_changes(self, kind: Kind, since: datetime) -> Iterator[Batch]:
        """Batches from those files, whatever times their rows have."""
        files = [file for file, held in self._changed_files(since) if held is kind]
        yield from gathered(batch for file in files for batch in self._read_file(file, kind, None))

    def _changed_files(self, since: datetime) -> Iterator[tuple[SourceFile, Kind]]:
        for file in reading.find_files(self.paths, SUFFIXES):
            if self._files.changed(file, kind := self.kind_of(file), since):
                yield file, kind

    def count(self, window: Window) -> SourceCount:
        """Files keep no count of their own."""
        return SourceCount()

    def catalogue_entries(self) -> list[CatalogueEntry]:
        """One entry for each file that was read to its end since this source was made."""
        return list(self._files.read.values())

    def holdings(self) -> Iterator[Holding]:
        """Which days each file has rows for; a file that tells neither by its name nor by the catalogue is read."""
        for file in reading.find_files(self.paths, SUFFIXES):
            kind = self.kind_of(file)
            if found := self._files.holding(file, kind, partial(self._read_file, file, kind, None)):
                yield found

    def kind_of(self, file: SourceFile) -> Kind:
        """What the file holds, by the mapping or by its name."""
        return self.mapping.kind if self.mapping else kind_of_name(file)

    def _read_file(self, file: SourceFile, kind: Kind, window: Window | None) -> Iterator[Batch]:
        reader = _FileReader(self, file, kind)
        suffix = file.path.name.lower().removesuffix(".gz").rpartition(".")[2]
        if suffix == "parquet":
            groups = reader.parquet_groups(None if self.mapping else window)
            if groups is not None:
                return reader.parquet(groups)  # only a part: the catalogue learns nothing
            batches = reader.parquet(None)
        elif suffix in ("csv", "tsv"):
            batches = reader.csv("\t" if suffix == "tsv" else ",")
        else:
            batches = reader.jsonl()
        return self._files.noting(file, kind, batches)


def kind_of_name(file: SourceFile) -> Kind:
    """What a file holds by its name (events.csv, feedback-2026.jsonl) or the nearest folder of such a name; runs otherwise."""
    *folders, name = file.relative.lower().split("/")
    word = _KIND_WORD.match(name)
    for part in (word.group() if word else "", *reversed(folders), file.path.absolute().parent.name.lower()):
        if part in _KIND_OF_NAME:
            return _KIND_OF_NAME[part]
    return Kind.RUNS


@dataclass(slots=True)
class _FileReader:
    """One file on its way through: JSONL, CSV or Parquet into batches."""

    source: FilesSource
    file: SourceFile
    kind: Kind
    seen_traces: set[str] = field(default_factory=set)  # whose roots the mapping has made

    # JSONL -------------------------------------------------------------------------------------------------

    def jsonl(self) -> Iterator[Batch]:
        for chunk in reading.read_lines(self.file.path, self.source.max_line_bytes):
            if chunk.fault is not None:
                yield self.only_rejects([self.broken(chunk)])
                continue
            rows, lines, rejects = self.parse_lines(chunk)
            yield self.batch(rows, lines, rejects)

    def parse_lines(self, chunk: reading.Chunk) -> tuple[list[dict[str, Any]], Sequence[int], list[Reject]]:
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
                rejects.append(self.reject(number, *problem, line))
        return rows, kept, rejects

    # CSV ---------------------------------------------------------------------------------------------------

    def csv(self, delimiter: str) -> Iterator[Batch]:
        mapping = self.source.mapping
        if mapping and mapping.delimiter:
            delimiter = mapping.delimiter
        rejects: list[Reject] = []
        wire: list[str] = []  # the lines of the present row
        csv.field_size_limit(self.source.max_line_bytes)
        rows_of_text = csv.reader(self.text_lines(rejects, wire), delimiter=delimiter, strict=True)
        header = self.header(rows_of_text)
        if mapping and header:
            mapping.require(header, str(self.file.path))
        rows: list[dict[str, Any]] = []
        lines: list[int] = []
        while header:
            line = rows_of_text.line_num + 1
            wire.clear()
            try:
                values = next(rows_of_text)
            except StopIteration:
                break
            except csv.Error as error:
                detail = f"lines {line} to {rows_of_text.line_num}: {error}; quote texts that hold the delimiter, quotes or line ends"
                rejects.append(self.reject(line, "malformed_csv", detail, _raw(wire)))
                continue
            problem = _uneven(values, header) if values else None
            if problem is not None:
                rejects.append(self.reject(line, *problem, _raw(wire)))
            elif values:
                rows.append(dict(zip(header, [value or None for value in values], strict=True)))
                lines.append(line)
            if len(rows) + len(rejects) >= BATCH_ROWS:
                yield self.batch(rows, lines, rejects)
                rows, lines = [], []
                rejects.clear()
        yield self.batch(rows, lines, rejects)

    def text_lines(self, rejects: list[Reject], wire: list[str]) -> Iterator[str]:
        """Lines with their ends, for the csv module, noted in ``wire``. Bytes that are not UTF-8 become lone surrogates.

        A line that is too long or broken off goes to ``rejects`` and stands as an empty one, so that numbers stay right.
        """
        for chunk in reading.read_lines(self.file.path, self.source.max_line_bytes):
            if chunk.fault is not None:
                rejects.append(self.broken(chunk))
                yield "\n"
                continue
            for line in chunk.lines:
                text = line.decode("utf-8", "surrogateescape") + "\n"
                if len(wire) < _WIRE_LINES:
                    wire.append(text)
                yield text

    def header(self, rows_of_text: Iterator[list[str]]) -> list[str]:
        try:
            header = [name.strip() for name in next(rows_of_text, [])]
        except csv.Error as error:
            raise SourceError(f"{self.file.path}: the header is not CSV: {error}; the first line must name the columns") from error
        twice = sorted({name for name in header if header.count(name) > 1})
        if twice:
            raise SourceError(f"{self.file.path}: the header names {', '.join(twice)} more than once; give every column its own name")
        return header

    # Parquet -----------------------------------------------------------------------------------------------

    def parquet(self, groups: list[int] | None) -> Iterator[Batch]:
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self.file.path) as parquet:
                if self.source.mapping:
                    self.source.mapping.require(list(_places(parquet.schema_arrow)), str(self.file.path))
                starts = _group_starts(parquet.metadata)
                for group in range(len(starts)) if groups is None else groups:
                    first = starts[group]
                    for part in parquet.iter_batches(BATCH_ROWS, [group], use_threads=False):
                        lines = range(first, first + part.num_rows)
                        table = pa.Table.from_batches([part])
                        yield self.batch(table.to_pylist(), lines) if self.source.mapping else self.arrow_batch(table, lines)
                        first += part.num_rows
        except OSError as error:
            raise reading.unreadable(self.file.path, error) from error
        except pa.ArrowException as error:
            raise _not_parquet(self.file, error) from error

    def parquet_groups(self, window: Window | None) -> list[int] | None:
        """Row groups that may hold rows of the window by their statistics; None: all of them."""
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self.file.path) as parquet:
                metadata, schema = parquet.metadata, parquet.schema_arrow
        except OSError as error:
            raise reading.unreadable(self.file.path, error) from error
        except pa.ArrowException as error:
            raise _not_parquet(self.file, error) from error
        name = TIMES[self.kind]
        if window is None or name not in schema.names or not pa.types.is_timestamp(schema.field(name).type):
            return None
        chosen = []
        for group in range(metadata.num_row_groups):
            span = _group_span(metadata.row_group(group), name)
            if span is None or reading.overlaps(*span, window):
                chosen.append(group)
        return None if len(chosen) == metadata.num_row_groups else chosen

    def arrow_batch(self, table: pa.Table, lines: Sequence[int]) -> Batch:
        names = set(SCHEMAS[self.kind].names) - {"source"}
        values: dict[str, Any] = {name: table[name] for name in table.column_names if name in names}
        extras = [name for name in table.column_names if name not in names and name not in DERIVED]
        folded = _fold_columns(self.kind, table, extras, self.source.name)
        if folded is not None:
            values[_folding(self.kind)] = folded
        return self.finish(values, lines, lambda row: json_text(table.slice(row, 1).to_pylist()[0]))

    # Any format --------------------------------------------------------------------------------------------

    def batch(self, rows: list[dict[str, Any]], lines: Sequence[int], rejects: Sequence[Reject] = ()) -> Batch:
        """Rows of the file as a batch, through the mapping or by their own names; ``rejects`` come with it."""
        if self.source.mapping:
            values, origins, findings = self.source.mapping.apply(rows, lines, self.file.relative, self.seen_traces)
            batch = self.finish(values, [lines[origin] for origin in origins], lambda row: json_text(rows[origins[row]]), findings)
        else:
            batch = self.finish(_columns_of(self.kind, rows, self.source.name), lines, lambda row: json_text(rows[row]))
        return replace(batch, rejects=(*rejects, *batch.rejects))

    def finish(self, values: Mapping[str, Any], lines: Sequence[int], raw: Callable[[int], str], findings: Findings | None = None) -> Batch:
        """Typed columns, the source's own filled in, without the rows that have a problem: those become rejects."""
        kind, file = self.kind, self.file
        table, found = to_table(kind, values, len(lines), findings)
        if findings is not None and findings.left_out and _folding(kind) == "metadata":
            table = _with_left_out(table, findings.left_out)
        table = _filled(table, "source", pa.scalar(self.source.name))
        table = _filled(table, "project", pa.scalar(self.source.project))
        table = _filled(table, "observed_time", pa.scalar(file.modified, columns.TIMESTAMP))
        place = f"{file.path}:"
        if not found:
            return Batch(kind, table, (), str(file.path), tuple(map(place.__add__, map(str, lines))))
        ids = table[IDENTIFIERS[kind]] if kind is Kind.RUNS else None
        rejects = [self.reject(lines[row], *problem, raw(row), ids[row].as_py() if ids else None) for row, problem in sorted(found.items())]
        kept = [row for row in range(len(lines)) if row not in found]
        table = table.take(pa.array(kept, pa.int64()))
        return Batch(kind, table, tuple(rejects), str(file.path), tuple(f"{place}{lines[row]}" for row in kept))

    def only_rejects(self, rejects: list[Reject]) -> Batch:
        return Batch(self.kind, pa.table({}), tuple(rejects), str(self.file.path), ())

    def broken(self, chunk: reading.Chunk) -> Reject:
        """The reject for a line that is too long or breaks off."""
        assert chunk.fault is not None
        return self.reject(chunk.first, chunk.fault, reading.advice(chunk.fault, self.source.max_line_bytes), chunk.lines[0])

    def reject(self, line: int, reason: str, detail: str, raw: str | bytes, run_id: str | None = None) -> Reject:
        text = raw.decode(errors="replace") if isinstance(raw, bytes) else raw
        return Reject(self.kind, reason, detail, f"{self.file.path}:{line}", text, run_id)


# Lines and rows --------------------------------------------------------------------------------------------


def _parse_line(line: bytes, unfinished: bool) -> tuple[dict[str, Any], Problem | None]:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        if unfinished:
            return {}, Problem("truncated_line", "the last line is not complete; its writer was not done, or stopped: write it again")
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


def _with_left_out(table: pa.Table, left_out: Mapping[int, Mapping[str, Any]]) -> pa.Table:
    """The rows' metadata with the values that were left out of their columns."""
    if "metadata" not in table.column_names:
        table = table.append_column("metadata", pa.nulls(table.num_rows, pa.string()))
    metadata = table["metadata"].to_pylist()
    for row, values in left_out.items():
        metadata[row] = json_text(
            {**orjson.loads(metadata[row] or "{}"), LEFT_OUT: {name: _as_text(value) for name, value in values.items()}}
        )
    return table.set_column(table.column_names.index("metadata"), "metadata", pa.array(metadata, pa.string()))


def _as_text(value: Any) -> str:
    return json_text(value) if isinstance(value, (dict, list)) else str(value)


def _filled(table: pa.Table, name: str, value: pa.Scalar) -> pa.Table:
    """The column with its gaps filled, or made."""
    if name not in table.column_names:
        return table.append_column(name, pa.repeat(value, table.num_rows))
    return table.set_column(table.column_names.index(name), name, pc.fill_null(table[name], value))


def _raw(wire: list[str]) -> bytes:
    return "".join(wire).encode(errors="surrogateescape")[: reading.RAW_KEPT]


def _uneven(values: list[str], header: list[str]) -> Problem | None:
    """What is wrong with a CSV row: too few or many columns, or bytes that are not UTF-8 (lone surrogates in the text)."""
    if len(values) != len(header):
        detail = f"{len(values)} columns where the header has {len(header)}; quote texts that hold the delimiter, or complete the row"
        return Problem("wrong_column_count", detail)
    if not all(value.isascii() or _encodable(value) for value in values):
        return Problem("invalid_utf8", "the line is not UTF-8; convert the file to UTF-8")
    return None


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _places(schema: Iterable[pa.Field], prefix: str = "") -> Iterator[str]:
    """The names of columns, and of what is nested in them."""
    for column in schema:
        yield prefix + column.name
        if pa.types.is_struct(column.type):
            yield from _places(column.type, f"{prefix}{column.name}.")


def _group_starts(metadata: Any) -> list[int]:
    """Number of the first row of each row group, from 1."""
    starts, row = [], 1
    for group in range(metadata.num_row_groups):
        starts.append(row)
        row += metadata.row_group(group).num_rows
    return starts


def _group_span(group: Any, name: str) -> tuple[datetime, datetime] | None:
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
