"""The first backfill: which days, in which order and size, how long it will take; and a source that goes and comes back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from metamon_assets.config import Settings
from metamon_assets.onboarding.backfill import BackfillError, Progress, Step, _tell_rejected, backfill, next_step
from metamon_assets.warehouse import connect
from metamon_assets.warehouse.postgres import ADMINISTRATOR, EmbeddedPostgres
from metamon_assets.words import duration
from metamon_assets_tests.conftest import copied
from metamon_assets_tests.onboarding.langsmith_world import fill
from metamon_assets_tests.traces.sources.langsmith_server import LangSmithServer

DAY = date(2026, 11, 20)
TODAY = datetime.now(UTC).date()


def days(*back: int) -> list[date]:
    return [DAY - timedelta(days=number) for number in back]


def test_steps_are_neighbours_from_the_newest_on() -> None:
    assert next_step(days(0, 1, 2, 5), 3) == days(2, 1, 0)
    assert next_step(days(0, 2, 3), 3) == days(0)
    assert next_step(days(*range(40)), 40) == days(*range(14, -1, -1)), "no more than one run may hold"


def test_quick_days_are_taken_together_and_slow_ones_alone() -> None:
    progress = Progress(dict.fromkeys(days(*range(20)), 1.0))
    assert progress.days_per_step == 1
    progress.done.append(Step(days(0), 100, 2.0))
    assert progress.days_per_step == 50  # and of these as many as one run may hold: next_step
    progress.done.append(Step(days(10, 9, 8, 7, 6, 5, 4, 3, 2, 1), 100, 400.0))
    assert progress.days_per_step == 2
    progress.done.append(Step(days(12, 11), 100, 240.0))
    assert progress.days_per_step == 1


def test_the_time_left_follows_what_is_left_to_read() -> None:
    progress = Progress({days(0)[0]: 1000.0, days(1)[0]: 100.0, days(2)[0]: 100.0, days(3)[0]: 2000.0})
    assert progress.seconds_left() is None
    progress.done.append(Step(days(0), 1000, 50.0))
    assert progress.seconds_left() == pytest.approx(110.0), "the first step alone"
    assert progress.line() == "2026-11-20: 1,000 traces (1 of 4 days; at most about 2 min left)", "it waited for imports too"
    progress.done.append(Step(days(2, 1), 200, 10.0))
    assert progress.seconds_left() == pytest.approx(100.0), "without the first, which waited for imports"
    assert progress.line() == "2026-11-19 back to 2026-11-18: 200 traces (3 of 4 days; about 2 min left)"
    progress.done.append(Step(days(3), 0, 10.0, failed=True))
    assert progress.line() == "2026-11-17: failed (4 of 4 days)"
    assert not progress.gone
    progress.done.append(Step(days(3), 0, 10.0, failed=True))
    assert progress.gone


def test_durations_are_rough() -> None:
    assert [duration(seconds) for seconds in (1, 48, 600, 9000)] == ["about 5 s", "about 50 s", "about 10 min", "about 2.5 h"]


def test_rejected_rows_are_told_at_the_end(database: str) -> None:
    connection, said = connect(database), list[str]()
    _tell_rejected(connection, DAY, said.append)
    assert said == []
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "WITH entry AS (INSERT INTO metamon.ingestion_ledger (source, project, kind, started_at, status)"
            " VALUES ('files', 'p', 'runs', now(), 'complete') RETURNING ledger_id)"
            " INSERT INTO quarantine.rejected_rows (ledger_id, source, project, kind, reason, detail, location, raw, fingerprint)"
            " SELECT ledger_id, 'files', 'p', 'runs', 'missing_time', 'd', 'v1.csv:7', '{}', 'f' FROM entry"
        )
    _tell_rejected(connection, DAY, said.append)
    connection.close()
    (line,) = said
    assert line.startswith("1 of 1 row (100.0%) was rejected and was not counted: missing time (1). See them: metamon sql")


@pytest.fixture
def langsmith(postgres: EmbeddedPostgres, database_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LangSmithServer]:
    """A home with a LangSmith source of two days, over databases of its own."""
    home = tmp_path / "home"
    home.mkdir()
    with LangSmithServer(limit=10_000) as server, copied(postgres, "template1") as storage:
        fill(server.store, "production", days=2, per_day=8, now=datetime.now(UTC))
        (home / "metamon.yaml").write_text(
            f"start_day: {TODAY - timedelta(days=2)}\nsources:\n  - type: langsmith\n    project: production\n"
            f"    api_key: env:TRIAL_KEY\n    endpoint: {server.api_url}\n    map: {{agent_name: metadata.botName}}\n"
        )
        monkeypatch.setenv("METAMON_HOME", str(home))
        monkeypatch.setenv("TRIAL_KEY", server.key)
        monkeypatch.setenv("METAMON_DATABASE_URL", postgres.url(database_name, ADMINISTRATOR))
        monkeypatch.setenv("METAMON_DAGSTER_DATABASE_URL", postgres.url(storage, ADMINISTRATOR))
        before = dict(os.environ)
        yield server
        os.environ.clear()  # a backfill sets Dagster's environment for its own process
        os.environ.update(before)


@pytest.mark.timeout(600)
def test_newest_first_and_a_source_that_goes_and_comes_back(langsmith: LangSmithServer) -> None:
    said: list[str] = []
    shown: list[list[Any]] = []

    def show(connection: Any) -> None:
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT day, count(*) FROM metamon.traces GROUP BY day ORDER BY day DESC")
            shown.append(cursor.fetchall())
        if len(shown) == 1:
            langsmith.key = "lsv2_pt_revoked"  # the source is gone, right after the first report

    key = langsmith.key
    with pytest.raises(BackfillError, match="goes on with them") as stopped:
        backfill(Settings.load(), None, say=said.append, show=show)
    assert "refused the API key" in str(stopped.value)
    assert shown == [[(TODAY - timedelta(days=1), 8)]], "the report comes after the newest whole day"
    assert any(line.startswith(f"{TODAY - timedelta(days=1)}: 8 traces (1 of 2 days") for line in said)

    langsmith.key = key
    langsmith.log.clear()
    assert backfill(Settings.load(), None, say=said.append, show=show) == 16
    assert [count for _, count in shown[-1]] == [8, 8]
    asked = [str(request.body.get("filter") or "") for request in langsmith.requests_to("/runs/query")]
    assert not any(f'gte(start_time, "{TODAY - timedelta(days=1)}' in question for question in asked), "what is done is not read again"

    before = len(langsmith.requests_to("/runs/query"))
    backfill(Settings.load(), None, say=said.append, show=show)
    assert len(langsmith.requests_to("/runs/query")) - before <= 2, "only today is looked at again"
    connection = connect(Settings.load().database_url.get_secret_value())  # type: ignore[union-attr]
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(DISTINCT agent_name), count(*) FILTER (WHERE tenant_id IS NOT NULL) FROM metamon.traces")
        assert cursor.fetchone() == (3, 0)
    connection.close()
