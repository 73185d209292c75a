"""The web server: API, OTLP receiver, events, metrics for Prometheus. One process, which imports no Dagster."""
