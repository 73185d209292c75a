"""The resource through which assets, checks and sensors reach the configuration and the database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import dagster as dg
import psycopg2

from metamon_assets.config import Settings
from metamon_assets.warehouse.connection import connect
from metamon_assets.warehouse.roles import WRITER
from metamon_assets.warehouse.server import database_url

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection


class Warehouse(dg.ConfigurableResource):
    """Metamon's Postgres, as the pipeline's role.

    ``url`` is left empty to take what the configuration of METAMON_HOME says, which is what the product does; tests
    give one. No secret stands in the resource's configuration, since Dagster shows that.
    """

    url: str = ""

    @property
    def settings(self) -> Settings:
        """The configuration as it is now; read for every run, so that a change needs no restart."""
        return Settings.load()

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection that is closed at the end of the block.

        When the database goes away meanwhile, the step is tried again a little later; nothing else gets right by
        trying again (sources have a patience of their own).
        """
        try:
            connection = connect(self.url or database_url(self.settings, WRITER), application_name="metamon dagster")
            try:
                yield connection
            finally:
                connection.close()
        except Exception as error:
            if _database_went_away(error):
                raise dg.RetryRequested(max_retries=2, seconds_to_wait=20) from error
            raise


def _database_went_away(error: BaseException | None) -> bool:
    """Whether the connection was lost somewhere below this error (not: the database refused what it was asked)."""
    while error is not None:
        if isinstance(error, psycopg2.InterfaceError) or (isinstance(error, psycopg2.OperationalError) and _is_connection_failure(error)):
            return True
        error = error.__cause__
    return False


def _is_connection_failure(error: psycopg2.OperationalError) -> bool:
    """Class 08 and 57P are the connection's and the server's going away; without a code the server never answered."""
    return error.pgcode is None or error.pgcode.startswith(("08", "57P"))
