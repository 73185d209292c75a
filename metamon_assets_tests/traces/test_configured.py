"""From metamon.yaml to sources that can be read."""

from __future__ import annotations

import json
from pathlib import Path

from metamon_assets.config import Settings
from metamon_assets.traces.configured import open_sources
from metamon_assets.traces.ingest import ingest
from metamon_assets.traces.sources.base import Kind
from metamon_assets.warehouse import connect


def span(**attributes: str) -> str:
    listed = [{"key": name.replace("__", "."), "value": {"stringValue": value}} for name, value in attributes.items()]
    times = {"startTimeUnixNano": "1767225600000000000", "endTimeUnixNano": "1767225601000000000"}
    one = {"traceId": "0" * 31 + "1", "spanId": "0" * 15 + "1", "name": "ask", "attributes": listed} | times
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [one]}]}]})


def test_a_source_s_own_map_goes_before_the_map_of_all(database: str, tmp_path: Path) -> None:
    (tmp_path / "calls.jsonl").write_text(span(app__customer="acme", app__who="ann", app__user="bob"))
    (tmp_path / "metamon.yaml").write_text(
        "map: {tenant_id: [metadata.customer, app.customer], user_id: app.who}\n"
        "sources: [{type: otlp, project: p, path: calls.jsonl, map: {user_id: app.user}}]"
    )
    connection = connect(database)
    (configured,) = open_sources(connection, Settings.load({"METAMON_HOME": str(tmp_path)}))
    ingest(connection, configured.source, Kind.RUNS, None, configured.rules)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT tenant_id, user_id FROM metamon.traces")
        assert cursor.fetchall() == [("acme", "bob")]
    connection.close()
