"""Versions of the configuration in the audit log."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from metamon_assets.config import Settings
from metamon_assets.warehouse import configuration, connect


def settings_of(home: Path, text: str) -> Settings:
    (home / "metamon.yaml").write_text(text)
    return Settings.load({"METAMON_HOME": str(home)})


def test_every_change_is_a_version_and_the_same_again_is_none(database: str, tmp_path: Path) -> None:
    connection = connect(database)
    assert configuration.note(connection, settings_of(tmp_path, "")) == []
    first = settings_of(tmp_path, "timezone: Europe/Vienna\nsources: [{type: langsmith, project: a, api_key: env:SOME_KEY}]")
    changes = configuration.note(connection, first)
    assert "+ timezone: Europe/Vienna" in changes
    assert "+ sources[0].api_key: env:SOME_KEY" in changes
    assert configuration.note(connection, first) == []
    assert configuration.note(connection, settings_of(tmp_path, "timezone: UTC")) != []
    newest, oldest = configuration.versions(connection)
    assert newest.content == {}
    assert oldest.content["timezone"] == "Europe/Vienna"
    assert "- timezone: Europe/Vienna" in newest.changes
    assert newest.number > oldest.number
    connection.close()


def test_processes_that_start_together_write_one_version(database: str, tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "ui_port: 3333")

    def start(_: int) -> list[str]:
        connection = connect(database)
        try:
            return configuration.note(connection, settings)
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        noted = list(pool.map(start, range(4)))
    assert sorted(map(len, noted)) == [0, 0, 0, 1]
    connection = connect(database)
    assert len(configuration.versions(connection)) == 1
    connection.close()
