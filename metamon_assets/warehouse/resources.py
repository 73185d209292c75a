"""The resource through which assets, checks and sensors reach the configuration and the database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import dagster as dg

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
        """A connection that is closed at the end of the block."""
        connection = connect(self.url or database_url(self.settings, WRITER), application_name="metamon dagster")
        try:
            yield connection
        finally:
            connection.close()
