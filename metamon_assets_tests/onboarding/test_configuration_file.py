"""Adding to metamon.yaml: what stands there stays as it is, letter by letter."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from metamon_assets.config import ConfigError, read_configuration
from metamon_assets.onboarding.configuration_file import ConfigurationFileError, NewSource, difference, with_sources, write

NEW = NewSource(
    {"type": "langsmith", "project": "prod: #1 \u202e", "api_key": "env:LANGSMITH_API_KEY", "map": {"tenant_id": "metadata.customer"}},
    ["Found in 500 runs:", "  user_id: not found"],
)
OLD = "type: files, project: a, path: x"


def added(path: Path, before: str | None, start: date | None = None) -> str:
    if before is not None:
        path.write_bytes(before.encode())
    after = with_sources(path, [NEW], start)
    write(path, after)
    return after


def test_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "home" / "metamon.yaml"
    text = added(path, None, date(2026, 11, 12))
    found = read_configuration(path)
    assert (found.start_day, found.sources[0].project) == (date(2026, 11, 12), NEW.keys["project"])
    assert "    # Found in 500 runs:\n    #   user_id: not found\n    map:\n      tenant_id: metadata.customer\n" in text


@pytest.mark.parametrize(
    "before",
    [
        "",
        "# a comment only\n",
        "timezone: Europe/Vienna  # home\n",
        "sources: []  # none yet\ntimezone: UTC\n",
        "sources:\n- type: files\n  project: a\n  path: x\n\n# after\ntimezone: UTC\n",
        "timezone: UTC\nsources:\n    - type: files   # keep\n      project: a\n      path: x\n      # about the first",
        "sources:\r\n  - type: files\r\n    project: a\r\n    path: x\r\ntimezone: UTC\r\n",
        "sources:\n  - {type: files, project: a, path: x}\n  - type: otlp\n    project: b\n    path: |-\n      # no comment\n# end\n",
        "start_day: 2026-01-01\n",
    ],
)
def test_everything_that_was_there_stays(tmp_path: Path, before: str) -> None:
    path = tmp_path / "metamon.yaml"
    path.write_bytes(before.encode())
    known = read_configuration(path)
    after = added(path, before)
    found = read_configuration(path)
    assert found.sources[:-1] == known.sources
    assert found.sources[-1].project == NEW.keys["project"]
    assert found.timezone == known.timezone
    assert [line for line in before.splitlines() if line.strip() and "sources:" not in line] == [
        line for line in after.splitlines() if line in before.splitlines() and line.strip() and "sources:" not in line
    ]
    assert (
        "+  - type: langsmith" in difference(before, after)
        or "+- type" in difference(before, after)
        or "+    - type" in difference(before, after)
    )


def test_a_list_in_one_line_is_left_alone_and_the_lines_to_paste_are_given(tmp_path: Path) -> None:
    path = tmp_path / "metamon.yaml"
    before = f"sources: [{{{OLD}}}]\n"
    path.write_text(before)
    with pytest.raises(ConfigurationFileError, match="Paste this under `sources:`") as refused:
        with_sources(path, [NEW])
    assert "project: 'prod: #1" in str(refused.value) or 'project: "prod: #1' in str(refused.value)
    assert path.read_text() == before


def test_a_file_that_is_wrong_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "metamon.yaml"
    path.write_text("sorces: []\n")
    with pytest.raises(ConfigError, match="did you mean sources"):
        with_sources(path, [NEW])


def test_two_sources_at_once_and_the_mode_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "metamon.yaml"
    path.write_text("timezone: UTC\n")
    path.chmod(0o600)
    other = NewSource({"type": "otlp", "project": "b", "path": "/x"})
    write(path, with_sources(path, [NEW, other]))
    assert [part.type for part in read_configuration(path).sources] == ["langsmith", "otlp"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["metamon.yaml"]
