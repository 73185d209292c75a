"""``metamon connect``: what it checks, what it says when something is wrong, and what it writes."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from metamon_assets.cli import main
from metamon_assets.config import FilesSource, LangSmithSource, Settings
from metamon_assets.onboarding.connect import Options, compare_clocks, connect_files, connect_langsmith, read_edits
from metamon_assets.onboarding.dialogue import MOST_QUESTIONS, AnswerError, Dialogue
from metamon_assets.onboarding.langsmith import LangSmith, key_variable
from metamon_assets.traces.normalise import Rules, normalise_runs
from metamon_assets.traces.sources.base import Kind
from metamon_assets.traces.sources.files import FilesSource as SourceOfFiles
from metamon_assets.traces.sources.mapping import load
from metamon_assets_tests.onboarding.langsmith_world import fill
from metamon_assets_tests.traces.sources.langsmith_server import Fault, LangSmithServer

Connect = Callable[..., Result]
NOW = datetime.now(UTC)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    monkeypatch.setenv("METAMON_HOME", str(home))
    kept_out = "METAMON_CONFIG METAMON_DATABASE_URL LANGSMITH_API_KEY LANGCHAIN_API_KEY LANGSMITH_ENDPOINT LANGCHAIN_ENDPOINT"
    for name in kept_out.split():
        monkeypatch.delenv(name, raising=False)
    return home


@pytest.fixture
def metamon(home: Path) -> Connect:
    return lambda *arguments: CliRunner().invoke(main, ["connect", *map(str, arguments)])


@pytest.fixture
def langsmith(monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[LangSmithServer]:
    with LangSmithServer() as server:
        fill(server.store, "production", days=2, per_day=30, now=NOW)
        server.store.add_project("empty")
        monkeypatch.setenv("LANGSMITH_API_KEY", server.key)
        yield server


def connect(metamon: Connect, server: LangSmithServer, *arguments: str) -> Result:
    return metamon("langsmith", "--endpoint", server.api_url, "--no-backfill", *arguments)


# LangSmith -------------------------------------------------------------------------------------------------


def test_a_project_is_written_with_what_was_guessed(metamon: Connect, langsmith: LangSmithServer) -> None:
    done = connect(metamon, langsmith, "--yes")
    assert done.exit_code == 0, done.output
    settings = Settings.load()
    (source,) = settings.sources
    assert isinstance(source, LangSmithSource)
    assert (source.project, source.api_key.variable, source.endpoint) == ("production", "LANGSMITH_API_KEY", langsmith.api_url)
    assert source.map == {
        "agent_name": "metadata.botName",
        "agent_version": "metadata.git_sha",
        "tenant_id": "metadata.customerId",
        "conversation_id": "metadata.chatId",
        "user_id": "metadata.uid",
    }
    text = settings.config_path.read_text()
    assert langsmith.key not in text + done.output
    assert "#   tenant_id: metadata.customerId, 100%, guessed" in text
    assert "next: metamon run" in done.output
    assert len(langsmith.requests_to("/runs/query")) <= 6, "a sample is a sample"

    again = connect(metamon, langsmith, "--yes")
    assert again.exit_code == 0
    assert "has langsmith production already" in again.output
    assert settings.config_path.read_text() == text


@pytest.mark.parametrize("variable", ["LANGSMITH_ENDPOINT", "LANGCHAIN_ENDPOINT"])
def test_the_address_that_the_environment_names_gets_the_key(
    metamon: Connect, langsmith: LangSmithServer, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, langsmith.api_url)
    done = metamon("langsmith", "--no-backfill", "--yes")
    assert done.exit_code == 0, done.output
    assert f"LangSmith at {langsmith.api_url}, with the key in LANGSMITH_API_KEY" in done.output
    (source,) = Settings.load().sources
    assert getattr(source, "endpoint", None) == langsmith.api_url


def test_what_somebody_says_goes_before_the_guesses(metamon: Connect, langsmith: LangSmithServer) -> None:
    done = connect(metamon, langsmith, "--map", "tenant_id=metadata.temperature", "--map", "user_id=none")
    assert done.exit_code == 0, done.output
    (source,) = Settings.load().sources
    assert isinstance(source, LangSmithSource)
    assert isinstance(source.map, dict)
    assert source.map["tenant_id"] == "metadata.temperature"
    assert source.map["user_id"] == "metadata.none"
    assert source.map["agent_name"] == "metadata.botName"
    assert connect(metamon, langsmith, "--map", "tenant=x").exit_code == 1


@pytest.mark.parametrize(
    ("key", "words"),
    [("lsv2_pt_wrong", "does not know the key in LANGSMITH_API_KEY"), ("forbidden", "does not let it read here")],
)
def test_a_wrong_key_and_one_without_rights(
    metamon: Connect, langsmith: LangSmithServer, home: Path, monkeypatch: pytest.MonkeyPatch, key: str, words: str
) -> None:
    monkeypatch.setenv("LANGSMITH_API_KEY", langsmith.forbidden_key if key == "forbidden" else key)
    done = connect(metamon, langsmith, "--yes")
    assert done.exit_code == 1
    assert words in done.output
    assert "lsv2_" not in done.output
    assert not (home / "metamon.yaml").exists()


def test_no_key_a_typed_key_and_a_key_under_another_name(metamon: Connect, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = metamon("langsmith", "--yes")
    assert (done.exit_code, "No LangSmith key was found" in done.output) == (1, True)
    typed = metamon("langsmith", "--key", "lsv2_pt_0123456789abcdef_secret")
    assert (typed.exit_code, "read -rs LANGSMITH_API_KEY" in typed.output, "secret" in typed.output) == (1, True, False)
    assert "is not set" in metamon("langsmith", "--key", "NOT_THERE").output
    assert key_variable(None, {"MY_KEY": "lsv2_pt_1", "OTHER": "x"}) == "MY_KEY"
    assert key_variable("env:MY_KEY", {"MY_KEY": "x"}) == "MY_KEY"


def test_nobody_answers(metamon: Connect, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANGSMITH_API_KEY", "lsv2_pt_1")
    monkeypatch.setattr("metamon_assets.onboarding.langsmith._PATIENCE", 0.5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        done = metamon("langsmith", "--endpoint", f"http://127.0.0.1:{free.getsockname()[1]}", "--yes")
    assert done.exit_code == 1
    assert "could not be reached at http://127.0.0.1" in done.output


def test_a_project_that_is_not_there_and_one_that_is_empty(metamon: Connect, langsmith: LangSmithServer, home: Path) -> None:
    unknown = connect(metamon, langsmith, "--project", "Prodction")
    assert unknown.exit_code == 1
    assert "There is no project Prodction: did you mean production?" in unknown.output
    assert "there are production, empty" in connect(metamon, langsmith, "--project", "zzz").output
    empty = connect(metamon, langsmith, "--project", "empty")
    assert empty.exit_code == 1
    assert "The project empty is empty: send a trace" in empty.output
    assert not (home / "metamon.yaml").exists()


def test_a_workspace_without_projects(metamon: Connect, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LangSmithServer() as server:
        monkeypatch.setenv("LANGSMITH_API_KEY", server.key)
        done = connect(metamon, server, "--yes")
    assert (done.exit_code, "workspace has no project yet" in done.output) == (1, True)


def test_passing_faults_are_waited_out(metamon: Connect, langsmith: LangSmithServer) -> None:
    langsmith.faults += [Fault("/sessions", 503), Fault("/runs/query", 429, retry_after="0")]
    assert connect(metamon, langsmith, "--yes").exit_code == 0


@pytest.mark.parametrize(("hours", "words"), [(1, "60 min ahead of"), (-1, "60 min behind"), (0, "")])
def test_a_clock_that_is_off(langsmith: LangSmithServer, hours: int, words: str) -> None:
    asked = LangSmith("LANGSMITH_API_KEY", langsmith.api_url, now=datetime.now(UTC) + timedelta(hours=hours))
    found = asked.clock_error()
    assert (found is None) == (not words)
    if found is not None:
        assert abs(found - timedelta(hours=hours)) < timedelta(minutes=1)
        said: list[str] = []
        compare_clocks(asked, Dialogue(said.append))
        assert words in said[0]
    (project, *_) = asked.projects()
    assert asked.sample(project).traces, "runs are found all the same"


def test_several_projects_and_three_questions_at_most(langsmith: LangSmithServer, home: Path) -> None:
    fill(langsmith.store, "staging", days=1, per_day=5, now=NOW)
    answers = iter(["nope", "production, staging", "tenant=x", "user_id=none", "0"])
    said: list[str] = []
    dialogue = Dialogue(said.append, lambda question, default: next(answers))
    connected = connect_langsmith(Settings.load(), Options(endpoint=langsmith.api_url), dialogue)
    assert len(dialogue.asked) == MOST_QUESTIONS
    assert any("There is no project nope" in line for line in said)
    assert any("tenant is no column that can be mapped" in line for line in said)
    assert not connected.backfill
    assert [source.project for source in Settings.load().sources] == ["production", "staging"]


def test_an_existing_configuration_is_added_to(metamon: Connect, langsmith: LangSmithServer, home: Path) -> None:
    home.mkdir()
    before = "# mine\ntimezone: Europe/Vienna\nsources:\n  - type: files\n    project: a\n    path: x  # here\n"
    (home / "metamon.yaml").write_text(before)
    done = connect(metamon, langsmith, "--yes")
    assert done.exit_code == 0, done.output
    assert (home / "metamon.yaml").read_text().startswith(before)
    assert "+  - type: langsmith" in done.output


def test_a_home_with_the_sample_world_is_refused(metamon: Connect, home: Path, tmp_path: Path) -> None:
    (home / "sample").mkdir(parents=True)
    (home / "sample" / "manifest.json").write_text("{}")
    for arguments in (["langsmith"], ["otlp"], ["files", str(tmp_path)]):
        done = metamon(*arguments)
        assert done.exit_code == 1
        assert "export METAMON_HOME=.metamon" in done.output


def test_answers_that_cannot_be_used() -> None:
    assert read_edits(["tenant_id = metadata.a b", "user_id=none", "mode="]) == {"tenant_id": "metadata.a b", "user_id": None, "mode": None}
    with pytest.raises(AnswerError, match="write column=place"):
        read_edits(["tenant"])
    dialogue = Dialogue(lambda _: None, lambda question, default: "bad")

    def refuse(_: str) -> None:
        raise AnswerError("no")

    with pytest.raises(AnswerError):
        dialogue.ask("?", "x", refuse)


# Files and OTLP --------------------------------------------------------------------------------------------


def write_calls(path: Path, header: str = "when;took;state", rows: int = 30) -> Path:
    lines = [f"{NOW - timedelta(hours=n):%Y-%m-%d %H:%M:%S};{500 + n};{'ok' if n % 5 else 'failed'}" for n in range(rows, 0, -1)]
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def test_a_csv_file_is_written_with_its_mapping(metamon: Connect, tmp_path: Path) -> None:
    done = metamon("files", write_calls(tmp_path / "calls.csv"), "--yes", "--no-backfill", "--zone", "Europe/Vienna")
    assert done.exit_code == 0, done.output
    settings = Settings.load()
    (source,) = settings.sources
    assert isinstance(source, FilesSource)
    assert (source.project, source.path) == ("calls", str(tmp_path / "calls.csv"))
    assert isinstance(source.map, dict)
    assert source.map["delimiter"] == ";"
    assert source.map["columns"] == {
        "run_id": {"line": True},
        "start_time": {"column": "when", "zone": "Europe/Vienna"},
        "latency_seconds": {"column": "took", "unit": "ms"},
        "status": "state",
        "agent_name": {"value": "calls"},
    }
    assert "30 rows" in done.output


def test_a_date_and_a_time_of_day_become_one_start(metamon: Connect, tmp_path: Path) -> None:
    lines = [f"{moment:%Y-%m-%d},{moment:%H:%M:%S},{500 + n}" for n in range(30) for moment in [NOW - timedelta(hours=n)]]
    (tmp_path / "calls.csv").write_text("\n".join(["date,time,latency", *lines]) + "\n")
    done = metamon("files", tmp_path / "calls.csv", "--yes", "--no-backfill")
    assert done.exit_code == 0, done.output
    (source,) = Settings.load().sources
    read = list(SourceOfFiles([tmp_path / "calls.csv"], project="p", mapping=load(source.map)).read(Kind.RUNS, None))  # type: ignore[arg-type]
    starts = [start for batch in read for start in batch.rows.column("start_time").to_pylist()]
    assert sorted(starts) == sorted((NOW - timedelta(hours=n)).replace(microsecond=0) for n in range(30))


def test_what_becomes_of_every_row_is_said_before_it_is_read(metamon: Connect, tmp_path: Path, home: Path) -> None:
    calls = write_calls(tmp_path / "calls.csv", rows=600)
    with calls.open("a") as file:
        file.write(f";700;ok\nsoon;700;ok\n{NOW:%Y-%m-%d %H:%M:%S};slow;ok\n{NOW:%Y-%m-%d %H:%M:%S};5;wobbly\n")
    done = metamon("files", calls, "--yes", "--no-backfill")
    assert done.exit_code == 0, done.output
    assert "  604 rows, " in done.output
    assert "2 of them cannot be accepted and go to quarantine:" in done.output
    assert "1 wrong_type, such as: start_time is 'soon'" in done.output
    assert "2 of them have a value that cannot be read and are taken without it, a status counting as an error:" in done.output
    assert "latency_seconds 1" in done.output


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("status=foo", "there is no column foo. There are: when, took, state"),
        ("strt_time=when", "Metamon has no column strt_time. Did you mean start_time?"),
        ("latency_seconds=stat", "Did you mean state?"),
        ("latency_seconds=state", "state does not hold durations, but ok, failed."),
    ],
)
def test_a_map_that_cannot_be_is_refused(metamon: Connect, tmp_path: Path, home: Path, said: str, words: str) -> None:
    done = metamon("files", write_calls(tmp_path / "calls.csv"), "--yes", "--no-backfill", "--map", said)
    assert (done.exit_code, words in done.output) == (1, True), done.output
    assert not (home / "metamon.yaml").exists()


def test_an_impossible_correction_is_asked_again(tmp_path: Path, home: Path) -> None:
    answers = iter(["status=foo", "status=state", "none"])
    said: list[str] = []
    connect_files(
        Settings.load(),
        write_calls(tmp_path / "calls.csv", rows=90),
        Options(),
        Dialogue(said.append, lambda question, default: next(answers)),
    )
    assert any("there is no column foo" in line for line in said)
    assert any("status" in line and "as you said" in line and "guessed" not in line for line in said)


def test_rows_without_a_time_are_left_out_with_a_reason(metamon: Connect, tmp_path: Path) -> None:
    lines = ["n/a,5" if n % 10 == 0 else f"{NOW - timedelta(hours=n):%Y-%m-%d %H:%M:%S},{500 + n}" for n in range(30)]
    (tmp_path / "calls.csv").write_text("\n".join(["when,latency", *lines]) + "\n")
    done = metamon("files", tmp_path / "calls.csv", "--yes", "--no-backfill")
    assert done.exit_code == 0, done.output
    assert "when is a time in 90% of the rows" in done.output
    (source,) = Settings.load().sources
    read = list(SourceOfFiles([tmp_path / "calls.csv"], project="p", mapping=load(source.map)).read(Kind.RUNS, None))  # type: ignore[arg-type]
    kept = [normalise_runs(batch, Rules(source="files", project="p", now=NOW)) for batch in read]
    assert sum(part.rows.num_rows for part in kept) == 27
    assert [reject.reason for part in kept for reject in part.rejects] == ["missing_start_time"] * 3


@pytest.mark.parametrize(("answer", "days_back"), [("", 3), ("0", None), ("none", None), ("{last}", 0)])
def test_what_the_last_question_about_files_takes(tmp_path: Path, home: Path, answer: str, days_back: int | None) -> None:
    last = NOW.date()
    calls = write_calls(tmp_path / "calls.csv", rows=73)
    answers = iter(["yes", "14", "2999-01-01", answer.format(last=last)])
    said: list[str] = []
    dialogue = Dialogue(said.append, lambda question, default: next(answers))
    connected = connect_files(Settings.load(), calls, Options(), dialogue)
    first = (NOW - timedelta(hours=73)).date()
    assert f"Enter: {first}, which is everything" in dialogue.asked[-1]
    assert any(f"14 is no day. Give one from {first} to {last}" in line for line in said)
    assert any("There is nothing after" in line for line in said)
    assert connected.backfill == (days_back is not None)
    assert ("None are read now." in said) == (days_back is None)


def test_a_file_without_a_time_and_one_with_impossible_ones(metamon: Connect, tmp_path: Path, home: Path) -> None:
    done = metamon("files", write_calls(tmp_path / "a.csv", "x;took;state").rename(tmp_path / "b.csv"), "--map", "start_time=none")
    assert done.exit_code == 1
    assert "--map start_time=COLUMN" in done.output
    (tmp_path / "spaces.csv").write_text("when ms\n2026-11-20T10:00:00 5\n")
    assert "No delimiter was recognised" in metamon("files", tmp_path / "spaces.csv").output
    (tmp_path / "c.csv").write_text("time,latency\n1823-01-01 00:00:00,5\n")
    assert "check which column is the time" in metamon("files", tmp_path / "c.csv").output
    assert not (home / "metamon.yaml").exists()


def test_data_before_the_first_day_that_is_kept(metamon: Connect, tmp_path: Path, home: Path) -> None:
    home.mkdir()
    (home / "metamon.yaml").write_text(f"start_day: {NOW.date()}\n")
    done = metamon("files", write_calls(tmp_path / "calls.csv", rows=80), "--yes")
    assert done.exit_code == 1
    assert "set `start_day: " in done.output
    assert (home / "metamon.yaml").read_text() == f"start_day: {NOW.date()}\n"


def test_recorded_spans_are_connected(metamon: Connect, shared_data: Path) -> None:
    done = metamon("otlp", shared_data / "otlp", "--yes", "--no-backfill", "--map", "tenant_id=app.customer")
    assert done.exit_code == 0, done.output
    (source,) = Settings.load().sources
    assert (source.type, source.project, getattr(source, "map", None)) == ("otlp", "support-agent", {"tenant_id": "app.customer"})


def test_days_older_than_any_that_is_kept_by_default(metamon: Connect, tmp_path: Path) -> None:
    (tmp_path / "old.csv").write_text("time,latency\n2023-11-16 18:17:03,5\n2023-11-17 18:17:03,7\n")
    done = metamon("files", tmp_path / "old.csv", "--yes", "--no-backfill")
    assert done.exit_code == 0, done.output
    assert str(Settings.load().start_day) == "2023-11-16"
