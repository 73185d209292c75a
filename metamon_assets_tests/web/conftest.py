"""A web server of its own for each test, over real HTTP: uvicorn on a free port of 127.0.0.1."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from metamon_assets.config import Settings
from metamon_assets.warehouse import connect
from metamon_assets.warehouse.postgres import EmbeddedPostgres
from metamon_assets.warehouse.roles import WRITER
from metamon_assets.web.app import create_app
from metamon_assets.web.server import configured, listen
from metamon_assets.web.tokens import Role, create
from metamon_assets_tests.conftest import TEMPLATE, copied

MAX_BYTES = 100_000


@dataclass
class Web:
    """A running server, and clients for it."""

    url: str
    database_url: str
    app: Any

    def token(self, role: Role | str, name: str | None = None) -> str:
        """A new token of a role."""
        connection = connect(self.database_url)
        try:
            return create(connection, name or f"{role} of the test", Role(role), actor="test")
        finally:
            connection.close()

    def client(self, token: str | None = None) -> httpx2.Client:
        """A client that sends the token."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=30)

    def query(self, text: str, *values: object) -> list[tuple[Any, ...]]:
        """Rows of the database."""
        connection = connect(self.database_url)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(text, values)
                return list(cursor.fetchall()) if cursor.description else []
        finally:
            connection.close()


@contextmanager
def served(database_url: str, ui_url: str | None = None, **web: Any) -> Iterator[Web]:
    """The application, served until the block ends."""
    settings = Settings.load({"METAMON_HOME": "/nonexistent/home"})
    changed = settings.web.model_copy(update={"max_request_bytes": MAX_BYTES, **web})
    settings = settings.model_copy(update={"ui_url": ui_url, "web": changed})
    app = create_app(settings, database_url)
    server = configured(app)
    with listen("127.0.0.1", 0) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield Web(f"http://127.0.0.1:{listening.getsockname()[1]}", database_url, app)
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive(), "the server did not stop"


@pytest.fixture
def web(database: str) -> Iterator[Web]:
    """A server over a fresh database."""
    with served(database) as running:
        yield running


@pytest.fixture(scope="session")
def shared(postgres: EmbeddedPostgres) -> Iterator[Web]:
    """A server for tests that leave nothing behind that others would notice."""
    with copied(postgres, TEMPLATE) as name, served(postgres.url(name, WRITER)) as running:
        yield running


@pytest.fixture(scope="session")
def shared_admin(shared: Web) -> Iterator[httpx2.Client]:
    """Somebody who may do everything, there."""
    with shared.client(shared.token("admin")) as client:
        yield client


@pytest.fixture
def admin(web: Web) -> Iterator[httpx2.Client]:
    """Somebody who may do everything."""
    with web.client(web.token("admin")) as client:
        yield client


@pytest.fixture
def scratch(new_home: Callable[[str], Path]) -> Path:
    """A folder for programs' data."""
    return new_home("metamon-web-")
