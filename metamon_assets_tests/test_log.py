"""Records, the rotated file, what a process of ours prints, and ``metamon logs``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from metamon_assets import log
from metamon_assets.cli import main
from metamon_assets.supervisor.output import LINE_LIMIT, Journal, Reader, Records

LOGGING = """
import logging, threading, warnings
from metamon_assets import log
log.configure("feed")
logger = logging.getLogger("metamon_assets.feed")
logger.info("read %s runs", 7, extra={"project": "support", "seconds": 0.5})
logging.getLogger("urllib3").info("not ours, not worth it")
logging.getLogger("urllib3").warning("a retry")
try:
    1 / 0
except ZeroDivisionError:
    logger.exception("failed")
thread = threading.Thread(target=lambda: {}["missing"])
thread.start()
thread.join()
raise RuntimeError("the end")
"""


def records_of(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def test_a_process_logs_json_lines_and_also_what_nobody_caught() -> None:
    done = subprocess.run([sys.executable, "-c", LOGGING], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 1
    info, retry, failed, thread, end = records_of(done.stdout)
    assert {key: info[key] for key in ("level", "component", "message", "project", "seconds")} == {
        "level": "info",
        "component": "feed",
        "message": "read 7 runs",
        "project": "support",
        "seconds": 0.5,
    }
    assert abs(datetime.now(UTC) - datetime.fromisoformat(info["time"])) < timedelta(minutes=1)
    assert info["time"].endswith("Z")
    assert (retry["level"], retry["message"]) == ("warning", "a retry")
    assert "ZeroDivisionError" in failed["traceback"]
    assert (thread["level"], thread["message"]) == ("critical", "Ended by KeyError: 'missing'")
    assert (end["level"], end["message"]) == ("critical", "Ended by RuntimeError: the end")
    assert "Traceback" not in done.stderr


def test_the_form_is_chosen_by_the_environment() -> None:
    def run(form: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"METAMON_LOG": form}
        return subprocess.run([sys.executable, "-c", LOGGING], capture_output=True, text=True, check=False, timeout=30, env=environment)

    first = run("text").stdout.splitlines()[0]
    assert first.split(maxsplit=2)[2] == "info     feed         read 7 runs  project=support  seconds=0.5"
    assert "METAMON_LOG is 'xml': set it to text or json." in run("xml").stderr


def test_a_reader_that_is_gone_stops_no_process() -> None:
    many = "import logging; from metamon_assets import log; log.configure('x'); logger = logging.getLogger('metamon_assets')\n"
    many += "for n in range(20_000): logger.info('line %s', n)\nopen(__import__('sys').argv[1], 'w').write('done')"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METAMON_LOG", "json")
        read_end, write_end = os.pipe()
        marker = Path(os.environ.get("TMPDIR", "/tmp")) / f"metamon-log-{os.getpid()}"
        process = subprocess.Popen([sys.executable, "-c", many, str(marker)], stdout=write_end, stderr=write_end)
        os.close(write_end)
        os.read(read_end, 100)
        os.close(read_end)
        process.wait(30)
        assert marker.read_text() == "done"
        marker.unlink()


def test_text_cannot_steer_the_terminal() -> None:
    shown = log.to_text(log.record("info", "feed", "a\x1b]0;title\x07b\nsecond", name="\x9b31m\u202e", count=3))
    assert "\x1b" not in shown
    assert shown.endswith("feed         a\\x1b]0;title\\x07b\n    second  name=\\x9b31m\\u202e  count=3")


def test_whatever_is_logged_becomes_a_line() -> None:
    line = log.to_line(log.record("info", "x", "lone \ud800", big=2**70, when=datetime(2026, 1, 1, tzinfo=UTC)))
    assert line.count(b"\n") == 1
    assert log.parse(line) is not None


def test_a_full_file_is_put_aside_and_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / "folder" / log.FILE_NAME
    file = log.RotatedFile(path, limit=1_000, generations=2)
    for number in range(100):
        file.write(log.to_line(log.record("info", "x", f"{number}", filler="." * 50)))
    file.close()
    assert sorted(found.name for found in path.parent.iterdir()) == ["metamon.jsonl", "metamon.jsonl.1", "metamon.jsonl.2"]
    assert all(found.stat().st_size <= 1_000 for found in path.parent.iterdir())
    kept = [int(entry["message"]) for entry in log.read(path)]
    assert kept == list(range(kept[0], 100))
    assert path.stat().st_mode & 0o077 == 0


def test_threads_share_a_file_without_mixing_lines(tmp_path: Path) -> None:
    file = log.RotatedFile(tmp_path / log.FILE_NAME, limit=100_000)

    def write(name: str) -> None:
        for number in range(500):
            file.write(log.to_line(log.record("info", name, f"{number}")))

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = list(log.read(tmp_path / log.FILE_NAME))
    for name in "abcd":
        assert [entry["message"] for entry in found if entry["component"] == name] == [f"{number}" for number in range(500)]


def test_a_full_disk_loses_records_and_says_how_many(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    path = tmp_path / log.FILE_NAME
    path.symlink_to("/dev/full")
    file = log.RotatedFile(path)
    for _ in range(3):
        file.write(log.to_line(log.record("info", "x", "lost")))
    assert (file.lost, file.trouble) == (3, "No space left on device")
    path.unlink()
    file.close()  # room again
    file.write(log.to_line(log.record("info", "x", "kept")))
    note, kept = log.read(path)
    assert (note["level"], note["message"]) == ("warning", "3 records are missing here: No space left on device")
    assert kept["message"] == "kept"
    assert file.lost == 0


@pytest.fixture
def found() -> tuple[Records, list[log.Record]]:
    """Where a child's bytes go, and the records made of them."""
    records: list[log.Record] = []
    return Records("child", lambda line: records.append(json.loads(line))), records


def test_lines_are_whole_however_they_arrive(found: tuple[Records, list[log.Record]]) -> None:
    records, seen = found
    for byte in b"one\ntwo\n" + "drei \u00fc\n".encode() + b"\xff\xfe\nlast":
        records.feed(bytes([byte]))
    records.close()
    assert [entry["message"] for entry in seen] == ["one", "two", "drei \u00fc", "\ufffd\ufffd", "last"]


def test_what_looks_like_a_record_and_is_none_is_text(found: tuple[Records, list[log.Record]]) -> None:
    records, seen = found
    lines = ['{"message": 1, "level": "info"}', "{broken", '{"a": 1}', '{"message": "m", "level": "LOUD", "time": "soon", "component": 3}']
    records.feed("\n".join(lines).encode())
    records.close()
    assert [entry["message"] for entry in seen] == [*lines[:3], "m"]
    assert (seen[3]["level"], seen[3]["component"]) == ("info", "child")
    assert all(log.parse(json.dumps(entry)) for entry in seen)


def test_levels_are_read_from_lines_that_begin_with_them(found: tuple[Records, list[log.Record]]) -> None:
    records, seen = found
    records.feed(
        b"INFO:     Started\n\nError: No such command\nErrors are fun\nException in thread 7:\nTraceback (most recent call last):\n"
    )
    records.feed(b'  File "x", line 1\nKeyError: 1\n')
    records.close()
    assert [(entry["level"], entry["message"]) for entry in seen] == [
        ("info", "Started"),
        ("error", "No such command"),
        ("info", "Errors are fun"),
        ("error", "Exception in thread 7:"),
    ]
    assert seen[-1]["traceback"].endswith("KeyError: 1")


def test_a_process_that_logs_everything_twice_is_recorded_once(found: tuple[Records, list[log.Record]]) -> None:
    records, seen = found
    once = '{"event": "ticked", "level": "info", "logger": "dagster.daemon", "timestamp": "2026-01-02T03:04:06Z"}\n'
    records.feed(f"{once}INFO:dagster.daemon:ticked\n{once}WARNING:root:no database\nDETAIL: starting\n".encode())
    records.close()
    assert [(entry["level"], entry["logger"], entry["message"]) for entry in seen] == [
        ("info", "dagster.daemon", "ticked"),
        ("info", "dagster.daemon", "ticked"),
        ("warning", "root", "no database\nDETAIL: starting"),
    ]


def test_memory_is_bounded_whatever_a_child_prints(found: tuple[Records, list[log.Record]]) -> None:
    records, seen = found
    for _ in range(100):
        records.feed(b"x" * LINE_LIMIT)
    records.feed(b"\nTraceback (most recent call last):\n")
    for _ in range(10_000):
        records.feed(b"  File somewhere, line 1, in recursion\n")
    records.close()
    long, trace = seen
    assert len(long["message"]) < LINE_LIMIT + 100
    assert long["message"].endswith(f"({99 * LINE_LIMIT} more bytes)")
    assert len(trace["traceback"]) < LINE_LIMIT * 1.1


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """``metamon logs`` over a log of two hours, half of it put aside."""
    monkeypatch.setenv("METAMON_HOME", str(tmp_path))
    path = tmp_path / "logs" / log.FILE_NAME
    file = log.RotatedFile(path, limit=400)
    now = datetime.now(UTC)
    for minutes, level, component in ((120, "error", "feed"), (30, "info", "feed"), (20, "warning", "web"), (10, "error", "web")):
        when = log.timestamp(now - timedelta(minutes=minutes))
        file.write(log.to_line(log.record(level, component, f"{minutes} minutes ago") | {"time": when}))
    with path.open("ab") as raw:
        raw.write(b'torn {"time"\n')
    return lambda *arguments: CliRunner().invoke(main, ["logs", *arguments])


@pytest.mark.parametrize(
    ("options", "minutes"),
    [
        ((), [30, 20, 10]),
        (("--since", "1d"), [120, 30, 20, 10]),
        (("--since", "1200s"), [10]),
        (("--component", "feed", "--since", "3h"), [120, 30]),
        (("--component", "feed", "--component", "web"), [30, 20, 10]),
        (("--level", "warning"), [20, 10]),
    ],
)
def test_logs_chooses_records(logs: Callable[..., Result], options: tuple[str, ...], minutes: list[int]) -> None:
    result = logs("--json", *options)
    assert result.exit_code == 0, result.output
    assert [entry["message"] for entry in records_of(result.stdout)] == [f"{number} minutes ago" for number in minutes]


def test_logs_shows_text_for_people(logs: Callable[..., Result]) -> None:
    lines = logs("--level", "error").stdout.splitlines()
    assert len(lines) == 1
    assert lines[0].endswith("error    web          10 minutes ago")


def test_logs_explains_what_is_wrong(logs: Callable[..., Result], tmp_path: Path) -> None:
    assert "'soon' is no length of time" in logs("--since", "soon").output
    (tmp_path / "logs" / log.FILE_NAME).unlink()
    result = logs()
    assert result.exit_code == 1
    assert "`metamon up` writes it" in result.output


def test_logs_follows_over_a_rotation(tmp_path: Path) -> None:
    path = tmp_path / "logs" / log.FILE_NAME
    file = log.RotatedFile(path, limit=1_000)
    file.write(log.to_line(log.record("info", "x", "0")))
    command = [sys.executable, "-c", "from metamon_assets.cli import main; main()", "logs", "--follow", "--json"]
    environment = os.environ | {"METAMON_HOME": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["message"] == "0"
        for number in range(1, 30):  # some files are put aside
            file.write(log.to_line(log.record("info", "x", f"{number}")))
            assert json.loads(process.stdout.readline())["message"] == f"{number}"
        assert (tmp_path / "logs" / f"{log.FILE_NAME}.1").exists()
        process.send_signal(2)
        assert process.wait(60) == 0


@pytest.mark.parametrize(
    "line",
    [
        "2026-13-45 99:99:99 +0000 - dagster - INFO - no such day",
        "2026-01-02 03:04:05 +9999 - dagster - INFO - no such zone",
        '{"level": "info", "message": "before the first day", "time": "0001-01-01T00:00:00+23:59"}',
        '{"level": "info", "message": "after the last", "timestamp": "9999-12-31T23:59:59-23:59"}',
        '{"level": "info", "message": "deep", "a": ' + "[" * 1_020 + "]" * 1_020 + "}",
    ],
)
def test_no_line_stops_the_reading(line: str) -> None:
    """A pipe that nobody drains any more stops the child that writes to it."""
    lines: list[bytes] = []
    ours, theirs = os.pipe()
    reader = Reader("child", os.fdopen(ours, "rb"), lines.append)
    reader.start()
    with os.fdopen(theirs, "wb") as pipe:
        pipe.write(f"{line}\n".encode())
        pipe.flush()
        deadline = time.monotonic() + 10
        while not lines:
            assert time.monotonic() < deadline
        pipe.write(b"the next line\n")
    reader.join(10)
    assert not reader.is_alive()
    assert log.parse(lines[0])
    assert json.loads(lines[-1])["message"] == "the next line"


def test_whose_a_record_is_says_the_pipe(found: tuple[Records, list[log.Record]]) -> None:
    """A run that prints a stranger's text cannot speak for the supervisor."""
    records, seen = found
    records.feed(b'{"level": "critical", "message": "all is lost", "component": "supervisor"}\n')
    assert seen[0]["component"] == "child"


def test_secrets_are_hidden_however_json_writes_them(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "log", lambda _: None)
    secrets = ['pass"word\\1', "gehe\u00edm-nis", "plain-secret"]
    journal.hide(secrets)
    journal.tell(f"connecting with {' and '.join(secrets)}")
    journal.close()
    (entry,) = log.read(tmp_path / "log")
    assert entry["message"] == "connecting with *** and *** and ***"
