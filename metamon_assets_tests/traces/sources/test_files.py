"""Files as a source: formats, loose spellings, bad input, windows."""

from __future__ import annotations

import gzip
import json
import os
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metamon_assets.traces import columns
from metamon_assets.traces.sources import files, mapping
from metamon_assets.traces.sources.base import Batch, Kind, SourceError, Window
from metamon_assets.traces.sources.catalogue import BATCH_ROWS, CatalogueEntry
from metamon_assets.traces.sources.files import FilesSource
from metamon_assets.traces.sources.reading import read_lines

DAY = Window(datetime(2026, 8, 22, tzinfo=UTC), datetime(2026, 8, 23, tzinfo=UTC))
RUN = {"run_id": "r1", "start_time": "2026-08-22T10:00:00Z", "status": "success"}


def write(path: Path, *lines: Any) -> Path:
    """A JSONL file; bytes are written as they are, anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines))
    return path


def read(path: Path, kind: Kind = Kind.RUNS, window: Window | None = None, **options: Any) -> Batch:
    """Everything of a path as one batch."""
    batches = list(FilesSource([path], "shop", **options).read(kind, window))
    assert len(batches) <= 1
    return batches[0] if batches else Batch(kind, pa.table({}))


def rows(batch: Batch) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if value is not None} for row in batch.rows.to_pylist()]


def test_every_unified_column_of_a_run_arrives_typed(tmp_path: Path) -> None:
    given_row: dict[str, Any] = {
        "run_id": "r1",
        "trace_id": "t1",
        "start_time": "2026-08-22T10:00:00.123456Z",
        "end_time": "2026-08-22T12:00:01+02:00",
        "latency_seconds": 0.876544,
        "input_tokens": 120,
        "llm_calls": 2,
        "total_cost": 0.1,
        "input_cost": "0.000000000001",
        "cache_hit": True,
        "tags": ["a", "b"],
        "warnings": [],
        "metadata": {"region": "eu", "deep": {"x": [1, None]}},
        "inputs": {"messages": [{"role": "user", "content": "hi"}]},
        "outputs": "hello",
    }
    batch = read(write(tmp_path / "runs.jsonl", given_row))
    assert batch.rejects == ()
    assert all(batch.rows.schema.field(name).type == columns.RUNS.field(name).type for name in batch.rows.column_names)
    (row,) = rows(batch)
    assert row["start_time"] == datetime(2026, 8, 22, 10, 0, 0, 123456, tzinfo=UTC)
    assert row["end_time"] == datetime(2026, 8, 22, 10, 0, 1, tzinfo=UTC)
    assert (row["total_cost"], row["input_cost"]) == (Decimal("0.1"), Decimal("0.000000000001"))
    assert (row["input_tokens"], row["llm_calls"], row["cache_hit"], row["latency_seconds"]) == (120, 2, True, 0.876544)
    assert (row["tags"], row["warnings"]) == (["a", "b"], [])
    assert json.loads(row["metadata"]) == given_row["metadata"]
    assert json.loads(row["inputs"]) == given_row["inputs"]
    assert row["outputs"] == "hello"
    assert (row["source"], row["project"]) == ("files", "shop")
    assert batch.row_locations == (f"{tmp_path}/runs.jsonl:1",)


def test_observed_time_is_the_files_modification_time(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", RUN, RUN | {"observed_time": "2026-08-24T00:00:00Z"})
    os.utime(path, (1_800_000_000, 1_800_000_000))
    first, second = rows(read(path))
    assert first["observed_time"] == datetime.fromtimestamp(1_800_000_000, UTC)
    assert second["observed_time"] == datetime(2026, 8, 24, tzinfo=UTC)


@pytest.mark.parametrize(
    "spelled",
    [
        "2026-08-22T10:00:00Z",
        "2026-08-22T10:00:00",
        "2026-08-22 10:00:00",
        "2026-08-22T12:00:00+02:00",
        "2026-08-22T10:00:00.000000999Z",
        1787392800,
        1787392800.0,
        1787392800_000,
        1787392800_000_000,
        1787392800_000_000_000,
        "1787392800",
        "1787392800000000000",
    ],
)
def test_times_are_read_in_every_unambiguous_spelling(tmp_path: Path, spelled: Any) -> None:
    (row,) = rows(read(write(tmp_path / "a.jsonl", RUN | {"start_time": spelled})))
    assert row["start_time"] == datetime(2026, 8, 22, 10, tzinfo=UTC)


def test_differently_spelled_times_in_one_file_mean_the_same(tmp_path: Path) -> None:
    spelled = ["2026-08-22T10:00:00Z", "2026-08-22T10:00:00", 1787392800]
    found = rows(read(write(tmp_path / "a.jsonl", *(RUN | {"start_time": time} for time in spelled))))
    assert {row["start_time"] for row in found} == {datetime(2026, 8, 22, 10, tzinfo=UTC)}


def test_numbers_are_read_as_text_and_whole_floats_as_integers(tmp_path: Path) -> None:
    (row,) = rows(
        read(
            write(
                tmp_path / "a.jsonl", RUN | {"input_tokens": "12", "output_tokens": 7.0, "latency_seconds": " 1.5 ", "cache_hit": "false"}
            )
        )
    )
    assert (row["input_tokens"], row["output_tokens"], row["latency_seconds"], row["cache_hit"]) == (12, 7, 1.5, False)


@pytest.mark.parametrize(
    ("amount", "stored"),
    [
        ("$3.5", "3.5"),
        ("0.10 USD", "0.1"),
        ("-$2", "-2"),
        ("1,234.5", "1234.5"),
        (0.1, "0.1"),
        (0.00012345678901234, "0.000123456789"),
        (12345.67, "12345.67"),
        ("1e-7", "0.0000001"),
        (3, "3"),
        (1e-30, "0"),
    ],
)
def test_money_is_taken_by_its_shortest_text(tmp_path: Path, amount: Any, stored: str) -> None:
    (row,) = rows(read(write(tmp_path / "a.jsonl", RUN | {"total_cost": amount})))
    assert row["total_cost"] == Decimal(stored)


@pytest.mark.parametrize(
    ("line", "reason", "mentions"),
    [
        (b'{"run_id": "r2", ', "malformed_json", "one JSON object per line"),
        (b"[1, 2]", "not_an_object", "list"),
        (b'{"run_id": "\xff\xfe"}', "invalid_utf8", "UTF-8"),
        (b'{"start_time": "2026-08-22T10:00:00Z"}', "missing_id", "run_id"),
        (b'{"run_id": "", "start_time": "2026-08-22T10:00:00Z"}', "missing_id", "run_id"),
        (b'{"run_id": "r2", "start_time": "yesterday"}', "wrong_type", "start_time is 'yesterday'"),
        (b'{"run_id": "r2", "start_time": 20260822101500}', "wrong_type", "start_time"),
        (b'{"run_id": "r2", "start_time": 12}', "wrong_type", "start_time"),
        (b'{"run_id": "r2", "input_tokens": 1.5}', "wrong_type", "input_tokens is 1.5"),
        (b'{"run_id": "r2", "input_tokens": true}', "wrong_type", "input_tokens"),
        (b'{"run_id": "r2", "input_tokens": 99999999999999999999}', "wrong_type", "input_tokens"),
        (b'{"run_id": "r2", "latency_seconds": "fast"}', "wrong_type", "latency_seconds"),
        (b'{"run_id": "r2", "latency_seconds": "inf"}', "wrong_type", "latency_seconds"),
        (b'{"run_id": "r2", "total_cost": "EUR 3"}', "wrong_type", "total_cost"),
        (b'{"run_id": "r2", "total_cost": 1e9}', "wrong_type", "total_cost"),
        (b'{"run_id": "r2", "cache_hit": "perhaps"}', "wrong_type", "cache_hit"),
        (b'{"run_id": "r2", "tags": {"a": 1}}', "wrong_type", "tags"),
        (b'{"run_id": {"a": 1}}', "wrong_type", "run_id"),
    ],
)
def test_a_bad_line_is_rejected_and_its_neighbours_arrive(tmp_path: Path, line: bytes, reason: str, mentions: str) -> None:
    path = write(tmp_path / "a.jsonl", RUN, b"", line, RUN | {"run_id": "r3"})
    batch = read(path)
    assert [row["run_id"] for row in rows(batch)] == ["r1", "r3"]
    assert batch.row_locations == (f"{path}:1", f"{path}:4")
    (reject,) = batch.rejects
    assert (reject.reason, reject.location, reject.kind) == (reason, f"{path}:3", Kind.RUNS)
    assert mentions in reject.detail
    assert reject.raw


def test_a_half_written_last_line_is_rejected_unless_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(json.dumps(RUN).encode() + b'\n{"run_id": "r2", "sta')
    assert [(reject.reason, reject.location) for reject in read(path).rejects] == [("truncated_line", f"{path}:2")]
    path.write_bytes(json.dumps(RUN).encode() + b"\n" + json.dumps(RUN | {"run_id": "r2"}).encode())
    assert read(path).rows.num_rows == 2


def test_a_line_beyond_the_limit_is_never_held(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", RUN, RUN | {"outputs": "x" * 900_000}, RUN | {"run_id": "r3"}, RUN | {"outputs": "y" * 2_000})
    batch = read(path, max_line_bytes=1_000)
    assert [row["run_id"] for row in rows(batch)] == ["r1", "r3"]
    assert batch.row_locations == (f"{path}:1", f"{path}:3")
    assert [(reject.reason, reject.location) for reject in batch.rejects] == [("line_too_long", f"{path}:{line}") for line in (2, 4)]
    assert all(len(reject.raw) <= 65_536 for reject in batch.rejects)


def test_gzip_is_read_and_a_truncated_one_keeps_what_came_before(tmp_path: Path) -> None:
    lines = b"".join(json.dumps(RUN | {"run_id": f"r{number}", "name": os.urandom(20).hex()}).encode() + b"\n" for number in range(5_000))
    whole, part = tmp_path / "whole.jsonl.gz", tmp_path / "part.jsonl.gz"
    whole.write_bytes(gzip.compress(lines))
    part.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert read(whole).rows.num_rows == 5_000
    batch = read(part)
    assert 1_000 < batch.rows.num_rows < 4_000
    (reject,) = batch.rejects
    assert (reject.reason, reject.location) == ("truncated_gzip", f"{part}:{batch.rows.num_rows + 1}")


@pytest.mark.parametrize("chunk_bytes", [1, 7, 64, 1_000_000])
def test_lines_come_whole_and_numbered_whatever_the_chunk(tmp_path: Path, chunk_bytes: int) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\n\ntwo\r\n" + b"long" * 20 + b"\nthree\n" + b"LONG" * 20 + b"\n\nlast")
    seen = [
        (chunk.first + offset, line[:4].strip(), chunk.fault)
        for chunk in read_lines(path, max_line_bytes=40, chunk_bytes=chunk_bytes)
        for offset, line in enumerate(chunk.lines)
    ]
    long = "line_too_long"
    expected = [(1, b"one", None), (2, b"", None), (3, b"two", None), (4, b"long", long), (5, b"thre", None)]
    # A mark of three bytes cannot be recognised in a chunk of one.
    assert (seen if chunk_bytes > 3 else [(1, b"one", None), *seen[1:]]) == [
        *expected,
        (6, b"LONG", long),
        (7, b"", None),
        (8, b"last", None),
    ]


def test_keys_that_are_no_columns_are_kept_in_metadata(tmp_path: Path) -> None:
    (row,) = rows(
        read(write(tmp_path / "a.jsonl", RUN | {"region": "eu", "attempt": 2, "empty": None, "metadata": {"attempt": 1}, "source": "x"}))
    )
    assert json.loads(row["metadata"]) == {"region": "eu", "attempt": 1, "column.attempt": 2, "source": "x"}
    assert row["source"] == "files"


def test_an_export_of_our_own_table_loads_without_its_derived_columns(tmp_path: Path) -> None:
    derived = {"day": "2026-08-22", "ingested_at": "2026-08-23T00:00:00Z", "content_hash": 1, "root_inferred": False, "source": "files"}
    (row,) = rows(read(write(tmp_path / "a.jsonl", RUN | derived)))
    assert "metadata" not in row


def test_kinds_are_told_by_file_or_folder_names(tmp_path: Path) -> None:
    write(tmp_path / "runs" / "2026-08-22.jsonl", RUN)
    write(
        tmp_path / "feedback" / "2026-08-22.jsonl",
        {"feedback_id": "f1", "run_id": "r1", "key": "thumbs", "score": 1, "correction": {"a": 1}},
    )
    write(tmp_path / "events-2026.jsonl", {"event_id": "e1", "kind": "deployment", "time": "2026-08-22T10:00:00Z", "ticket": 7})
    write(
        tmp_path / "gauges" / "a.jsonl", {"name": "cache_size", "time": 1787392800, "value": "7", "labels": {"b": 1, "a": "x"}, "host": "h"}
    )
    write(tmp_path / "other.jsonl", RUN | {"run_id": "r2"})
    assert {row["run_id"] for row in rows(read(tmp_path))} == {"r1", "r2"}
    (feedback,) = rows(read(tmp_path, Kind.FEEDBACK))
    assert (feedback["feedback_id"], feedback["score"], feedback["correction"]) == ("f1", 1.0, '{"a":1}')
    (event,) = rows(read(tmp_path, Kind.EVENTS))
    assert (event["event_id"], json.loads(event["metadata"])) == ("e1", {"ticket": 7})
    (gauge,) = rows(read(tmp_path, Kind.GAUGES))
    assert (gauge["value"], gauge["labels"]) == (7.0, '{"a":"x","b":"1","host":"h"}')


def test_batches_hold_some_fifty_thousand_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *([json.dumps(RUN).encode()] * (BATCH_ROWS * 2 + 10)))
    sizes = [batch.rows.num_rows for batch in FilesSource([path], "shop").read(Kind.RUNS, None)]
    assert sum(sizes) == BATCH_ROWS * 2 + 10
    assert BATCH_ROWS <= max(sizes) < BATCH_ROWS * 1.2


# CSV -------------------------------------------------------------------------------------------------------


def test_csv_in_unified_names(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    header = "run_id,start_time,latency_seconds,error_message,tags,region\n"
    path.write_text(header + 'r1,2026-08-22 10:00:00,1.5,"two\nlines, one cell","[""a""]",eu\nr2,,,,,\n')
    batch = read(path)
    first, second = rows(batch)
    assert batch.rejects == ()
    assert (first["latency_seconds"], first["error_message"], first["tags"]) == (1.5, "two\nlines, one cell", ["a"])
    assert json.loads(first["metadata"]) == {"region": "eu"}
    assert set(second) == {"run_id", "source", "project", "observed_time"}
    assert batch.row_locations == (f"{path}:2", f"{path}:4")


def test_bad_csv_rows_are_rejected_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"run_id,name\nr1,a\nr2\nr3,b,c\nr4,\xff\n\nr5,caf\xc3\xa9\n" + b"r6," + b"x" * 500 + b'\nr7,d\nr8,"e"x\nr9,"open\n')
    batch = read(path, max_line_bytes=100)
    assert [(row["run_id"], row["name"]) for row in rows(batch)] == [("r1", "a"), ("r5", "café"), ("r7", "d")]
    found = sorted((int(reject.location.rpartition(":")[2]), reject.reason) for reject in batch.rejects)
    assert found == [(3, "wrong_column_count"), (4, "wrong_column_count"), (5, "invalid_utf8"), (8, "line_too_long")] + [
        (line, "malformed_csv") for line in (10, 11)
    ]
    assert [reject.raw for reject in batch.rejects if reject.reason in ("malformed_csv", "invalid_utf8")] == [
        "r4,\ufffd\n",
        'r8,"e"x\n',
        'r9,"open\n',
    ]
    assert batch.row_locations == (f"{path}:2", f"{path}:7", f"{path}:9")


# Parquet ---------------------------------------------------------------------------------------------------


def test_parquet_with_other_types_of_the_same_meaning(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table(
        {
            "run_id": pa.array(["r1", "r2", None]).dictionary_encode(),
            "start_time": pa.array([datetime(2026, 8, 22, 10)] * 3, pa.timestamp("ns")),  # noqa: DTZ001 - naive on purpose
            "end_time": pa.array([datetime(2026, 8, 22, 10, 1, tzinfo=UTC)] * 3, pa.timestamp("ms", tz="Europe/Paris")),
            "input_tokens": pa.array([1, 2, 3], pa.int32()),
            "latency_seconds": pa.array([1.5, float("nan"), 2], pa.float32()),
            "total_cost": pa.array([0.25, None, 1.0]),
            "tags": [["a"], None, []],
            "metadata": [{"a": 1}, {"a": 2}, None],
            "region": ["eu", None, "us"],
        }
    )
    pq.write_table(table, path)
    batch = read(path)
    first, second = rows(batch)
    assert first["start_time"] == datetime(2026, 8, 22, 10, tzinfo=UTC)
    assert first["end_time"] == datetime(2026, 8, 22, 10, 1, tzinfo=UTC)
    assert (first["input_tokens"], first["total_cost"], first["latency_seconds"]) == (1, Decimal("0.25"), 1.5)
    assert json.loads(first["metadata"]) == {"a": 1, "region": "eu"}
    assert "latency_seconds" not in second
    assert [(reject.reason, reject.location) for reject in batch.rejects] == [("missing_id", f"{path}:3")]


def test_parquet_row_groups_beyond_the_window_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    times = [datetime(2026, 8, day, 12, tzinfo=UTC) for day in range(10, 30)]
    pq.write_table(pa.table({"run_id": [str(time.day) for time in times], "start_time": times}), path, row_group_size=1)
    source = FilesSource([path], "shop")
    (batch,) = source.read(Kind.RUNS, DAY)
    assert [row["run_id"] for row in rows(batch)] == ["21", "22", "23"]
    assert batch.row_locations == tuple(f"{path}:{line}" for line in (12, 13, 14))
    assert source.catalogue_entries() == []  # not read to its end
    assert read(path).rows.num_rows == 20


# Unreadable ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "mentions"),
    [
        ("a.parquet", b"no parquet at all", "not a whole Parquet file"),
        ("a.jsonl", '{"run_id": "r1"}\n'.encode("utf-16"), "iconv"),
        ("a.csv", b"run_id,run_id\n1,2\n", "more than once"),
        ("a.xml", b"<runs/>", ".jsonl"),
        (None, b"", "does not exist"),
    ],
)
def test_what_cannot_be_read_whole_is_an_error_that_names_the_path(tmp_path: Path, name: str | None, content: bytes, mentions: str) -> None:
    path = tmp_path / (name or "missing.jsonl")
    if name:
        path.write_bytes(content)
    with pytest.raises(SourceError, match="missing" if name is None else name) as caught:
        read(path)
    assert mentions in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_the_right_to_read_it_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", RUN)
    path.chmod(0)
    with pytest.raises(SourceError, match="give this user the right"):
        read(path)


def test_a_truncated_parquet_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"run_id": ["r1"]}), path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(SourceError, match=r"a\.parquet"):
        read(path)


# Windows ---------------------------------------------------------------------------------------------------


def test_dated_files_are_opened_for_their_day_and_its_neighbours_only(tmp_path: Path) -> None:
    for name in ("2026-08-19", "2026-08-21", "2026-08-22", "2026-08-24", "2026-08-23_part-2"):
        write(tmp_path / f"{name}.jsonl", RUN | {"run_id": name})
    write(tmp_path / "day=2026-08-01" / "x.jsonl", RUN | {"run_id": "hive"})
    write(tmp_path / "backup-2026-08-01.jsonl", RUN | {"run_id": "backup"})  # the day of the backup, not of the runs
    assert {row["run_id"] for row in rows(read(tmp_path, window=DAY))} == {"2026-08-21", "2026-08-22", "2026-08-23_part-2", "backup"}


def test_the_catalogue_spares_unchanged_files_that_hold_other_days(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", RUN, RUN | {"run_id": "r2", "start_time": "2026-08-23T05:00:00Z"})
    source = FilesSource([path], "shop")
    assert sum(batch.rows.num_rows for batch in source.read(Kind.RUNS, None)) == 2
    (entry,) = source.catalogue_entries()
    assert entry == CatalogueEntry(
        str(path),
        Kind.RUNS,
        path.stat().st_size,
        entry.modified,
        datetime(2026, 8, 22, 10, tzinfo=UTC),
        datetime(2026, 8, 23, 5, tzinfo=UTC),
        2,
    )
    catalogue = {(entry.path, entry.kind): entry}
    later = Window(DAY.start + timedelta(days=30), DAY.end + timedelta(days=30))
    assert read(path, window=DAY, catalogue=catalogue).rows.num_rows == 2
    assert read(path, window=later, catalogue=catalogue).rows.num_rows == 0
    write(path, RUN, RUN | {"run_id": "r2", "start_time": "2026-09-21T05:00:00Z"})  # changed: it must be opened again
    assert read(path, window=later, catalogue=catalogue).rows.num_rows == 2


def test_another_mapping_opens_the_file_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"run_id": "r1", "began": "2026-08-22T10:00:00Z", "ended": "2026-09-22T10:00:00Z"})
    by_start, by_end = (mapping.parse({"columns": {"run_id": "run_id", "start_time": name}}) for name in ("began", "ended"))
    source = FilesSource([path], "shop", by_end)
    assert [batch.rows.num_rows for batch in source.read(Kind.RUNS, None)] == [1]
    catalogue = {(entry.path, entry.kind): entry for entry in source.catalogue_entries()}
    assert read(path, window=DAY, mapping=by_end, catalogue=catalogue).rows.num_rows == 0
    assert read(path, window=DAY, mapping=by_start, catalogue=catalogue).rows.num_rows == 1


# Anything at all -------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()), max_size=8))
def test_every_line_is_a_row_or_a_reject(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("any") / "a.jsonl"
    path.write_bytes(b"\n".join(lines))
    if path.read_bytes()[:2] in (b"\xff\xfe", b"\xfe\xff", b"\x1f\x8b"):
        return  # UTF-16 and gzip have tests of their own
    batch = read(path)
    written = [line for line in path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()]
    assert batch.rows.num_rows + len(batch.rejects) == len(written)
    assert all(reject.reason and reject.detail for reject in batch.rejects)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from([*columns.RUNS.names, "extra"]), JSON, max_size=6), min_size=1, max_size=4))
def test_any_values_in_the_unified_names_are_read_or_rejected(
    tmp_path_factory: pytest.TempPathFactory, objects: list[dict[str, Any]]
) -> None:
    path = write(tmp_path_factory.mktemp("any") / "a.jsonl", *(RUN | row for row in objects))
    batch = read(path)
    assert batch.rows.num_rows + len(batch.rejects) == len(objects)
    for name in ("metadata",):
        if name in batch.rows.column_names:
            assert all(value is None or isinstance(json.loads(value), dict) for value in batch.rows[name].to_pylist())


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=120))
def test_any_csv_is_read_or_rejected(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "a.csv"
    path.write_bytes(b"run_id,name\n" + content)
    batch = read(path)
    assert all(row["run_id"] for row in rows(batch))


def test_the_formats_are_those_that_the_error_names() -> None:
    assert set(files.SUFFIXES) >= {".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet"}
