"""What people type, and what they get back."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from metamon_assets import log
from metamon_assets.cli import main, processes
from metamon_assets.config import Settings
from metamon_assets.simulation.home import DEFAULT_TRACES_PER_DAY
from metamon_assets.simulation.writer import DEFAULT_DAYS
from metamon_assets.warehouse import connect
from metamon_assets.warehouse.postgres import ADMINISTRATOR, EmbeddedPostgres

Metamon = Callable[..., Result]
HELP_SECONDS = 0.4


@pytest.fixture
def metamon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Metamon:
    """The command with an empty home, and no database yet."""
    monkeypatch.setenv("METAMON_HOME", str(tmp_path / "home"))
    for name in ("METAMON_CONFIG", "METAMON_DATABASE_URL", "METAMON_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    return lambda *arguments: CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def with_database(metamon: Metamon, postgres: EmbeddedPostgres, database_name: str, monkeypatch: pytest.MonkeyPatch) -> Metamon:
    """The command with a Postgres of one's own."""
    monkeypatch.setenv("METAMON_DATABASE_URL", postgres.url(database_name, ADMINISTRATOR))
    return metamon


@pytest.fixture
def embedded(metamon: Metamon, monkeypatch: pytest.MonkeyPatch) -> Iterator[Metamon]:
    """The command with a home that the embedded server can live in."""
    home = Path(tempfile.mkdtemp(prefix="metamon cli "))
    home.chmod(0o755)
    monkeypatch.setenv("METAMON_HOME", str(home))
    yield metamon
    EmbeddedPostgres(home).stop()
    shutil.rmtree(home, ignore_errors=True)


def test_help_answers_at_once(record_property: Callable[[str, object], None]) -> None:
    """Whole process, best of five: other work on the machine only ever adds to it."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("COV", "COVERAGE"))}
    command = [sys.executable, "-c", "from metamon_assets.cli import main; main()", "--help"]
    seconds = []
    for _ in range(5):
        begun = time.perf_counter()
        subprocess.run(command, env=plain, capture_output=True, check=True)
        seconds.append(time.perf_counter() - begun)
    record_property("metamon_help_seconds", min(seconds))
    print(f"metamon --help: {min(seconds):.3f} s")
    assert min(seconds) <= HELP_SECONDS


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from metamon_assets.cli import main; main(['--help'], standalone_mode=False);"
        "heavy = ('pydantic', 'psycopg2', 'pyarrow', 'rich', 'dagster', 'yaml', 'numpy', 'orjson', 'logging');"
        "print(*(name for name in heavy if name in sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == ""


def test_the_levels_to_choose_from_are_those_of_the_log() -> None:
    assert processes.LEVELS == log.LEVELS


@pytest.mark.parametrize("name", [[], *([name] for name in main.commands)])
def test_every_command_explains_itself(metamon: Metamon, name: list[str]) -> None:
    result = metamon(*name, "--help")
    assert result.exit_code == 0
    assert "Usage: " in result.output
    for parameter in (main.commands[name[0]] if name else main).params:
        assert not isinstance(parameter, click.Option) or parameter.help, f"{name} {parameter.name} has no help text"


def test_an_error_is_one_message_without_a_traceback(metamon: Metamon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METAMON_DATABASE_URL", "mysql://x")
    result = metamon("status")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("METAMON_DATABASE_URL must be an address like")
    assert "Traceback" not in result.stderr


def test_debug_shows_where_an_error_came_from(tmp_path: Path) -> None:
    environment = os.environ | {"METAMON_HOME": str(tmp_path), "METAMON_DATABASE_URL": "mysql://x", "METAMON_DEBUG": "1"}
    command = [sys.executable, "-c", "from metamon_assets.cli import main; main()", "status"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ConfigError" in done.stderr


def test_a_server_that_does_not_answer_is_told_without_its_password(metamon: Metamon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METAMON_DATABASE_URL", "postgresql://ann:hidden@127.0.0.1:9/metamon")
    for command in (("sql", "SELECT 1"), ("migrate",), ("doctor",)):
        result = metamon(*command)
        assert result.exit_code == 1
        assert "Connection refused" in result.output
        assert "hidden" not in result.output


def test_the_home_is_made_migrated_and_left_without_a_server(embedded: Metamon) -> None:
    to_do = embedded("migrate", "--dry-run")
    assert to_do.exit_code == 0, to_do.output
    assert to_do.stdout.startswith("To apply: 0001_schemas.sql, ")
    done = embedded("migrate")
    assert done.stdout.startswith("Applied: 0001_schemas.sql, ")
    assert "not running" in embedded("status").stdout
    refused = embedded("sql", "SELECT * FROM metamon.payloads")
    assert refused.exit_code == 1
    assert "permission denied for table payloads" in refused.stderr
    assert not EmbeddedPostgres(Path(os.environ["METAMON_HOME"])).status().running
    inside = "import os, psycopg2; psycopg2.connect(os.environ['METAMON_DAGSTER_URL'].replace('+psycopg2', '')); raise SystemExit(7)"
    assert embedded("exec", sys.executable, "-c", inside).exit_code == 7
    assert "There is no program no-such-program" in embedded("exec", "no-such-program").stderr


def test_sql_prints_a_table_csv_or_json(with_database: Metamon) -> None:
    query = "SELECT number, 'a,b' AS text, NULL AS nothing, 0.1::numeric AS money FROM generate_series(1, 25000) AS number ORDER BY 1;"
    table = with_database("sql", query)
    assert table.exit_code == 0, table.output
    assert "number" in table.stdout
    assert "The first 200 rows" in table.stderr
    rows = list(csv.reader(io.StringIO(with_database("sql", query, "--csv").stdout)))
    assert rows[0] == ["number", "text", "nothing", "money"]
    assert rows[-1] == ["25000", "a,b", "", "0.1"]
    assert len(rows) == 25_001
    assert json.loads(with_database("sql", query, "--json").stdout)[0] == {"number": 1, "text": "a,b", "nothing": None, "money": "0.1"}
    assert with_database("sql", "SHOW timezone", "--csv").stdout == "TimeZone\nUTC\n"
    assert with_database("sql", "SELECT 'half %' AS percent", "--csv").stdout == "percent\nhalf %\n"


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("DELETE FROM metamon.traces", "metamon sql only reads"),
        ("WITH gone AS (DELETE FROM metamon.traces RETURNING 1) SELECT * FROM gone", "DECLARE CURSOR must not contain data-modifying"),
        ("CREATE TABLE mine (a int)", "metamon sql only reads"),
        ("COMMIT; DROP TABLE metamon.traces", "more than one statement"),
        ("SELECT 1; SELECT 2", "more than one statement"),
        ("SELECT 1; -- then\n DROP TABLE metamon.traces", "more than one statement"),
        (
            "SELECT 1,\n  nothing FROM metamon.traces",
            'column "nothing" does not exist\nLINE 2:   nothing FROM metamon.traces\n          ^\n',
        ),
        (f"SELECT {'1, ' * 99}nothing", f"LINE 1: …{'1, ' * 16}nothing\n".replace("…", "…, ")),
        ("SELECT inputs FROM metamon.payloads", "permission denied for table payloads: metamon sql asks as the analyst"),
        ("SELECT raw FROM quarantine.rejected_rows", "permission denied"),
        ("SELEC 1", "syntax error"),
        ("SELECT count(*) FRO metamon.traces", "LINE 1: SELECT count(*) FRO metamon.traces\n"),
        ("SELECT nothing FROM metamon.traces", 'column "nothing" does not exist'),
    ],
)
def test_sql_refuses_what_an_analyst_may_not(with_database: Metamon, database: str, query: str, said: str) -> None:
    result = with_database("sql", query)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert said in result.stderr
    assert '"metamon_sql"' not in result.stderr
    connection = connect(database)
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('metamon.traces') IS NOT NULL, to_regclass('public.mine') IS NULL")
        assert cursor.fetchone() == (True, True)
    connection.close()


@pytest.mark.parametrize(
    "query", ["SELECT ';' AS a;", "SELECT 1 -- ; no\n", "SELECT $x$ ; $x$ AS a ; ;", "SHOW timezone;", "SELECT 1 /* ; */;"]
)
def test_a_semicolon_alone_makes_no_second_statement(with_database: Metamon, query: str) -> None:
    assert with_database("sql", query).exit_code == 0


def test_commands_that_read_make_no_database(metamon: Metamon, tmp_path: Path) -> None:
    for command in (("report",), ("readiness",), ("sql", "SELECT 1"), ("dictionary",), ("replay",)):
        done = metamon(*command)
        assert (done.exit_code, done.stdout) == (1, "")
        assert f"There is no data in {tmp_path / 'home'} yet: connect a source with `metamon connect" in done.stderr
    assert "no change" in metamon("config", "diff").stdout
    assert "metamon connect" in metamon("doctor").stdout
    assert not (tmp_path / "home").exists()


def test_the_help_tells_the_size_of_the_sample_world(metamon: Metamon) -> None:
    said = metamon("simulate", "--help").stdout
    assert f"[default: {DEFAULT_DAYS}]" in said
    assert f"[default: {DEFAULT_TRACES_PER_DAY}]" in said


def test_no_text_of_a_stranger_steers_the_terminal(with_database: Metamon) -> None:
    hostile = "E'\\x1b]0;title\\x07\\x1b[2J\\u202e'"
    for result in (
        with_database("sql", f'SELECT {hostile} AS "a\x1b[31m"'),
        with_database("sql", f"SELECT CAST({hostile} AS int)"),
        with_database("sql", "SELECT \x1b[2J"),
    ):
        assert not {"\x1b", "\x07", "\u202e"} & set(result.stdout + result.stderr), result.output
        assert "\ufffd" in result.output


def test_the_dictionary_explains_every_table_and_column(with_database: Metamon) -> None:
    relations = json.loads(with_database("dictionary", "--json").stdout)
    names = [relation["name"] for relation in relations]
    assert "metamon.traces" in names
    assert not [name for name in names if name.startswith("partitions.")]
    assert not [relation["name"] for relation in relations if not relation["comment"]]
    assert not [f"{relation['name']}.{column['name']}" for relation in relations for column in relation["columns"] if not column["comment"]]
    one = with_database("dictionary", "metamon.ingestion_ledger").stdout
    assert one.startswith("## metamon.ingestion_ledger (table)\n")
    assert "| rows_read | bigint | " in one
    unknown = with_database("dictionary", "nothing")
    assert (unknown.exit_code, "There is no table or view nothing" in unknown.stderr) == (1, True)


GOOD = '{"run_id": "%s", "name": "ask", "agent_name": "a", "start_time": "2026-08-22T10:00:00Z", "end_time": "2026-08-22T10:00:02Z"}\n'


def test_files_are_loaded_once_and_what_was_rejected_is_replayed(with_database: Metamon, tmp_path: Path) -> None:
    calls = tmp_path / "calls.jsonl"
    calls.write_text(GOOD % "one" + '{"run_id": "two", \n')
    first = with_database("ingest", calls, "--project", "shop", "--json")
    assert first.exit_code == 0, first.output
    assert json.loads(first.stdout) == [
        {"source": "files", "project": "shop", "kind": "runs", "rows_read": 2, "rows_written": 1, "rows_unchanged": 0, "rows_rejected": 1}
    ]
    again = json.loads(with_database("ingest", calls, "--project", "shop", "--json").stdout)
    assert (again[0]["rows_written"], again[0]["rows_unchanged"]) == (0, 1)

    unknown = json.loads(with_database("replay", "--json").stdout)
    assert "is not in metamon.yaml" in unknown[0]["message"]
    home = tmp_path / "home"
    home.mkdir()
    (home / "metamon.yaml").write_text(f"sources:\n  - {{type: files, project: shop, path: '{calls}'}}\n")
    still = json.loads(with_database("replay", "--json").stdout)
    assert [(entry["waiting"], entry["accepted"], entry["message"]) for entry in still] == [(1, 0, "1 still rejected")]
    calls.write_text(GOOD % "one" + GOOD % "two")
    mended = json.loads(with_database("replay", "--json").stdout)
    assert [(entry["waiting"], entry["accepted"], entry["message"]) for entry in mended] == [(1, 1, "0 still rejected")]
    assert "Nothing waits in quarantine." in with_database("replay").stderr
    assert with_database("sql", "SELECT count(*) FROM analytics.traces", "--csv").stdout == "count\n2\n"


def test_what_waits_in_quarantine_is_summed_up_by_what_is_wrong(with_database: Metamon, database: str) -> None:
    advice = "expected a number, with a point for decimals and no units"
    rows = [("wrong_type", f"total_tokens is '{number}'; {advice}") for number in ("1,234.5", "1,234; b", "17 k")]
    rows += [("wrong_type", f"latency is {value}; {advice}") for value in ("'5 s'", "'1 min'")]
    rows += [("unknown_status", f"status {status} is unknown: map it to one of success, error") for status in ("foo", "bar")]
    rows += [("bad", "the same for all, to be mended")]
    rows += [("conflicting_duplicate", f"run {name} stands twice; one version was kept. Give each an id.") for name in ("a", "ba", "c-a")]
    connection = connect(database)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO metamon.ingestion_ledger (source, project, kind, started_at, status)"
            " VALUES ('files', 'a', 'runs', now(), 'complete') RETURNING ledger_id"
        )
        (ledger_id,) = cursor.fetchone() or (0,)
        for number, (reason, detail) in enumerate(rows):
            cursor.execute(
                "INSERT INTO quarantine.rejected_rows (ledger_id, source, project, kind, reason, detail, location, raw, fingerprint)"
                " VALUES (%s, 'files', 'a', 'runs', %s, %s, %s, '', %s)",
                (ledger_id, reason, detail, f"calls.csv:{number}", str(number)),
            )
    connection.close()
    assert json.loads(with_database("replay", "--list", "--json").stdout) == [
        {
            "reason": "conflicting_duplicate",
            "rows": 3,
            "detail": "run … stands twice; one version was kept. Give each an id.",
            "example": "a",
            "location": "calls.csv:8",
        },
        {"reason": "wrong_type", "rows": 3, "detail": f"total_tokens is …; {advice}", "example": "'1,234.5'", "location": "calls.csv:0"},
        {
            "reason": "unknown_status",
            "rows": 2,
            "detail": "status … is unknown: map it to one of success, error",
            "example": "bar",
            "location": "calls.csv:6",
        },
        {"reason": "wrong_type", "rows": 2, "detail": f"latency is …; {advice}", "example": "'1 min'", "location": "calls.csv:4"},
        {"reason": "bad", "rows": 1, "detail": "the same for all, to be mended", "example": "", "location": "calls.csv:7"},
    ]
    table = with_database("replay", "--list", "--reason", "unknown_status").stdout
    assert "status … is unknown" in table
    assert "total_tokens" not in table
    waiting = connect(database)
    with waiting, waiting.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM quarantine.rejected_rows WHERE replayed_at IS NULL AND times_rejected = 1")
        assert cursor.fetchone() == (len(rows),), "nothing was read"
    waiting.close()


def test_what_cannot_be_loaded_is_told(with_database: Metamon, tmp_path: Path) -> None:
    nowhere = with_database("ingest", tmp_path / "nowhere")
    assert (nowhere.exit_code, "nowhere: does not exist" in nowhere.stderr) == (1, True)
    (tmp_path / "empty").mkdir()
    assert with_database("ingest", tmp_path / "empty").exit_code == 1
    mapping = with_database("ingest", tmp_path, "--mapping", "nothing")
    assert (mapping.exit_code, "mapping nothing: does not exist" in mapping.stderr) == (1, True)


def test_a_home_holds_the_sample_world_or_own_data(metamon: Metamon, tmp_path: Path) -> None:
    home = tmp_path / "home"
    made = metamon("simulate", "--days", 2, "--per-day", 50)
    assert made.exit_code == 0, made.output
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    again = metamon("simulate")
    assert "nothing to add" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before
    assert Settings.load().path_of("sample") == home / "sample"
    assert not [path for path in (home / "sample").rglob("*") if "truth" in path.name]
    other = metamon("simulate", "--seed", 8)
    assert (other.exit_code, "another sample world" in other.stderr) == (1, True)
    shutil.rmtree(home / "sample")
    own = metamon("simulate")
    assert (own.exit_code, "METAMON_HOME of its own" in own.stderr) == (1, True)


def findings(result: Result) -> dict[str, dict[str, str]]:
    return {finding["subject"]: finding for finding in json.loads(result.stdout)}


def test_doctor_on_an_empty_home_breaks_nothing_and_makes_nothing(metamon: Metamon, tmp_path: Path) -> None:
    result = metamon("doctor")
    assert result.exit_code == 0, result.output
    assert "embedded, not created yet" in result.stdout
    assert not (tmp_path / "home").exists()


def test_doctor_sees_what_is_there_and_what_is_missing(with_database: Metamon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    (home / "calls").mkdir(parents=True)
    (home / "calls/2026-08-22.jsonl").write_text("")
    monkeypatch.delenv("METAMON_TEST_KEY", raising=False)
    sources = ["{type: files, project: a, path: calls}", "{type: files, name: pattern, project: a, path: 'calls/*.jsonl'}"]
    (home / "metamon.yaml").write_text("sources:\n" + "".join(f"  - {source}\n" for source in sources))
    good = with_database("doctor", "--json")
    assert good.exit_code == 0, good.output
    found = findings(good)
    for subject in ("Postgres", "Tables", "Source files", "Source pattern", "Disk", "Home"):
        assert found[subject]["state"] == "ok", found[subject]
    assert "1 files match" in found["Source pattern"]["found"]

    sources = ["{type: files, name: gone, project: a, path: nowhere}", "{type: langsmith, project: b, api_key: env:METAMON_TEST_KEY}"]
    (home / "metamon.yaml").write_text("sources:\n" + "".join(f"  - {source}\n" for source in sources))
    bad = with_database("doctor", "--json")
    assert bad.exit_code == 1
    assert "nothing at" in findings(bad)["Source gone"]["found"]
    assert findings(bad)["Source langsmith"]["mend"].startswith("export METAMON_TEST_KEY=")
    monkeypatch.setenv("METAMON_TEST_KEY", "very-secret")
    closed = (home / "metamon.yaml").read_text().replace("METAMON_TEST_KEY}", "METAMON_TEST_KEY, endpoint: 'http://127.0.0.1:9'}")
    (home / "metamon.yaml").write_text(closed)
    unreachable = with_database("doctor")
    assert unreachable.exit_code == 1
    assert "b: does not answer" in unreachable.stdout
    assert "very-secret" not in unreachable.output


def test_doctor_says_whether_alerts_reach_anybody(metamon: Metamon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "sent to nobody" in findings(metamon("doctor", "--json"))["Channels"]["found"]
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "metamon.yaml").write_text("channels: {ops: {type: email, url: env:METAMON_TEST_MAIL}}\n")
    monkeypatch.delenv("METAMON_TEST_MAIL", raising=False)
    missing = metamon("doctor", "--json")
    assert missing.exit_code == 1
    assert findings(missing)["Channel ops"]["mend"].startswith("export METAMON_TEST_MAIL=")
    monkeypatch.setenv("METAMON_TEST_MAIL", "mailto://ann:hidden@127.0.0.1")
    there = metamon("doctor", "--json")
    assert findings(there)["Channel ops"]["state"] == "ok"
    assert "hidden" not in there.output


def test_doctor_shows_the_last_reads(with_database: Metamon, database: str) -> None:
    connection = connect(database)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO metamon.ingestion_ledger (source, project, kind, started_at, finished_at, status, rows_read, message)"
            " VALUES ('files', 'a', 'runs', now(), now(), 'failed', 12, 'calls.jsonl cannot be read: correct its rights')"
        )
    connection.close()
    result = with_database("doctor")
    assert result.exit_code == 0
    assert "files a, runs: failed, 12 read, 0 rejected" in result.stdout
    assert "→ calls.jsonl cannot be read: correct its rights" in result.stdout


def test_status_and_down_when_nothing_runs(metamon: Metamon) -> None:
    assert json.loads(metamon("status", "--json").stdout)["processes"] == []
    assert "Nothing runs in" in metamon("down").stderr


@pytest.mark.parametrize("broken", ["web: {prt: 1}\n", "a: [\n"])
def test_a_broken_metamon_yaml_keeps_nothing_from_being_stopped_and_looked_at(with_database: Metamon, tmp_path: Path, broken: str) -> None:
    home = tmp_path / "home"
    (home / "logs").mkdir(parents=True)
    (home / "metamon.yaml").write_text(broken)
    log_line = {"time": "2999-01-01T00:00:00Z", "level": "info", "component": "feed", "message": "polled"}
    (home / "logs" / log.FILE_NAME).write_text(json.dumps(log_line) + "\n")
    for command in ("down", "status", "logs"):
        done = with_database(command)
        assert (done.exit_code, done.stderr.count("metamon.yaml cannot be used")) == (0, 1), done.output
    assert "polled" in with_database("logs").stdout
    looked = with_database("doctor", "--json")
    assert looked.exit_code == 1
    found = findings(looked)
    assert found["Configuration"]["state"] == "broken"
    assert re.search(r"metamon\.yaml:[12]: ", found["Configuration"]["mend"])
    assert found["Postgres"]["state"] == "ok", "the rest is looked at"
    assert with_database("up").exit_code == 1


def test_version(metamon: Metamon) -> None:
    assert metamon("version").stdout.startswith("metamon 0.")


def test_one_path_that_cannot_be_read_does_not_keep_the_others_out(with_database: Metamon, tmp_path: Path) -> None:
    good, utf16 = tmp_path / "good.jsonl", tmp_path / "utf16.csv"
    good.write_text(GOOD % "one")
    utf16.write_text("run_id,start_time\n1,2026-01-01", encoding="utf-16")
    done = with_database("ingest", utf16, good, tmp_path / "missing.jsonl")
    assert done.exit_code == 1
    assert "UTF-16" in done.stderr
    assert "missing.jsonl" in done.stderr
    assert json.loads(with_database("sql", "SELECT count(*) AS n, count(*) AS n FROM analytics.traces", "--json").stdout) == [
        {"n": 1, "n_2": 1}
    ]


def test_a_file_of_which_nothing_is_accepted_is_a_failure(with_database: Metamon, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text("{\n")
    bad = with_database("ingest", tmp_path / "bad.jsonl")
    assert bad.exit_code == 1
    assert "Every row was rejected, most of them as malformed_json; nothing was loaded.\n" in bad.stderr
    (tmp_path / "other.csv").write_text("when,took\n2026-11-03 09:00:00,5\n")
    done = with_database("ingest", tmp_path / "other.csv")
    assert done.exit_code == 1
    assert "Every row was rejected, most of them as missing_id" in done.stderr
    assert "`metamon connect files PATH` guesses which are which" in done.stderr
    assert "No path" in with_database("ingest", "").stderr


def test_own_data_and_the_sample_world_never_share_a_home(embedded: Metamon, tmp_path: Path) -> None:
    calls = tmp_path / "calls.jsonl"
    calls.write_text(GOOD % "one")
    assert embedded("ingest", calls).exit_code == 0
    assert "in use for other data" in embedded("simulate", "--days", "1", "--per-day", "10").stderr


def test_a_home_that_cannot_be_used_is_named(metamon: Metamon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("METAMON_HOME", str(tmp_path / "file"))
    done = metamon("status")
    assert done.exit_code == 1
    assert "Let METAMON_HOME name a folder" in done.stderr


@pytest.mark.parametrize("home", ["/proc/nope", "/proc/nope/below", "{}/file", "{}/file/below"])
def test_a_home_that_cannot_be_made_is_told_on_one_line(
    metamon: Metamon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    (tmp_path / "file").write_text("")
    calls = tmp_path / "calls.jsonl"
    calls.write_text(GOOD % "one")
    monkeypatch.setenv("METAMON_HOME", home.format(tmp_path))
    for command in (("up",), ("run",), ("migrate",), ("ingest", calls), ("connect", "files", calls, "--yes", "--no-backfill")):
        done = metamon(*command)
        assert done.exit_code == 1
        assert isinstance(done.exception, SystemExit), done.exception
        assert " cannot be used: " in done.stderr.splitlines()[-1]
        assert done.stderr.endswith("Let METAMON_HOME name a folder that you may read and write.\n")
    looked = metamon("doctor", "--json")
    assert looked.exit_code == 1
    assert findings(looked)["Home"]["mend"] == "set METAMON_HOME to a folder of yours"
    assert "Disk" not in findings(looked), "its size is not what is wrong"


def test_the_configuration_is_checked_compared_and_explained(with_database: Metamon, tmp_path: Path) -> None:
    path = tmp_path / "home" / "metamon.yaml"
    path.parent.mkdir()
    assert "the defaults hold" in with_database("config", "check").stdout
    path.write_text('agents: {a: {metrics: {m: {sql: "latncy_seconds < 2"}}}}\nweb: {port: 9000}\n')
    wrong = with_database("config", "check")
    assert wrong.exit_code == 1
    assert "agents.a.metrics.m.sql: there is no column latncy_seconds; did you mean latency_seconds?" in wrong.stderr
    path.write_text(
        'agents: {a: {ownr: me, metrics: {m: {sql: "latncy_seconds < 2"}, n: {sql: ""}}, targets: {error_rates: {max: 1}, n: {max: 1}}}}\n'
    )
    all_of_it = with_database("config", "check", "--json")
    assert [problem.split(": ", 1)[0 if "yaml" not in problem else 1] for problem in json.loads(all_of_it.stdout)["problems"]] == [
        "agents.a.metrics.n.sql: give one SQL expression over the columns of a trace",
        "agents.a.ownr: unknown key; did you mean owner?",
        "agents.a.metrics.m.sql",
        "agents.a.targets.error_rates",
    ]
    assert "no metric error_rates; did you mean error_rate?" in all_of_it.stderr
    path.write_text(
        'agents: {a: {metrics: {m: {sql: "latency_seconds < 2"}}, targets: {m: {max: 1}, error_rate: {max: 1}}}}\nweb: {port: 9000}\n'
    )
    right = with_database("config", "check")
    assert (right.exit_code, "nothing reads it yet: agents." in right.stdout) == (0, True)
    assert "web.port: 9000  (metamon.yaml:2)" in with_database("config", "explain", "web").stdout
    assert with_database("config", "explain", "wbe").exit_code == 1

    assert "Compared with the defaults:\n+ web.port: 9000\n" in with_database("config", "diff").stdout
    assert "Only the defaults" in with_database("config", "history").stdout
    assert with_database("sql", "SELECT 1").exit_code == 0  # runs with it
    assert "no change" in with_database("config", "diff").stdout
    path.write_text(path.read_text().replace("9000", "9001"))
    assert with_database("config", "diff").stdout.endswith("~ web.port: 9000 → 9001\n")
    (version,) = json.loads(with_database("config", "history", "--json").stdout)
    assert "+ web.port: 9000" in version["changes"]
    assert with_database("config", "diff", "--since", "999999").exit_code == 1
