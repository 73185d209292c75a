"""Samples of some hundred runs, as they stand at their source: what the guesses are made from.

Here belongs getting at the raw keys and values, from files of any kind. Reading for the tables is the sources' own;
LangSmith is asked in ``langsmith``.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metamon_assets.errors import MetamonError
from metamon_assets.onboarding.guess import IDENTITY, SAMPLE_RUNS, flattened, printable
from metamon_assets.traces.sources import reading
from metamon_assets.traces.sources.base import Kind, SourceError
from metamon_assets.traces.sources.files import SUFFIXES, kind_of_name
from metamon_assets.traces.sources.reading import SourceFile

DELIMITERS = ",;\t|~^"
_HEAD_BYTES = 256 * 1024
_FILES_SAMPLED = 10
_ALIKE = 0.5  # of the columns of the file with fewer
_SHOWN = 6  # files or columns of each kind
# What people have that is no source, and what to do with it.
_ELSEWISE = {
    ".json": "one JSON document: write one object per line and name it .jsonl, for example with `jq -c '.[]' {0} > calls.jsonl`",
    ".xlsx": "a workbook: save the sheet as CSV",
    ".xls": "a workbook: save the sheet as CSV",
    ".txt": "told by nothing in its name: rename it to .csv or .jsonl, whichever it is",
    ".log": "told by nothing in its name: rename it to .csv or .jsonl, whichever it is",
    ".zip": "an archive: unpack it",
    ".db": "a database: export its table as CSV",
    ".sqlite": "a database: export its table as CSV",
}


class SampleError(MetamonError):
    """There is nothing to sample; the message says what is wrong with what file, and how to mend it."""


@dataclass(frozen=True, slots=True)
class FileSample:
    """Rows of some files as they stand there. ``delimiter`` is that of CSV files (None: a comma, or no CSV)."""

    files: tuple[SourceFile, ...]
    rows: tuple[Mapping[str, Any], ...]
    delimiter: str | None = None


def sample_files(path: Path, runs: int = SAMPLE_RUNS) -> FileSample:
    """Up to ``runs`` rows of the newest files at ``path`` (a file, a folder or a pattern).

    Raises SampleError or SourceError for what cannot be read, naming the file and the remedy.
    """
    _refuse_other_kinds(path)
    files = [file for file in reading.find_files([path], SUFFIXES) if kind_of_name(file) is Kind.RUNS]
    if not files:
        raise SampleError(f"{path}: holds no files of runs; their names end with {', '.join(SUFFIXES)}.")
    newest = sorted((file for file in files if file.size), key=lambda file: file.modified, reverse=True)[:_FILES_SAMPLED]
    if not newest:
        raise SampleError(f"{path}: is empty. Connect it again once something has been written.")
    delimiter = _delimiter_of_all(newest)
    rows: list[Mapping[str, Any]] = []
    shapes: dict[SourceFile, frozenset[str]] = {}
    for file in newest:
        wanted = max(1, (runs - len(rows)) if file is newest[-1] else runs // len(newest))
        found = _rows(file, wanted, delimiter)
        rows += found
        if found:
            shapes[file] = frozenset(name for row in found for name in row)
    _refuse_mixture(path, shapes)
    if not rows:
        raise SampleError(f"{newest[0].path}: has a header or blank lines and no rows. Connect it again once something has been written.")
    return FileSample(tuple(files), tuple(rows[:runs]), delimiter if delimiter != "," else None)


def _refuse_other_kinds(path: Path) -> None:
    """Say of a single file what it is and what to do, where its name tells that it is nothing that can be read."""
    if path.is_file() and not path.name.lower().endswith(SUFFIXES):
        what = _ELSEWISE.get(path.suffix.lower())
        if what:
            raise SampleError(f"{path}: is {what.format(path.name)}.")


def _refuse_mixture(path: Path, shapes: Mapping[SourceFile, frozenset[str]]) -> None:
    """Raises SampleError for files that have less than half of their columns in common: one mapping cannot read them all."""
    groups: dict[frozenset[str], list[str]] = {}
    for file, columns in shapes.items():
        alike = next((known for known in groups if len(known & columns) >= _ALIKE * min(len(known), len(columns))), columns)
        groups.setdefault(alike, []).append(file.relative)
    if len(groups) > 1:
        listed = "\n".join(
            f"  {', '.join(map(printable, sorted(names)[:_SHOWN]))}{' and more' * (len(names) > _SHOWN)}:"
            f" {', '.join(map(printable, sorted(columns)[:_SHOWN]))}{', …' * (len(columns) > _SHOWN)}"
            for columns, names in groups.items()
        )
        raise SampleError(
            f"{path}: holds files with different columns, which one mapping cannot read:\n{listed}\n"
            "Connect each kind by itself, by its name or a pattern such as 'logs/calls-*.csv'."
        )


def _delimiter_of_all(files: Sequence[SourceFile]) -> str | None:
    """The delimiter of the CSV files among them; None without any. Raises SampleError when they differ."""
    found = {_delimiter(file): file for file in files if _format(file) == "csv"}
    if len(found) > 1:
        listed = ", ".join(f"{file.path.name} by {delimiter!r}" for delimiter, file in found.items())
        raise SampleError(f"The files are separated differently ({listed}): connect them one by one.")
    return next(iter(found), None)


def _format(file: SourceFile) -> str:
    suffix = file.path.name.lower().removesuffix(".gz").rpartition(".")[2]
    return {"tsv": "tsv", "csv": "csv", "parquet": "parquet"}.get(suffix, "jsonl")


def _delimiter(file: SourceFile) -> str:
    """What separates the columns: whatever gives all of the first lines the same number of columns, the most of them."""
    lines = _head(file)
    best, most = ",", 1
    for delimiter in DELIMITERS:
        counts = {len(row) for row in csv.reader(lines, delimiter=delimiter) if row}
        if len(counts) == 1 and (width := counts.pop()) > most:
            best, most = delimiter, width
    if most == 1:  # rows of different lengths: by the header alone
        best = max(DELIMITERS, key=lines[0].count) if lines else ","
    return best


def _head(file: SourceFile) -> list[str]:
    """The first lines of a text file. Raises SampleError when it is none."""
    with reading.open_bytes(file.path) as opened:
        try:
            head = opened.read(_HEAD_BYTES)
        except (OSError, EOFError) as error:
            raise SampleError(f"{file.path}: cannot be unpacked ({error}): copy it again from where it came.") from error
    _refuse_binary(file, head)
    lines = head.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace").splitlines()
    return lines[:-1] if len(head) == _HEAD_BYTES and len(lines) > 1 else lines


def _refuse_binary(file: SourceFile, head: bytes) -> None:
    if b"\0" not in head:
        return
    if head[:4] == b"PAR1":
        raise SampleError(f"{file.path}: is Parquet: rename it to .parquet.")
    if head[1::2].count(0) > len(head) // 4 or head[::2].count(0) > len(head) // 4:
        raise SampleError(f"{file.path}: is UTF-16; convert it to UTF-8, for example with iconv -f UTF-16 -t UTF-8.")
    raise SampleError(f"{file.path}: is not text (it holds zero bytes): name the CSV, JSON lines or Parquet file that it was made from.")


def _rows(file: SourceFile, wanted: int, delimiter: str | None) -> list[Mapping[str, Any]]:
    form = _format(file)
    if form == "parquet":
        return _parquet_rows(file, wanted)
    if form == "jsonl":
        return _json_rows(file, wanted)
    return list(_csv_rows(file, wanted, "\t" if form == "tsv" else delimiter or ","))


def _csv_rows(file: SourceFile, wanted: int, delimiter: str) -> Iterator[Mapping[str, Any]]:
    lines = _head(file)
    rows = csv.reader((line + "\n" for line in lines), delimiter=delimiter)
    header = [name.strip() for name in next(rows, [])]
    if len(header) == 1 and "{" in header[0]:
        raise SampleError(f"{file.path}: holds JSON, not CSV: rename it to .jsonl.")
    if len(header) == 1:
        _refuse_unknown_delimiter(file, header[0], lines)
    for row in rows:
        if len(row) == len(header):
            yield dict(zip(header, (value or None for value in row), strict=True))
            wanted -= 1
        if wanted == 0:
            return


def _refuse_unknown_delimiter(file: SourceFile, header: str, lines: Sequence[str]) -> None:
    """Of a single column: whether a mark that is as often in every line as in the header separates more of them."""
    for mark in sorted({*header} - {*" _-.'\""}):
        if not mark.isalnum() and all(line.count(mark) == lines[0].count(mark) for line in lines if line.strip()):
            raise SampleError(
                f"{file.path}: no delimiter was recognised, so the header is one column, {printable(header)}. If {printable(mark)}"
                " separates its columns, write the file with commas, semicolons, tabs or | instead."
            )


def _json_rows(file: SourceFile, wanted: int) -> list[Mapping[str, Any]]:
    import orjson

    _head(file)  # refuses what is no text
    rows: list[Mapping[str, Any]] = []
    first = b""
    for chunk in reading.read_lines(file.path):
        for line in chunk.lines if chunk.fault is None else ():
            first = first or line.strip()
            try:
                row = orjson.loads(line) if line.strip() else None
            except orjson.JSONDecodeError:
                continue  # one bad line is for quarantine
            if isinstance(row, dict):
                rows.append(row)
            if len(rows) == wanted:
                break
    if first and (not rows or first.startswith(b"[")):
        hint = _ELSEWISE[".json"].format(file.path.name) if first.startswith(b"[") else "not JSON: write one JSON object per line"
        raise SampleError(f"{file.path}: is {hint}.")
    return rows


def _parquet_rows(file: SourceFile, wanted: int) -> list[Mapping[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: list[Mapping[str, Any]] = []
    try:
        with pq.ParquetFile(file.path) as parquet:
            for batch in parquet.iter_batches(wanted, use_threads=False):
                rows += batch.to_pylist()
                if len(rows) >= wanted:
                    break
    except OSError as error:
        raise reading.unreadable(file.path, error) from error
    except pa.ArrowException as error:
        raise SourceError(f"{file.path}: is not a whole Parquet file: {error}; copy it again, or rename it to what it is") from error
    return rows[:wanted]


# OTLP ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SpanSample:
    """Spans of OTLP/JSON files as ``{place: value}``: unified columns that a convention fills, and further attributes."""

    spans: tuple[Mapping[str, Any], ...]
    conventions: Mapping[str, Sequence[str]]
    services: tuple[str, ...]  # by number of spans, the most first


def sample_spans(path: Path, runs: int = SAMPLE_RUNS) -> SpanSample:
    """Up to ``runs`` spans of the files at ``path``, roots if there are any: whom a trace belongs to stands there.

    Raises SampleError or SourceError for what cannot be read.
    """
    from metamon_assets.traces.sources.otlp import OtlpSource

    roots: list[Mapping[str, Any]] = []
    others: list[Mapping[str, Any]] = []
    services: Counter[str] = Counter()
    rejected = ""
    for batch in OtlpSource([path], project="").read(Kind.RUNS, None):
        rejected = rejected or next((reject.detail for reject in batch.rejects), "")
        for row in batch.rows.to_pylist():
            services[row.get("project") or ""] += 1
            (others if row.get("parent_run_id") else roots).append(_attributes(row))
        if len(roots) >= runs:
            break
    if not services:
        why = f": {rejected}" if rejected else "; a collector's file exporter writes them as OTLP/JSON."
        raise SampleError(f"{path}: holds no spans{why}")
    named = tuple(name for name, _ in services.most_common() if name)
    return SpanSample(tuple((roots or others)[:runs]), {column: (column,) for column in IDENTITY}, named)


def _attributes(row: Mapping[str, Any]) -> dict[str, Any]:
    import orjson

    rest = orjson.loads(row.get("metadata") or "{}")
    for name in ("scope", "span_kind", "events", "links", "trace_state"):
        rest.pop(name, None)
    rest |= rest.pop("resource", {})
    return {**dict(flattened(rest)), **{column: row.get(column) for column in IDENTITY}}
