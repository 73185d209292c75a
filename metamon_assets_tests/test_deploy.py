"""The container files: their structure, that their commands and variables exist, and those commands as plain processes.

There is no container engine here: building the image and starting the containers is not tested.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from metamon_assets.cli import main
from metamon_assets.config import Settings
from metamon_assets.config.reading import read_configuration
from metamon_assets.supervisor.plan import standard_plan
from metamon_assets.warehouse.postgres import ADMINISTRATOR, EmbeddedPostgres
from metamon_assets_tests.waiting import until

REPOSITORY = Path(__file__).resolve().parents[1]
DEPLOY = REPOSITORY / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "metamon"}
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
METAMON = str(Path(sysconfig.get_path("scripts")) / "metamon")
SECRETS = {"POSTGRES_PASSWORD", "LANGSMITH_API_KEY", "METAMON_WEBHOOK_SECRET"}


@pytest.fixture
def children(tmp_path: Path) -> dict[str, list[str]]:
    """What ``metamon up`` runs: commands by name."""
    settings = Settings.load({"METAMON_HOME": str(tmp_path)})
    settings.dagster_home.mkdir()
    return {child.name: child.command for child in standard_plan(settings, lambda _: None).children}


def test_every_process_of_up_is_a_service(children: dict[str, list[str]]) -> None:
    assert SERVICES.keys() == {"postgres", "migrate", *children, "watch"}
    assert SERVICES["postgres"]["image"] == "postgres:17"
    ours = {name: command[1] for name, command in children.items() if command[0] == METAMON}
    assert ours == {name: SERVICES[name]["command"][0] for name in ("feed", "web", "alerts")}


def understood(command: str, arguments: list[str]) -> dict[str, Any]:
    """What ``metamon`` reads out of a command line; fails for what it does not know."""
    with main.make_context("metamon", [command]) as parent, main.commands[command].make_context(command, arguments, parent) as found:
        return found.params


@pytest.mark.parametrize("name", OURS)
def test_commands_and_their_options_exist(name: str) -> None:
    command, *arguments = OURS[name]["command"]
    found = understood(command, arguments)
    if command == "exec":
        assert list(found["command"]) == arguments  # also -h, which is for the program


def test_programs_of_dagster_get_options_that_up_gives_them_too(children: dict[str, list[str]]) -> None:
    for name in ("code-server", "webserver", "daemon"):
        _, program, *arguments = OURS[name]["command"]
        ours = children[name]
        assert Path(ours[0]).name == program
        assert [word for word in arguments if word in ours] == [word for word in ours if word in arguments]
        assert {word for word in arguments if word.startswith("-")} == {word for word in ours if word.startswith("-")}


def test_every_variable_is_one_that_the_code_reads() -> None:
    source = "\n".join(path.read_text() for path in (REPOSITORY / "metamon_assets").rglob("*.py"))
    named = {variable for service in OURS.values() for variable in service["environment"]}
    named |= set(re.findall(r"\b(METAMON_\w+)=", DOCKERFILE))
    assert named >= {"METAMON_HOME", "METAMON_DATABASE_URL"}
    assert [variable for variable in sorted(named) if f'"{variable}"' not in source] == []


def test_secrets_come_from_the_environment_alone() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    assert set(re.findall(r"\$\{(\w+)", text)) == SECRETS
    for service in SERVICES.values():
        for name, value in service["environment"].items():
            if re.search("PASSWORD|SECRET|KEY", name):
                assert str(value).startswith("${"), name
    assert not re.search("PASSWORD|SECRET|KEY", DOCKERFILE)


def test_no_service_has_rights_that_it_does_not_need() -> None:
    for name, service in SERVICES.items():
        assert "privileged" not in service, name
        assert service.get("network_mode") is None, name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
    assert all(service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"] for service in OURS.values())
    users = re.findall(r"^USER (\S+)", DOCKERFILE, re.MULTILINE)
    assert users[-1:] == ["metamon"]


def test_services_start_in_order_and_are_watched() -> None:
    for name, service in SERVICES.items():
        assert all(needed in SERVICES for needed in service.get("depends_on", {})), name
        if name != "migrate":
            assert service["healthcheck"]["test"][0] == "CMD", name
            assert service["restart"] == "unless-stopped", name
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in COMPOSE["volumes"], volume
    assert list(SERVICES["migrate"]["depends_on"]) == ["postgres"]
    assert all("migrate" in SERVICES[name]["depends_on"] for name in ("feed", "web", "alerts", "code-server", "watch"))
    assert all(list(SERVICES[name]["depends_on"]) == ["code-server"] for name in ("webserver", "daemon"))
    assert "/healthz" in SERVICES["web"]["healthcheck"]["test"][-1]


def test_health_checks_of_ours_are_commands_of_ours() -> None:
    checks = [service["healthcheck"]["test"][1:] for name, service in OURS.items() if name != "migrate"]
    ours = [check[1:] for check in checks if check[0] == "metamon"]
    assert [arguments[-1] for arguments in ours] == ["feed", "alerts", "dagster_daemon", "supervisor"]
    for command, *arguments in ours:
        understood(command, arguments)
    for _, _, code in (check for check in checks if check[0] == "python"):
        compile(code, "healthcheck", "exec")


def test_addresses_of_channels_are_for_who_sends_alone() -> None:
    (beside,) = SERVICES["alerts"]["env_file"]
    assert (beside["path"], beside["required"]) == ("channels.env", False)
    assert [name for name, service in SERVICES.items() if "env_file" in service] == ["alerts"]
    assert f"deploy/{beside['path']}" in (REPOSITORY / ".gitignore").read_text().splitlines(), "it holds secrets"


def test_the_files_beside_are_in_step() -> None:
    (served,) = yaml.safe_load((DEPLOY / "workspace.yaml").read_text())["load_from"]
    assert served["grpc_server"]["host"] in SERVICES
    assert str(served["grpc_server"]["port"]) in OURS["code-server"]["command"]
    assert read_configuration(DEPLOY / "metamon.yaml").sources == ()
    for line in re.findall(r"^COPY (.*)$", DOCKERFILE, re.MULTILINE):
        *sources, _ = shlex.split(line)
        kept = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
        assert all((REPOSITORY / source).exists() and f"!{source.removeprefix('./')}" in kept for source in sources), line


@pytest.fixture
def container(postgres: EmbeddedPostgres, database_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of a process whose Postgres is a server elsewhere."""
    monkeypatch.setenv("METAMON_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("METAMON_DATABASE_URL", postgres.url(database_name, ADMINISTRATOR))
    monkeypatch.setenv("METAMON_LOG", "json")
    return dict(os.environ)


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """The process, which does not outlive the block."""
    with process:
        try:
            yield process
        finally:
            process.kill()


def test_exec_becomes_the_program_so_that_signals_reach_it(container: dict[str, str]) -> None:
    script = "import os, time; print(os.getpid(), os.environ['METAMON_DAGSTER_URL'].split(':')[0], flush=True); time.sleep(100)"
    with ended(subprocess.Popen([METAMON, "exec", "python", "-c", script], stdout=subprocess.PIPE, text=True, env=container)) as process:
        assert process.stdout is not None
        assert process.stdout.readline().split() == [str(process.pid), "postgresql+psycopg2"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == -signal.SIGTERM


def test_the_watchdog_runs_alone_and_its_health_check_sees_it(container: dict[str, str]) -> None:
    def alive(name: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([METAMON, "status", "--alive", name], capture_output=True, text=True, check=False, env=container)

    assert "supervisor has given no sign of life yet" in alive("supervisor").stderr
    watching = [METAMON, "watch"]
    with ended(subprocess.Popen(watching, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=container)) as process:
        until(lambda: alive("supervisor").returncode == 0, 40, "the watchdog's sign of life")
        second = subprocess.run(watching, capture_output=True, text=True, check=False, env=container, timeout=30)
        assert "is already up" in second.stdout + second.stderr
        down = subprocess.run([METAMON, "down"], capture_output=True, text=True, check=False, env=container, timeout=30)
        assert "Only `metamon watch` runs in" in down.stderr
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=20)
        assert process.returncode == 0
    assert "Watching feed, web, alerts, daemon" in said
    assert alive("feed").returncode == 1
