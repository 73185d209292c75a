"""The state of the pipeline itself: Dagster, the database, the host."""
