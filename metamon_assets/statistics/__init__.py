"""Pure statistics over arrays and sufficient statistics; knows nothing of Dagster, Postgres or agents."""
