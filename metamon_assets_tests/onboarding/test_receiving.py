"""``metamon connect otlp``: what an application has to set, and the first span that comes."""

from __future__ import annotations

import re
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote

import pytest
from click.testing import CliRunner

from metamon_assets.cli import main
from metamon_assets.config import Settings
from metamon_assets.onboarding import receiving
from metamon_assets.supervisor.home import lock, write_state
from metamon_assets.traces.loading import load_once
from metamon_assets.warehouse import connect
from metamon_assets.warehouse.postgres import ADMINISTRATOR, EmbeddedPostgres


@pytest.fixture
def settings(tmp_path: Path, postgres: EmbeddedPostgres, database_name: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("METAMON_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("METAMON_DATABASE_URL", postgres.url(database_name, ADMINISTRATOR))
    return Settings.load()


def test_a_token_and_the_lines_to_copy(settings: Settings) -> None:
    done = CliRunner().invoke(main, ["connect", "otlp"])
    assert done.exit_code == 0, done.output
    header = re.search(r'OTEL_EXPORTER_OTLP_HEADERS="(.*)"', done.output)
    assert header
    token = unquote(header.group(1)).removeprefix("Authorization=Bearer ")
    assert token.startswith("mm_")
    assert "export OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318\n" in done.output
    assert done.output.count(token) == 2
    connection = connect(settings.database_url.get_secret_value())  # type: ignore[union-attr]
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT name, role, position(%s IN t::text) FROM metamon.api_tokens t", (token,))
        ((name, role, seen),) = cursor.fetchall()
    connection.close()
    assert (name.startswith("connect-"), role, seen) == (True, "ingest", 0), "only a hash is stored"


def test_the_address_is_where_the_server_is(settings: Settings) -> None:
    """Whatever has the usual port, such as a collector, must not be sent the token."""
    with lock(settings.home):
        write_state(settings.home, {"pid": 1, "web": "http://127.0.0.1:4321"})
        done = CliRunner().invoke(main, ["connect", "otlp"])
    assert "export OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4321\n" in done.output


def test_a_port_that_something_else_holds_is_said(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.home.mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as other:
        settings.config_path.write_text(f"web: {{port: {other.getsockname()[1]}}}\n")
        done = CliRunner().invoke(main, ["connect", "otlp"])
        with lock(settings.home):
            write_state(settings.home, {"pid": 1, "web": "http://127.0.0.1:4321"})
            up = CliRunner().invoke(main, ["connect", "otlp"])
    free = CliRunner().invoke(main, ["connect", "otlp"])
    assert [" ".join(run.output.split()).count("take the address from `metamon status`") for run in (done, up, free)] == [1, 0, 0]


def test_the_python_lines_set_up_a_tracer() -> None:
    from opentelemetry.sdk.trace import TracerProvider

    lines = receiving.python_lines("http://127.0.0.1:9", "mm_x")
    names: dict[str, object] = {}
    exec(compile(lines.replace("trace.set_tracer_provider(provider)", ""), "copied", "exec"), names)  # the lines that people copy
    provider = names["provider"]
    assert isinstance(provider, TracerProvider)
    assert provider.resource.attributes["service.name"] == "my-agent"
    provider.shutdown()


def test_the_first_span_is_waited_for(settings: Settings, shared_data: Path) -> None:
    done = CliRunner().invoke(main, ["connect", "otlp", "--wait", "1"])
    assert done.exit_code == 1
    assert "No span came within 1 s" in done.output
    connection = connect(settings.database_url.get_secret_value())  # type: ignore[union-attr]
    since = datetime.now(UTC) - timedelta(minutes=1)
    load_once(connection, settings, str(shared_data / "otlp/otlp_genai_test_chat.json"), source_type="otlp", project="p")
    found = receiving.first_span(connection, since, 1)
    assert found is not None
    assert found[0] == "support-agent"
    assert receiving.first_span(connection, datetime.now(UTC) + timedelta(minutes=1), 0) is None
    connection.close()
