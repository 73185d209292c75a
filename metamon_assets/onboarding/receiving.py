"""What an application has to set so that its spans come here, and waiting for the first of them.

Here belong the lines to copy. The receiver itself is the web server's.
"""

from __future__ import annotations

import socket
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

from metamon_assets.web import tokens

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from metamon_assets.config import Settings

TOKEN_NAME = "connect"  # noqa: S105 - the name of a token, not a token
_LOOK_EVERY = 1.0  # seconds
_PROBE_SECONDS = 1.0


def endpoint_of(settings: Settings, running: str | None = None) -> str:
    """Where applications send to. ``running``: where the web server is now, which may have found its port taken."""
    return settings.web.public_url or running or f"http://{settings.web.host}:{settings.web.port}"


def taken(settings: Settings) -> bool:
    """Whether something listens already where the web server would."""
    try:
        with socket.create_connection((settings.web.host, settings.web.port), timeout=_PROBE_SECONDS):
            return True
    except OSError:
        return False


def new_token(connection: Connection) -> str:
    """A token that may only send data; it is shown once and stored as a hash."""
    name = f"{TOKEN_NAME}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    return tokens.create(connection, name, tokens.Role.INGEST, actor="metamon connect")


def environment_lines(endpoint: str, token: str) -> str:
    """Environment variables that every OpenTelemetry SDK reads."""
    return "\n".join(
        (
            f"export OTEL_EXPORTER_OTLP_ENDPOINT={endpoint}",
            f'export OTEL_EXPORTER_OTLP_HEADERS="Authorization={quote(f"Bearer {token}")}"',
            "export OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
            "export OTEL_SERVICE_NAME=my-agent",
        )
    )


def python_lines(endpoint: str, token: str) -> str:
    """The same in Python, without environment variables."""
    return f'''\
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

exporter = OTLPSpanExporter("{endpoint}/v1/traces", headers={{"Authorization": "Bearer {token}"}})
provider = TracerProvider(resource=Resource.create({{"service.name": "my-agent", "service.version": "1.0"}}))
provider.add_span_processor(BatchSpanProcessor(exporter))
trace.set_tracer_provider(provider)'''


def first_span(connection: Connection, since: datetime, seconds: float) -> tuple[str, str] | None:
    """Project and name of the first run that came over OTLP since then; None when none came within ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        with connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT project, name FROM analytics.runs WHERE source = 'otlp' AND ingested_at >= %(since)s ORDER BY ingested_at LIMIT 1",
                {"since": since},
            )
            if row := cursor.fetchone():
                return str(row[0]), str(row[1])
        if time.monotonic() >= deadline:
            return None
        time.sleep(_LOOK_EVERY)
