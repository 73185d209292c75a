"""The Postgres that everything stands on: server, connections, migrations, roles, table contracts."""

from metamon_assets.warehouse.connection import connect

__all__ = ["connect"]
