"""What the columns of a file are: times and their zone, units, words for failure; and that the mapping really reads them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metamon_assets.onboarding.dialogue import AnswerError
from metamon_assets.onboarding.guess_columns import FileGuess, guess_columns
from metamon_assets.onboarding.sampling import SampleError, sample_files
from metamon_assets.traces.normalise import known_status
from metamon_assets.traces.sources.base import Batch, Kind, SourceError
from metamon_assets.traces.sources.conversion import parse_time
from metamon_assets.traces.sources.files import FilesSource
from metamon_assets.traces.sources.mapping import load

START = datetime(2026, 11, 3, 9, 0, tzinfo=UTC)


def guess(rows: list[dict[str, Any]], **options: Any) -> FileGuess:
    return guess_columns(rows, project="calls", **options)


def place_of(found: FileGuess, column: str) -> str | None:
    return next((part.place for part in found.guesses if part.column == column and part.used), None)


def read(found: FileGuess, rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """What the guessed mapping makes of the rows."""
    assert isinstance(found.mapping, dict)
    return load(found.mapping).apply(rows, range(1, len(rows) + 1), "calls.csv", set())[0]


def stored(found: FileGuess, rows: list[dict[str, Any]], folder: Path) -> Batch:
    """What is stored of the rows of a JSONL file with the guessed mapping."""
    path = folder / "calls.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert isinstance(found.mapping, dict)
    (batch,) = FilesSource([path], project="p", mapping=load(found.mapping)).read(Kind.RUNS, None)
    return batch


def timed(values: list[Any], name: str = "when") -> list[dict[str, Any]]:
    return [{name: value, "took": 100 * (n + 1)} for n, value in enumerate(values)]


MOMENTS = [START + timedelta(minutes=7 * n) for n in range(40)]


@pytest.mark.parametrize(
    ("name", "spelled"),
    [
        ("timestamp", [moment.isoformat() for moment in MOMENTS]),
        ("ts", [moment.isoformat().replace("+00:00", "Z") for moment in MOMENTS]),
        ("when", [f"{moment:%Y-%m-%d %H:%M:%S}" for moment in MOMENTS]),
        ("created", [int(moment.timestamp()) for moment in MOMENTS]),
        ("created_at", [str(int(moment.timestamp() * 1000)) for moment in MOMENTS]),
        ("Zeitpunkt", [f"{moment:%d.%m.%Y %H:%M:%S}" for moment in MOMENTS]),
        ("date", [f"{moment:%m/%d/%Y %I:%M:%S %p}" for moment in MOMENTS]),
        ("logged_at", [f"{moment:%d/%b/%Y:%H:%M:%S +0000}" for moment in MOMENTS]),
        ("@timestamp", list(MOMENTS)),
        ("x", [moment.isoformat() for moment in MOMENTS]),
    ],
)
def test_times_are_read_as_they_were_meant(name: str, spelled: list[Any]) -> None:
    rows = timed(spelled, name)
    found = guess(rows)
    assert place_of(found, "start_time") == name
    assert [parse_time(value) for value in read(found, rows)["start_time"]] == MOMENTS


def test_a_zone_that_the_times_do_not_name() -> None:
    rows = timed(["2026-07-01 12:00:00", "2026-12-01 12:00:00"])
    assert any("taken as UTC" in remark for remark in guess(rows).remarks)
    found = guess(rows, zone="Europe/Vienna")
    assert read(found, rows)["start_time"] == [datetime(2026, 7, 1, 10, tzinfo=UTC), datetime(2026, 12, 1, 11, tzinfo=UTC)]
    zoned = timed(["2026-07-01T12:00:00Z"] * 3)
    assert guess(zoned, zone="Europe/Vienna").mapping == guess(zoned).mapping, "a time that names its zone has no other"


@pytest.mark.parametrize(
    ("day", "clock", "dates", "clocks"),
    [
        ("date", "time", "%Y-%m-%d", "%H:%M:%S"),
        ("Datum", "Uhrzeit", "%d.%m.%Y", "%H:%M"),
        ("start_date", "start_time", "%m/%d/%Y", "%I:%M %p"),
    ],
)
def test_a_date_and_a_time_of_day_in_two_columns(day: str, clock: str, dates: str, clocks: str) -> None:
    rows = [
        {day: f"{moment:{dates}}", clock: f"{moment:{clocks}}", "end_time": "10:00", "response_time": "00:00:07", "took_ms": 5}
        for moment in (START + timedelta(hours=31 * n, minutes=7 * n) for n in range(40))
    ]
    found = guess(rows)
    assert place_of(found, "start_time") == f"{day} + {clock}"
    made = read(found, rows)
    assert [parse_time(value) for value in made["start_time"]] == [START + timedelta(hours=31 * n, minutes=7 * n) for n in range(40)]
    assert day not in made["metadata"][0], "what start_time holds whole is not kept twice"
    assert not any("at midnight" in remark for remark in found.remarks)
    in_vienna = read(guess(rows, zone="Europe/Vienna"), rows)["start_time"]
    assert in_vienna[0] == START - timedelta(hours=1)


def test_dates_alone_are_said_to_be_days_and_somebody_can_name_the_time_of_day() -> None:
    rows = [{"date": f"{moment:%Y-%m-%d}", "at": f"{moment:%H:%M:%S}", "took_ms": 5} for moment in MOMENTS]
    found = guess(rows)
    assert place_of(found, "start_time") == "date"
    assert any("All times in date are at midnight" in remark and "--map start_time=date+COLUMN" in remark for remark in found.remarks)
    said = guess(rows, edits={"start_time": "date+at"})
    assert [parse_time(value) for value in read(said, rows)["start_time"]] == MOMENTS
    unified = [{"run_id": str(n), "start_time": f"{moment:%Y-%m-%d}"} for n, moment in enumerate(MOMENTS)]
    assert any("at midnight" in remark for remark in guess(unified).remarks)


@pytest.mark.parametrize(
    ("spelled", "kind"),
    [
        ([moment.isoformat() for moment in MOMENTS], ""),
        ([str(moment.timestamp()) for moment in MOMENTS], "seconds since 1970"),
        ([f"{moment:%d.%m.%Y %H:%M}" for moment in MOMENTS], "%d.%m.%Y %H:%M"),
    ],
)
def test_some_dirt_hides_no_time(spelled: list[str], kind: str) -> None:
    rows = timed(["n/a" if n % 10 == 0 else text for n, text in enumerate(spelled)])
    found = guess(rows)
    assert next(part.remark for part in found.guesses if part.column == "start_time") == kind
    assert any("when is a time in 90% of the rows; in others it is n/a" in remark for remark in found.remarks)
    starts = read(found, rows)["start_time"]
    assert parse_time(starts[1]) == MOMENTS[1]
    assert starts[0] in ("n/a", None)


def test_some_dirt_hides_no_figure_and_counts_as_unknown(tmp_path: Path) -> None:
    rows = [
        {"time": moment.isoformat(), "latency_ms": -1 if n == 7 else 800 + n, "tokens_in": "-" if n % 5 == 0 else "70"}
        for n, moment in enumerate([*MOMENTS, *(moment + timedelta(days=1) for moment in MOMENTS)])
    ]
    found = guess(rows)
    rows[70] |= {"latency_ms": "lost", "tokens_in": "-7"}  # as nothing in the sample was
    made = stored(found, rows, tmp_path)
    assert (made.rows.num_rows, made.rejects) == (len(rows), ())
    latencies, tokens = (made.rows[name].to_pylist() for name in ("latency_seconds", "input_tokens"))
    assert (latencies[7], latencies[8], latencies[70]) == (None, pytest.approx(0.808), None)
    assert (tokens[5], tokens[6], tokens[70]) == (None, 70, None)
    assert json.loads(made.rows["metadata"][70].as_py()) == {"left_out": {"latency_seconds": "lost", "input_tokens": "-7"}}
    assert any("latency_ms is a duration in 99% of the rows; in others it is -1, which counts" in remark for remark in found.remarks)
    assert any("tokens_in is a number in 80% of the rows" in remark for remark in found.remarks)
    spelled = guess([{"time": moment.isoformat(), "took": "timeout" if n == 3 else f"{n}ms"} for n, moment in enumerate(MOMENTS)])
    assert place_of(spelled, "latency_seconds") == "took"
    assert any("took is a duration in 98% of the rows; in others it is timeout" in remark for remark in spelled.remarks)


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        (["823", "1,204", "999"], [0.823, 1.204, 0.999]),  # beside whole numbers below a thousand
        (["1,234.5", "2,001.5", "812.0"], [1.2345, 2.0015, 0.812]),
        (["1,234", "1,234,567", "1,500"], [1.234, 1234.567, 1.5]),
        (["823,5", "1.204,5", "999"], [0.8235, 1.2045, 0.999]),
    ],
)
def test_what_commas_and_points_in_numbers_are(values: list[str], seconds: list[float]) -> None:
    rows = [{"time": moment.isoformat(), "latency_ms": value} for moment, value in zip(MOMENTS, values, strict=False)]
    assert read(guess(rows), rows)["latency_seconds"] == pytest.approx(seconds)


def test_whole_numbers_with_commas_have_one_meaning(tmp_path: Path) -> None:
    rows = [{"time": moment.isoformat(), "tokens_in": "1,204"} for moment in MOMENTS]
    assert stored(guess(rows), rows, tmp_path).rows["input_tokens"].to_pylist() == [1_204] * len(MOMENTS)


@pytest.mark.parametrize("spelled", ["$0.25", "0.25 USD", "US$ 0.25", "$ 0.25"])
def test_prices_with_the_sign_of_the_dollar(spelled: str, tmp_path: Path) -> None:
    rows = [{"time": moment.isoformat(), "price": spelled} for moment in MOMENTS]
    found = guess(rows)
    assert place_of(found, "total_cost") == "price"
    assert stored(found, rows, tmp_path).rows["total_cost"].to_pylist() == [Decimal("0.25")] * len(MOMENTS)
    euros = guess([{"time": moment.isoformat(), "price": "€0.25"} for moment in MOMENTS])
    assert place_of(euros, "total_cost") is None
    assert any("price is in another currency" in remark for remark in euros.remarks)


@pytest.mark.parametrize(("size", "unit"), [(1, "seconds"), (10**3, "milliseconds"), (10**6, "microseconds"), (10**9, "nanoseconds")])
def test_what_numbers_since_1970_count_is_said(size: int, unit: str) -> None:
    found = guess(timed([int(moment.timestamp()) * size for moment in MOMENTS]))
    assert next(part.remark for part in found.guesses if part.column == "start_time") == f"{unit} since 1970"


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("tokensIn", "tokensOut"),
        ("tokens_in", "tokens_out"),
        ("in_tok", "out_tok"),
        ("tokIn", "tokOut"),
        ("prompt toks", "completion toks"),
        ("prompt_tok", "output_tok"),
    ],
)
def test_tokens_in_and_out(given: str, taken: str) -> None:
    found = guess([{"time": moment.isoformat(), given: 70, taken: 7, "tokens": 77} for moment in MOMENTS])
    places = [place_of(found, column) for column in ("input_tokens", "output_tokens", "total_tokens")]
    assert places == [given, taken, "tokens"]


def test_days_and_months_that_could_be_either_are_said() -> None:
    rows = timed([f"{1 + n:02}/11/2026 10:00:00" for n in range(9)])
    found = guess(rows)
    assert read(found, rows)["start_time"][8] == datetime(2026, 11, 9, 10, tzinfo=UTC), "nine days of November, not nine months"
    assert any("days seem to come first" in remark for remark in found.remarks)


@pytest.mark.parametrize(
    ("name", "values", "seconds"),
    [
        ("latency", [823, 1200, 2400], [0.823, 1.2, 2.4]),
        ("latency", [0.8, 1.2, 2.4], [0.8, 1.2, 2.4]),
        ("latency_s", [823, 1200, 2400], [823, 1200, 2400]),
        ("durationMs", ["8", "12", "24"], [0.008, 0.012, 0.024]),
        ("duration_in_ms", [8, 12, 24], [0.008, 0.012, 0.024]),
        ("elapsed", [823_000_000, 1_200_000_000, 2_400_000_000], [0.823, 1.2, 2.4]),
        ("response_time", ["0,8", "1,2", "2,4"], [0.8, 1.2, 2.4]),
        ("took", ["350ms", "1.2s", "800 ms"], [0.35, 1.2, 0.8]),
        ("Dauer", ["1,5", "2,5", "3"], [1.5, 2.5, 3.0]),
        ("ms", [8, 12, 24], [0.008, 0.012, 0.024]),
        ("took_ms", [8, 12, 24], [0.008, 0.012, 0.024]),
        ("dur", [0.8, 1.2, 2.4], [0.8, 1.2, 2.4]),
    ],
)
def test_latency_and_its_unit(name: str, values: list[Any], seconds: list[float]) -> None:
    rows = [{"timestamp": moment.isoformat(), name: value} for moment, value in zip(MOMENTS, values, strict=False)]
    found = guess(rows)
    assert place_of(found, "latency_seconds") == name
    assert [float(value) for value in read(found, rows)["latency_seconds"]] == pytest.approx(seconds)


def test_start_and_end_tell_the_unit_for_sure() -> None:
    rows = [
        {"started_at": moment.isoformat(), "ended_at": (moment + timedelta(milliseconds=40 + n)).isoformat(), "duration": 40 + n}
        for n, moment in enumerate(MOMENTS)
    ]
    found = guess(rows)  # forty seconds by size, forty milliseconds in truth
    assert read(found, rows)["latency_seconds"][0] == pytest.approx(0.040)
    assert "by start and end" in next(part.remark for part in found.guesses if part.column == "latency_seconds")


@pytest.mark.parametrize(
    ("name", "words", "meaning"),
    [
        ("status", ["ok", "failed"], ["success", "error"]),
        ("http_status", ["200", "503"], ["success", "error"]),
        ("code", [200, 429], ["success", "error"]),
        ("is_error", ["false", "true"], ["success", "error"]),
        ("success", [True, False], ["success", "error"]),
        ("failed", ["0", "1"], ["success", "error"]),
        ("outcome", ["COMPLETED OK", "ERR_TIMEOUT"], ["success", "error"]),
        ("result", ["success", "rate limit"], ["success", "error"]),
        ("http_code", [200, 503], ["success", "error"]),
        ("HTTP outcome", ["200", "timeout"], ["success", "error"]),
        ("Ergebnis", ["ok", "fehler"], ["success", "error"]),
        ("Antwort", ["200", "429"], ["success", "error"]),
        ("response_code", ["200.0", "503.0"], ["success", "error"]),
        ("call outcome", ["HTTP 200 OK", "500 Internal"], ["success", "error"]),
        ("exit_code", [0, 1], ["success", "error"]),
        ("status", ["complete", "incomplete run"], ["success", "error"]),
    ],
)
def test_words_for_success_and_failure(name: str, words: list[Any], meaning: list[str]) -> None:
    rows = [{"timestamp": moment.isoformat(), "took": 5, name: words[n % 2]} for n, moment in enumerate(MOMENTS)]
    found = guess(rows)
    told = [str(value) for value in read(found, rows)["status"][:2]]
    assert [known_status(value) for value in told] == meaning
    assert "status" not in found.missing


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("max_size", [256, 512]),
        ("cached", [True, False]),
        ("verdict", ["good", "bad"]),
        ("code", ["DE", "AT"]),
        ("order_status", ["shipped", "lost"]),
        ("n", [200, 200]),
    ],
)
def test_what_is_no_status(name: str, words: list[Any]) -> None:
    found = guess([{"timestamp": moment.isoformat(), "took": 5, name: words[n % 2]} for n, moment in enumerate(MOMENTS)])
    assert "status" in found.missing


def test_a_status_that_the_sample_did_not_have_is_an_error(tmp_path: Path) -> None:
    rows = [{"time": moment.isoformat(), "status": "ok" if n % 9 else "failed"} for n, moment in enumerate(MOMENTS)]
    found = guess(rows)
    rows[5]["status"] = "circuit_open"
    batch = stored(found, rows, tmp_path)
    assert (batch.rows["status"][5].as_py(), batch.rejects) == ("error", ())
    assert json.loads(batch.rows["metadata"][5].as_py()) == {"left_out": {"status": "circuit_open"}}


def test_a_kind_of_something_else_is_no_run_type() -> None:
    rows = [{"time": moment.isoformat(), "kind": "premium"} for moment in MOMENTS]
    assert place_of(guess(rows), "run_type") is None
    assert place_of(guess([row | {"kind": "llm"} for row in rows]), "run_type") == "kind"


def test_a_word_that_nobody_knows_is_said() -> None:
    rows = [{"timestamp": moment.isoformat(), "status": "ok" if n else "wobbly"} for n, moment in enumerate(MOMENTS)]
    found = guess(rows)
    assert read(found, rows)["status"][0] == "error"
    assert any("wobbly" in remark for remark in found.remarks)


def test_a_run_failed_where_an_error_is_written() -> None:
    rows = [{"ts": moment.isoformat(), "error": "boom: no such tool" if n == 3 else None} for n, moment in enumerate(MOMENTS)]
    result = read(guess(rows), rows)
    assert (result["status"][3], result["status"][4], result["error_message"][3]) == ("error", None, "boom: no such tool")
    none_failed = [{"ts": moment.isoformat(), "error": None} for moment in MOMENTS]
    assert read(guess(none_failed), rows)["status"][3] == "error", "where nothing failed in the sample, something will"


def test_tokens_cost_and_whom_a_run_belongs_to() -> None:
    rows = [
        {
            "request_id": f"r{n}", "time": moment.isoformat(), "model": "gpt-4o-mini", "promptTokens": 100 + n, "completion_tokens": 7,
            "cost_cents": 1.5, "customer": f"c{n % 3}", "bot": "helper", "session_id": f"s{n // 4}", "release": "1.2", "note": "x",
        }
        for n, moment in enumerate(MOMENTS)
    ]  # fmt: skip
    found = guess(rows)
    assert {
        column: place_of(found, column)
        for column in (
            "run_id",
            "request_model",
            "input_tokens",
            "output_tokens",
            "tenant_id",
            "agent_name",
            "conversation_id",
            "agent_version",
        )
    } == {
        "run_id": "request_id",
        "request_model": "model",
        "input_tokens": "promptTokens",
        "output_tokens": "completion_tokens",
        "tenant_id": "customer",
        "agent_name": "bot",
        "conversation_id": "session_id",
        "agent_version": "release",
    }
    result = read(found, rows)
    assert result["total_cost"][0] == pytest.approx(0.015)
    assert result["metadata"][0] == {"note": "x"}, "what nothing was guessed for is kept"


def test_an_identifier_that_repeats_is_none() -> None:
    rows = [{"id": n % 5, "time": moment.isoformat()} for n, moment in enumerate(MOMENTS)]
    found = guess(rows)
    assert place_of(found, "run_id") is None
    assert len(set(read(found, rows)["run_id"])) == len(rows)


def test_what_somebody_says_goes_before_every_guess() -> None:
    rows = [{"time": moment.isoformat(), "took": 2, "latency": 900, "customer": "a"} for moment in MOMENTS]
    found = guess(rows, edits={"latency_seconds": "took", "tenant_id": None})
    assert place_of(found, "latency_seconds") == "took"
    assert place_of(found, "tenant_id") is None


NESTED = [
    {
        "id": f"r{n}",
        "trace": {"begin": int(moment.timestamp() * 1000), "ms": 800 + n},
        "customer": {"id": f"c{n % 3}", "mail": "a@b.example"},
        "llm": {"model": "gpt-4o", "usage": {"prompt_tokens": 70}},
        "tags": ["a"],
    }
    for n, moment in enumerate(MOMENTS)
]


def test_nested_objects_are_seen_as_columns(tmp_path: Path) -> None:
    found = guess(NESTED)
    assert {part.column: part.place for part in found.guesses if part.used} == {
        "run_id": "id",
        "start_time": "trace.begin",
        "latency_seconds": "trace.ms",
        "tenant_id": "customer.id",
        "request_model": "llm.model",
        "input_tokens": "llm.usage.prompt_tokens",
    }
    assert found.others == ("tags", "customer.mail")
    batch = stored(found, NESTED, tmp_path)
    assert batch.rows["start_time"].to_pylist() == MOMENTS
    assert batch.rows["tenant_id"][4].as_py() == "c1"
    assert json.loads(batch.rows["metadata"][0].as_py()) == {"customer": {"mail": "a@b.example"}, "tags": ["a"]}


def test_somebody_may_name_any_column_and_any_place(tmp_path: Path) -> None:
    edits = {"tenant_id": "customer.mail", "tags": "tags", "prompt_name": "llm.model", "run_id": "customer.id"}
    found = guess(NESTED, edits=edits)
    assert {part.column: (part.place, part.confidence) for part in found.guesses if part.column in edits} == {
        column: (place, "said") for column, place in edits.items()
    }
    assert any("customer.id does not tell all rows apart" in remark for remark in found.remarks)
    batch = stored(found, NESTED, tmp_path)
    assert batch.rows["tags"][0].as_py() == ["a"]
    assert batch.rows["run_id"][4].as_py() == "c1"


@pytest.mark.parametrize(
    ("column", "place", "message"),
    [
        ("strt_time", "trace.begin", "Did you mean start_time"),
        ("xyz", "trace.begin", "There are: project, run_id"),
        ("source", "id", "Metamon has no column source"),
        ("tenant_id", "customer.idd", "Did you mean customer.id"),
        ("status", "foo", "there is no column foo. There are: id, trace, customer"),
        ("start_time", "id+clock", "there is no column clock"),
        ("start_time", "id+llm.model", "does not hold times, but r0 gpt-4o"),
        ("latency_seconds", "id", "does not hold durations, but r0, r1, r2"),
        ("status", "id", "does not hold statuses"),
    ],
)
def test_what_somebody_says_and_cannot_be_is_refused(column: str, place: str, message: str) -> None:
    with pytest.raises(AnswerError, match=message):
        guess(NESTED, edits={column: place})


def test_names_of_people_in_a_hurry() -> None:
    rows = [{"req #": f"r{n}", "ts": moment.isoformat(), "lat": 500 + n, "who": f"u{n % 5}"} for n, moment in enumerate(MOMENTS)]
    found = guess(rows)
    assert [place_of(found, column) for column in ("run_id", "latency_seconds", "user_id")] == ["req #", "lat", "who"]
    assert place_of(guess([row | {"lon": 16.3} for row in rows]), "latency_seconds") is None, "a latitude"


def test_without_a_time_nothing_can_be_done() -> None:
    found = guess([{"latency": 5, "n": n} for n in range(9)])
    assert not found.usable
    assert set(found.missing) == {"start_time", "status"}


def test_files_in_our_names_keep_all_columns_when_one_is_corrected(tmp_path: Path) -> None:
    row = {"quality_score": 0.5, "tags": ["a"], "cache_hit": True, "metadata": {"x": 1}, "user_id": "u", "who": "w", "source": "files"}
    rows = [{"run_id": f"r{n}", "start_time": moment.isoformat(), **row} for n, moment in enumerate(MOMENTS)]
    batch = stored(guess(rows, edits={"user_id": "who"}), rows, tmp_path)
    read = batch.rows.slice(0, 1).to_pylist()[0]
    assert (read["quality_score"], read["tags"], read["cache_hit"], read["user_id"]) == (0.5, ["a"], True, "w")
    assert json.loads(read["metadata"])["x"] == 1


def test_files_in_our_names_need_no_mapping() -> None:
    rows = [{"run_id": f"r{n}", "start_time": moment.isoformat(), "x": 1} for n, moment in enumerate(MOMENTS)]
    assert guess(rows).mapping is None


def test_recorded_files(shared_data: Path) -> None:
    assert guess_columns(sample_files(shared_data / "llm_latency").rows, project="p").mapping == "llm-latency"
    azure = guess_columns(sample_files(shared_data / "tokens/azure_llm_2023.parquet").rows, project="p")
    assert (place_of(azure, "start_time"), place_of(azure, "input_tokens"), place_of(azure, "output_tokens")) == (
        "timestamp",
        "context_tokens",
        "generated_tokens",
    )
    assert set(azure.missing) == {"latency_seconds", "status"}
    steps = guess_columns(sample_files(shared_data / "episodes/tau_airline_gpt4o.jsonl").rows, project="p")
    assert steps.mapping == "tau-bench-steps"


_VALUES = st.none() | st.text(max_size=12) | st.integers() | st.floats() | st.booleans()
_NAMES = st.sampled_from(["time", "latency", "status", "id", "x", "error", "cost"])


@given(st.lists(st.dictionaries(_NAMES, _VALUES, max_size=7), max_size=12))
@settings(max_examples=60, deadline=None)
def test_any_rows_give_a_mapping_that_loads(rows: list[dict[str, Any]]) -> None:
    found = guess(rows)
    if isinstance(found.mapping, dict):
        load(found.mapping)


# Files ---------------------------------------------------------------------------------------------------------


def test_delimiters_compression_and_kinds(tmp_path: Path) -> None:
    import gzip

    import pyarrow as pa
    import pyarrow.parquet as pq

    lines = [f"{moment:%Y-%m-%d %H:%M:%S};{n * 100},5;ok" for n, moment in enumerate(MOMENTS)]
    (tmp_path / "a.csv").write_text("\ufefftime;latency;status\r\n" + "\r\n".join(lines))
    sample = sample_files(tmp_path / "a.csv")
    assert sample.delimiter == ";"
    assert sample.rows[1] == {"time": "2026-11-03 09:07:00", "latency": "100,5", "status": "ok"}
    found = guess_columns(sample.rows, project="p", delimiter=sample.delimiter)
    assert isinstance(found.mapping, dict)
    read_back = list(FilesSource([tmp_path / "a.csv"], project="p", mapping=load(found.mapping)).read(Kind.RUNS, None))
    assert sum(batch.rows.num_rows for batch in read_back) == len(lines)
    assert not [reject for batch in read_back for reject in batch.rejects]

    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"ts": 1762160400, "ms": 5}\n\nnot json\n{"ts": 1762160401, "ms": 6}\n'))
    assert len(sample_files(tmp_path / "b.jsonl.gz").rows) == 2
    (tmp_path / "d.csv").write_text("time~ms\n2026-11-03 09:00:00~5\n")
    assert sample_files(tmp_path / "d.csv").delimiter == "~"
    (tmp_path / "e.csv").write_text("time (UTC)\n2026-11-03 09:00:00\n")
    assert list(sample_files(tmp_path / "e.csv").rows[0]) == ["time (UTC)"], "one column is no fault"
    pq.write_table(pa.table({"ts": MOMENTS, "ms": range(len(MOMENTS))}), tmp_path / "c.parquet")
    assert sample_files(tmp_path / "c.parquet").rows[0]["ts"] == MOMENTS[0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.csv", b"", "is empty"),
        ("header.csv", b"time,latency\n", "no rows"),
        ("blank.jsonl", b"\n\n", "no rows"),
        ("binary.csv", bytes(range(256)) * 8, "is not text"),
        ("utf16.csv", "time,latency\n2026-11-03,5\n".encode("utf-16"), "UTF-16"),
        ("utf16.jsonl", '{"time": 1}\n'.encode("utf-16-le"), "UTF-16"),
        ("array.jsonl", b'[\n{"time": 1}\n]\n', "jq -c"),
        ("words.jsonl", b"hello\nworld\n", "not JSON"),
        ("marks.csv", "time§latency\n2026-11-03§5\n".encode(), "no delimiter was recognised, so the header is one column, time§latency"),
        ("json.csv", b'{"a": 1}\n{"a": 2}\n', "rename it to .jsonl"),
        ("document.json", b"[]", "jq -c"),
        ("sheet.xlsx", b"PK", "save the sheet as CSV"),
        ("broken.parquet", b"PAR1xxxx", "not a whole Parquet file"),
        ("parquet.csv", b"PAR1\0\0\0\0", "rename it to .parquet"),
        ("cut.csv.gz", b"\x1f\x8b\x08\x00", "cannot be unpacked"),
    ],
)
def test_files_that_cannot_be_used_are_told_why(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises((SampleError, SourceError)) as refused:
        sample_files(file)
    assert message in str(refused.value)
    assert str(file) in str(refused.value)


def test_files_of_different_shapes_are_not_taken_together(tmp_path: Path) -> None:
    (tmp_path / "calls.csv").write_text("time,latency,status\n2026-11-03,5,ok\n")
    (tmp_path / "calls-2.csv").write_text("time,latency,status,model\n2026-11-03,5,ok,x\n")
    assert len(sample_files(tmp_path).rows) == 2
    (tmp_path / "prices.csv").write_text("item,price\nx,1\n")
    with pytest.raises(SampleError, match="Connect each kind by itself") as caught:
        sample_files(tmp_path)
    assert "  calls-2.csv, calls.csv: latency, " in str(caught.value)
    assert "  prices.csv: item, price" in str(caught.value)
    assert len(sample_files(tmp_path / "calls*.csv").rows) == 2


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        sample_files(tmp_path / "nowhere.csv")
    with pytest.raises(SampleError, match="holds no files"):
        sample_files(tmp_path)
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    (tmp_path / "b.csv").write_text("a;b\n1;2\n")
    with pytest.raises(SampleError, match="separated differently"):
        sample_files(tmp_path)


def test_a_zone_that_does_not_exist_is_refused() -> None:
    with pytest.raises(SourceError, match="is no time zone"):
        guessed = guess(timed(["2026-07-01 12:00:00"] * 3), zone="Europe/Viena")
        load(guessed.mapping or {})
