"""The process, its documents, its page, and Prometheus reading it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from click.testing import CliRunner, Result
from prometheus_client.parser import text_string_to_metric_families

from metamon_assets.cli import main
from metamon_assets.config import Settings
from metamon_assets.warehouse.postgres import ADMINISTRATOR, EmbeddedPostgres
from metamon_assets.web.page import ago
from metamon_assets.web.server import WebError, address, listen
from metamon_assets_tests.web.conftest import Web, served

METAMON = str(Path(sysconfig.get_path("scripts")) / "metamon")
HTTP_METHODS = ("get", "post", "put", "patch", "delete")


def until(condition: Callable[[], Any], what: str, seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(0.05)
    return found


@contextmanager
def process(*command: str, log: Path, environment: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        started = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | (environment or {}))
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(20)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def free_port() -> int:
    with listen("127.0.0.1", 0) as listening:
        return int(listening.getsockname()[1])


def test_the_command_serves_until_it_is_told_to_stop(postgres: EmbeddedPostgres, database_name: str, tmp_path: Path) -> None:
    """Tokens, a request, an event by command, SIGTERM."""
    environment = {"METAMON_HOME": str(tmp_path / "home"), "METAMON_DATABASE_URL": postgres.url(database_name, ADMINISTRATOR)}

    def metamon(*arguments: str, fails: bool = False) -> Result:
        done = CliRunner().invoke(main, arguments, env=environment)
        assert (done.exit_code != 0) == fails, done.output
        return done

    secret = metamon("token", "create", "me", "--role", "admin", "--expires-days", "7").stdout.strip()
    assert re.fullmatch(r"mm_[A-Za-z0-9_-]{43}", secret)
    assert "already" in metamon("token", "create", "me", "--role", "viewer", fails=True).stderr
    log, port = tmp_path / "log", free_port()
    with process(METAMON, "web", "--port", str(port), log=log, environment=environment) as server:
        until(lambda: "Listening on" in log.read_text(), "listening")
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {secret}"}) as client:
            assert client.get("/readyz").status_code == 200
            assert metamon("event", "deployment", "--agent", "support", "--version", "2", "--actor", "ann").stderr == "Reported.\n"
            (event,) = client.get("/v1/events").json()["items"]
            assert (event["agent"], event["version"], event["actor"]) == ("support", "2", "ann")
            beats = until(lambda: "metamon_heartbeat_age_seconds" in client.get("/metrics").text, "the beat")
            assert beats
        begun = time.monotonic()
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0
        assert time.monotonic() - begun < 8
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line["component"] for line in lines} == {"web"}
    assert not [line for line in lines if line["level"] in ("error", "critical")]
    assert secret not in log.read_text()
    (listed,) = json.loads(metamon("token", "list", "--json").stdout)
    assert (listed["name"], listed["role"], listed["state"]) == ("me", "admin", "valid")
    assert secret not in metamon("token", "list").stdout
    metamon("token", "revoke", "me")
    assert json.loads(metamon("token", "list", "--json").stdout)[0]["state"] == "revoked"
    assert metamon("event", "deployment", "--agent", "support", "--version", "2", "--actor", "ann").stderr == "Known already.\n"
    refused = metamon("event", "deployment", "--url", "javascript:1", "--time", "tomorrow", fails=True).stderr
    assert "--url" in refused
    assert "--time" in refused


def test_a_port_that_is_taken_is_told() -> None:
    with listen("127.0.0.1", 0) as taken, pytest.raises(WebError, match="choose another port"):
        listen("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(WebError, match="no-such-host"):
        listen("no-such-host.invalid", 0)
    assert address("::1", 80) == "http://[::1]:80"


# Documents ------------------------------------------------------------------------------------------------------


def test_the_openapi_document_is_whole(shared: Web) -> None:
    with shared.client() as client:
        document = client.get("/openapi.json").json()
    assert re.fullmatch(r"3\.1\.\d+", document["openapi"])
    operations = {(path, method): item[method] for path, item in document["paths"].items() for method in HTTP_METHODS if method in item}
    assert len(operations) >= 9
    names = [operation["operationId"] for operation in operations.values()]
    assert len(set(names)) == len(names)
    for (path, method), operation in operations.items():
        assert operation["summary"], (path, method)
        assert len(operation["responses"]) >= 1, (path, method)
        assert "security" in operation, f"{method} {path}: say who may call it, or that anybody may"
        secured = bool(operation["security"])
        assert secured == ("401" in operation["responses"] and path != "/v1/webhooks/git"), (path, method)
        if method == "post":
            assert operation["requestBody"]["content"], (path, method)
    schemes = document["components"]["securitySchemes"]
    assert {name for operation in operations.values() for use in operation["security"] for name in use} <= set(schemes)
    text = json.dumps(document)
    references = set(re.findall(r'"#/components/schemas/(\w+)"', text))
    assert references <= set(document["components"]["schemas"])
    assert "HTTPValidationError" not in text
    for schema in document["components"]["schemas"].values():
        pytest.importorskip("jsonschema").Draft202012Validator.check_schema(schema)


def test_the_openapi_document_fits_the_standard(shared: Web) -> None:
    validator = pytest.importorskip("openapi_spec_validator", reason="openapi-spec-validator is not installed")
    validator.validate(shared.app.openapi())


def test_nothing_is_loaded_from_elsewhere(shared: Web) -> None:
    with shared.client() as client:
        page = client.get("/")
        hostile = client.get("/", headers={"Host": "a<b>.example"})
    assert "<b>" not in hostile.text
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "<script" not in page.text
    assert not re.findall(r"""(?:src|<link)[^>]*=["']?https?:""", page.text)
    assert "script-src" not in page.headers["Content-Security-Policy"]
    assert "unsafe" not in page.headers["Content-Security-Policy"]
    for shown in ("/healthz", "/readyz", "/openapi.json", "metamon token create", "metamon report", "ready"):
        assert shown in page.text


def test_the_page_leads_to_where_dagster_is(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`metamon up` may have found the configured port taken; it tells its children where it went."""
    monkeypatch.setenv("METAMON_UI_URL", "http://127.0.0.1:3007")
    assert Settings.load().ui_url == "http://127.0.0.1:3007"
    with served(database, ui_url="http://127.0.0.1:3007") as web, web.client() as client:
        assert '<a href="http://127.0.0.1:3007">' in client.get("/").text


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "less than a minute ago"), (61, "1 minute ago"), (7_300, "2 hours ago"), (90_000, "1 day ago")]
)
def test_spans_in_words(seconds: float, words: str) -> None:
    assert ago(seconds) == words


# Prometheus -----------------------------------------------------------------------------------------------------


def test_requests_are_measured_by_route_and_not_by_address(web: Web, admin: httpx2.Client) -> None:
    for number in range(3):
        admin.get(f"/made/up/{number}")
        admin.get("/v1/events", params={"agent": str(number)})
    admin.post("/v1/events", json={"kind": "other"})
    admin.request("BREW", "/v1/events")
    families = {family.name: family for family in text_string_to_metric_families(admin.get("/metrics").text)}
    counted = {tuple(s.labels.values()): s.value for s in families["learning_api_requests"].samples}
    assert counted["GET", "(none)", "404"] == 3
    assert counted["GET", "/v1/events", "200"] == 3
    assert counted["POST", "/v1/events", "200"] == 1
    assert "(other)" in {method for method, _, _ in counted}
    sizes = {
        (s.name, s.labels["method"]): s.value
        for s in families["learning_api_request_size_bytes"].samples
        if s.labels["route"] == "/v1/events" and "le" not in s.labels
    }
    assert sizes["learning_api_request_size_bytes_sum", "POST"] == len('{"kind":"other"}')
    assert {"learning_api_request_duration_seconds", "learning_api_response_size_bytes"} <= families.keys()


def test_promtool_finds_nothing_to_say(web: Web, admin: httpx2.Client) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    admin.get("/v1/events")
    said = subprocess.run([promtool, "check", "metrics"], input=admin.get("/metrics").content, capture_output=True, check=False)
    assert (said.returncode, said.stdout + said.stderr) == (0, b"")


def test_prometheus_scrapes_it(web: Web, tmp_path: Path) -> None:
    prometheus = shutil.which("prometheus")
    if prometheus is None:
        pytest.skip("Prometheus is not installed")
    (tmp_path / "token").write_text(web.token("viewer"))
    configuration = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [
            {
                "job_name": "metamon",
                "authorization": {"credentials_file": str(tmp_path / "token")},
                "static_configs": [{"targets": [web.url.removeprefix("http://")]}],
            }
        ],
    }
    (tmp_path / "prometheus.yml").write_text(json.dumps(configuration))  # JSON is YAML
    port = free_port()
    arguments = [
        f"--config.file={tmp_path / 'prometheus.yml'}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with process(prometheus, *arguments, log=tmp_path / "log"), httpx2.Client(base_url=f"http://127.0.0.1:{port}/api/v1/") as client:

        def value(query: str) -> float | None:
            try:
                found = client.get("query", params={"query": query}).json()["data"]["result"]
            except (httpx2.TransportError, ValueError):
                return None
            return float(found[0]["value"][1]) if found else None

        until(lambda: value('up{job="metamon"}') == 1, "a scrape")
        assert value("metamon_database_up") == 1
        assert value('count(metamon_heartbeat_age_seconds{component="web"})') == 1
        until(lambda: value('learning_api_requests_total{route="/metrics",status="200"}'), "the counting of a scrape")
