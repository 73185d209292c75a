"""The Postgres that everything stands on: server, connections, migrations, roles, table contracts."""
