"""What ``metamon up`` runs: the commands of the children, their ports, and the environment of Dagster."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from metamon_assets.supervisor.home import SupervisorError
from metamon_assets.supervisor.processes import LOOPBACK, Child

if TYPE_CHECKING:
    from metamon_assets.config import Settings

Progress = Callable[[str], None]
DEFINITIONS = "metamon_assets.definitions"
POOL_SECONDS = "1"  # how old a kept connection may be: one of before a crash of Postgres would fail somebody's page
DAGSTER_DAEMON = "dagster"  # the latest sign of life of any of the daemon's threads, see ``watchdog``


@dataclass(frozen=True)
class Plan:
    """What runs, and where people find it."""

    children: list[Child]
    ui: str  # address of Dagster's UI
    web: str  # address of Metamon's own server


def standard_plan(settings: Settings, progress: Progress, definitions: str = DEFINITIONS) -> Plan:
    """All processes. Feed, web server and alerts need the database only; Dagster's UI and daemon ask its code server.

    Raises SupervisorError when no port is free.
    """
    scripts = Path(sysconfig.get_path("scripts"))
    code_port = free_port()
    ui_port = _chosen_port(settings.ui_port, LOOPBACK, "Dagster UI", progress)
    web_port = _chosen_port(settings.web.port, settings.web.host, "web server", progress)
    workspace = settings.dagster_home / "workspace.yaml"
    served = {"grpc_server": {"host": LOOPBACK, "port": code_port, "location_name": "metamon"}}
    workspace.write_text(json.dumps({"load_from": [served]}))  # JSON is YAML
    metamon = str(scripts / "metamon")
    as_json = ["--log-format", "json"]
    code_server = [str(scripts / "dagster"), "code-server", "start", "-m", definitions, "-h", LOOPBACK, "-p", str(code_port), *as_json]
    webserver = [str(scripts / "dagster-webserver"), "-h", LOOPBACK, "-p", str(ui_port), "-w", str(workspace), *as_json]
    webserver += ["--db-pool-recycle", POOL_SECONDS]
    daemon = [str(scripts / "dagster-daemon"), "run", "-w", str(workspace), *as_json]
    children = [
        Child("feed", [metamon, "feed"], beat="feed"),
        Child("web", [metamon, "web", "--port", str(web_port)], beat="web"),
        Child("alerts", [metamon, "alerts"], beat="alerts"),
        Child("code-server", code_server),
        Child("webserver", webserver, needs_port=code_port),
        Child("daemon", daemon, needs_port=code_port, beat=DAGSTER_DAEMON),
    ]
    return Plan(children, _address(LOOPBACK, ui_port), _address(settings.web.host, web_port))


def _address(host: str, port: int) -> str:
    """Where people on this machine find what listens on ``host``."""
    host = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(host, host)  # noqa: S104 - compared, not listened on
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _chosen_port(wanted: int, host: str, what: str, progress: Progress) -> int:
    port = free_port(wanted, host)
    if port != wanted:
        progress(f"Port {wanted} is taken: the {what} comes to port {port}")
    return port


def free_port(wanted: int = 0, host: str = LOOPBACK) -> int:
    """``wanted`` or the next port above it that is free on ``host``; any free port for 0."""
    for port in [wanted, *range(wanted + 1, min(wanted + 100, 65_536))] if wanted else [0]:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    continue
                reason = error.strerror or str(error)
                raise SupervisorError(f"Nothing can listen on {host} port {port} ({reason}): correct web.host or the port.") from error
            return int(probe.getsockname()[1])
    raise SupervisorError(f"No port from {wanted} to {wanted + 99} is free on {host}: set another ui_port or web.port in metamon.yaml.")


def dagster_environment(settings: Settings) -> dict[str, str]:
    """The environment for Dagster's processes: its home, made ready, and where its storage is."""
    from metamon_assets.warehouse import server

    folder = settings.dagster_home
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # what runs print is kept there
    source = instance_file()
    first_line = source.read_text().splitlines()[0]
    copy = folder / "dagster.yaml"
    if not copy.exists() or copy.read_text().startswith(first_line):
        shutil.copyfile(source, copy)
    return os.environ | {
        "DAGSTER_HOME": str(folder),
        "METAMON_HOME": str(settings.home),
        "METAMON_CONFIG": str(settings.config_path) if settings.config_path.exists() else "",
        "METAMON_DAGSTER_URL": server.dagster_url(settings),
        "DAGSTER_EVENT_BATCH_SIZE": "100",  # the materialisations of a range are stored together
    }


def instance_file() -> Path:
    """The project's ``dagster.yaml``."""
    return Path(__file__).parents[1] / "dagster.yaml"
