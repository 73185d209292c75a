"""Opening a connection, the same way everywhere: UTC, named, psycopg2.

Which server and which role is the caller's business: the URL says it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import psycopg2.extensions

    Connection: TypeAlias = psycopg2.extensions.connection
    Cursor: TypeAlias = psycopg2.extensions.cursor

SQLALCHEMY_DRIVER = "postgresql+psycopg2://"


def connect(url: str, application_name: str = "metamon", timeout_seconds: int = 0) -> Connection:
    """A connection to ``url`` whose session speaks UTC. SQLAlchemy's ``postgresql+psycopg2://`` form is accepted too.

    With ``timeout_seconds`` neither connecting nor a statement takes longer; 0: as long as it takes.
    Raises psycopg2.OperationalError when the server cannot be reached or refuses the credentials.
    """
    import psycopg2

    if url.startswith(SQLALCHEMY_DRIVER):
        url = "postgresql://" + url.removeprefix(SQLALCHEMY_DRIVER)
    connection = psycopg2.connect(url, application_name=application_name, connect_timeout=timeout_seconds)
    if connection.get_parameter_status("TimeZone") != "UTC":  # another server's default; ours is UTC
        with connection, connection.cursor() as cursor:
            cursor.execute("SET TIME ZONE 'UTC'")
    if timeout_seconds:
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT set_config('statement_timeout', %s, false)", (f"{timeout_seconds}s",))
    return connection


def first_complaint(error: BaseException) -> BaseException:
    """Why a connection failed: one that is gone complains once more when it is rolled back, and the first complaint tells why."""
    from psycopg2 import InterfaceError

    return error.__context__ if isinstance(error, InterfaceError) and error.__context__ else error
