"""The first hour as a person has it: the real program on a terminal, a home without anything in it, a report at the end."""

from __future__ import annotations

import random
import resource
import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from metamon_assets.config import Settings, read_configuration
from metamon_assets.onboarding.dialogue import MOST_QUESTIONS
from metamon_assets.onboarding.sampling import sample_files
from metamon_assets.traces.sources.base import Kind
from metamon_assets.traces.sources.files import FilesSource
from metamon_assets.traces.sources.mapping import load
from metamon_assets.warehouse.postgres import EmbeddedPostgres
from metamon_assets_tests.onboarding.langsmith_world import fill
from metamon_assets_tests.onboarding.terminal import converse
from metamon_assets_tests.traces.sources.langsmith_server import LangSmithServer

CSV_PROCESSOR_SECONDS = 60.0  # of the program and what it waits for: two minutes with much to spare, whatever else the machine does
PATIENCE = 600.0  # seconds that the program may be silent
pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="metamon-first-hour-"))
    folder.chmod(0o755)
    yield folder / "home"
    EmbeddedPostgres(folder / "home").stop()
    shutil.rmtree(folder, ignore_errors=True)


def processor_seconds() -> float:
    """What the processes that this one started and waited for have used, with theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_from_a_key_to_the_report_with_three_questions(home: Path) -> None:
    with LangSmithServer() as server:
        fill(server.store, "production", days=1, per_day=60, now=datetime.now(UTC))
        server.store.add_project("staging")
        environment = {"METAMON_HOME": str(home), "LANGSMITH_API_KEY": server.key}
        answers = {"How many days": "1", "Is that right": "user_id=none"}
        told = converse(["connect", "langsmith", "--endpoint", server.api_url], environment, answers, timeout=PATIENCE)
        assert told.exit_code == 0, told.text
        assert len(told.questions) == MOST_QUESTIONS
        assert told.text.count("Metamon report, ") == 1
        assert "60 traces by 3 agents on 1 day" in told.text
        assert server.key not in told.text
        assert not [request for request in server.log if request.status == 429]
    assert "user_id: metadata.none" in (home / "metamon.yaml").read_text()


def test_a_csv_file_with_time_latency_and_status_and_no_question(home: Path, tmp_path: Path) -> None:
    chance = random.Random(1)
    yesterday = datetime.now(UTC).replace(hour=0, minute=0, second=0) - timedelta(days=1)
    rows = []
    for number in range(400):
        state = "ok" if chance.random() > 0.05 else "failed"
        rows.append(f"{yesterday + timedelta(minutes=3 * number):%Y-%m-%d %H:%M:%S},{chance.lognormvariate(6.8, 0.5):.0f},{state}")
    (tmp_path / "calls.csv").write_text("\n".join(["time,latency,status", *rows]) + "\n")
    before = processor_seconds()
    told = converse(["connect", "files", str(tmp_path / "calls.csv"), "--yes"], {"METAMON_HOME": str(home)}, {}, timeout=PATIENCE)
    seconds = processor_seconds() - before
    assert told.exit_code == 0, told.text
    assert not told.questions
    assert "400 traces by 1 agent" in told.text
    assert 0 < seconds <= CSV_PROCESSOR_SECONDS
    assert read_configuration(home / "metamon.yaml").sources[0].project == "calls"


def test_recorded_latencies(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from metamon_assets.cli import main

    monkeypatch.setenv("METAMON_HOME", str(tmp_path / "home"))
    done = CliRunner().invoke(main, ["connect", "files", str(shared_data / "llm_latency"), "--yes", "--no-backfill"])
    assert done.exit_code == 0, done.output
    assert "5,985 rows, 2024-04-15 to 2024-05-03" in done.output
    (source,) = Settings.load().sources
    known = load(source.map)  # type: ignore[arg-type]
    batches = list(FilesSource([shared_data / "llm_latency"], project="p", mapping=known).read(Kind.RUNS, None))
    assert (sum(batch.rows.num_rows for batch in batches), sum(len(batch.rejects) for batch in batches)) == (5_985, 0)
    assert len(sample_files(shared_data / "llm_latency").rows) == 500
