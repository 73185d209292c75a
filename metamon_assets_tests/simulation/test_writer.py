"""The sample world as files, and its truth beside them."""

import json
import stat
import time
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from metamon_assets.simulation import SimulationError, World, first_day, simulate
from metamon_assets.simulation.incidents import COLUMN

FIRST, DAYS = date(2026, 9, 1), 12
SEED = 7


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve days of a world of 600 traces a day: folders out and truth."""
    folder = tmp_path_factory.mktemp("world")
    start, seen = time.perf_counter(), list[tuple[int, int, date]]()
    result = simulate(SEED, FIRST, DAYS, 600, folder / "out", folder / "truth", progress=lambda *step: seen.append(step))
    seconds = time.perf_counter() - start
    print(f"{result.traces / seconds:,.0f} traces/s, {result.bytes / result.traces:,.0f} bytes per trace")
    assert [step[0] for step in seen] == list(range(1, DAYS + 1))
    assert {step[1] for step in seen} == {DAYS}
    assert result.days_written == DAYS
    return folder


@pytest.fixture(scope="module")
def truth(home: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((home / "truth" / "truth.json").read_text())
    return result


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def good_lines(path: Path) -> list[dict[str, Any]]:
    result = []
    for line in path.read_bytes().splitlines():
        try:
            result.append(orjson.loads(line))
        except orjson.JSONDecodeError:
            continue
    return result


def test_the_default_is_the_four_weeks_that_end_yesterday() -> None:
    assert first_day(date(2026, 11, 20)) == date(2026, 10, 23)
    assert first_day(date(2026, 11, 20)) + timedelta(days=28) == date(2026, 11, 20)


def test_a_second_call_does_nothing_and_a_new_day_extends(home: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*") if path.is_file()}
    assert simulate(SEED, FIRST, DAYS, 600, home / "out", home / "truth").days_written == 0
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*") if path.is_file()} == before
    simulate(SEED, FIRST, 3, 600, tmp_path / "out", tmp_path / "truth")
    shifted = simulate(SEED, FIRST + timedelta(days=1), 3, 600, tmp_path / "out", tmp_path / "truth")
    assert (shifted.days_written, shifted.first_day, shifted.last_day) == (1, FIRST, FIRST + timedelta(days=3))
    whole, pieces = contents(home / "out"), contents(tmp_path / "out")
    assert all(pieces[name] == whole[name] for name in pieces if name != "manifest.json")
    assert json.loads(pieces["manifest.json"])["last_day"] == "2026-09-04"
    assert json.loads((tmp_path / "truth" / "truth.json").read_text())["last_day"] == "2026-09-04"


def test_a_day_alone_has_the_bytes_of_the_day_in_a_range(home: Path, tmp_path: Path) -> None:
    day = FIRST + timedelta(days=7)
    simulate(SEED, day, 1, 600, tmp_path / "out", tmp_path / "truth")
    whole, alone = contents(home / "out"), contents(tmp_path / "out")
    assert len(alone) >= 4
    assert all(alone[name] == whole[name] for name in alone if name != "manifest.json")
    hidden, other = contents(home / "truth"), contents(tmp_path / "truth")
    assert hidden[f"days/{day}.json"] == other[f"days/{day}.json"]


def test_a_lost_file_is_written_again(tmp_path: Path) -> None:
    simulate(SEED, FIRST, 2, 100, tmp_path / "out", tmp_path / "truth")
    lost = tmp_path / "out" / "runs" / f"{FIRST}.jsonl"
    content = lost.read_bytes()
    lost.unlink()
    assert simulate(SEED, FIRST, 2, 100, tmp_path / "out", tmp_path / "truth").days_written == 1
    assert lost.read_bytes() == content


def test_other_seeds_make_other_worlds_and_do_not_mix(home: Path, tmp_path: Path) -> None:
    simulate(SEED + 1, FIRST, 1, 600, tmp_path / "out", tmp_path / "truth")
    name = f"runs/{FIRST}.jsonl"
    assert (tmp_path / "out" / name).read_bytes() != (home / "out" / name).read_bytes()
    with pytest.raises(SimulationError, match="another sample world"):
        simulate(SEED, FIRST, 1, 600, tmp_path / "out", tmp_path / "truth")
    (tmp_path / "out" / "manifest.json").write_text("{")
    with pytest.raises(SimulationError, match="is damaged"):
        simulate(SEED + 1, FIRST, 1, 600, tmp_path / "out", tmp_path / "truth")
    with pytest.raises(SimulationError, match="at least one"):
        simulate(SEED, FIRST, 0, 600, tmp_path / "out", tmp_path / "truth")


def test_the_truth_is_kept_apart_and_private(home: Path, tmp_path: Path) -> None:
    with pytest.raises(SimulationError, match="must not lie in"):
        simulate(SEED, FIRST, 1, 600, tmp_path / "out", tmp_path / "out" / "truth")
    assert stat.S_IMODE((home / "truth" / "truth.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((home / "truth").stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in (home / "truth" / "days").iterdir())


def test_nothing_of_the_truth_is_in_the_files(home: Path, truth: dict[str, Any]) -> None:
    telling = {item["id"] for item in truth["incidents"] + truth["changes"]}
    telling |= {incident["mechanism"] for incident in truth["incidents"]}
    telling |= {incident["fix"]["what"] for incident in truth["incidents"] if incident["fix"]["exists"]}
    telling |= {incident["kind"] for incident in truth["incidents"]} - {"unknown"}
    telling |= {"inc-", "chg-", "incident", "planted", "truth", "mechanism", "anomal", "p_error", "expected_quality"}
    assert len(telling) > 15
    for name, content in contents(home / "out").items():
        found = [word for word in telling if word.encode() in content]
        assert not found, name


def test_files_carry_the_time_at_which_they_were_written(home: Path) -> None:
    for path in (home / "out" / "runs").iterdir():
        end_of_day = datetime.combine(date.fromisoformat(path.stem) + timedelta(days=1), datetime.min.time(), UTC)
        assert datetime.fromtimestamp(path.stat().st_mtime, UTC) == end_of_day + timedelta(minutes=10)


def test_the_files_hold_every_run_of_the_world_in_its_last_state(home: Path) -> None:
    """What is late, pending or doubled comes right by reading the next day's file as well."""
    newest: dict[str, dict[str, Any]] = {}
    for path in sorted((home / "out" / "runs").iterdir()):
        for run in good_lines(path):
            if "run_id" in run and run["project"] == "assistants" and not (run["run_id"] in newest and run["status"] == "pending"):
                newest[run["run_id"]] = run
    for number in (0, 4, 10):
        day = FIRST + timedelta(days=number)
        for run in World(SEED, 600).day(day).runs.select(["run_id", "status", "end_time", "input_tokens", "parent_run_id"]).to_pylist():
            written = newest[run["run_id"]]
            assert written["status"] == run["status"]
            assert written.get("input_tokens") == run["input_tokens"]
            assert written.get("parent_run_id") == run["parent_run_id"]
            assert (datetime.fromisoformat(written["end_time"]) if "end_time" in written else None) == run["end_time"]


def test_no_run_ends_after_its_file_was_written(home: Path) -> None:
    pending = 0
    for path in sorted((home / "out" / "runs").iterdir()):
        written = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        for run in good_lines(path):
            pending += run.get("status") == "pending"
            if "end_time" in run and run["status"] in ("success", "error"):
                assert datetime.fromisoformat(run["end_time"]) <= written
    assert pending > 0


def test_damage_and_doubles_are_where_the_truth_says(home: Path, truth: dict[str, Any]) -> None:
    files = truth["files"]
    lines = {path.name: path.read_bytes().splitlines() for path in (home / "out" / "runs").iterdir()}
    assert files["lines"] == sum(len(content) for content in lines.values())
    assert files["damaged"]
    for damage in files["damaged"]:
        line = lines[damage["file"].removeprefix("runs/")][damage["line"] - 1]
        check = {
            "malformed_json": lambda line: line[-1:] != b"}",
            "missing_id": lambda line: "run_id" not in orjson.loads(line),
            "end_before_start": lambda line: orjson.loads(line)["end_time"] < orjson.loads(line)["start_time"],
            "unknown_status": lambda line: orjson.loads(line)["status"] == "mostly fine",
            "unreadable_time": lambda line: orjson.loads(line)["start_time"] == "this morning",
            "negative_tokens": lambda line: orjson.loads(line)["input_tokens"] < 0,
            "invalid_utf8": lambda line: b"\xff\xfe" in line,
        }[damage["kind"]]
        assert check(line), damage
    doubled = sum(count - 1 for content in lines.values() for count in Counter(content).values())
    assert doubled == files["doubled_lines"] > 0
    assert files["late_traces"] > 0
    own = {line for content in lines.values() for line in content if line.startswith(b'{"project":"metamon"')}
    assert files["own_runs"] <= len(own) <= files["own_runs"] + len(files["damaged"])


def test_feedback_lies_in_the_file_of_the_day_it_was_given_or_changed(home: Path) -> None:
    speaking_of_earlier_days = 0
    runs = {run["run_id"]: path.stem for path in sorted((home / "out" / "runs").iterdir()) for run in good_lines(path) if "run_id" in run}
    for path in (home / "out" / "feedback").iterdir():
        for item in good_lines(path):
            assert (item.get("modified_at") or item["created_at"])[:10] == path.stem
            speaking_of_earlier_days += runs.get(item["run_id"], path.stem) < path.stem
    assert speaking_of_earlier_days > 5


def test_the_truth_tells_effects_with_and_without(truth: dict[str, Any]) -> None:
    assert truth["incidents"]
    for incident in truth["incidents"]:
        assert datetime.fromisoformat(incident["start"]) < datetime.fromisoformat(incident["end"])
        assert set(incident["slice"]) <= set(COLUMN.values())
        assert incident["fix"]["exists"] == (incident["kind"] != "unknown")
        moved = incident["effect"]["met"]
        if moved.get("requests_measured", 0) > 20:
            assert set(incident["metrics"]) & set(moved), incident["kind"]
        for metric in set(moved) - {"requests_measured"}:
            assert moved[metric]["effect"] == pytest.approx(moved[metric]["with"] - moved[metric]["without"])
    assert truth["changes"]
    for change in truth["changes"]:
        if change["sign"] == "null":
            assert set(change["effect_on_the_day_after"]) <= {"requests_measured"}
