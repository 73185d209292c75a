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


def connect(url: str, application_name: str = "metamon") -> Connection:
    """A connection to ``url`` whose session speaks UTC. SQLAlchemy's ``postgresql+psycopg2://`` form is accepted too.

    Raises psycopg2.OperationalError when the server cannot be reached or refuses the credentials.
    """
    import psycopg2

    if url.startswith(SQLALCHEMY_DRIVER):
        url = "postgresql://" + url.removeprefix(SQLALCHEMY_DRIVER)
    connection = psycopg2.connect(url, application_name=application_name)
    if connection.get_parameter_status("TimeZone") != "UTC":  # another server's default; ours is UTC
        with connection, connection.cursor() as cursor:
            cursor.execute("SET TIME ZONE 'UTC'")
    return connection
