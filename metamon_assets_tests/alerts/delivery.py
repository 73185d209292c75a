"""What tests of delivery share: incidents that rules opened, a mail server, a web server, a configuration with channels."""

from __future__ import annotations

import email
import email.policy
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from psycopg2.extensions import connection as Connection

from metamon_assets.alerts.incidents import Incident, Observation, observe
from metamon_assets.alerts.routing import Policy
from metamon_assets.config import Settings

NOW = datetime(2026, 11, 26, 13, 7, tzinfo=UTC)
FIRST_LINES = "timezone: Europe/Vienna\nweb: {public_url: https://metamon.example}\n"


def seen(rule: str = "HighErrorRate", value: str = "sales", at: datetime = NOW, **more: Any) -> Observation:
    """What a rule sees of an agent; fires with severity critical unless told otherwise."""
    known: dict[str, Any] = {"metric": "error_rate", "dimension": "agent", "severity": "critical", "firing": True, "started_at": at}
    known |= {"summary": f"12 % of the requests of {value} fail", "value": 0.12, "threshold": 0.05, "sample": 812, "window_seconds": 300}
    return Observation(rule=rule, dimension_value=value, **(known | more))


def fire(connection: Connection, policy: Policy, *observations: Observation, at: datetime = NOW) -> list[Incident]:
    """What opens or goes on because of the observations."""
    with connection, connection.cursor() as cursor:
        return [incident for incident, _ in observe(cursor, policy, observations, at, at)]


def rows(connection: Connection, columns: str = "channel, event, suppressed", where: str = "true") -> list[Any]:
    """Rows of the outbox, the oldest first; bare values where it is one column."""
    with connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT {columns} FROM metamon.outbox WHERE {where} ORDER BY message_id")
        found = cursor.fetchall()
    return [row[0] for row in found] if "," not in columns else found


def settings_with(home: Path, channels: Mapping[str, str], more: str = "") -> Settings:
    """A configuration with channels; the address of a channel NAME is in the environment variable NAME_URL."""
    home.mkdir(exist_ok=True)
    lines = [f"  {name}: {{type: {kind}, url: env:{name.upper()}_URL}}\n" for name, kind in channels.items()]
    (home / "metamon.yaml").write_text(FIRST_LINES + ("channels:\n" + "".join(lines) if lines else "") + more)
    return Settings.load({"METAMON_HOME": str(home)})


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


@dataclass
class Mailbox:
    """A mail server. ``answer`` gives what it says to each mail's content; what begins with 250 is kept."""

    port: int
    answer: Callable[[int], str] = lambda _: "250 OK"
    mails: list[EmailMessage] = field(default_factory=list)
    asked: int = 0

    @property
    def url(self) -> str:
        return f"mailto://127.0.0.1:{self.port}/?from=metamon@example.com&to=ops@example.com&cto=2"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's name
        self.asked += 1
        said = self.answer(self.asked)
        if said.startswith("250"):
            content = envelope.content if isinstance(envelope.content, bytes) else b""
            message = email.message_from_bytes(content, policy=email.policy.default)
            assert isinstance(message, EmailMessage)
            self.mails.append(message)
        return said

    @contextmanager
    def open(self) -> Iterator[None]:
        """Listen for as long as the block lasts."""
        controller = Controller(self, hostname="127.0.0.1", port=self.port)
        controller.start()
        try:
            yield
        finally:
            controller.stop()


@dataclass
class Web:
    """A web server that keeps what is posted to it. ``answer`` gives the status of each request, 0 to hang up without one."""

    answer: Callable[[int], int] = lambda _: 200
    seconds: float = 0.0
    posts: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    before_answer: Callable[[], None] = lambda: None
    port: int = 0

    def url(self, path: str = "hook", **options: Any) -> str:
        """A webhook's address."""
        return f"json://127.0.0.1:{self.port}/{path}?rto=2&cto=2" + "".join(f"&{name}={value}" for name, value in options.items())

    @property
    def keys(self) -> list[str]:
        """The keys of what was posted, in order."""
        return [body["dedup_key"] for _, body in self.posts]

    @contextmanager
    def open(self) -> Iterator[Web]:
        """Listen for as long as the block lasts."""
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                web.posts.append((self.path, body))
                status = web.answer(len(web.posts))
                web.before_answer()
                time.sleep(web.seconds)
                if status:
                    self.send_response(status)
                    self.send_header("Content-Length", "2")
                    self.end_headers()
                    self.wfile.write(b"ok")

            def log_message(self, *arguments: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        server.daemon_threads = True
        server.block_on_close = False
        self.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()


def part_of(message: EmailMessage, kind: str) -> str:
    """The text of a mail's part of that kind."""
    parts = [part for part in message.walk() if part.get_content_type() == kind]
    return "" if not parts else str(parts[0].get_content())


def kinds_of(message: EmailMessage) -> Sequence[str]:
    """The types of a mail's parts."""
    return [part.get_content_type() for part in message.walk()]
